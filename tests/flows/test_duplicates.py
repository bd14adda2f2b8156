"""Images that stand in a database twice, and images of another set that are in it already."""

import numpy as np
import pytest
from PIL import Image

from flows.build_database import build_database
from flows.config import BuildDatabase, FindNeighbors, ImportImages
from flows.duplicates import duplicates
from flows.find_neighbors import find_neighbors
from flows.import_images import import_images
from flows.look_config import FindDuplicates
from rdm_core.duplicates import altered_copies, groups_of
from rdm_core.errors import RequestError
from rdm_core.images import encode
from rdm_core.shapes import world
from storage.errors import ArtifactMismatch
from storage.neighbors import read_neighbors


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """24 pictures of different things, altered copies of the first four, and a set of two of these and two new ones."""
    root = tmp_path_factory.mktemp("planted")
    plain = {"style": "photograph", "background": "light", "position": "centre", "size": "large"}
    shown = [{"colour": c, "shape": s} for c in world.VALUES["colour"] for s in world.VALUES["shape"]][::2]
    pictures = [world.render(world.Factors(**named, **plain), 64, seed) for seed, named in enumerate(shown[:26])]
    sets = {"database": {f"{i:02d}": picture for i, picture in enumerate(pictures[:24])}, "test": {}}
    sets["database"] |= {f"copy-{i:02d}": altered_copies(pictures[i])[i % 3] for i in range(4)}
    sets["test"] |= {
        "seen-4": altered_copies(pictures[4])[0],
        "seen-5": pictures[5],
        "new-24": pictures[24],
        "new-25": pictures[25],
    }
    for name, images in sets.items():
        (root / "own" / name).mkdir(parents=True)
        for stem, image in images.items():
            (root / "own" / name / f"{stem}.png").write_bytes(encode(image, "png"))
        import_images(ImportImages(root=root, name=name, source="folder", path=root / "own" / name, size=64, dataset=name))
        build_database(BuildDatabase(root=root, name=name, shards=name, encoder="rdm-shapes", weights="built-in"))
    return root


def test_planted_copies_are_found_with_a_cap_calibrated_for_the_encoder(planted, tmp_path):
    text, value = duplicates(FindDuplicates(root=planted, database="database", keys=tmp_path / "keys.txt"))
    assert 0.8 < value["cap"] < 1 and value["calibrated_with"] == value["of_rows"]
    assert len(value["pairs"]) == 4 and value["surplus"] == 4 and value["rows"] == 8
    assert all("copy" in pair["key"] + pair["of"] for pair in value["pairs"])
    assert len((tmp_path / "keys.txt").read_text().split()) == 4
    assert "4 pairs" in text and f"calibrated with altered copies of {value['of_rows']} of its images" in text


def test_a_neighbor_table_passes_over_near_duplicates_above_a_calibrated_cap(planted):
    tables = {}
    for name, cap in (("all", 1.0), ("capped", "calibrated")):
        wanted = FindNeighbors(root=planted, name=name, queries="test", database="database", k=3, score_cap=cap)
        tables[cap] = find_neighbors(wanted)
    told = tables["calibrated"].parameters["score_cap"]
    assert 0.8 < told < 1 and told == round(told, 2) and "score_cap" not in tables[1.0].parameters
    (with_copies, without) = (read_neighbors(table)[2] for table in tables.values())
    assert with_copies.max() > told >= without.max() > 0


def test_a_test_sets_images_that_the_database_holds_are_found(planted, tmp_path):
    value = duplicates(FindDuplicates(root=planted, database="database", other="test", out=tmp_path / "pairs.html"))[1]
    assert value["pairs"] and all("seen" in pair["key"] for pair in value["pairs"])
    assert value["rows"] == 2 and value["of_rows"] == 4 and "surplus" not in value
    assert (tmp_path / "pairs.html").read_text().count("<img") == 2


def test_within_one_database_both_pictures_of_a_pair_are_shown(planted, tmp_path):
    duplicates(FindDuplicates(root=planted, database="database", out=tmp_path / "pairs.html"))
    assert (tmp_path / "pairs.html").read_text().count("<img") == 8


def test_a_row_with_as_many_copies_as_were_looked_at_is_told(planted):
    text, value = duplicates(FindDuplicates(root=planted, database="database", cap=0.1, k=2))
    assert value["rows_with_k_copies"] > 20 and "have 2 copies, and perhaps more: ask again with --set k=8" in text
    assert "ask again" not in duplicates(FindDuplicates(root=planted, database="database"))[0]


def test_a_given_cap_is_used_and_without_a_pair_there_is_no_sheet(planted, tmp_path):
    text, value = duplicates(FindDuplicates(root=planted, database="database", cap=0.999999, out=tmp_path / "none.png"))
    assert not value["pairs"] and not (tmp_path / "none.png").exists() and "no contact sheet: there is no pair" in text
    assert len(duplicates(FindDuplicates(root=planted, database="database", cap=0.1))[1]["pairs"]) > 50


def test_what_cannot_be_compared_is_refused(planted, small_world, monkeypatch):
    build_database(BuildDatabase(root=planted, name="foreign", shards="test", encoder="rdm-shapes", weights="random"))
    with pytest.raises(ArtifactMismatch, match="different encoders"):
        duplicates(FindDuplicates(root=planted, database="database", other="foreign"))
    monkeypatch.setattr("flows.database.OpenDatabase.images", lambda self, keys: {})
    with pytest.raises(RequestError, match="Give one: 0.95"):
        duplicates(FindDuplicates(root=planted, database="database"))


def test_chains_of_pairs_are_one_group():
    groups = groups_of(np.asarray([[0, 1], [1, 4], [2, 3]]), 6)
    assert len(set(groups[[0, 1, 4]])) == len(set(groups[[2, 3]])) == 1 and len(set(groups)) == 3
    assert len(set(groups_of(np.empty((0, 2), int), 3))) == 3


def test_altered_copies_are_still_pictures():
    image = np.array(Image.linear_gradient("L").convert("RGB"))
    assert [copy.shape for copy in altered_copies(image)] == [(256, 256, 3), (128, 128, 3), (241, 241, 3)]
