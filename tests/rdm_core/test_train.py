"""Training: it learns, it resumes to the bit, and what is dropped has no influence."""

from contextlib import nullcontext
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from rdm_core.denoiser import Denoiser
from rdm_core.noise import Diffusion, FlowMatching
from torch import nn
from torch.nn import functional

import rdm_core.train
from rdm_core.config import DenoiserConfig, ExecutionConfig, TrainingConfig
from rdm_core.context import ABSENT, NEIGHBOR, QUERY, Context
from rdm_core.data import TrainingData
from rdm_core.errors import RequestError
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.train import (
    Hooks,
    State,
    TrainingStopped,
    apply_execution,
    forward_flops,
    learning_rate,
    matmul_flops_per_second,
    step_inputs,
    train,
)

TRAINING = TrainingConfig(
    steps=6,
    batch=5,
    learning_rate=1e-2,
    warmup_steps=2,
    cooldown=0.5,
    k=2,
    random_k=True,
    neighbor_dropout=0.3,
    ema_decay=0.9,
    log_steps=1,
    checkpoint_steps=3,
)
PROCESSES = {
    "transformer": FlowMatching(),
    "unet": Diffusion(velocity=True, min_snr_gamma=5.0, zero_terminal_snr=True),
}
EXTRAS = {"query_token": True, "set_layers": 1, "remove_means": True}
DRAWN = {
    "from_top": 4,
    "score_cap": 0.8,
    "each_neighbor_dropout": 0.2,
    "query_dropout": 0.3,
    "embedding_noise": 0.3,
}
SMALL = {
    "transformer": DenoiserConfig(
        network="transformer", channels=(32,), depth=1, head_channels=16, patch=4
    ),
    "unet": DenoiserConfig(channels=(32, 64), depth=1, head_channels=16, attention_levels=(1,)),
}
TRANSFORMER = replace(SMALL["transformer"], **EXTRAS)
PEAK = 1e12


@pytest.fixture(autouse=True)
def peak(monkeypatch):
    """Nothing is measured: the device's limit is known."""
    monkeypatch.setattr(rdm_core.train, "matmul_flops_per_second", lambda device, precision: PEAK)


class Stopped(Exception):
    """Stands for a machine that goes away."""


class Recorder:
    """Keeps what the loop reports; may stop it as soon as a step has been saved."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records, self.speeds, self.states, self.stop_after = [], [], {}, stop_after
        self.hooks = Hooks(self.log, self.save)

    def log(self, record: dict, speed: dict) -> None:
        self.records.append(record)
        self.speeds.append(speed)

    def save(self, step: int, state: State) -> None:
        self.states[step] = state
        if step == self.stop_after:
            raise Stopped

    def column(self, name: str) -> list[float]:
        return [record[name] for record in self.records]


def run(
    denoiser: Denoiser,
    data: TrainingData,
    config: TrainingConfig,
    resume=None,
    stop_after=None,
    process=None,
    execution=None,
) -> Recorder:
    """Train in pixel space and return what was reported."""
    recorder, space = Recorder(stop_after), load_latent_space(PIXELS)
    execution = execution or ExecutionConfig()
    try:
        train(
            denoiser,
            process or FlowMatching(),
            space,
            data,
            config,
            recorder.hooks,
            resume,
            execution,
        )
    except Stopped:
        assert stop_after is not None
    return recorder


def weights(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    """Every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in denoiser.named_parameters()}


def assert_equal(found: dict, expected: dict) -> None:
    """Equal to the bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(np.asarray(found[name]), np.asarray(value)), name


def test_the_loss_falls(process, tiny_denoiser, tiny_data):
    config = replace(
        TRAINING,
        steps=40,
        batch=8,
        learning_rate=5e-3,
        cooldown=0.0,
        neighbor_dropout=0.0,
        checkpoint_steps=40,
    )
    losses = run(tiny_denoiser(), tiny_data(), config, process=process).column("loss")
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("network", "drawn"),
    [(SMALL["transformer"], {}), (TRANSFORMER, DRAWN), (replace(SMALL["unet"], **EXTRAS), DRAWN)],
    ids=["transformer", "transformer with everything", "unet with everything"],
)
def test_a_resumed_run_is_an_unbroken_one_to_the_bit(network, drawn, tiny_denoiser, tiny_data):
    process, config, data = PROCESSES[network.network], replace(TRAINING, **drawn), tiny_data(k=5)
    denoiser = tiny_denoiser(network)
    unbroken = run(denoiser, data, config, process=process)

    stopped = run(tiny_denoiser(network), data, config, stop_after=3, process=process)
    another = tiny_denoiser(network, seed=99)  # everything must come from the state
    torch.manual_seed(1234)
    resumed = run(another, data, config, resume=(3, stopped.states[3]), process=process)

    assert (
        stopped.column("step") + resumed.column("step")
        == unbroken.column("step")
        == [1, 2, 3, 4, 5, 6]
    )
    for column in ("loss", "gradient_norm", "learning_rate"):
        assert stopped.column(column) + resumed.column(column) == unbroken.column(column), column
    assert_equal(resumed.states[6], unbroken.states[6])
    assert_equal(weights(another), weights(denoiser))
    assert_equal(dict(another.named_buffers()), dict(denoiser.named_buffers()))
    assert len(set(unbroken.column("loss"))) == 6, "the losses can tell steps apart"


def test_means_of_other_lengths_are_kept_at_every_checkpoint_and_resume_to_the_bit(
    tiny_denoiser, tiny_data
):
    config, found = replace(TRAINING, posthoc_ema=True), {}
    for name, stop in (("unbroken", None), ("resumed", 3)):
        kept = found[name] = {}

        def recorder(stop=None, kept=kept):
            made = Recorder(stop)
            made.hooks = replace(
                made.hooks, snapshot=lambda step, means: kept.update({step: means})
            )
            return made

        first = recorder(stop)
        arguments = (FlowMatching(), load_latent_space(PIXELS), tiny_data(), config)
        with pytest.raises(Stopped) if stop else nullcontext():
            train(tiny_denoiser(), *arguments, first.hooks)
        if stop:
            train(tiny_denoiser(seed=99), *arguments, recorder().hooks, resume=(3, first.states[3]))
    assert list(found["unbroken"]) == list(found["resumed"]) == [3, 6]
    for step, means in found["unbroken"].items():
        assert_equal(found["resumed"][step], means)
    short, long = (found["unbroken"][6][f"power/{length}/null"] for length in (0.05, 0.1))
    assert not np.array_equal(short, long)


def test_a_state_is_a_copy_of_arrays(tiny_denoiser, tiny_data):
    recorder = run(tiny_denoiser(), tiny_data(), TRAINING)
    assert all(isinstance(array, np.ndarray) for array in recorder.states[3].values())
    assert not np.array_equal(
        recorder.states[3]["weights/null"], recorder.states[6]["weights/null"]
    )
    names = {name.split("/")[0] for name in recorder.states[6]}
    assert names == {"weights", "ema", "adam", "ema_steps", "untold_losses"}


def test_a_state_holds_the_means_and_everything_else_the_denoiser_learned(tiny_denoiser, tiny_data):
    denoiser = tiny_denoiser(TRANSFORMER)
    state = run(denoiser, tiny_data(), TRAINING).states[6]
    np.testing.assert_array_equal(state["buffers/means"], denoiser.means)
    for name in (
        "null",
        "query_null",
        "query_kind",
        "set_encoder.gate",
        "set_encoder.score.weight",
    ):
        assert not np.array_equal(
            state[f"weights/{name}"], tiny_denoiser(TRANSFORMER).get_parameter(name).detach()
        ), name


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_asked_to_stop_saves_that_very_step_and_resumes_to_the_same_end(
    stop, tiny_denoiser, tiny_data
):
    config = replace(TRAINING, log_steps=3, checkpoint_steps=6)
    denoiser, another = tiny_denoiser(), tiny_denoiser()
    unbroken = run(denoiser, tiny_data(), config)
    stopped = Recorder()
    asked = iter(range(1, 7))
    hooks = replace(stopped.hooks, stopping=lambda: next(asked) == stop)
    with pytest.raises(TrainingStopped, match=f"after step {stop}"):
        train(
            tiny_denoiser(), FlowMatching(), load_latent_space(PIXELS), tiny_data(), config, hooks
        )
    assert list(stopped.states) == [stop]
    resumed = run(another, tiny_data(), config, resume=(stop, stopped.states[stop]))
    assert stopped.records + resumed.records == unbroken.records, "lines as if it had never stopped"
    assert_equal(weights(another), weights(denoiser))


@pytest.mark.parametrize("name", ["weights/null", "ema/null", "ema_steps"])
def test_a_state_that_lacks_a_tensor_is_refused_by_name(name, tiny_denoiser, tiny_data):
    state = run(tiny_denoiser(), tiny_data(), TRAINING, stop_after=3).states[3]
    del state[name]
    with pytest.raises(KeyError, match=name):
        run(tiny_denoiser(), tiny_data(), TRAINING, resume=(3, state))


def test_what_is_returned_is_the_running_mean_in_evaluation_mode(tiny_denoiser, tiny_data):
    recorder, denoiser = Recorder(), tiny_denoiser()
    config = replace(TRAINING, checkpoint_steps=1, ema_decay=0.2)  # from the third step it counts
    returned = train(
        denoiser, FlowMatching(), load_latent_space(PIXELS), tiny_data(), config, recorder.hooks
    )
    assert returned is denoiser
    assert not returned.training
    mean = None
    for step in range(1, 7):
        now = recorder.states[step]["weights/null"].astype(np.float64)
        # (1 + n) / (10 + n) after n = step - 1 updates
        decay = min(config.ema_decay, step / (9 + step))
        mean = now if mean is None else decay * mean + (1 - decay) * now
        np.testing.assert_allclose(recorder.states[step]["ema/null"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(returned.null.detach().numpy(), recorder.states[6]["ema/null"])
    assert not np.array_equal(recorder.states[6]["ema/null"], recorder.states[6]["weights/null"])


@pytest.mark.parametrize(("neighbor_dropout", "same"), [(1.0, True), (0.0, False)])
def test_a_network_trained_without_neighbors_never_sees_them(
    neighbor_dropout, same, tiny_denoiser, tiny_data
):
    config = replace(TRAINING, neighbor_dropout=neighbor_dropout)
    trained = []
    for sign in (1, -1):
        data, denoiser = tiny_data(), tiny_denoiser()
        run(denoiser, replace(data, vectors=sign * data.vectors), config)
        trained.append(torch.cat([p.detach().flatten() for p in denoiser.parameters()]))
    assert torch.equal(*trained) is same


# -- what the network is given


def given(config: TrainingConfig, denoiser: Denoiser, data: TrainingData) -> list[tuple]:
    """Noisy latents, times and contexts of every step."""
    seen = []
    hook = denoiser.register_forward_pre_hook(lambda module, args: seen.append(args))
    run(denoiser, data, config)
    hook.remove()
    return seen[1:]  # the first is where operations are counted


def slots(config: TrainingConfig, denoiser: Denoiser, data: TrainingData) -> torch.Tensor:
    """What the contexts of all steps hold [S * B, K]."""
    return torch.cat([context.slots for _, _, context in given(config, denoiser, data)])


def test_the_share_of_dropped_contexts_is_the_one_asked_for(tiny_denoiser, tiny_data):
    config = replace(TRAINING, steps=4, batch=400, neighbor_dropout=0.3)
    present = (slots(config, tiny_denoiser(), tiny_data()) != ABSENT).any(dim=1)
    assert present.float().mean() == pytest.approx(0.7, abs=0.04)
    assert (
        (slots(replace(config, neighbor_dropout=0.0), tiny_denoiser(), tiny_data()) != ABSENT)
        .any(dim=1)
        .all()
    )


def test_a_sample_without_neighbors_is_given_the_null(tiny_denoiser, tiny_data):
    data = tiny_data()
    data.neighbor_rows[::2] = -1
    present = (
        slots(replace(TRAINING, neighbor_dropout=0.0, steps=16), tiny_denoiser(), data) != ABSENT
    ).any(dim=1)
    assert present.float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("random_k", [True, False])
def test_a_context_has_k_neighbors_or_any_number_up_to_k(random_k, tiny_denoiser, tiny_data):
    config = replace(TRAINING, steps=4, batch=300, k=4, random_k=random_k, neighbor_dropout=0.0)
    mask = slots(config, tiny_denoiser(), tiny_data(k=4)) == NEIGHBOR
    counts = torch.bincount(mask.sum(dim=1), minlength=5).tolist()
    if random_k:
        assert counts[0] == 0
        assert all(240 < count < 360 for count in counts[1:]), "300 are expected of each"
    else:
        assert counts == [0, 0, 0, 0, 1200]
    ordered = mask.long().diff(dim=1) <= 0
    assert ordered.all(), "the nearest are kept"


def test_only_a_network_with_a_query_token_is_given_the_samples_own_vectors(
    tiny_denoiser, tiny_data
):
    config = replace(TRAINING, batch=100, neighbor_dropout=0.0, query_dropout=0.4)
    with_query = slots(config, tiny_denoiser(TRANSFORMER), tiny_data())
    assert set(with_query[:, 0].tolist()) == {QUERY, ABSENT}
    assert (with_query[:, 0] == QUERY).float().mean() == pytest.approx(0.6, abs=0.06)
    assert QUERY not in slots(config, tiny_denoiser(), replace(tiny_data(), query_vectors=None))


def test_what_cannot_be_given_ends_the_run_with_its_reason(tiny_denoiser, tiny_data):
    with pytest.raises(RequestError, match="k: 3 neighbors asked of a table that holds 2"):
        run(tiny_denoiser(), tiny_data(k=2), replace(TRAINING, k=3))


def test_steps_and_seeds_draw_noise_of_their_own(tiny_denoiser, tiny_data):
    noisy = [
        step
        for seed in (0, 1)
        for step in given(replace(TRAINING, steps=2, seed=seed), tiny_denoiser(), tiny_data())
    ]
    assert len({times.numpy().tobytes() for _, times, _ in noisy}) == 4
    assert len({x.numpy().tobytes() for x, _, _ in noisy}) == 4


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_all_processes_are_the_whole_step(processes, process, tiny_data):
    config, data, share = replace(TRAINING, batch=8, **DRAWN), tiny_data(k=5), 8 // processes

    def inputs(mine: slice) -> dict[str, torch.Tensor]:
        drawn = step_inputs(data, process, 3, config, True, 5, mine)
        whole = {field.name: getattr(drawn, field.name) for field in fields(drawn)}
        context = whole.pop("context")
        return whole | {field.name: getattr(context, field.name) for field in fields(Context)}

    shares = [inputs(slice(i * share, (i + 1) * share)) for i in range(processes)]
    for name, expected in inputs(slice(None)).items():
        assert torch.equal(torch.cat([one[name] for one in shares]), expected), name


def test_losses_are_weighted_as_the_process_asks(tiny_denoiser, tiny_data):
    class Twice(FlowMatching):
        """Counts every time twice."""

        def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
            return 2 * torch.ones_like(t)

    once, twice = (
        run(tiny_denoiser(), tiny_data(), TRAINING, process=p).records[0]
        for p in (FlowMatching(), Twice())
    )
    for name in ("loss", "gradient_norm"):
        assert twice[name] == pytest.approx(2 * once[name], rel=1e-5)


# -- how the loop runs


@pytest.mark.parametrize(
    ("network", "execution"),
    [
        ("transformer", ExecutionConfig(accumulate=2)),
        ("transformer", ExecutionConfig(accumulate=6)),
        ("transformer", ExecutionConfig(gradient_checkpointing=True)),
        ("unet", ExecutionConfig(accumulate=3, gradient_checkpointing=True)),
        ("unet", ExecutionConfig(channels_last=True)),
    ],
)
def test_how_the_loop_runs_changes_nothing_but_rounding(
    network, execution, tiny_denoiser, tiny_data
):
    # Adam makes a gradient of 1e-9 a step of full size: weights are compared where the rate is
    # small beside them.
    config, process = replace(TRAINING, steps=3, batch=6, learning_rate=1e-3), PROCESSES[network]
    plain, other = tiny_denoiser(SMALL[network]), tiny_denoiser(SMALL[network])
    expected = run(plain, tiny_data(), config, process=process)
    found = run(other, tiny_data(), config, process=process, execution=execution)
    for column in ("loss", "gradient_norm"):
        np.testing.assert_allclose(found.column(column), expected.column(column), rtol=2e-3)
    theirs = weights(plain)
    for name, parameter in weights(other).items():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=2e-4, msg=name)


def test_execution_switches_reach_the_network(tiny_config, tiny_denoiser, monkeypatch):
    denoiser = tiny_denoiser(tiny_config)
    apply_execution(denoiser, ExecutionConfig())
    assert not denoiser.network.is_gradient_checkpointing
    compiled = []
    monkeypatch.setattr(denoiser.network, "compile", lambda: compiled.append(True))
    apply_execution(
        denoiser, ExecutionConfig(gradient_checkpointing=True, compile=True, channels_last=True)
    )
    assert denoiser.network.is_gradient_checkpointing
    assert compiled
    convolution = next(
        module for module in denoiser.network.modules() if isinstance(module, nn.Conv2d)
    )
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("accumulate", [2, 4, 10])
def test_a_batch_that_cannot_be_divided_is_refused(accumulate, tiny_denoiser, tiny_data):
    with pytest.raises(
        ValueError, match=f"batch 5 cannot be divided over 1 processes times {accumulate} pieces"
    ):
        run(
            tiny_denoiser(), tiny_data(), TRAINING, execution=ExecutionConfig(accumulate=accumulate)
        )


@pytest.mark.parametrize(
    "network", [TRANSFORMER, SMALL["unet"]], ids=["transformer with everything", "unet"]
)
def test_what_is_shown_is_the_running_mean_and_training_goes_on_unchanged_to_the_bit(
    network, tiny_denoiser, tiny_data
):
    shown = {}

    def show(step: int, denoiser: Denoiser) -> None:
        assert not denoiser.training
        shown[step] = weights(denoiser)
        torch.manual_seed(7)  # drawing uses randomness of its own

    alone, watched = Recorder(), Recorder()
    denoisers = tiny_denoiser(network), tiny_denoiser(network)
    space, hooks = load_latent_space(PIXELS), (alone.hooks, replace(watched.hooks, show=show))
    for denoiser, hook in zip(denoisers, hooks, strict=True):
        train(denoiser, FlowMatching(), space, tiny_data(), TRAINING, hook)
    assert sorted(shown) == [3, 6], "at every checkpoint"
    for step, found in shown.items():
        assert_equal(found, {name: watched.states[step][f"ema/{name}"] for name in found})
    assert watched.records == alone.records
    assert_equal(watched.states[6], alone.states[6])
    assert_equal(weights(denoisers[1]), weights(denoisers[0]))


class OneLayer(nn.Module):
    """A network whose operations are known by hand."""

    dimension = 8

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.null, self.layer = nn.Parameter(torch.zeros(8)), layer

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: Context) -> torch.Tensor:
        return self.layer(x)


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
    assert forward_flops(OneLayer(layer), 4, 8) == operations


def test_the_limit_of_a_device_is_measured():
    found = matmul_flops_per_second(torch.device("cpu"), "fp32", seconds=0.02)
    assert 1e8 < found < 1e14


def test_the_speed_is_told_in_images_and_as_a_share_of_what_the_device_can_do(
    tiny_config, tiny_denoiser, tiny_data
):
    denoiser = tiny_denoiser(tiny_config)
    operations = forward_flops(denoiser, 3, 8)
    assert operations > 2 * 64 * 32
    for speed in run(denoiser, tiny_data(), TRAINING).speeds:
        assert speed["processes"] == 1
        assert speed["images_per_second"] > 0
        share = speed["images_per_second"] * 3 * operations / PEAK
        assert speed["flop_utilisation"] == pytest.approx(share), "backward costs two forwards"


# -- rates, metrics, numbers that are none


@pytest.mark.parametrize(
    ("cooldown", "expected"),
    [
        (0.0, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1, 50: 1, 99: 1}),
        (0.2, {0: 0.25, 3: 1, 79: 1, 80: 1, 81: 0.95, 90: 0.5, 99: 0.05}),
        (1.0, {0: 0.25, 3: 0.97, 50: 0.5, 99: 0.01}),
    ],
)
def test_the_learning_rate_warms_up_stays_and_cools_down(cooldown, expected):
    config = TrainingConfig(steps=100, learning_rate=0.5, warmup_steps=4, cooldown=cooldown)
    assert {step: learning_rate(config, step) / 0.5 for step in expected} == pytest.approx(expected)


def test_no_warm_up_starts_at_the_full_rate():
    assert learning_rate(TrainingConfig(steps=10, learning_rate=1.0, warmup_steps=0), 0) == 1


def test_the_schedule_is_what_is_used_and_reported(tiny_denoiser, tiny_data):
    moved = []
    for warmup_steps in (1, 10):
        denoiser = tiny_denoiser()
        before = denoiser.null.detach().clone()
        run(
            denoiser,
            tiny_data(),
            replace(TRAINING, steps=1, warmup_steps=warmup_steps, cooldown=0.0, weight_decay=0.0),
        )
        moved.append((denoiser.null.detach() - before).abs().max().item())
    assert moved[0] == pytest.approx(10 * moved[1], rel=1e-3)
    recorder = run(tiny_denoiser(), tiny_data(), TRAINING)
    assert recorder.column("learning_rate") == [learning_rate(TRAINING, step) for step in range(6)]


def test_metrics_are_means_since_the_last_line_and_every_state_comes_with_one(
    tiny_denoiser, tiny_data
):
    each = run(tiny_denoiser(), tiny_data(), TRAINING).column("loss")
    lines = run(tiny_denoiser(), tiny_data(), replace(TRAINING, log_steps=2, checkpoint_steps=3))
    assert lines.column("step") == [2, 3, 4, 6]
    expected = [np.mean(each[:2]), each[2], each[3], np.mean(each[4:])]
    np.testing.assert_allclose(lines.column("loss"), expected, rtol=1e-5)
    assert sorted(lines.states) == [3, 6]
    assert set(lines.records[0]) == {"step", "loss", "gradient_norm", "learning_rate"}, (
        "nothing that two equal runs differ in"
    )


def test_a_loss_that_is_not_a_number_ends_the_run_before_anything_is_kept(tiny_denoiser, tiny_data):
    data, recorder = tiny_data(), Recorder()
    data = replace(data, vectors=np.full_like(data.vectors, np.nan))
    config = replace(TRAINING, log_steps=100, checkpoint_steps=2, neighbor_dropout=0.0)
    with pytest.raises(
        FloatingPointError,
        match=r"step 2: the loss is nan.*lower the learning rate or use precision fp32",
    ):
        train(
            tiny_denoiser(), FlowMatching(), load_latent_space(PIXELS), data, config, recorder.hooks
        )
    assert not recorder.states


def test_a_gradient_that_is_not_finite_ends_the_run_before_anything_is_kept(
    tiny_denoiser, tiny_data
):
    denoiser, recorder = tiny_denoiser(), Recorder()
    denoiser.null.register_hook(lambda gradient: gradient * float("inf"))
    config = replace(TRAINING, steps=1, neighbor_dropout=1.0)
    with pytest.raises(
        FloatingPointError, match=r"step 1: the loss is \d.*its gradient's norm (nan|inf)"
    ):
        train(
            denoiser, FlowMatching(), load_latent_space(PIXELS), tiny_data(), config, recorder.hooks
        )
    assert not recorder.states


def test_large_gradients_are_scaled_down(tiny_denoiser, tiny_data):
    """Adam forgets a constant scale, so two steps of very different size tell whether it is
    applied.
    """
    trained = {}
    for clip_norm in (1e-3, 1e9):
        denoiser = tiny_denoiser()
        recorder = run(denoiser, tiny_data(), replace(TRAINING, clip_norm=clip_norm))
        assert min(recorder.column("gradient_norm")) > 1e-3, "reported before it is scaled"
        trained[clip_norm] = weights(denoiser)["null"]
    assert not torch.equal(*trained.values())


def test_autocast_keeps_the_weights_in_full_precision(tiny_denoiser, tiny_data):
    # Accelerate allows one precision a process
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        recorder = run(tiny_denoiser(), tiny_data(), replace(TRAINING, precision="bf16"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert {array.dtype for name, array in recorder.states[6].items() if name != "ema_steps"} == {
        np.dtype(np.float32)
    }
    full = run(tiny_denoiser(), tiny_data(), TRAINING)
    assert recorder.column("loss") != full.column("loss")
    np.testing.assert_allclose(recorder.column("loss"), full.column("loss"), rtol=0.05)


def test_a_posterior_is_sampled_anew_every_step(tiny_denoiser):
    """With an autoencoder's moments the same sample gives another final latent each time it
    comes.
    """

    class Moments:
        channels = 3

        def final(self, raw: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
            asked.append(noise)
            mean, log_variance = raw.float().chunk(2, dim=1)
            return mean + torch.exp(log_variance / 2) * noise

    asked: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    denoiser = tiny_denoiser()
    denoiser.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    latents = np.zeros((1, 6, 8, 8), np.float16)
    data = TrainingData(
        [latents], np.zeros((1, 1), int), np.ones((1, 1), np.float32), np.eye(1, 8), np.ones(1)
    )
    recorder = Recorder()
    train(denoiser, FlowMatching(), Moments(), data, replace(TRAINING, k=1), recorder.hooks)
    assert all(noise.shape == (5, 3, 8, 8) for noise in asked)
    assert len({noise.numpy().tobytes() for noise in asked}) == 6
    assert torch.cat(asked).std().item() == pytest.approx(1, abs=0.05)
    mixed = [not torch.allclose(n, x, atol=1e-4) for n, x in zip(asked, given[1:], strict=True)]
    assert all(mixed), "the noise of the posterior is not that of the process"
