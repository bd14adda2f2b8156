"""`rdm duplicates`: its whole answer, and when there may be more copies than were looked at."""

import shutil

import numpy as np
import pytest

from flows.config.database import BuildDatabase
from flows.config.images import ImportImages
from flows.config.look import FindDuplicates
from flows.data.build_database import build_database
from flows.data.import_images import import_images
from flows.look.duplicates import doubts_of_share, duplicates, surplus_keys
from rdm_core.images import encode
from rdm_core.shapes import world
from storage.artifact import open_artifact
from storage.embeddings import read_columns


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A database of three copies of one picture and another picture; a set of that one picture."""
    root = tmp_path_factory.mktemp("copies")
    plain = {"style": "photograph", "background": "light", "position": "centre", "size": "large"}
    same = encode(world.render(world.Factors(colour="red", shape="circle", **plain), 64, 0), "png")
    other = encode(world.render(world.Factors(colour="blue", shape="star", **plain), 64, 1), "png")
    sets = {"base": {"a": same, "b": same, "c": same, "d": other}, "asked": {"e": same}}
    sets["three"] = {"a": same, "b": same, "c": same}
    for name, images in sets.items():
        folder = root / "own" / name
        folder.mkdir(parents=True)
        for stem, data in images.items():
            (folder / f"{stem}.png").write_bytes(data)
        drawn = {"source": "folder", "path": folder, "size": 64, "dataset": name}
        import_images(ImportImages(root=root, name=name, **drawn))
        encoder = {"encoder": "rdm-shapes", "weights": "built-in"}
        build_database(BuildDatabase(root=root, name=name, shards=name, **encoder))
    shutil.rmtree(root / "own")
    return root


def found(root, **asked):
    return duplicates(FindDuplicates(root=root, **{"database": "base", "cap": 0.99} | asked))


def reference(root, name):
    return open_artifact(root, "embeddings", name).reference


def keys_in(root, name):
    return read_columns(open_artifact(root, "embeddings", name), ["key"])["key"].to_pylist()


def test_three_copies_are_three_pairs_and_two_of_them_are_surplus(root):
    text, value = found(root, force=True)
    keys = keys_in(root, "base")
    pairs = [(keys[0], keys[1]), (keys[0], keys[2]), (keys[1], keys[2])]
    assert [(pair["key"], pair["of"]) for pair in value.pop("pairs")] == pairs
    doubt = "2 of 4 rows (50 %) would be copies of another one"
    assert value == {
        "database": reference(root, "base"),
        "other": reference(root, "base"),
        "cap": 0.99,
        "calibrated_with": 0,
        "rows": 3,
        "of_rows": 4,
        "rows_with_k_copies": 0,
        "surplus": 2,
        "doubts": [doubt],
    }
    lines = text.splitlines()
    assert lines[:3] == [
        "cosine above 0.9900 (as given)",
        "3 pairs; 3 of 4 rows (75.00 %)",
        f"doubtful: {doubt}",
    ]
    assert [line.split()[1:] for line in lines[3:6]] == [list(pair) for pair in pairs]
    assert lines[6:] == ["2 rows are copies of an earlier one"]


def test_a_row_of_another_set_is_told_with_all_that_it_equals_and_has_no_surplus(root):
    text, value = found(root, other="asked")
    pairs = value.pop("pairs")
    assert {(pair["key"], pair["of"]) for pair in pairs} == {
        (*keys_in(root, "asked"), key) for key in keys_in(root, "base")[:3]
    }
    assert value == {
        "database": reference(root, "base"),
        "other": reference(root, "asked"),
        "cap": 0.99,
        "calibrated_with": 0,
        "rows": 1,
        "of_rows": 1,
        "rows_with_k_copies": 0,
        "doubts": [],
    }
    assert text.splitlines()[:2] == [
        "cosine above 0.9900 (as given)",
        "3 pairs; 1 of 1 rows (100.00 %)",
    ]


@pytest.mark.parametrize(("k", "perhaps_more"), [(1, 1), (2, 1), (3, 0), (50, 0)])
def test_a_row_may_have_more_copies_only_where_not_every_row_was_looked_at(root, k, perhaps_more):
    text, value = found(root, database="three", other="asked", k=k)
    assert value["rows_with_k_copies"] == perhaps_more
    assert len(value["pairs"]) == min(k, 3)
    told = f"1 rows have {k} copies, and perhaps more: ask again with --set k={4 * k}"
    assert (told in text) == bool(perhaps_more)


@pytest.mark.parametrize(("surplus", "doubted"), [(0, False), (20, False), (21, True), (99, True)])
def test_more_than_a_fifth_of_a_database_is_doubted_to_be_copies(surplus, doubted):
    told = f"{surplus} of 100 rows ({surplus} %) would be copies of another one"
    assert doubts_of_share(surplus, 100) == [told] * doubted


def test_all_but_the_first_of_each_group_are_surplus():
    keys = np.asarray(["a", "b", "c", "d", "e", "f"], dtype=object)
    pairs = np.asarray([[1, 4], [4, 5], [0, 3]])
    assert surplus_keys(pairs, keys) == ["d", "e", "f"]
    assert surplus_keys(np.empty((0, 2), int), keys) == []


def test_what_is_written_is_told_with_its_file(root, tmp_path):
    keys, table = tmp_path / "keys.txt", tmp_path / "pairs.csv"
    text, value = found(root, keys=keys, out=table, force=True)
    assert text.splitlines()[-2:] == [f"their keys: {keys}", f"table: {table}"]
    assert keys.read_text() == "{}\n{}\n".format(*keys_in(root, "base")[1:3])
    assert table.read_text().splitlines()[0].split(",") == ["key", "of", "score"]
    text, _ = found(root, database="asked", out=tmp_path / "pairs.html")
    assert text.splitlines()[-1] == "no contact sheet: there is no pair to show"
