"""The state of a training: it resumes to the bit, and what is used in the end is the running
mean.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny import EVERYTHING, TINY
from torch import nn
from training import DRAWN, USUAL, Recorder, Stopped, asked, assert_equal, run, weights

from rdm_core.errors import TrainingStopped
from rdm_core.families.diffusion.noise import Diffusion, FlowMatching
from rdm_core.families.facts import Reads, Shape
from rdm_core.families.family import Inputs, Model
from rdm_core.train import kept_buffers, set_running_mean, train

pytestmark = pytest.mark.usefixtures("peak")
PROCESS_OF = {
    "transformer": FlowMatching(),
    "unet": Diffusion(velocity=True, min_snr_gamma=5.0, zero_terminal_snr=True),
}
TRANSFORMER = replace(TINY["transformer"], **EVERYTHING)
UNET = replace(TINY["unet"], **EVERYTHING)


@pytest.mark.parametrize(
    ("network", "drawn"),
    [
        (TINY["transformer"], {}),
        (TINY["transformer"], {"optimizer": "muon"}),
        (TRANSFORMER, DRAWN),
        (UNET, DRAWN),
    ],
    ids=["transformer", "muon", "transformer with everything", "unet with everything"],
)
def test_a_resumed_run_is_an_unbroken_one_to_the_bit(network, drawn, tiny_model, tiny_data):
    how, data = {"process": PROCESS_OF[network.network]}, tiny_data(k=5)
    model = tiny_model(network, **how)
    unbroken = run(model, data, **drawn)

    stopped = run(tiny_model(network, **how), data, stop_after=3, **drawn)
    another = tiny_model(network, seed=99, **how)  # everything must come from the state
    torch.manual_seed(1234)
    resumed = run(another, data, resume=(3, stopped.states[3]), **drawn)

    assert (
        stopped.column("step") + resumed.column("step")
        == unbroken.column("step")
        == [1, 2, 3, 4, 5, 6]
    )
    for column in ("loss", "gradient_norm", "learning_rate"):
        assert stopped.column(column) + resumed.column(column) == unbroken.column(column), column
    assert_equal(resumed.states[6], unbroken.states[6])
    assert_equal(weights(another), weights(model))
    assert_equal(dict(another.named_buffers()), dict(model.named_buffers()))
    assert len(set(unbroken.column("loss"))) == 6, "the losses can tell steps apart"


def test_means_of_other_lengths_are_kept_at_every_snapshot_and_resume_to_the_bit(
    tiny_model, tiny_data
):
    how = asked(posthoc_ema=True, snapshot_steps=2, checkpoint_steps=3)
    found, data = {}, tiny_data()
    for name, stop in (("unbroken", None), ("resumed", 3)):
        kept = found[name] = {}

        def recorder(stop=None, kept=kept):
            made = Recorder(stop)
            made.hooks = replace(
                made.hooks, snapshot=lambda step, means: kept.update({step: means})
            )
            return made

        first = recorder(stop)
        with pytest.raises(Stopped) if stop else nullcontext():
            train(tiny_model(), data, hooks=first.hooks, **how)
        if stop:
            resume = (3, first.states[3])
            train(tiny_model(seed=99), data, hooks=recorder().hooks, resume=resume, **how)
    assert list(found["unbroken"]) == list(found["resumed"]) == [2, 4, 6]
    for step, means in found["unbroken"].items():
        assert_equal(found["resumed"][step], means)
    means = found["unbroken"][6]
    short, long = means["power/0.05/denoiser.null"], means["power/0.1/denoiser.null"]
    assert not np.array_equal(short, long)


@pytest.mark.parametrize(
    ("snapshot_steps", "expected"), [(4, [4, 6]), (3, [3, 6]), (100, [6])], ids=str
)
def test_a_snapshot_comes_every_so_many_steps_and_in_the_end_whatever_is_saved(
    snapshot_steps, expected, tiny_model, tiny_data
):
    told, recorder = [], Recorder()
    hooks = replace(
        recorder.hooks,
        save=lambda step, state: told.append(("state", step)),
        snapshot=lambda step, means: told.append(("means", step)),
    )
    how = asked(posthoc_ema=True, snapshot_steps=snapshot_steps)
    train(tiny_model(), tiny_data(), hooks=hooks, **how)
    assert [step for what, step in told if what == "means"] == expected
    assert [step for what, step in told if what == "state"] == [3, 6]
    assert told[-2:] == [("means", 6), ("state", 6)], "a run that resumes from there has it"


def test_a_state_is_a_copy_of_arrays(tiny_model, tiny_data):
    recorder = run(tiny_model(), tiny_data())
    for name, array in recorder.states[3].items():
        assert isinstance(array, np.ndarray), name
    name = "weights/denoiser.null"
    assert not np.array_equal(recorder.states[3][name], recorder.states[6][name])
    names = {name.split("/")[0] for name in recorder.states[6]}
    assert names == {"weights", "ema", "adam", "ema_steps", "pending_losses"}


def test_a_state_holds_the_means_and_everything_else_the_denoiser_learned(tiny_model, tiny_data):
    model = tiny_model(TRANSFORMER)
    state = run(model, tiny_data()).states[6]
    np.testing.assert_array_equal(state["buffers/denoiser.means"], model.denoiser.means)
    for name in (
        "denoiser.null",
        "denoiser.query_null",
        "denoiser.query_kind",
        "denoiser.set_encoder.gate",
        "denoiser.set_encoder.score.weight",
    ):
        assert not np.array_equal(
            state[f"weights/{name}"], tiny_model(TRANSFORMER).get_parameter(name).detach()
        ), name


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_asked_to_stop_saves_that_very_step_and_resumes_to_the_same_end(
    stop, tiny_model, tiny_data
):
    how = {"log_steps": 3, "checkpoint_steps": 6}
    model, another = tiny_model(), tiny_model()
    unbroken = run(model, tiny_data(), **how)
    stopped = Recorder()
    wanted = iter(range(1, 7))
    hooks = replace(stopped.hooks, stopping=lambda: next(wanted) == stop)
    with pytest.raises(TrainingStopped, match=f"after step {stop}"):
        train(tiny_model(), tiny_data(), hooks=hooks, **asked(**how))
    assert list(stopped.states) == [stop]
    resumed = run(another, tiny_data(), resume=(stop, stopped.states[stop]), **how)
    assert stopped.records + resumed.records == unbroken.records, "lines as if it had never stopped"
    assert_equal(weights(another), weights(model))


@pytest.mark.parametrize(
    "name", ["weights/denoiser.null", "ema/denoiser.null", "buffers/denoiser.means", "ema_steps"]
)
def test_a_state_that_lacks_a_tensor_is_refused_by_name(name, tiny_model, tiny_data):
    state = run(tiny_model(TRANSFORMER), tiny_data(), stop_after=3).states[3]
    del state[name]
    with pytest.raises(KeyError, match=name):
        run(tiny_model(TRANSFORMER), tiny_data(), resume=(3, state))


def test_what_is_returned_is_the_running_mean_in_evaluation_mode(tiny_model, tiny_data):
    recorder, model, null = Recorder(), tiny_model(), "denoiser.null"
    how = asked(checkpoint_steps=1, ema_decay=0.2)  # from the third step it counts
    returned = train(model, tiny_data(), hooks=recorder.hooks, **how)
    assert returned is model
    assert not returned.training
    mean = None
    for step in range(1, 7):
        state = recorder.states[step]
        now = state[f"weights/{null}"].astype(np.float64)
        decay = min(0.2, step / (9 + step))  # (1 + n) / (10 + n) after n = step - 1 updates
        mean = now if mean is None else decay * mean + (1 - decay) * now
        np.testing.assert_allclose(state[f"ema/{null}"], mean, rtol=1e-5, atol=1e-6)
    last = recorder.states[6]
    np.testing.assert_array_equal(returned.denoiser.null.detach().numpy(), last[f"ema/{null}"])
    assert not np.array_equal(last[f"ema/{null}"], last[f"weights/{null}"])


# -- buffers of any family


@dataclass(frozen=True)
class Numbers(Inputs):
    """What `Counting` is trained on."""

    clean: torch.Tensor
    """[B]."""


class Counting(Model):
    """Knows nothing of diffusion: learns a number, and counts what it has seen as it goes."""

    family, reads, shape, space = "none", Reads(), Shape(3, 8, 8), None

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.tensor(start))
        self.norm = nn.BatchNorm1d(1)
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("sum_of_all", torch.full((2, 1), start))
        self.register_buffer("scratch", torch.tensor(start), persistent=False)

    def inputs(self, data, rows, mine, context, generator) -> Numbers:
        return Numbers(context, data.raw(rows[mine]).float().mean(dim=(1, 2, 3)) / 255)

    def example(self, count, k, device) -> Numbers:
        return Numbers(self.null(count), torch.ones(count))

    def null(self, count):
        raise NotImplementedError

    def forward(self, inputs: Numbers) -> torch.Tensor:
        self.seen += len(inputs)
        self.sum_of_all += inputs.clean.sum()
        return (self.norm(inputs.clean[:, None])[:, 0] - self.number - self.sum_of_all[0]).square()

    def execute(self, execution) -> None:
        pass


def test_the_buffers_of_a_state_are_those_that_a_model_saves():
    names = {"seen", "sum_of_all", "norm.running_mean", "norm.running_var"}
    assert kept_buffers(Counting()).keys() == names | {"norm.num_batches_tracked"}


def test_buffers_of_any_name_resume_to_the_bit(tiny_data, monkeypatch):
    monkeypatch.setattr("rdm_core.train.forward_flops", lambda model: 1)
    data, model, another = tiny_data(), Counting(), Counting(start=7.0)
    unbroken = run(model, data)
    stopped = run(Counting(), data, stop_after=3)
    resumed = run(another, data, resume=(3, stopped.states[3]))
    assert model.seen == 6 * USUAL["config"].batch
    assert_equal(kept_buffers(another), kept_buffers(model))
    assert_equal(weights(another), weights(model))
    assert_equal(resumed.states[6], unbroken.states[6])
    for name in kept_buffers(model):
        assert f"buffers/{name}" in unbroken.states[6]


def test_the_running_mean_of_a_state_comes_with_its_buffers(tiny_data, monkeypatch):
    monkeypatch.setattr("rdm_core.train.forward_flops", lambda model: 1)
    state = run(Counting(), tiny_data()).states[6]
    model = Counting(start=7.0)
    set_running_mean(model, state)
    assert model.number.item() == state["ema/number"] != state["weights/number"]
    for name, buffer in kept_buffers(model).items():
        np.testing.assert_array_equal(buffer, state[f"buffers/{name}"])
    assert model.scratch == 7
    for name in ("ema/number", "buffers/sum_of_all"):
        lacking = {key: array for key, array in state.items() if key != name}
        with pytest.raises(KeyError, match=name):
            set_running_mean(Counting(), lacking)
