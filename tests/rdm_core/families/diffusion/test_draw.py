"""Drawing: an image is its seed's, whoever it is drawn with; a style takes over late."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawing import SIDE, D, Undecoded, calls_of, contexts, difference, draw

from rdm_core.context import nothing
from rdm_core.errors import RequestError
from rdm_core.families.diffusion.denoiser import Denoiser
from rdm_core.families.diffusion.draw import Known
from rdm_core.families.diffusion.noise import Diffusion, FlowMatching, Process
from rdm_core.families.family import Beside

SEEDS = [3, 1, 4, 1, 5]
PROCESS_OF = {"transformer": FlowMatching(), "unet": Diffusion()}


# -- seeds and batches


def test_an_image_depends_on_its_seed_and_context_and_not_on_the_batch_around_it(
    tiny_config, tiny_denoiser
):
    denoiser, context, process = (
        tiny_denoiser(tiny_config),
        contexts(5),
        PROCESS_OF[tiny_config.network],
    )
    together = draw(denoiser, context, SEEDS, process=process)
    assert (together.dtype, together.shape) == (np.uint8, (5, SIDE, SIDE, 3))
    # Matrix products of different heights may round differently in the last bit, which can tip one
    # level of 255.
    for batch in (1, 2, 3):
        assert (
            difference(draw(denoiser, context, SEEDS, process=process, batch=batch), together) <= 1
        )
    for i, seed in enumerate(SEEDS):
        assert (
            difference(
                draw(denoiser, context.rows(slice(i, i + 1)), [seed], process=process),
                together[i : i + 1],
            )
            <= 1
        )
    mixed = draw(denoiser, context.rows(torch.tensor([4, 2, 0])), [5, 4, 3], process=process)
    assert difference(mixed, together[[4, 2, 0]]) <= 1
    assert difference(together[1], together[3]) > 10, "equal seeds, other contexts"
    assert (
        difference(draw(denoiser, context, [9, 1, 4, 1, 5], process=process)[0], together[0]) > 10
    ), "other seed"


def test_everything_that_is_asked_for_goes_with_its_image_whatever_the_batch(tiny_denoiser):
    """Fresh noise, a negative context of each, a style of each, and an image of each to be painted
    into.
    """
    beside = Beside(negative=contexts(5, seed=1), style=contexts(5, seed=2))
    known = Known(
        torch.randn(5, 3, SIDE, SIDE).clamp(-1, 1), torch.arange(SIDE).expand(1, 1, SIDE, SIDE) < 3
    )
    how = {
        "process": Diffusion(),
        "steps": 12,
        "eta": 1.0,
        "guidance_scale": 3.0,
        "guidance_interval": (0.1, 0.9),
        "style_from_snr": 0.5,
        "beside": beside,
        "known": known,
    }
    denoiser, context = tiny_denoiser(), contexts(5)
    together = draw(denoiser, context, SEEDS, **how)
    for batch in (1, 2, 3):
        assert difference(draw(denoiser, context, SEEDS, batch=batch, **how), together) <= 1
    for other in (
        {"eta": 0.0},
        {"beside": replace(beside, negative=None)},
        {"beside": replace(beside, style=None)},
        {"guidance_interval": (0.0, 1.0)},
        {"known": None},
    ):
        assert difference(draw(denoiser, context, SEEDS, **(how | other)), together) > 5, (
            "each has its part"
        )


def test_without_context_an_image_is_its_seeds_too(tiny_denoiser):
    denoiser = tiny_denoiser()
    together = draw(denoiser, nothing(3, D), [1, 2, 3])
    assert difference(draw(denoiser, nothing(1, D), [3]), together[2:]) <= 1
    assert difference(together[0], together[1]) > 10


def test_the_callers_randomness_is_neither_used_nor_changed(tiny_denoiser):
    denoiser, how = tiny_denoiser(), {"process": Diffusion(), "eta": 1.0}
    torch.manual_seed(0)
    first, after = draw(denoiser, contexts(2), [1, 2], **how), torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    np.testing.assert_array_equal(draw(denoiser, contexts(2), [1, 2], **how), first)


def test_progress_counts_images(tiny_denoiser):
    told = []
    draw(tiny_denoiser(), contexts(5), range(5), batch=2, progress=told.append)
    assert told == [2, 4, 5]


def test_no_gradients_are_kept(tiny_denoiser):
    denoiser = tiny_denoiser()
    draw(denoiser, contexts(1), [1])
    assert all(parameter.grad is None for parameter in denoiser.parameters())


def test_the_sampler_is_the_one_asked_for_and_one_that_does_not_fit_is_refused(tiny_denoiser):
    denoiser, context = tiny_denoiser(), contexts(2)
    plain = draw(denoiser, context, [1, 2], space=Undecoded())
    np.testing.assert_array_equal(
        draw(denoiser, context, [1, 2], space=Undecoded(), sampler="euler"), plain
    )
    drawn = [
        draw(denoiser, context, [1, 2], space=Undecoded(), sampler=name)
        for name in ("heun", "dpm++", "unipc")
    ]
    assert len({image.tobytes() for image in [plain, *drawn]}) == 4
    with pytest.raises(
        RequestError, match=r"sampler: 'ddim' does not fit a run trained with flow matching"
    ):
        draw(denoiser, context, [1, 2], sampler="ddim")
    with pytest.raises(RequestError, match=r"eta: 1.0, but the sampler 'euler' adds no noise"):
        draw(denoiser, context, [1, 2], eta=1.0)


# -- style


def styled_times(
    process: Process, from_snr: float, denoiser: Denoiser, scale: float = 1.0
) -> tuple[list[float], list[float]]:
    """The times at which the network sees the content's context, and those of the style's."""
    content, style = contexts(2), contexts(2, seed=1)
    calls = calls_of(denoiser)
    draw(
        denoiser,
        content,
        [1, 2],
        process=process,
        guidance_scale=scale,
        steps=10,
        style_from_snr=from_snr,
        beside=Beside(style=style),
    )
    kinds: list[list[float]] = [[], []]
    for t, context in calls:
        for times, of_kind in zip(kinds, (content, style), strict=True):
            if torch.equal(context.vectors, of_kind.vectors):
                times.append(t)
    assert len(calls) == 10 if scale == 1 else 20
    return kinds[0], kinds[1]


def test_the_style_takes_over_exactly_where_the_signal_is_strong_enough(process, tiny_denoiser):
    early, late = styled_times(process, 0.5, tiny_denoiser())
    assert early
    assert late
    for times, strong in ((early, False), (late, True)):
        alpha, sigma = process.scales(torch.tensor(times, dtype=torch.float64))
        assert ((alpha / sigma).square() >= 0.5).tolist() == [strong] * len(times)
    assert sorted(early + late, reverse=True) == early + late, "content first"


def test_the_style_is_guided_too_and_takes_over_at_that_very_ratio(tiny_denoiser):
    early, late = styled_times(FlowMatching(), 1.0, tiny_denoiser(), scale=2.0)
    assert late == [0.5, 0.4, 0.3, 0.2, 0.1], "at 0.5 the ratio is 1"
    assert len(early) == 5


@pytest.mark.parametrize(("from_snr", "alone"), [(1e-9, 1), (1e9, 0)])
def test_a_style_from_the_start_is_the_context_and_one_from_the_end_is_none(
    from_snr, alone, tiny_denoiser
):
    denoiser, both = tiny_denoiser(), (contexts(2), contexts(2, seed=1))
    how = {"process": Diffusion()}  # its noisiest time has some signal
    beside = Beside(style=both[1])
    found = draw(denoiser, both[0], [1, 2], style_from_snr=from_snr, beside=beside, **how)
    np.testing.assert_array_equal(found, draw(denoiser, both[alone], [1, 2], **how))
