"""Generation: an image is its seed's, whoever it is drawn with; guidance is the formula; what is
given stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from rdm_core.denoiser import Denoiser
from rdm_core.generate import Guidance, Known, Style, generate, known_of
from rdm_core.noise import Diffusion, FlowMatching, Process
from torch.nn.functional import normalize

from rdm_core.context import ABSENT, NEIGHBOR, Context, nothing, zeros
from rdm_core.errors import RequestError
from rdm_core.latents import PIXELS, load_latent_space

SIDE, K, D = 8, 3, 8
SEEDS = [3, 1, 4, 1, 5]
PROCESSES = {"transformer": FlowMatching(), "unet": Diffusion()}


class Undecoded:
    """A latent space that shows final latents as they are."""

    channels = 3

    def decode(self, final: torch.Tensor) -> np.ndarray:
        return final.numpy()


def contexts(count: int, seed: int = 0) -> Context:
    """Random contexts, the last slot of every second one empty."""
    generator = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(count, K, D, generator=generator), dim=-1)
    slots = torch.full((count, K), NEIGHBOR, dtype=torch.int8)
    slots[::2, -1] = ABSENT
    return Context(
        vectors, 8 + 4 * torch.rand(count, K, generator=generator), torch.ones(count, K), slots
    )


def draw(
    denoiser, context, seeds, *, space=None, process=None, scale=2.0, steps=3, **how
) -> np.ndarray:
    """Three steps."""
    space, process = space or load_latent_space(PIXELS), process or FlowMatching()
    how = {"guidance": Guidance(scale)} | how
    return generate(denoiser, process, space, context, seeds, side=SIDE, steps=steps, **how)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """Largest difference of two uint8 images."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# -- seeds and batches


def test_an_image_depends_on_its_seed_and_context_and_not_on_the_batch_around_it(
    tiny_config, tiny_denoiser
):
    denoiser, context, process = (
        tiny_denoiser(tiny_config),
        contexts(5),
        PROCESSES[tiny_config.network],
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
    guidance, style = (
        Guidance(3.0, (0.1, 0.9), away_from=contexts(5, seed=1)),
        Style(contexts(5, seed=2), 0.5),
    )
    known = Known(
        torch.randn(5, 3, SIDE, SIDE).clamp(-1, 1), torch.arange(SIDE).expand(1, 1, SIDE, SIDE) < 3
    )
    how = {
        "process": Diffusion(),
        "steps": 12,
        "eta": 1.0,
        "guidance": guidance,
        "style": style,
        "known": known,
    }
    denoiser, context = tiny_denoiser(), contexts(5)
    together = draw(denoiser, context, SEEDS, **how)
    for batch in (1, 2, 3):
        assert difference(draw(denoiser, context, SEEDS, batch=batch, **how), together) <= 1
    for other in ({"eta": 0.0}, {"guidance": Guidance(3.0)}, {"style": None}, {"known": None}):
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


# -- guidance


@torch.no_grad()
def by_hand(
    seeds: Sequence[int], predict: Callable[[torch.Tensor, float], torch.Tensor], steps: int = 1
) -> np.ndarray:
    """Euler steps from the seeds' noise at time 1 to 0."""
    x = torch.stack(
        [
            torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )
    for step in range(steps):
        x = x - predict(x, 1 - step / steps) / steps
    return x.numpy()


def asked(denoiser: Denoiser, x: torch.Tensor, t: float, context: Context) -> torch.Tensor:
    """What the denoiser says at one time in 0..1."""
    return denoiser(x, torch.full((len(x),), 1000 * t), context)


NEGATIVE = contexts(3, seed=7)
REFERENCES = {
    "the learned null": (None, nothing(3, D)),
    "a negative context of each": (NEGATIVE, NEGATIVE),
    "one negative context for all": (
        NEGATIVE.rows(slice(0, 1)),
        NEGATIVE.rows(torch.tensor([0, 0, 0])),
    ),
    "the zero vector": (zeros(1, D), zeros(3, D)),
}


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("reference", list(REFERENCES))
def test_guidance_is_reference_plus_s_times_context_less_reference(reference, scale, tiny_denoiser):
    denoiser, context, seeds = tiny_denoiser(), contexts(3), [7, 8, 9]
    away_from, expanded = REFERENCES[reference]

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        other = asked(denoiser, x, t, expanded)
        return other + scale * (asked(denoiser, x, t, context) - other)

    found = draw(
        denoiser,
        context,
        seeds,
        space=Undecoded(),
        steps=2,
        guidance=Guidance(scale, away_from=away_from),
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
        guidance=Guidance(scale, weaker=weaker),
    )
    np.testing.assert_allclose(found, by_hand(seeds, predict, steps=2), atol=1e-3)


def calls_of(denoiser: Denoiser) -> list[tuple[float, Context]]:
    """A list that every evaluation adds its time in 0..1 and its context to."""
    calls = []
    denoiser.register_forward_pre_hook(
        lambda module, args: calls.append((round(args[1][0].item() / 1000, 3), args[2]))
    )
    return calls


@pytest.mark.parametrize(("scale", "evaluations"), [(0.0, 1), (1.0, 1), (2.0, 2), (0.5, 2)])
def test_only_guidance_costs_a_second_evaluation(scale, evaluations, tiny_denoiser):
    denoiser = tiny_denoiser()
    calls = calls_of(denoiser)
    draw(denoiser, contexts(2), [1, 2], scale=scale, steps=4)
    assert len(calls) == 4 * evaluations
    given = [context.mask.any().item() for _, context in calls]
    assert (False in given) is (scale != 1), "the null"
    assert (True in given) is (scale != 0), "the context"


@pytest.mark.parametrize(("scale", "evaluations"), [(0.0, [0, 4]), (1.0, [4, 0]), (2.0, [4, 4])])
def test_a_weaker_network_is_asked_only_where_it_counts(scale, evaluations, tiny_denoiser):
    networks = tiny_denoiser(), tiny_denoiser(seed=5)
    calls = [calls_of(network) for network in networks]
    draw(networks[0], contexts(2), [1, 2], guidance=Guidance(scale, weaker=networks[1]), steps=4)
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
        denoiser, context, [1, 2], space=Undecoded(), steps=4, guidance=Guidance(scale, (0.5, 0.8))
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert [t for t, given in calls if not given.mask.any()] == [0.75, 0.5], (
        "ends of the interval are inside"
    )
    assert [t for t, given in calls if given.mask.any()] == (
        [1.0, 0.25] if scale == 0 else [1.0, 0.75, 0.5, 0.25]
    )


def test_no_context_is_guidance_0_whatever_the_scale(tiny_denoiser):
    denoiser = tiny_denoiser()
    unconditional = draw(denoiser, contexts(3), [1, 2, 3], scale=0.0)
    assert difference(draw(denoiser, nothing(3, D), [1, 2, 3], scale=7.0), unconditional) <= 1
    assert difference(draw(denoiser, contexts(3), [1, 2, 3], scale=7.0), unconditional) > 10


def test_a_context_with_nothing_in_it_is_the_null(tiny_denoiser):
    denoiser, context = tiny_denoiser(), contexts(2)
    context.slots[0] = ABSENT
    drawn = draw(denoiser, context, [1, 2], scale=2.0)
    assert difference(drawn[0], draw(denoiser, nothing(1, D), [1])[0]) <= 1
    assert difference(drawn[1], draw(denoiser, nothing(1, D), [2])[0]) > 10


# -- style


def styled_times(
    process: Process, from_snr: float, denoiser: Denoiser, scale: float = 1.0
) -> tuple[list[float], list[float]]:
    """The times at which the content's context is asked with, and those at which the style's is."""
    content, style = contexts(2), contexts(2, seed=1)
    calls = calls_of(denoiser)
    draw(
        denoiser,
        content,
        [1, 2],
        process=process,
        scale=scale,
        steps=10,
        style=Style(style, from_snr),
    )
    kinds = [
        [t for t, given in calls if torch.equal(given.vectors, one.vectors)]
        for one in (content, style)
    ]
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


@pytest.mark.parametrize(("from_snr", "alone"), [(0.0, 1), (1e9, 0)])
def test_a_style_from_the_start_is_the_context_and_one_from_the_end_is_none(
    from_snr, alone, tiny_denoiser
):
    denoiser, both = tiny_denoiser(), (contexts(2), contexts(2, seed=1))
    found = draw(denoiser, both[0], [1, 2], style=Style(both[1], from_snr))
    np.testing.assert_array_equal(found, draw(denoiser, both[alone], [1, 2]))


# -- inpainting

PICTURE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
WHITE_LEFT = np.zeros((SIDE, SIDE, 3), np.uint8)
WHITE_LEFT[:, :3] = 255
SAMPLERS = [
    (process, name)
    for process in (
        FlowMatching(), Diffusion(), Diffusion(velocity=True),
        Diffusion(velocity=True, zero_terminal_snr=True),
    )
    for name in (["euler", "heun"] if process == FlowMatching() else ["ddim"]) + ["dpm++", "unipc"]
]  # fmt: skip


def named(value: object) -> str | None:
    """What a case of SAMPLERS is called."""
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("process", "sampler"), SAMPLERS, ids=named)
def test_given_pixels_stay_as_they_are_and_the_others_are_drawn_anew(
    process, sampler, tiny_denoiser
):
    known = known_of(load_latent_space(PIXELS), SIDE, PICTURE, WHITE_LEFT)
    for steps, eta in ((1, 0.0), (7, 0.0), (7, 1.0 if sampler == "ddim" else 0.0)):
        how = {"process": process, "sampler": sampler, "steps": steps, "eta": eta}
        images = draw(tiny_denoiser(), contexts(3), [1, 2, 3], known=known, **how)
        assert (images[:, :, 3:] == PICTURE[:, 3:]).all()
        for image in images:
            assert difference(image[:, :3], PICTURE[:, :3]) > 10
        assert difference(images[0, :, :3], images[1, :, :3]) > 10, "by seed"


def test_what_is_drawn_looks_at_what_is_given(tiny_denoiser):
    drawn = [
        draw(
            tiny_denoiser(),
            contexts(1),
            [1],
            known=known_of(load_latent_space(PIXELS), SIDE, picture, WHITE_LEFT),
            steps=7,
        )
        for picture in (PICTURE, 255 - PICTURE)
    ]
    assert difference(drawn[0][:, :, :3], drawn[1][:, :, :3]) > 3


def test_every_image_can_be_painted_into_another(tiny_denoiser):
    space, mask = load_latent_space(PIXELS), torch.arange(SIDE).expand(1, 1, SIDE, SIDE) >= 3
    pictures = np.stack([PICTURE, 255 - PICTURE, PICTURE[::-1]])
    known = Known(space.final(torch.from_numpy(space.encode(list(pictures)))), mask)
    images = draw(tiny_denoiser(), contexts(3), [1, 2, 3], known=known, batch=2)
    np.testing.assert_array_equal(images[:, :, 3:], pictures[:, :, 3:])


def test_an_image_and_its_mask_are_cut_to_the_square_and_white_is_what_is_drawn():
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    wide[:, 4:12] = PICTURE
    mask = np.zeros_like(wide)
    mask[:, :5] = 255
    mask[0, 11] = 128
    mask[7, 11] = 127
    known = known_of(load_latent_space(PIXELS), SIDE, wide, mask)
    expected = torch.ones(SIDE, SIDE, dtype=torch.bool)
    expected[:, 0] = expected[0, 7] = False
    assert torch.equal(known.mask, expected[None, None])
    np.testing.assert_array_equal(load_latent_space(PIXELS).decode(known.final)[0], PICTURE)


def test_a_latent_is_kept_only_when_nothing_it_stands_for_is_painted_over():
    class Halved:
        """A latent is the mean of 2 x 2 pixels."""

        factor = 2

        def encode(self, images: list[np.ndarray]) -> np.ndarray:
            return (
                np.stack(images)
                .reshape(1, SIDE // 2, 2, SIDE // 2, 2, 3)
                .mean(axis=(2, 4))
                .transpose(0, 3, 1, 2)
            )

        def final(self, raw: torch.Tensor) -> torch.Tensor:
            return raw

    mask = np.zeros((SIDE, SIDE, 3), np.uint8)
    mask[3, 4] = 255
    known = known_of(Halved(), SIDE // 2, PICTURE, mask)
    assert known.final.shape == (1, 3, SIDE // 2, SIDE // 2)
    assert torch.nonzero(~known.mask[0, 0]).tolist() == [[1, 2]]


def test_a_mask_without_white_gives_the_image_back(tiny_denoiser):
    known = known_of(load_latent_space(PIXELS), SIDE, PICTURE, np.zeros_like(PICTURE))
    assert known.mask.all()
    assert (draw(tiny_denoiser(), contexts(2), [1, 2], known=known) == PICTURE).all()
    empty = replace(known, mask=~known.mask)
    np.testing.assert_array_equal(
        draw(tiny_denoiser(), contexts(2), [1, 2], known=empty),
        draw(tiny_denoiser(), contexts(2), [1, 2]),
    )
