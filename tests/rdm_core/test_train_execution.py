"""How the training loop runs: what changes speed and memory changes nothing but rounding."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import EVERYTHING, TINY
from torch import nn
from torch.nn import functional
from training import Recorder, asked, assert_equal, run, weights

from rdm_core.context import nothing
from rdm_core.families.diffusion.noise import Diffusion, FlowMatching
from rdm_core.families.family import Inputs, Model
from rdm_core.train import forward_flops, matmul_flops_per_second, train

PROCESS_OF = {
    "transformer": FlowMatching(),
    "unet": Diffusion(velocity=True, min_snr_gamma=5.0, zero_terminal_snr=True),
}
TRANSFORMER = replace(TINY["transformer"], **EVERYTHING)


@pytest.mark.usefixtures("peak")
@pytest.mark.parametrize(
    ("network", "execution"),
    [
        ("transformer", {"accumulate": 2}),
        ("transformer", {"accumulate": 6}),
        ("transformer", {"gradient_checkpointing": True}),
        ("unet", {"accumulate": 3, "gradient_checkpointing": True}),
        ("unet", {"channels_last": True}),
    ],
)
def test_how_the_loop_runs_changes_nothing_but_rounding(network, execution, tiny_model, tiny_data):
    # Adam makes a gradient of 1e-9 a step of full size: weights are compared where the rate is
    # small beside them.
    how = {"steps": 3, "batch": 6, "learning_rate": 1e-3}
    plain = tiny_model(TINY[network], process=PROCESS_OF[network])
    other = tiny_model(TINY[network], process=PROCESS_OF[network])
    expected = run(plain, tiny_data(), **how)
    found = run(other, tiny_data(), **how, **execution)
    for column in ("loss", "gradient_norm"):
        np.testing.assert_allclose(found.column(column), expected.column(column), rtol=2e-3)
    theirs = weights(plain)
    for name, parameter in weights(other).items():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("accumulate", [2, 4, 10])
def test_a_batch_that_cannot_be_divided_is_refused(accumulate, tiny_model, tiny_data):
    with pytest.raises(
        ValueError, match=f"batch 5 cannot be divided over 1 processes times {accumulate} pieces"
    ):
        run(tiny_model(), tiny_data(), accumulate=accumulate)


@pytest.mark.usefixtures("peak")
@pytest.mark.parametrize(
    "network", [TRANSFORMER, TINY["unet"]], ids=["transformer with everything", "unet"]
)
def test_what_is_shown_is_the_running_mean_and_training_goes_on_unchanged_to_the_bit(
    network, tiny_model, tiny_data
):
    shown = {}

    def show(step: int, model: Model) -> None:
        assert model is models[1]
        assert not model.training
        shown[step] = weights(model)
        torch.manual_seed(7)  # drawing uses randomness of its own

    alone, watched = Recorder(), Recorder()
    models = tiny_model(network), tiny_model(network)
    hooks = (alone.hooks, replace(watched.hooks, show=show))
    for model, hook in zip(models, hooks, strict=True):
        train(model, tiny_data(), hooks=hook, **asked())
    assert sorted(shown) == [3, 6], "at every checkpoint"
    for step, found in shown.items():
        assert_equal(found, {name: watched.states[step][f"ema/{name}"] for name in found})
    assert watched.records == alone.records
    assert_equal(watched.states[6], alone.states[6])
    assert_equal(weights(models[1]), weights(models[0]))


@pytest.mark.usefixtures("peak")
def test_autocast_keeps_the_weights_in_full_precision(tiny_model, tiny_data):
    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # Accelerate allows one precision a process
    try:
        recorder = run(tiny_model(), tiny_data(), precision="bf16")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert {array.dtype for name, array in recorder.states[6].items() if name != "ema_steps"} == {
        np.dtype(np.float32)
    }
    full = run(tiny_model(), tiny_data())
    assert recorder.column("loss") != full.column("loss")
    np.testing.assert_allclose(recorder.column("loss"), full.column("loss"), rtol=0.05)


# -- speed


@dataclass(frozen=True)
class Images(Inputs):
    """One tensor."""

    clean: torch.Tensor
    """[B, 4, 8, 8]."""


class OneLayer(Model):
    """A model whose operations are known by hand."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.unused, self.layer = nn.Parameter(torch.zeros(8)), layer

    def example(self, count: int, k: int, device: torch.device) -> Images:
        assert (count, k) == (1, 1), "one image with one neighbor"
        return Images(nothing(count, 8), torch.randn(count, 4, 8, 8, device=device))

    def forward(self, inputs: Images) -> torch.Tensor:
        return self.layer(inputs.clean).flatten(1).mean(dim=1)


class Attention(nn.Module):
    """Every latent pixel attends to every one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)[:, None]
        return functional.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (nn.Conv2d(4, 5, 3, padding=1), 2 * 5 * 4 * 9 * 64),
        (nn.Linear(8, 7), 2 * 4 * 8 * 8 * 7),
        (Attention(), 2 * 2 * 64 * 64 * 4),
    ],
    ids=["convolution", "linear", "attention"],
)
def test_operations_are_counted_two_for_a_product_and_its_sum(layer, operations):
    before = torch.get_rng_state()
    assert forward_flops(OneLayer(layer)) == operations
    assert torch.equal(torch.get_rng_state(), before), "the caller's randomness is left alone"


@pytest.mark.parametrize("training", [True, False])
def test_counting_operations_changes_nothing_of_the_model(training):
    layer = nn.BatchNorm2d(4).train(training)
    model = OneLayer(layer).train(training)
    forward_flops(model)
    assert model.training is layer.training is training
    assert layer.num_batches_tracked == 0


def test_the_limit_of_a_device_is_measured():
    found = matmul_flops_per_second(torch.device("cpu"), "fp32", seconds=0.02)
    assert 1e8 < found < 1e14


def test_the_speed_is_told_in_images_and_as_a_share_of_what_the_device_can_do(
    tiny_config, tiny_model, tiny_data, peak
):
    model = tiny_model(tiny_config)
    operations = forward_flops(model)
    assert operations > 2 * 64 * 32
    for speed in run(model, tiny_data()).speeds:
        assert speed["processes"] == 1
        assert speed["images_per_second"] > 0
        share = speed["images_per_second"] * 3 * operations / peak
        assert speed["flop_utilisation"] == pytest.approx(share), "backward costs two forwards"
