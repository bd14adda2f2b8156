"""Training: it learns, it resumes to the bit, and what is dropped has no influence."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from rdm_core.config import TrainingConfig
from rdm_core.data import TrainingData
from rdm_core.denoiser import Denoiser
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.noise import Epsilon, FlowMatching
from rdm_core.train import Hooks, State, TrainingStopped, learning_rate, train

TRAINING = TrainingConfig(
    steps=6, batch=5, learning_rate=1e-2, warmup_steps=2, cooldown=0.5, k=2, random_k=True, neighbor_dropout=0.3,
    ema_decay=0.9, log_steps=1, checkpoint_steps=3,
)  # fmt: skip
PROCESSES = {"transformer": FlowMatching(), "unet": Epsilon()}


class Stopped(Exception):
    """Stands for a machine that goes away."""


class Recorder:
    """Keeps what the loop reports; may stop it as soon as a step has been saved."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records, self.speeds, self.states, self.stop_after = [], [], {}, stop_after
        self.hooks = Hooks(self.log, self.save)

    def log(self, record: dict, images_per_second: float) -> None:
        self.records.append(record)
        self.speeds.append(images_per_second)

    def save(self, step: int, state: State) -> None:
        self.states[step] = state
        if step == self.stop_after:
            raise Stopped

    def column(self, name: str) -> list[float]:
        return [record[name] for record in self.records]


def run(denoiser: Denoiser, data: TrainingData, config: TrainingConfig, resume=None, stop_after=None, process=None) -> Recorder:
    """Train in pixel space and return what was reported."""
    recorder = Recorder(stop_after)
    try:
        train(denoiser, process or FlowMatching(), load_latent_space(PIXELS), data, config, recorder.hooks, resume)
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


@pytest.mark.parametrize("process", [FlowMatching(), Epsilon()], ids=["flow", "epsilon"])
def test_the_loss_falls(process, tiny_denoiser, tiny_data):
    config = replace(TRAINING, steps=60, batch=16, learning_rate=3e-3, cooldown=0.0, neighbor_dropout=0.0, checkpoint_steps=60)
    losses = run(tiny_denoiser(), tiny_data(), config, process=process).column("loss")
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_a_resumed_run_is_an_unbroken_one_to_the_bit(tiny_config, tiny_denoiser, tiny_data):
    process = PROCESSES[tiny_config.network]
    unbroken, denoiser = Recorder(), tiny_denoiser(tiny_config)
    train(denoiser, process, load_latent_space(PIXELS), tiny_data(), TRAINING, unbroken.hooks)

    stopped = run(tiny_denoiser(tiny_config), tiny_data(), TRAINING, stop_after=3, process=process)
    another = tiny_denoiser(tiny_config, seed=99)  # everything must come from the state
    torch.manual_seed(1234)
    resumed = run(another, tiny_data(), TRAINING, resume=(3, stopped.states[3]), process=process)

    assert stopped.column("step") + resumed.column("step") == unbroken.column("step") == [1, 2, 3, 4, 5, 6]
    for column in ("loss", "gradient_norm", "learning_rate"):
        assert stopped.column(column) + resumed.column(column) == unbroken.column(column), column
    assert_equal(resumed.states[6], unbroken.states[6])
    assert_equal(weights(another), weights(denoiser))
    assert len(set(unbroken.column("loss"))) == 6, "the losses can tell steps apart"


def test_a_state_is_a_copy_of_arrays(tiny_denoiser, tiny_data):
    recorder = run(tiny_denoiser(), tiny_data(), TRAINING)
    assert all(isinstance(array, np.ndarray) for array in recorder.states[3].values())
    assert not np.array_equal(recorder.states[3]["weights/null"], recorder.states[6]["weights/null"])
    names = {name.split("/")[0] for name in recorder.states[6]}
    assert names == {"weights", "ema", "adam", "ema_steps", "untold_losses"}


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_asked_to_stop_saves_that_very_step_and_resumes_to_the_same_end(stop, tiny_denoiser, tiny_data):
    config = replace(TRAINING, log_steps=3, checkpoint_steps=6)
    denoiser, another = tiny_denoiser(), tiny_denoiser()
    unbroken = run(denoiser, tiny_data(), config)
    stopped = Recorder()
    asked = iter(range(1, 7))
    hooks = replace(stopped.hooks, stopping=lambda: next(asked) == stop)
    with pytest.raises(TrainingStopped, match=f"after step {stop}"):
        train(tiny_denoiser(), FlowMatching(), load_latent_space(PIXELS), tiny_data(), config, hooks)
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
    config = replace(TRAINING, checkpoint_steps=1)
    returned = train(denoiser, FlowMatching(), load_latent_space(PIXELS), tiny_data(), config, recorder.hooks)
    assert returned is denoiser
    assert not returned.training
    mean = None
    for step in range(1, 7):
        now = recorder.states[step]["weights/null"].astype(np.float64)
        decay = min(config.ema_decay, step / (9 + step))  # (1 + n) / (10 + n) after n = step - 1 updates
        mean = now if mean is None else decay * mean + (1 - decay) * now
        np.testing.assert_allclose(recorder.states[step]["ema/null"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(returned.null.detach().numpy(), recorder.states[6]["ema/null"])
    assert not np.array_equal(recorder.states[6]["ema/null"], recorder.states[6]["weights/null"])


@pytest.mark.parametrize(("neighbor_dropout", "same"), [(1.0, True), (0.0, False)])
def test_a_network_trained_without_neighbors_never_sees_them(neighbor_dropout, same, tiny_denoiser, tiny_data):
    config = replace(TRAINING, neighbor_dropout=neighbor_dropout)
    trained = []
    for sign in (1, -1):
        data, denoiser = tiny_data(), tiny_denoiser()
        data.vectors = sign * data.vectors
        run(denoiser, data, config)
        trained.append(torch.cat([p.detach().flatten() for p in denoiser.parameters()]))
    assert torch.equal(*trained) is same


def given(config: TrainingConfig, denoiser: Denoiser, data: TrainingData) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks [S * B, K] and dropped flags [S * B] that the network was given."""
    seen = []
    hook = denoiser.register_forward_pre_hook(lambda module, args: seen.append((args[3], args[4])))
    run(denoiser, data, config)
    hook.remove()
    return torch.cat([mask for mask, _ in seen]), torch.cat([dropped for _, dropped in seen])


def test_the_share_of_dropped_contexts_is_the_one_asked_for(tiny_denoiser, tiny_data):
    config = replace(TRAINING, steps=4, batch=400, neighbor_dropout=0.3)
    _, dropped = given(config, tiny_denoiser(), tiny_data())
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.04)
    _, dropped = given(replace(config, neighbor_dropout=0.0), tiny_denoiser(), tiny_data())
    assert not dropped.any()


def test_a_sample_without_neighbors_is_given_the_null(tiny_denoiser, tiny_data):
    data = tiny_data()
    data.neighbor_rows[::2] = -1
    mask, dropped = given(replace(TRAINING, neighbor_dropout=0.0, steps=16), tiny_denoiser(), data)
    assert torch.equal(dropped, ~mask.any(dim=1))
    assert dropped.float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("random_k", [True, False])
def test_a_context_has_k_neighbors_or_any_number_up_to_k(random_k, tiny_denoiser, tiny_data):
    config = replace(TRAINING, steps=4, batch=300, k=4, random_k=random_k)
    mask, _ = given(config, tiny_denoiser(), tiny_data(k=4))
    counts = torch.bincount(mask.sum(dim=1), minlength=5).tolist()
    if random_k:
        assert counts[0] == 0
        assert all(240 < count < 360 for count in counts[1:]), "300 are expected of each"
    else:
        assert counts == [0, 0, 0, 0, 1200]
    ordered = mask.long().diff(dim=1) <= 0
    assert ordered.all(), "the nearest are kept"


def test_steps_and_seeds_draw_noise_of_their_own(tiny_denoiser, tiny_data):
    data = tiny_data()
    noisy = []
    for seed in (0, 1):
        denoiser, seen = tiny_denoiser(), []
        denoiser.register_forward_pre_hook(lambda module, args, seen=seen: seen.append((args[0], args[1])))
        run(denoiser, data, replace(TRAINING, steps=2, seed=seed))
        noisy += seen
    assert len({times.numpy().tobytes() for _, times in noisy}) == 4
    assert len({x.numpy().tobytes() for x, _ in noisy}) == 4


@pytest.mark.parametrize(
    ("cooldown", "expected"),
    [
        (0.0, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1, 50: 1, 99: 1}),
        (0.2, {0: 0.25, 3: 1, 79: 1, 80: 1, 81: 0.95, 90: 0.5, 99: 0.05}),
        (1.0, {0: 0.25, 3: 0.97, 50: 0.5, 99: 0.01}),
    ],
)
def test_the_learning_rate_warms_up_stays_and_cools_down(cooldown, expected):
    config = TrainingConfig(steps=100, learning_rate=2.0, warmup_steps=4, cooldown=cooldown)
    assert {step: learning_rate(config, step) / 2 for step in expected} == pytest.approx(expected)


def test_no_warm_up_starts_at_the_full_rate():
    assert learning_rate(TrainingConfig(steps=10, learning_rate=1.0, warmup_steps=0), 0) == 1


def test_the_schedule_is_what_is_used_and_reported(tiny_denoiser, tiny_data):
    moved = []
    for warmup_steps in (1, 10):
        denoiser = tiny_denoiser()
        before = denoiser.null.detach().clone()
        run(denoiser, tiny_data(), replace(TRAINING, steps=1, warmup_steps=warmup_steps, cooldown=0.0, weight_decay=0.0))
        moved.append((denoiser.null.detach() - before).abs().max().item())
    assert moved[0] == pytest.approx(10 * moved[1], rel=1e-3)
    recorder = run(tiny_denoiser(), tiny_data(), TRAINING)
    assert recorder.column("learning_rate") == [learning_rate(TRAINING, step) for step in range(6)]


def test_metrics_are_means_since_the_last_line_and_every_state_comes_with_one(tiny_denoiser, tiny_data):
    each = run(tiny_denoiser(), tiny_data(), TRAINING).column("loss")
    lines = run(tiny_denoiser(), tiny_data(), replace(TRAINING, log_steps=2, checkpoint_steps=3))
    assert lines.column("step") == [2, 3, 4, 6]
    expected = [np.mean(each[:2]), each[2], each[3], np.mean(each[4:])]
    np.testing.assert_allclose(lines.column("loss"), expected, rtol=1e-5)
    assert sorted(lines.states) == [3, 6]
    assert all(speed > 0 for speed in lines.speeds)
    assert set(lines.records[0]) == {"step", "loss", "gradient_norm", "learning_rate"}, "nothing that two equal runs differ in"


def test_a_loss_that_is_not_a_number_ends_the_run_before_anything_is_kept(tiny_denoiser, tiny_data):
    data, recorder = tiny_data(), Recorder()
    data.vectors = np.full_like(data.vectors, np.nan)
    config = replace(TRAINING, log_steps=100, checkpoint_steps=2, neighbor_dropout=0.0)
    with pytest.raises(FloatingPointError, match=r"step 2: the loss is nan.*lower the learning rate or use precision fp32"):
        train(tiny_denoiser(), FlowMatching(), load_latent_space(PIXELS), data, config, recorder.hooks)
    assert not recorder.states


def test_a_gradient_that_is_not_finite_ends_the_run_before_anything_is_kept(tiny_denoiser, tiny_data):
    denoiser, recorder = tiny_denoiser(), Recorder()
    denoiser.null.register_hook(lambda gradient: gradient * float("inf"))
    config = replace(TRAINING, steps=1, neighbor_dropout=1.0)
    with pytest.raises(FloatingPointError, match=r"step 1: the loss is \d.*its gradient's norm (nan|inf)"):
        train(denoiser, FlowMatching(), load_latent_space(PIXELS), tiny_data(), config, recorder.hooks)
    assert not recorder.states


def test_large_gradients_are_scaled_down(tiny_denoiser, tiny_data):
    """Adam forgets a constant scale, so two steps of very different size tell whether it is applied."""
    trained = {}
    for clip_norm in (1e-3, 1e9):
        denoiser = tiny_denoiser()
        recorder = run(denoiser, tiny_data(), replace(TRAINING, clip_norm=clip_norm))
        assert min(recorder.column("gradient_norm")) > 1e-3, "reported before it is scaled"
        trained[clip_norm] = weights(denoiser)["null"]
    assert not torch.equal(*trained.values())


def test_autocast_keeps_the_weights_in_full_precision(tiny_denoiser, tiny_data):
    AcceleratorState._reset_state(reset_partial_state=True)  # Accelerate allows one precision a process
    try:
        recorder = run(tiny_denoiser(), tiny_data(), replace(TRAINING, precision="bf16"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert {array.dtype for name, array in recorder.states[6].items() if name != "ema_steps"} == {np.dtype(np.float32)}
    full = run(tiny_denoiser(), tiny_data(), TRAINING)
    assert recorder.column("loss") != full.column("loss")
    np.testing.assert_allclose(recorder.column("loss"), full.column("loss"), rtol=0.05)


def test_a_posterior_is_sampled_anew_every_step(tiny_denoiser):
    """With an autoencoder's moments the same sample gives another final latent each time it comes."""

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
    data = TrainingData([latents], np.zeros((1, 1), int), np.eye(1, 8), np.ones(1))
    recorder = Recorder()
    train(denoiser, FlowMatching(), Moments(), data, replace(TRAINING, k=1), recorder.hooks)
    assert all(noise.shape == (5, 3, 8, 8) for noise in asked)
    assert len({noise.numpy().tobytes() for noise in asked}) == 6
    assert torch.cat(asked).std().item() == pytest.approx(1, abs=0.05)
    mixed = [not torch.allclose(n, x, atol=1e-4) for n, x in zip(asked, given, strict=True)]
    assert all(mixed), "the noise of the posterior is not that of the process"
