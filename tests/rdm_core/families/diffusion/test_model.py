"""A diffusion model: what a step draws for it, what its loss is, what it is asked to draw with."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny import DIMENSION, EVERYTHING, TINY
from torch import nn
from training import DRAWN, Recorder, asked, assert_equal, flat, run

from rdm_core.config import ExecutionConfig
from rdm_core.context import ABSENT
from rdm_core.data import StoredLatents, TrainingData
from rdm_core.errors import RequestError, WeightsError
from rdm_core.families import FACTS_FILE, family_of, load_model, read_facts
from rdm_core.families.diffusion.config import Config, Draw, NoiseConfig
from rdm_core.families.diffusion.model import Diffusion, build
from rdm_core.families.diffusion.noise import FlowMatching, process_of
from rdm_core.families.facts import Reads, RunFacts, Shape
from rdm_core.families.family import Beside
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.train import step_inputs, train

CPU = torch.device("cpu")
WITH_EVERYTHING = replace(TINY["transformer"], **EVERYTHING)
SHAPE = Shape(channels=3, side=8, dimension=DIMENSION)


# -- what a step draws


def step_of(model: Diffusion, data: TrainingData, mine: slice) -> dict[str, torch.Tensor]:
    """One process's share of a step, by name."""
    how = asked(batch=8, **DRAWN)
    drawn = step_inputs(model, data, how["config"], how["context"], 5, mine)
    tensors = dict(vars(drawn))
    tensors |= vars(tensors.pop("context"))
    for other in ("references", "picture", "text", "neighbor_texts"):
        assert tensors.pop(other) is None
    return tensors


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_all_processes_are_the_whole_step(processes, process, tiny_model, tiny_data):
    model, data, share = (
        tiny_model(WITH_EVERYTHING, process=process),
        tiny_data(k=5),
        8 // processes,
    )
    shares = [step_of(model, data, slice(i * share, (i + 1) * share)) for i in range(processes)]
    whole = step_of(model, data, slice(None))
    assert whole.keys() == {
        *("clean", "noise", "times"),
        *("vectors", "norms", "scores", "slots"),
    }
    for name, expected in whole.items():
        assert torch.equal(torch.cat([one[name] for one in shares]), expected), name


def test_the_inputs_of_a_step_are_final_latents_and_noise_and_times(tiny_model, tiny_data):
    model, data = tiny_model(), tiny_data(k=5)
    step = step_of(model, data, slice(None))
    assert step["clean"].shape == step["noise"].shape == (8, 3, 8, 8)
    assert step["times"].shape == (8,)
    finals = model.works_in.final(data.raw(np.arange(len(data))))
    for clean in step["clean"]:
        assert (finals == clean).all(dim=(1, 2, 3)).any(), "a sample's own latent"


def test_a_posterior_is_sampled_anew_every_step(peak, tiny_model):
    """With an autoencoder's moments the same sample gives another final latent each time it
    comes.
    """

    class Moments:
        channels = 3

        def final(self, raw: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
            told.append(noise)
            mean, log_variance = raw.float().chunk(2, dim=1)
            return mean + torch.exp(log_variance / 2) * noise

    told: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    denoiser = tiny_model().denoiser
    denoiser.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    model = Diffusion(denoiser, FlowMatching(), SHAPE, Moments())
    latents = StoredLatents([np.zeros((1, 6, 8, 8), np.float16)])
    one = np.zeros((1, 1), int)
    data = TrainingData(latents, one, np.ones((1, 1), np.float32), np.eye(1, 8), np.ones(1))
    train(model, data, hooks=Recorder().hooks, **asked(k=1))
    for noise in told:
        assert noise.shape == (5, 3, 8, 8)
    assert len({noise.numpy().tobytes() for noise in told}) == 6
    assert torch.cat(told).std().item() == pytest.approx(1, abs=0.05)
    mixed = [not torch.allclose(n, x, atol=1e-4) for n, x in zip(told, given[1:], strict=True)]
    assert all(mixed), "the noise of the posterior is not that of the process"


# -- its loss


def test_a_loss_is_the_weighted_squared_error_of_each_sample(process, tiny_config, tiny_model):
    model = tiny_model(tiny_config, process=process)
    inputs = model.example(5, 2, CPU)
    with torch.no_grad():
        found = model(inputs)
        noisy, target = process.corrupt(inputs.clean, inputs.noise, inputs.times)
        times = process.network_time(inputs.times)
        error = model.denoiser(noisy, times, inputs.context) - target
        for i in range(5):
            alone = model(inputs.rows(slice(i, i + 1)))
            torch.testing.assert_close(alone, found[i : i + 1], rtol=1e-4, atol=1e-5)
    assert found.shape == (5,)
    torch.testing.assert_close(found, error.square().mean(dim=(1, 2, 3)))


def test_losses_are_weighted_as_the_process_asks(peak, tiny_model, tiny_data):
    class Twice(FlowMatching):
        """Counts every time twice."""

        def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
            return 2 * torch.ones_like(t)

    once = run(tiny_model(process=FlowMatching()), tiny_data()).records[0]
    twice = run(tiny_model(process=Twice()), tiny_data()).records[0]
    for name in ("loss", "gradient_norm"):
        assert twice[name] == pytest.approx(2 * once[name], rel=1e-5)


# -- what it is told


def test_it_reads_the_samples_own_vectors_only_with_a_query_token(tiny_model):
    assert tiny_model().reads == Reads()
    assert tiny_model(WITH_EVERYTHING).reads == Reads(query=True)
    assert tiny_model(WITH_EVERYTHING).example(2, 3, CPU).context.vectors.shape[1] == 3 + 1


def test_means_are_taken_by_a_network_that_removes_them_and_ignored_by_others(tiny_model):
    means = np.arange(2.0 * DIMENSION).reshape(2, DIMENSION)
    model = tiny_model(replace(TINY["transformer"], remove_means=True))
    model.set_means(means)
    np.testing.assert_array_equal(model.denoiser.means, means)
    tiny_model().set_means(means)


def test_execution_switches_reach_the_network(tiny_config, tiny_model, monkeypatch):
    model = tiny_model(tiny_config)
    network = model.denoiser.network
    model.execute(ExecutionConfig())
    assert not network.is_gradient_checkpointing
    compiled = []
    monkeypatch.setattr(network, "compile", lambda: compiled.append(True))
    model.execute(ExecutionConfig(gradient_checkpointing=True, compile=True, channels_last=True))
    assert network.is_gradient_checkpointing
    assert compiled
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


# -- building, saving, loading


NOISE = NoiseConfig(process="velocity", zero_terminal_snr=True)


def facts_of(config: Config) -> RunFacts:
    """Of a tiny model of such a configuration."""
    space = {"autoencoder": PIXELS, "weights_sha256": "", "channels": 3, "factor": 1}
    told = {
        "vectors_of": "image",
        "encoder_weights": "built-in",
        "space": space,
        "space_path": PIXELS,
        "latent_side": 8,
    }
    counts = {"k": 2, "random_k": False, "neighbor_dropout": 0.1, "steps": 3, "parameters": 1}
    return RunFacts("diffusion", asdict(config), {"dimension": DIMENSION}, **told, **counts)


def test_a_model_is_built_as_its_configuration_says_and_by_its_seed(tiny_config):
    config = Config(denoiser=tiny_config, noise=NOISE)
    first = build(config, SHAPE, seed=0)
    again = build(config, SHAPE, seed=0)
    other = build(config, SHAPE, seed=1)
    assert (first.shape, first.process) == (SHAPE, process_of(NOISE))
    assert first.denoiser.config == tiny_config
    assert first.space is None
    values = [flat(first), flat(again), flat(other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


@pytest.mark.parametrize("denoiser", [WITH_EVERYTHING, TINY["unet"]], ids=lambda c: c.network)
def test_a_saved_model_is_loaded_whole_in_evaluation_mode(denoiser, tiny_model, tmp_path):
    config = Config(denoiser=denoiser, noise=NOISE)
    model, space = tiny_model(denoiser, process=process_of(NOISE)), load_latent_space(PIXELS)
    model.save(tmp_path, facts_of(config))
    loaded = load_model(tmp_path, read_facts(tmp_path), space)
    assert isinstance(loaded, Diffusion)
    assert (loaded.shape, loaded.process, loaded.reads) == (SHAPE, model.process, model.reads)
    assert loaded.space is space
    assert not loaded.training
    assert_equal(loaded.state_dict(), model.state_dict())
    inputs = model.example(2, 3, CPU)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), model(inputs))


def test_only_safetensors_and_json_are_written(tiny_model, tmp_path):
    tiny_model().save(tmp_path, facts_of(Config(denoiser=TINY["transformer"])))
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        FACTS_FILE,
        "context.safetensors",
        "network/config.json",
        "network/diffusion_pytorch_model.safetensors",
    }


@pytest.mark.parametrize(
    "extra", [{"query_token": True}, {"set_layers": 1}, {"remove_means": True}], ids=str
)
def test_a_folder_whose_facts_and_tensors_disagree_is_refused(extra, tiny_model, tmp_path):
    config = Config(denoiser=replace(TINY["transformer"], **extra))
    tiny_model().save(tmp_path, facts_of(config))
    with pytest.raises(WeightsError, match=r"tensors of the context are absent or too many, \w+"):
        load_model(tmp_path, read_facts(tmp_path), load_latent_space(PIXELS))


def test_a_folder_with_facts_alone_is_refused(tiny_model, tmp_path):
    tiny_model().save(tmp_path / "whole", facts_of(Config(denoiser=TINY["transformer"])))
    (tmp_path / FACTS_FILE).write_bytes((tmp_path / "whole" / FACTS_FILE).read_bytes())
    with pytest.raises(WeightsError, match="not a weights folder of this project"):
        load_model(tmp_path, read_facts(tmp_path), load_latent_space(PIXELS))


def test_what_is_imported_ahead_is_what_building_needs():
    family_of("diffusion").import_networks()


# -- drawing


def test_a_drawing_is_one_image_a_seed_with_what_stands_beside_it(tiny_model):
    model = tiny_model()
    context, how = model.example(3, 2, CPU).context, Draw(steps=2)
    done = []
    images = model.draw(context, [1, 2, 3], how, progress=done.append)
    assert (images.dtype, images.shape) == (np.uint8, (3, 8, 8, 3))
    assert done == [3]
    style = replace(context, vectors=-context.vectors)
    for beside in (Beside(negative=style), Beside(style=style), Beside(weaker=tiny_model(seed=5))):
        assert (model.draw(context, [1, 2, 3], how, beside) != images).any()
    empty = replace(context, slots=torch.full_like(context.slots, ABSENT))
    null = model.draw(model.null(3), [1, 2, 3], how)
    np.testing.assert_allclose(model.draw(empty, [1, 2, 3], how), null.astype(int), atol=1)


@pytest.mark.parametrize("what", ["process", "shape", "family"])
def test_a_weaker_model_of_another_kind_is_refused(what, tiny_model):
    model, weaker = tiny_model(), tiny_model()
    if what == "process":
        weaker = tiny_model(process=FlowMatching(1.0))
    elif what == "shape":
        weaker.shape = replace(weaker.shape, side=16)
    else:
        weaker = nn.Linear(1, 1)
    with pytest.raises(RequestError, match="weaker_run: works in another latent space or noise"):
        model.draw(model.null(1), [1], Draw(steps=1), Beside(weaker=weaker))


def test_a_model_without_a_latent_space_draws_nothing(tiny_model):
    model = Diffusion(tiny_model().denoiser, FlowMatching(), SHAPE, None)
    with pytest.raises(RequestError, match="model: was built without a latent space"):
        model.draw(model.null(1), [1], Draw(steps=1))
