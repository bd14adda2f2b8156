"""Guidance: it is the formula, away from one thing alone, and costs what it must."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from drawing import (
    SIDE,
    D,
    Undecoded,
    asked,
    calls_of,
    contexts,
    difference,
    draw,
)

from rdm_core.context import ABSENT, nothing, zeros
from rdm_core.errors import RequestError
from rdm_core.families.diffusion.config import Draw
from rdm_core.families.diffusion.draw import Guidance, guidance_of
from rdm_core.families.family import Beside


@torch.no_grad()
def by_hand(
    seeds: Sequence[int], predict: Callable[[torch.Tensor, float], torch.Tensor], steps: int = 1
) -> np.ndarray:
    """Euler steps from the seeds' noise at time 1 to 0."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.stack([torch.randn(3, SIDE, SIDE, generator=each) for each in generators])
    for step in range(steps):
        x = x - predict(x, 1 - step / steps) / steps
    return x.numpy()


NEGATIVE = contexts(3, seed=7)
REFERENCES = {
    "the learned null": ({}, nothing(3, D)),
    "a negative context of each": ({"beside": Beside(negative=NEGATIVE)}, NEGATIVE),
    "one negative context for all": (
        {"beside": Beside(negative=NEGATIVE.rows(slice(0, 1)))},
        NEGATIVE.rows(torch.tensor([0, 0, 0])),
    ),
    "the zero vector": ({"null": "zero"}, zeros(3, D)),
}


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("reference", list(REFERENCES))
def test_guidance_is_reference_plus_s_times_context_less_reference(reference, scale, tiny_denoiser):
    denoiser, context, seeds = tiny_denoiser(), contexts(3), [7, 8, 9]
    how, expanded = REFERENCES[reference]

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        other = asked(denoiser, x, t, expanded)
        return other + scale * (asked(denoiser, x, t, context) - other)

    found = draw(
        denoiser,
        context,
        seeds,
        space=Undecoded(),
        steps=2,
        guidance_scale=scale,
        **how,
    )
    np.testing.assert_allclose(found, by_hand(seeds, predict, steps=2), atol=1e-3)
    alone = by_hand(seeds, lambda x, t: asked(denoiser, x, t, expanded), steps=2)
    assert np.allclose(found, alone, atol=1e-3) == (scale == 0), "scale 0 is the reference alone"


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_a_weaker_network_is_the_reference_with_the_same_context(scale, tiny_denoiser):
    denoiser, weaker, context, seeds = (
        tiny_denoiser(),
        tiny_denoiser(seed=5),
        contexts(3),
        [7, 8, 9],
    )

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        other = asked(weaker, x, t, context)
        return other + scale * (asked(denoiser, x, t, context) - other)

    found = draw(
        denoiser,
        context,
        seeds,
        space=Undecoded(),
        steps=2,
        guidance_scale=scale,
        weaker=weaker,
    )
    np.testing.assert_allclose(found, by_hand(seeds, predict, steps=2), atol=1e-3)


@pytest.mark.parametrize(("scale", "evaluations"), [(0.0, 1), (1.0, 1), (2.0, 2), (0.5, 2)])
def test_only_guidance_costs_a_second_evaluation(scale, evaluations, tiny_denoiser):
    denoiser = tiny_denoiser()
    calls = calls_of(denoiser)
    draw(denoiser, contexts(2), [1, 2], guidance_scale=scale, steps=4)
    assert len(calls) == 4 * evaluations
    given = [context.mask.any().item() for _, context in calls]
    assert (False in given) is (scale != 1), "the null"
    assert (True in given) is (scale != 0), "the context"


@pytest.mark.parametrize(("scale", "evaluations"), [(0.0, [0, 4]), (1.0, [4, 0]), (2.0, [4, 4])])
def test_a_weaker_network_is_asked_only_where_it_counts(scale, evaluations, tiny_denoiser):
    networks = tiny_denoiser(), tiny_denoiser(seed=5)
    calls = [calls_of(network) for network in networks]
    draw(networks[0], contexts(2), [1, 2], weaker=networks[1], guidance_scale=scale, steps=4)
    assert [len(each) for each in calls] == evaluations


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_guidance_acts_inside_its_interval_alone(scale, tiny_denoiser):
    denoiser, context = tiny_denoiser(), contexts(2)

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        ours, null = asked(denoiser, x, t, context), asked(denoiser, x, t, nothing(2, D))
        return null + scale * (ours - null) if 0.5 <= t <= 0.8 else ours

    expected = by_hand([1, 2], predict, steps=4)
    calls = calls_of(denoiser)
    found = draw(
        denoiser,
        context,
        [1, 2],
        space=Undecoded(),
        steps=4,
        guidance_scale=scale,
        guidance_interval=(0.5, 0.8),
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
    times_with, times_without = [], []
    for t, context in calls:
        (times_with if context.mask.any() else times_without).append(t)
    assert times_without == [0.75, 0.5], "ends of the interval are inside"
    assert times_with == ([1.0, 0.25] if scale == 0 else [1.0, 0.75, 0.5, 0.25])


def test_no_context_is_guidance_0_whatever_the_scale(tiny_denoiser):
    denoiser = tiny_denoiser()
    unconditional = draw(denoiser, contexts(3), [1, 2, 3], guidance_scale=0.0)
    assert (
        difference(draw(denoiser, nothing(3, D), [1, 2, 3], guidance_scale=7.0), unconditional) <= 1
    )
    assert (
        difference(draw(denoiser, contexts(3), [1, 2, 3], guidance_scale=7.0), unconditional) > 10
    )


def test_a_context_with_nothing_in_it_is_the_null(tiny_denoiser):
    denoiser, context = tiny_denoiser(), contexts(2)
    context.slots[0] = ABSENT
    drawn = draw(denoiser, context, [1, 2], guidance_scale=2.0)
    assert difference(drawn[0], draw(denoiser, nothing(1, D), [1])[0]) <= 1
    assert difference(drawn[1], draw(denoiser, nothing(1, D), [2])[0]) > 10


# -- away from what


def test_what_is_guided_away_from_is_the_null_or_the_one_thing_that_was_asked_for(tiny_denoiser):
    denoiser, weaker = tiny_denoiser(), tiny_denoiser(seed=5)
    how = Draw(guidance_scale=3.0, guidance_interval=(0.1, 0.9))
    plain = Guidance(3.0, (0.1, 0.9))
    assert guidance_of(denoiser, how, Beside(), None) == plain
    negative = guidance_of(denoiser, how, Beside(negative=NEGATIVE), None)
    assert negative == Guidance(3.0, (0.1, 0.9), NEGATIVE)
    assert guidance_of(denoiser, how, Beside(), weaker) == Guidance(3.0, (0.1, 0.9), None, weaker)
    zero = guidance_of(denoiser, Draw(null="zero"), Beside(), None).away_from
    assert zero.vectors.shape == (1, 1, D)
    assert zero.mask.all() and not zero.vectors.any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"negative", "null"}, "negative and null"),
        ({"negative", "weaker"}, "negative and weaker_run"),
        ({"null", "weaker"}, "null and weaker_run"),
        ({"negative", "null", "weaker"}, "negative and null and weaker_run"),
    ],
    ids=["negative and zero", "negative and weaker", "zero and weaker", "all"],
)
def test_two_things_to_guide_away_from_are_refused_by_name(given, told, tiny_denoiser):
    denoiser = tiny_denoiser()
    how = Draw(null="zero" if "null" in given else "learned")
    beside = Beside(negative=NEGATIVE if "negative" in given else None)
    weaker = tiny_denoiser(seed=5) if "weaker" in given else None
    with pytest.raises(RequestError, match=f"^{told}: are two things to guide away from. Keep one"):
        guidance_of(denoiser, how, beside, weaker)
    with pytest.raises(RequestError, match=f"^{told}: are two things"):
        draw(denoiser, contexts(3), [1, 2, 3], null=how.null, beside=beside, weaker=weaker)
