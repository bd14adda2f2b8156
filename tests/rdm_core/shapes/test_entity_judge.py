"""The judge of entities: right on pictures that it has not seen, and on what tokenizers make of
them.
"""

import numpy as np
import pytest

from rdm_core.latents import load_latent_space
from rdm_core.shapes import drawing, entities
from rdm_core.shapes.entity_judge import WINDOW, glyph, recognise

RENDERS = 200
HELD_OUT = entities.group("held out")


@pytest.fixture(scope="module")
def held_out():
    """Pictures with held-out entities at the size that the tokenizers are made for."""
    return [entities.sample("test", index, 64, entities="held out") for index in range(RENDERS)]


def pixels_of(pictures):
    return np.stack([picture.pixels for picture in pictures])


def share_right(images, pictures):
    """Shares of images whose entity and whose position are told as they are."""
    seen = recognise(images, HELD_OUT)
    shown = [picture.entity.number - HELD_OUT[0].number for picture in pictures]
    positions = [picture.position for picture in pictures]
    return (seen.which == shown).mean(), (seen.positions == positions).mean()


def test_held_out_pictures_are_recognised(held_out):
    entity, position = share_right(pixels_of(held_out), held_out)
    assert entity >= 0.95 and position >= 0.95


@pytest.mark.parametrize("name", ["rdm-shapes-kl", "rdm-shapes-vq"])
def test_what_a_built_in_tokenizer_gives_back_of_them_is_recognised(held_out, name):
    space = load_latent_space(name)
    given_back = np.stack([space.given_back(picture.pixels) for picture in held_out])
    entity, position = share_right(given_back, held_out)
    assert entity >= 0.95 and position >= 0.95


def test_pictures_are_recognised_among_all_entities_too(held_out):
    seen = recognise(pixels_of(held_out[:64]), entities.entities())
    shown = [picture.entity.number for picture in held_out[:64]]
    assert (seen.which == shown).mean() >= 0.95


def test_a_picture_without_an_entity_is_like_none_of_them():
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    shown = pixels_of([entities.sample("test", i, 64, entities="held out") for i in range(4)])
    empty = recognise(np.concatenate([grey, noise]), HELD_OUT).cosines
    assert empty.max() < recognise(shown, HELD_OUT).cosines.min()


def test_a_cosine_says_how_alike_and_every_picture_gets_one_candidate(held_out):
    seen = recognise(pixels_of(held_out[:40]), HELD_OUT[:3])  # more than are compared together
    assert seen.which.shape == seen.cosines.shape == seen.positions.shape == (40,)
    assert set(seen.which) <= {0, 1, 2}
    assert np.abs(seen.cosines).max() <= 1


def test_a_glyph_has_the_colours_of_its_entity_without_their_grey():
    entity = HELD_OUT[0]
    drawn = glyph(entity)
    assert drawn.shape == (WINDOW, WINDOW, 3)
    assert np.abs(drawn.sum(axis=-1)).max() < 1e-5
    body = np.array(drawing.PIGMENTS[entity.body], np.float32)
    assert np.abs(drawn - (body - body.mean())).sum(axis=-1).min() < 1e-6
    open_share = 1 - np.mean(entity.cells)
    assert abs((drawn == 0).all(axis=-1).mean() - open_share) < 0.15


def test_nobody_to_choose_from_is_refused():
    with pytest.raises(ValueError, match="candidates: name one or more entities"):
        recognise(np.zeros((1, 64, 64, 3), np.uint8), ())


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)])
def test_arrays_that_are_no_images_are_refused(images):
    with pytest.raises(ValueError):
        recognise(images, HELD_OUT)
