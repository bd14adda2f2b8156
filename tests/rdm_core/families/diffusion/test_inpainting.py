"""Inpainting: what is given stays, and the rest is drawn looking at it."""

import numpy as np
import pytest
import torch
from drawing import SIDE, contexts, difference, draw
from sampling import FITTING
from tiny import PROCESSES

from rdm_core.families.diffusion.draw import Known, known_of
from rdm_core.families.family import Beside
from rdm_core.latents import PIXELS, load_latent_space

PICTURE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
WHITE_LEFT = np.zeros((SIDE, SIDE, 3), np.uint8)
WHITE_LEFT[:, :3] = 255
SAMPLERS = [
    (PROCESSES[process], name)
    for process, name in FITTING
    if name != "ddim-2022"  # ends at the same time as ddim
]


def named(value: object) -> str | None:
    """What a case of SAMPLERS is called."""
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("process", "sampler"), SAMPLERS, ids=named)
def test_given_pixels_stay_as_they_are_and_the_others_are_drawn_anew(
    process, sampler, tiny_denoiser
):
    beside = Beside(image=PICTURE, mask=WHITE_LEFT)
    for steps, eta in ((1, 0.0), (7, 0.0), (7, 1.0 if sampler == "ddim" else 0.0)):
        how = {"process": process, "sampler": sampler, "steps": steps, "eta": eta}
        images = draw(tiny_denoiser(), contexts(3), [1, 2, 3], beside=beside, **how)
        assert (images[:, :, 3:] == PICTURE[:, 3:]).all()
        for image in images:
            assert difference(image[:, :3], PICTURE[:, :3]) > 10
        assert difference(images[0, :, :3], images[1, :, :3]) > 10, "by seed"


def test_what_is_drawn_looks_at_what_is_given(tiny_denoiser):
    drawn = []
    for picture in (PICTURE, 255 - PICTURE):
        beside = Beside(image=picture, mask=WHITE_LEFT)
        drawn.append(draw(tiny_denoiser(), contexts(1), [1], beside=beside, steps=7))
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
    black, white = np.zeros_like(PICTURE), np.full_like(PICTURE, 255)
    assert known_of(load_latent_space(PIXELS), SIDE, PICTURE, black).mask.all()
    beside = Beside(image=PICTURE, mask=black)
    assert (draw(tiny_denoiser(), contexts(2), [1, 2], beside=beside) == PICTURE).all()
    np.testing.assert_array_equal(
        draw(tiny_denoiser(), contexts(2), [1, 2], beside=Beside(image=PICTURE, mask=white)),
        draw(tiny_denoiser(), contexts(2), [1, 2]),
    )
