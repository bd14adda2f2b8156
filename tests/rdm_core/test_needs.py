"""What a training needs: what is told before it is what it takes."""

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch
from tiny import EVERYTHING

import rdm_core.memory
import rdm_core.needs
from rdm_core.config import ExecutionConfig, TrainingConfig
from rdm_core.families.diffusion.config import (
    Config,
    DenoiserConfig,
    EditingConfig,
    NoiseConfig,
)
from rdm_core.families.diffusion.model import Diffusion, build
from rdm_core.families.facts import Shape
from rdm_core.latents import ENCODED_TOGETHER, load_latent_space
from rdm_core.needs import (
    PASSES,
    MemoryNeeded,
    device_memory_bytes,
    measured_rate,
    memory_needed,
    operations_of_step,
    training_hours,
)
from rdm_core.optimizers import block_matrices
from rdm_core.train import forward_flops

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FLOW = NoiseConfig(process="flow")
BATCH = {"batch": 8}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = Shape(channels=3, side=16, dimension=8)
TRANSFORMER = DenoiserConfig("transformer", (32,), depth=2, head_channels=16)
UNET = DenoiserConfig(channels=(32, 64), depth=1, head_channels=16, attention_levels=(1,))
NETWORKS = {"transformer": TRANSFORMER, "unet": UNET}
PLAIN, CHECKPOINTED = ExecutionConfig(), ExecutionConfig(gradient_checkpointing=True)

IN_A_PROCESS = """
from pathlib import Path
import numpy as np
import psutil
import torch
from rdm_core.config import *
from rdm_core.data import StoredLatents, TrainingData
from rdm_core.families.diffusion.config import Config, DenoiserConfig
from rdm_core.families.diffusion.model import build
from rdm_core.families.facts import Shape
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.needs import memory_needed
from rdm_core.train import Hooks, train

SMALL = DenoiserConfig(channels=(16, 16), depth=1, attention_levels=(), head_channels=16)

def needed(network, batch, side):
    settings = (Config(denoiser=network), TrainingConfig(batch=batch), ExecutionConfig())
    return memory_needed(*settings, 4, Shape(3, side, 8), torch.device("cpu"))

def really_trained(batch, side):
    rng, norms = np.random.default_rng(0), np.ones(20)
    latents = rng.integers(0, 256, (20, 3, side, side), dtype=np.uint8)
    vectors, rows = rng.standard_normal((20, 8)), rng.integers(0, 20, (20, 4))
    scores = np.ones((20, 4), np.float32)
    data = TrainingData(StoredLatents([latents]), rows, scores, vectors, norms)
    model = build(Config(denoiser=SMALL), Shape(3, side, 8), load_latent_space(PIXELS))
    hooks = Hooks(lambda record, speed: None, lambda step, state: None)
    config = TrainingConfig(steps=2, batch=batch)
    train(model, data, config, hooks)

def growth_bytes(run, *arguments):
    before = psutil.Process().memory_info().rss
    result = run(*arguments)
    # Not getrusage's ru_maxrss, which begins with what the parent had.
    status = Path("/proc/self/status").read_text().splitlines()
    most = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return most - before, result

grown, large = growth_bytes(needed, DenoiserConfig(), 64, 64)
print(large.parameters, large.peak_bytes, grown)
really_trained(1, 16)  # the libraries' own memory
print(growth_bytes(really_trained, 8, 128)[0], needed(SMALL, 8, 128).peak_bytes)
"""


def needed(
    network=TRANSFORMER, execution=PLAIN, device=CPU, shape=SHAPE, processes=1, k=4, **training
) -> MemoryNeeded:
    """Of a batch of 8 by default."""
    config, training = Config(denoiser=network, noise=FLOW), TrainingConfig(**BATCH | training)
    return memory_needed(config, training, execution, k, shape, device, processes)


def built(network) -> Diffusion:
    """The model whose needs are estimated."""
    return build(Config(denoiser=network, noise=FLOW), SHAPE)


@pytest.fixture(scope="module")
def numbers() -> list[int]:
    """What a process of its own prints; freed blocks go back to the system at once."""
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS], cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return [int(word) for word in ended.stdout.split()]


@pytest.fixture(params=list(NETWORKS))
def network(request) -> DenoiserConfig:
    """Each network in turn."""
    return NETWORKS[request.param]


@pytest.mark.parametrize(
    ("network", "copies", "asked"),
    [
        (TRANSFORMER, 5, {}),
        (TRANSFORMER, 5, {"precision": "bf16"}),
        (TRANSFORMER, 7, {"posthoc_ema": True}),
        (TRANSFORMER, 6, {"processes": 2}),
        (UNET, 8, {"processes": 4, "posthoc_ema": True}),
    ],
    ids=["alone", "bf16", "with means of other lengths", "with another process", "unet with both"],
)
def test_the_state_is_weights_gradients_moments_and_means(network, copies, asked):
    """Counted by hand."""
    model, found = built(network), needed(network, **asked)
    weights_bytes = sum(weights.nbytes for weights in model.parameters())
    buffers_bytes = sum(buffer.nbytes for buffer in model.buffers())
    counts_bytes = 4 * len(list(model.parameters()))  # Adam counts the steps of each tensor
    assert found.parameters * 4 == weights_bytes
    assert found.state_bytes == copies * weights_bytes + buffers_bytes + counts_bytes
    copied = (6 if "posthoc_ema" in asked else 4) * weights_bytes
    assert found.checkpoint_bytes == copied + counts_bytes


def test_muon_keeps_one_moment_of_the_matrices_of_blocks_in_place_of_two():
    model = built(TRANSFORMER)
    matrices_bytes = sum(matrix.nbytes for matrix in block_matrices(model))
    without = 4 * len(block_matrices(model))  # and counts no steps of theirs
    adam, muon = needed(TRANSFORMER), needed(TRANSFORMER, optimizer="muon")
    saved = matrices_bytes + without
    assert adam.checkpoint_bytes - muon.checkpoint_bytes == saved > 10 * without
    assert adam.state_bytes - muon.state_bytes == saved


@pytest.mark.parametrize(
    ("extras", "execution", "training"),
    [
        ({}, ExecutionConfig(accumulate=4), {"precision": "bf16", "posthoc_ema": True}),
        (EVERYTHING, CHECKPOINTED, {"precision": "bf16", "k": 9}),
    ],
    ids=["bf16 in pieces", "everything and checkpointed"],
)
def test_tensors_without_bytes_need_what_real_ones_do(
    extras, execution, training, network, monkeypatch
):
    network = replace(network, **extras)
    told = needed(network, execution, **training)
    monkeypatch.setattr(rdm_core.needs, "_NoBytes", nullcontext)
    assert needed(network, execution, **training) == told


def test_a_real_training_takes_what_was_told(numbers):
    taken_bytes, told_bytes = numbers[3:]
    assert told_bytes > 4e8, "large beside what libraries take"
    assert told_bytes == pytest.approx(taken_bytes, rel=0.2)


def test_48_gb_are_told_in_less_than_a_third_of_one(numbers):
    parameters, peak_bytes, grown_bytes = numbers[:3]
    assert parameters > 390e6
    assert 40e9 < peak_bytes < 60e9
    assert grown_bytes < 3e8


def test_a_larger_batch_needs_more_and_its_state_does_not():
    one, two, four = needed(batch=32), needed(batch=64), needed(batch=128)
    growth = (four.peak_bytes - two.peak_bytes) / (two.peak_bytes - one.peak_bytes)
    assert growth == pytest.approx(2, rel=0.05)
    assert one.state_bytes == two.state_bytes == four.state_bytes


def test_more_pieces_need_less_memory():
    whole = needed(execution=ExecutionConfig(accumulate=1), batch=128)
    halves = needed(execution=ExecutionConfig(accumulate=2), batch=128)
    quarters = needed(execution=ExecutionConfig(accumulate=4), batch=128)
    assert whole.peak_bytes > 1.5 * halves.peak_bytes > 2 * quarters.peak_bytes


def test_gradient_checkpointing_needs_less_memory(network):
    whole = needed(network, PLAIN, batch=64)
    checkpointed = needed(network, CHECKPOINTED, batch=64)
    assert checkpointed.peak_bytes < 0.8 * whole.peak_bytes


def test_bf16_needs_less_memory_and_on_cuda_more_than_on_a_cpu():
    """CUDA's autocast computes norms in full precision."""
    half = needed(UNET, device=CPU, batch=64, precision="bf16")
    half_on_cuda = needed(UNET, device=CUDA, batch=64, precision="bf16")
    full = needed(UNET, batch=64)
    assert half.peak_bytes < 0.7 * full.peak_bytes
    assert 1.2 * half.peak_bytes < half_on_cuda.peak_bytes < full.peak_bytes
    again = needed(UNET, CHECKPOINTED, device=CUDA, batch=64, precision="bf16")
    assert again.peak_bytes < 0.8 * half_on_cuda.peak_bytes


def test_the_operations_of_a_step_are_those_of_all_its_images_and_of_the_way_back():
    config, training = Config(denoiser=TRANSFORMER, noise=FLOW), TrainingConfig(batch=8)
    model = build(config, SHAPE)
    followed = operations_of_step(config, training, 1, SHAPE)
    assert followed == 3 * 8 * forward_flops(model)
    assert operations_of_step(config, training, 20, SHAPE) > followed


def test_an_autoencoder_that_encodes_every_step_is_counted_with_what_it_computes():
    space = load_latent_space("rdm-shapes-kl")
    shape = Shape(space.channels, side=8, dimension=8)
    training, counted = TrainingConfig(batch=8), {}
    weights_bytes = sum(weights.nbytes for weights in space.autoencoder.state_dict().values())
    for picture in (False, True):
        config = Config(denoiser=TRANSFORMER, noise=FLOW, editing=EditingConfig(picture=picture))
        asked = (config, training, PLAIN, 4, shape, CPU)
        stored, encoding = memory_needed(*asked), memory_needed(*asked, encodes=space)
        assert encoding.state_bytes - stored.state_bytes == weights_bytes
        assert encoding.checkpoint_bytes == stored.checkpoint_bytes
        counted[picture] = encoding.peak_bytes - stored.peak_bytes
    # What the first layer gives for the 8 images is alive beside the weights, and not alone.
    width = space.autoencoder.config.block_out_channels[0]
    first_bytes = 4 * 8 * width * (space.factor * shape.side) ** 2
    assert counted[False] > weights_bytes + first_bytes
    assert counted[True] - counted[False] == 4 * 2 * 8 * (shape.channels + 1) * shape.side**2


def test_images_beyond_those_encoded_at_a_time_need_no_more_than_their_latents():
    space = load_latent_space("rdm-shapes-kl")
    shape = Shape(space.channels, side=8, dimension=8)

    def encoding_bytes(batch):
        asked = (Config(denoiser=TRANSFORMER), TrainingConfig(batch=batch), PLAIN, 4, shape, CPU)
        return memory_needed(*asked, encodes=space).peak_bytes - memory_needed(*asked).peak_bytes

    latents_bytes = 4 * 2 * ENCODED_TOGETHER * shape.channels * shape.side**2
    together = encoding_bytes(ENCODED_TOGETHER)
    assert encoding_bytes(2 * ENCODED_TOGETHER) - together == latents_bytes


def test_a_query_in_the_context_needs_more_memory():
    asking = needed(replace(TRANSFORMER, query_token=True), batch=64)
    assert asking.peak_bytes > needed(batch=64).peak_bytes


def test_more_neighbors_need_more_memory():
    few, many = needed(batch=64, k=4), needed(batch=64, k=40)
    assert many.peak_bytes > few.peak_bytes
    assert many.state_bytes == few.state_bytes


def test_two_processes_each_hold_half_of_the_batch_and_the_gradients_twice():
    alone, shared = needed(batch=64), needed(batch=128, processes=2)
    samples_bytes = 2 * 3 * 64 * SHAPE.channels * SHAPE.side**2 * 4  # both draw the whole batch
    assert shared.peak_bytes == alone.peak_bytes + 4 * alone.parameters + samples_bytes


def test_a_checkpoint_of_a_small_batch_is_the_peak_on_a_cpu_alone():
    shape = replace(SHAPE, side=4)
    on_cpu = needed(device=CPU, batch=1, shape=shape)
    on_cuda = needed(device=CUDA, batch=1, shape=shape)
    samples_bytes = 2 * 3 * shape.channels * shape.side**2 * 4
    assert on_cpu.peak_bytes == on_cpu.state_bytes + on_cpu.checkpoint_bytes + samples_bytes
    assert on_cuda.state_bytes < on_cuda.peak_bytes < on_cpu.peak_bytes


def test_telling_needs_leaves_nothing_behind():
    before = torch.get_rng_state()
    assert needed() == needed()
    assert torch.equal(torch.get_rng_state(), before)
    assert {type(tensor) for tensor in built(TRANSFORMER).parameters()} == {torch.nn.Parameter}


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many samples each pass has; it takes 10 ms and 1 ms a sample."""
    counts, clock, real = [], Mock(monotonic=Mock(return_value=0.0)), Diffusion.forward

    def forward(self, inputs):
        counts.append(len(inputs))
        clock.monotonic.return_value += 0.01 + 0.001 * len(inputs)
        return real(self, inputs)

    monkeypatch.setattr(Diffusion, "forward", forward)
    monkeypatch.setattr(rdm_core.needs, "time", clock)
    return counts


def rate(network=TRANSFORMER, execution=PLAIN, seconds=0.5, **training) -> float:
    """Of a batch of 8 by default, measured on the CPU with four neighbors."""
    config, training = Config(denoiser=network, noise=FLOW), TrainingConfig(**BATCH | training)
    return measured_rate(config, training, execution, 4, SHAPE, CPU, seconds=seconds)


@pytest.mark.parametrize("execution", [ExecutionConfig(compile=True), CHECKPOINTED], ids=str)
def test_a_rate_is_measured_in_about_the_time_given(execution, network):
    before, began = torch.get_rng_state(), time.monotonic()
    assert 0 < rate(network, execution, precision="bf16") < float("inf")
    assert time.monotonic() - began < 10
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rate_is_measured_on_more_and_more_samples_up_to_a_piece(passes):
    found = rate(execution=ExecutionConfig(accumulate=2), batch=24)
    assert passes == [1, 2, 4, 8] + PASSES * [12]
    assert found == pytest.approx(12 / 0.022)


def test_a_rate_takes_no_longer_than_a_tenth_of_what_it_is_asked_for(passes):
    rate(steps=1, batch=8)
    assert passes == [1], "of a training of eight samples one says enough"


def test_passes_that_are_long_for_the_time_given_stay_on_few_samples(passes):
    found = rate(seconds=0.13)
    assert passes == [1, 2] + PASSES * [4]
    assert found == pytest.approx(4 / 0.014)


def test_one_pass_that_takes_longer_than_the_time_given_is_enough(passes):
    assert rate(seconds=0.001) == pytest.approx(1 / 0.011)
    assert passes == [1]


@pytest.mark.parametrize("asked", [needed, rate])
def test_a_batch_that_cannot_be_divided_is_refused_as_by_the_training(asked):
    with pytest.raises(ValueError, match="batch 8 cannot be divided over 1 processes times 3"):
        asked(execution=ExecutionConfig(accumulate=3))


def test_hours_are_those_of_all_images_at_the_rate_of_all_processes():
    config = TrainingConfig(steps=3600, batch=10)
    assert training_hours(config, images_per_second=5.0) == 2.0
    assert training_hours(config, images_per_second=5.0, processes=4) == 0.5


@pytest.mark.parametrize(("limit", "expected"), [("1000000\n", 1_000_000), ("max\n", None)])
def test_a_cpu_has_what_is_free_within_its_containers_limit(limit, expected, tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text(limit)
    files = (str(tmp_path / "absent"), str(tmp_path / "memory.max"))
    monkeypatch.setattr(rdm_core.memory, "CGROUP_LIMITS", files)
    free = psutil.virtual_memory().available
    assert device_memory_bytes(CPU) == (expected or pytest.approx(free, rel=0.2))
