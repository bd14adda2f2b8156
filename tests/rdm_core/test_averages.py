"""Running means of any length, mixed from snapshots of two."""

import numpy as np
import pytest
import torch

from rdm_core.averages import FAR, LENGTHS, LONGEST, PowerMeans, exponent, mixed, mixture

STEPS = 400


def by_hand(values, length):
    """The mean of values[t - 1], t = 1..T, by its definition: weights in proportion to t^gamma,
    recursively exact.
    """
    gamma, mean = exponent(length), values[0]
    for done in range(2, len(values) + 1):
        mean = mean + (1 - (1 - 1 / done) ** (gamma + 1)) * (values[done - 1] - mean)
    return mean


def test_the_exponents_are_those_of_the_paper():
    assert exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.01)
    assert exponent(LONGEST) == pytest.approx(0, abs=0.05), "all steps alike"


@pytest.mark.parametrize("length", [0.0, -1.0, 0.3, float("nan")])
def test_a_length_that_no_mean_has_is_refused(length):
    with pytest.raises(ValueError, match="length: is .* must be above 0"):
        exponent(length)


def test_a_length_is_the_deviation_of_the_profile():
    gamma = exponent(0.1)
    t = (np.arange(100_000) + 0.5) / 100_000
    profile = t**gamma / (t**gamma).sum()
    mean = (profile * t).sum()
    assert np.sqrt((profile * (t - mean) ** 2).sum()) == pytest.approx(0.1, abs=1e-4)


@pytest.fixture(scope="module")
def walk():
    """A parameter that wanders for 400 steps, and the snapshots of its means after every 50."""
    steps = torch.randn(STEPS, 3, generator=torch.Generator().manual_seed(0)).cumsum(dim=0)
    parameter = torch.nn.Parameter(torch.zeros(3))
    means, snapshots = PowerMeans([("w", parameter)]), {}
    for done in range(1, STEPS + 1):
        parameter.data.copy_(steps[done - 1])
        means.update(done)
        if done % 50 == 0:
            snapshots[done] = {name: mean.numpy().copy() for name, mean in means.state().items()}
    return steps.double().numpy(), snapshots


def kept_at(steps):
    """The length and the step of every mean in snapshots after these steps."""
    # The order of `mixed`: snapshot by snapshot, in each of them length by length.
    lengths = list(LENGTHS) * len(steps)
    return lengths, np.repeat(list(steps), len(LENGTHS)).tolist()


@pytest.mark.parametrize("length", LENGTHS)
def test_the_means_that_are_kept_are_those_of_the_definition(walk, length):
    steps, snapshots = walk
    np.testing.assert_allclose(
        snapshots[STEPS][f"power/{length}/w"], by_hand(steps, length), atol=1e-4
    )


@pytest.mark.parametrize("length", [0.04, 0.05, 0.08, 0.1, 0.15, 0.2])
def test_the_mean_of_another_length_is_mixed_from_the_snapshots(walk, length):
    steps, snapshots = walk
    lengths, steps_of_each = kept_at(snapshots)
    weights, distance = mixture(lengths, steps_of_each, length, STEPS)
    found = mixed(snapshots.values(), weights.reshape(-1, len(LENGTHS)), ["w"])["w"]
    wanted, span = by_hand(steps, length), np.ptp(steps, axis=0)
    assert (np.abs(found - wanted) / span).max() < 0.03
    assert weights.sum() == pytest.approx(1) and distance < FAR
    assert np.abs(found - wanted).max() < np.abs(steps[-1] - wanted).max(), (
        "nearer than the last weights themselves"
    )


def test_a_length_that_was_kept_is_given_back_as_it_is(walk):
    _, snapshots = walk
    lengths, steps_of_each = kept_at(snapshots)
    weights, distance = mixture(lengths, steps_of_each, 0.05, STEPS)
    assert distance < 0.01
    found = mixed(snapshots.values(), weights.reshape(-1, len(LENGTHS)), ["w"])["w"]
    np.testing.assert_allclose(found, snapshots[STEPS]["power/0.05/w"], atol=1e-3)


@pytest.mark.parametrize("count", [1, 3, 6, 100])
@pytest.mark.parametrize("length", [0.005, 0.02, 0.07, 0.2, 0.288])
def test_a_mixture_never_scales_the_weights_and_says_when_it_is_far_from_what_was_asked(
    count, length
):
    lengths, steps_of_each = kept_at(range(1000, count * 1000 + 1, 1000))
    weights, distance = mixture(lengths, steps_of_each, length, count * 1000)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert distance > FAR or np.linalg.norm(weights) < 30, (
        "rounded to float16, they are off by 0.4 % at most"
    )
    if length == 0.07:
        assert distance < FAR, "between the two that were kept, one snapshot is enough"
    if count == 1 and length in (0.005, 0.288):
        assert distance > FAR


def test_the_means_resume_where_they_were(walk):
    _, snapshots = walk
    means = PowerMeans([("w", torch.zeros(3))])
    means.restore(snapshots[100])
    for name, values in snapshots[100].items():
        assert (means.state()[name].numpy() == values).all(), name
    with pytest.raises(KeyError, match="power/0.05/other"):
        PowerMeans([("other", torch.zeros(3))]).restore(snapshots[100])
