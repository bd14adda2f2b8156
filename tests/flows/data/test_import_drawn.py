"""Importing entities: what is stored of a drawn image, and by what key."""

import numpy as np
import pytest

from flows.config.images import ImportImages
from flows.data.import_images import import_images
from rdm_core.decode import decode
from rdm_core.shapes import entities
from storage.shards import read_images, read_sidecar


def imported(root, name, **values):
    """Shards of six drawn entities."""
    values = {"size": 16, "encoding": "png", "count": 6, "split": "train"} | values
    return import_images(ImportImages(root=root, name=name, source="entities", **values))


def rows(shards):
    return read_sidecar(shards, "00000").to_pylist()


def keys(shards):
    return [row["key"] for row in rows(shards)]


def test_an_entity_is_stored_with_its_caption_and_labels(tmp_path):
    shards = imported(tmp_path, "known", seed=3)
    pictures = dict(read_images(shards, "00000"))
    for index, row in enumerate(rows(shards)):
        drawn = entities.sample("train", index, 16, seed=3)
        assert np.array_equal(decode(pictures[row["key"]]), drawn.pixels)
        assert row["captions"] == [drawn.caption]
        assert row["labels"] == [
            f"entity={drawn.entity.name}",
            f"background={drawn.background}",
            f"position={drawn.position}",
        ]
        assert row["style"] == "photograph"
        assert (row["licence"], row["split"]) == ("CC0-1.0", "train")
        assert row["author"] == "the entities world of this project"


def test_a_key_names_split_number_group_and_seed(tmp_path):
    assert keys(imported(tmp_path, "a"))[:2] == [
        "entities-train-000000-00",
        "entities-train-000001-00",
    ]
    assert keys(imported(tmp_path, "b", seed=2))[0] == "entities-train-000000-s2-00"
    held_out = imported(tmp_path, "c", entities="held out")
    assert keys(held_out)[0] == "entities-train-000000-held_out-00"


@pytest.mark.parametrize("group", ["held out", "rare"])
def test_only_entities_of_the_group_are_drawn_in_the_places_allowed(tmp_path, group):
    shards = imported(tmp_path, "some", entities=group, positions=["centre"], backgrounds=["dark"])
    names = {f"entity={entity.name}" for entity in entities.group(group)}
    for row in rows(shards):
        assert row["labels"][0] in names
        assert row["labels"][1:] == ["background=dark", "position=centre"]
