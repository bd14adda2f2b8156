"""Generation: an image is its seed's, whoever it is drawn with; guidance is the formula."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch

from rdm_core.generate import generate
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.noise import Epsilon, FlowMatching
from rdm_core.retrieve import Context

SIDE, K, D = 8, 3, 8
PROCESSES = {"transformer": FlowMatching(), "unet": Epsilon()}


class Undecoded:
    """A latent space that shows final latents as they are."""

    channels = 3

    def decode(self, final: torch.Tensor) -> np.ndarray:
        return final.numpy()


def contexts(count: int, seed: int = 0) -> Context:
    """Random contexts, the last slot of every second one empty."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, K, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    mask = np.ones((count, K), bool)
    mask[::2, -1] = False
    norms = rng.uniform(8, 12, (count, K)).astype(np.float32)
    return Context(vectors, norms, mask, np.zeros((count, K), np.int64), np.ones((count, K), np.float32))


def part(context: Context, which: Sequence[int]) -> Context:
    """Some of the contexts."""
    return Context(*(getattr(context, field.name)[list(which)] for field in fields(Context)))


def draw(denoiser, context, seeds, *, space=None, process=None, scale=2.0, steps=3, **how) -> np.ndarray:
    """Three steps."""
    space, process = space or load_latent_space(PIXELS), process or FlowMatching()
    return generate(denoiser, process, space, context, seeds, side=SIDE, steps=steps, guidance_scale=scale, **how)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """Largest difference of two uint8 images."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_an_image_depends_on_its_seed_and_context_and_not_on_the_batch_around_it(tiny_config, tiny_denoiser):
    denoiser, context, process = tiny_denoiser(tiny_config), contexts(5), PROCESSES[tiny_config.network]
    together = draw(denoiser, context, [3, 1, 4, 1, 5], process=process)
    assert (together.dtype, together.shape) == (np.uint8, (5, SIDE, SIDE, 3))
    # Matrix products of different heights may round differently in the last bit, which can tip one level of 255.
    for batch in (1, 2, 3):
        assert difference(draw(denoiser, context, [3, 1, 4, 1, 5], process=process, batch=batch), together) <= 1
    for i, seed in enumerate([3, 1, 4, 1, 5]):
        assert difference(draw(denoiser, part(context, [i]), [seed], process=process), together[i : i + 1]) <= 1
    mixed = draw(denoiser, part(context, [4, 2, 0]), [5, 4, 3], process=process)
    assert difference(mixed, together[[4, 2, 0]]) <= 1
    assert difference(together[1], together[3]) > 10, "equal seeds, other contexts"
    assert difference(draw(denoiser, context, [9, 1, 4, 1, 5], process=process)[0], together[0]) > 10, "other seed"


def test_without_context_an_image_is_its_seeds_too(tiny_denoiser):
    denoiser = tiny_denoiser()
    together = draw(denoiser, None, [1, 2, 3])
    assert difference(draw(denoiser, None, [3]), together[2:]) <= 1
    assert difference(together[0], together[1]) > 10


def test_the_callers_randomness_is_neither_used_nor_changed(tiny_denoiser):
    denoiser = tiny_denoiser()
    torch.manual_seed(0)
    first, after = draw(denoiser, contexts(2), [1, 2]), torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)
    np.testing.assert_array_equal(draw(denoiser, contexts(2), [1, 2]), first)


def predictions(denoiser, context: Context, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The noise, and what the denoiser says of it at time 1 with its context and with the null: each [B, 3, 8, 8]."""
    noise = torch.stack([torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    count = len(seeds)
    vectors = denoiser.context(torch.from_numpy(context.vectors), torch.from_numpy(context.norms))
    mask = torch.from_numpy(context.mask)
    with torch.no_grad():
        time = torch.full((count,), 1000.0)
        both = [denoiser(noise, time, vectors, mask, torch.full((count,), dropped)) for dropped in (False, True)]
    return noise, *both


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_guidance_is_null_plus_s_times_context_less_null(scale, tiny_denoiser):
    denoiser, context, seeds = tiny_denoiser(), contexts(3), [7, 8, 9]
    noise, with_context, null = predictions(denoiser, context, seeds)
    expected = noise - (null + scale * (with_context - null))  # one Euler step from 1 to 0
    found = draw(denoiser, context, seeds, space=Undecoded(), scale=scale, steps=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert not np.allclose(found, (noise - null).numpy(), atol=1e-2) or scale == 0


@pytest.mark.parametrize(("scale", "evaluations"), [(0.0, 1), (1.0, 1), (2.0, 2), (0.5, 2)])
def test_only_guidance_costs_a_second_evaluation(scale, evaluations, tiny_denoiser):
    denoiser, calls = tiny_denoiser(), []
    denoiser.register_forward_pre_hook(lambda module, args: calls.append(args[4].tolist()))
    draw(denoiser, contexts(2), [1, 2], scale=scale, steps=4)
    assert len(calls) == 4 * evaluations
    assert ([True, True] in calls) is (scale != 1), "the null"
    assert ([False, False] in calls) is (scale != 0), "the context"


def test_no_context_is_guidance_0_whatever_the_scale(tiny_denoiser):
    denoiser = tiny_denoiser()
    unconditional = draw(denoiser, contexts(3), [1, 2, 3], scale=0.0)
    assert difference(draw(denoiser, None, [1, 2, 3], scale=7.0), unconditional) <= 1
    assert difference(draw(denoiser, contexts(3), [1, 2, 3], scale=7.0), unconditional) > 10


def test_a_context_with_nothing_in_it_is_the_null(tiny_denoiser):
    denoiser, context = tiny_denoiser(), contexts(2)
    context.mask[0] = False
    drawn = draw(denoiser, context, [1, 2], scale=2.0)
    assert difference(drawn[0], draw(denoiser, None, [1])[0]) <= 1
    assert difference(drawn[1], draw(denoiser, None, [2])[0]) > 10


def test_progress_counts_images(tiny_denoiser):
    told = []
    draw(tiny_denoiser(), contexts(5), range(5), batch=2, progress=told.append)
    assert told == [2, 4, 5]


def test_no_gradients_are_kept(tiny_denoiser):
    denoiser = tiny_denoiser()
    draw(denoiser, contexts(1), [1])
    assert all(parameter.grad is None for parameter in denoiser.parameters())
