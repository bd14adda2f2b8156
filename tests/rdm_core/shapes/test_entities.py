"""Entities: names and looks of their own, the same everywhere, some of them held out."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from rdm_core.clip import load_encoder
from rdm_core.shapes import entities
from rdm_core.shapes.world import BACKGROUNDS, POSITIONS


def look(entity):
    return (entity.cells, entity.body, entity.mark, entity.texture)


def test_no_two_entities_share_a_name_or_a_look():
    every = entities.entities()
    assert [entity.number for entity in every] == list(range(500))
    assert len({entity.name for entity in every}) == len({look(one) for one in every}) == 500


def test_no_name_says_how_the_entity_looks_nor_is_it_a_word_of_another_caption():
    words = set(entities.caption("?", "top left", "checkered").split()) | {"centre", "photograph"}
    words |= {colour for one in entities.entities() for colour in (one.body, one.mark)}
    for entity in entities.entities():
        assert entity.name not in words and entity.name.isalpha() and entity.name.islower()


def test_two_glyphs_differ_in_cells_or_in_colours_so_that_a_judge_can_tell_them_apart():
    every = entities.entities()
    cells = np.array([entity.cells for entity in every]).reshape(len(every), -1)
    differ = (cells[:, None] != cells[None]).sum(axis=2) + 100 * np.eye(len(every), dtype=int)
    assert differ.min() >= 2
    for first, second in np.argwhere(differ < 5):
        one, other = every[first], every[second]
        assert (one.body, one.mark) != (other.body, other.mark)


def test_a_glyph_is_mirrored_and_neither_a_speck_nor_a_block():
    for entity in entities.entities():
        cells = np.array(entity.cells)
        assert np.array_equal(cells, cells[:, ::-1])
        assert 9 <= cells.sum() <= 19


def test_every_group_has_its_size_and_those_held_out_are_in_no_other():
    sizes = {name: len(entities.group(name)) for name in entities.GROUPS}
    assert sizes == {"all": 500, "known": 450, "frequent": 225, "rare": 225, "held out": 50}
    known, held_out = set(entities.group("known")), set(entities.group("held out"))
    assert not known & held_out
    assert set(entities.group("frequent")) | set(entities.group("rare")) == known
    assert not set(entities.group("frequent")) & set(entities.group("rare"))


def test_an_unknown_group_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="entities is 'heldout'; choose one of .*'held out'"):
        entities.group("heldout")
    with pytest.raises(ValueError, match="entities is 'heldout'"):
        entities.sample("train", 0, 16, entities="heldout")


@pytest.fixture(scope="module")
def numbers():
    """Which entity each of 600 pictures shows, by split and group."""

    def shown(split, group):
        drawn = [entities.sample(split, index, 16, entities=group) for index in range(600)]
        return np.array([one.entity.number for one in drawn])

    asked = [("train", "known"), ("database", "known"), ("train", "held out"), ("test", "rare")]
    return {one: shown(*one) for one in asked}


def test_one_known_picture_in_five_shows_a_rare_entity_and_in_a_database_every_second(numbers):
    is_rare = numbers["train", "known"] >= 225
    assert 0.15 < is_rare.mean() < 0.25
    assert 0.44 < (numbers["database", "known"] >= 225).mean() < 0.56


def test_a_group_shows_its_own_entities_alone(numbers):
    assert numbers["train", "known"].max() < 450
    assert set(numbers["train", "held out"]) == set(range(450, 500))
    assert numbers["test", "rare"].min() >= 225 and numbers["test", "rare"].max() < 450


def test_a_split_and_a_seed_are_streams_of_their_own():
    def shown(split, seed):
        drawn = [entities.sample(split, index, 16, seed) for index in range(12)]
        return [(one.entity.name, one.position, one.background) for one in drawn]

    assert shown("train", 0) == shown("train", 0)
    assert shown("train", 0) != shown("test", 0)
    assert shown("train", 0) != shown("train", 1)


def test_a_picture_keeps_to_its_restrictions_and_its_caption_says_what_it_shows():
    for index in range(20):
        one = entities.sample("train", index, 16, backgrounds=("dark",), positions=("top left",))
        assert (one.background, one.position) == ("dark", "top left")
        article = "an" if one.entity.name[0] in "aeiou" else "a"
        wanted = f"a photograph of {article} {one.entity.name} at the top left on a dark background"
        assert one.caption == wanted
        assert one.pixels.shape == (16, 16, 3) and one.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "restriction, said",
    [
        ({"backgrounds": ()}, r"backgrounds \(\): choose one or more of \('light'"),
        ({"backgrounds": ("red",)}, "backgrounds .*'red'"),
        ({"positions": ("middle",)}, "positions .*'middle'.*'centre'"),
    ],
)
def test_a_restriction_that_is_empty_or_unknown_is_refused(restriction, said):
    with pytest.raises(ValueError, match=said):
        entities.sample("train", 0, 16, **restriction)


def test_an_index_below_zero_is_refused():
    with pytest.raises(ValueError, match="index of split 'train' is -1"):
        entities.sample("train", -1, 16)


def test_another_seed_moves_nuisance_but_not_the_picture():
    entity = entities.entities()[7]
    one, other = (
        entities.render(entity, "centre", "dark", 32, seed).astype(float) for seed in (1, 2)
    )
    assert np.abs(one - other).mean() > 0.5
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.5


def test_another_process_with_another_hash_seed_knows_the_same_entities():
    """Trained weights know entities by name: names, looks and pictures may never change."""
    script = (
        "import hashlib; from rdm_core.shapes import entities; "
        "one = entities.sample('train', 11, 32);"
        "print(hashlib.sha256(repr(entities.entities()).encode()).hexdigest(), one.entity.name, "
        "hashlib.sha256(one.pixels.tobytes()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    here = entities.sample("train", 11, 32)
    assert run.stdout.split() == [
        hashlib.sha256(repr(entities.entities()).encode()).hexdigest(),
        here.entity.name,
        hashlib.sha256(here.pixels.tobytes()).hexdigest(),
    ]


def test_the_built_in_clip_names_held_out_pictures_by_the_nearest_prototype():
    """So that no model that is given its vectors loses to a bad encoder. A prototype is the mean
    vector of an entity's renders on every background and at every place.
    """
    held_out, encoder = entities.group("held out"), load_encoder("rdm-shapes", "built-in")
    places = [(POSITIONS[i % 5], BACKGROUNDS[i % 4]) for i in range(20)]
    renders = [
        entities.render(entity, *places[i], 32, seed=1000 + i)
        for entity in held_out
        for i in range(20)
    ]
    vectors, _ = encoder.encode_images(renders)
    prototypes = vectors.reshape(len(held_out), len(places), -1).mean(axis=1)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    pictures = [entities.sample("test", i, 32, entities="held out") for i in range(400)]
    queries, _ = encoder.encode_images([picture.pixels for picture in pictures])
    named = (queries @ prototypes.T).argmax(axis=1)
    shown = [picture.entity.number - held_out[0].number for picture in pictures]
    assert (named == shown).mean() >= 0.90
