"""Images that stand in a database twice, and images of another set that are in it already."""

import json

import numpy as np
import pytest
from PIL import Image

from flows.config.database import BuildDatabase, FindNeighbors
from flows.config.images import ImportImages
from flows.config.look import FindDuplicates
from flows.data import find_neighbors as tables
from flows.data.build_database import build_database
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.look.duplicates import duplicates
from rdm_core.duplicates import (
    SAME_AT_A_GLANCE,
    Cap,
    altered_copies,
    at_a_glance,
    calibrated_cap,
    groups_of,
)
from rdm_core.errors import RequestError
from rdm_core.images import encode
from rdm_core.shapes import world
from storage.errors import ArtifactMismatch
from storage.neighbors import read_neighbors


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """24 pictures of different things, altered copies of the first four, and a set of two of these
    and two new ones.
    """
    root = tmp_path_factory.mktemp("planted")
    plain = {"style": "photograph", "background": "light", "position": "centre", "size": "large"}
    shown = [
        {"colour": c, "shape": s} for c in world.VALUES["colour"] for s in world.VALUES["shape"]
    ][::2]
    pictures = [
        world.render(world.Factors(**named, **plain), 64, seed)
        for seed, named in enumerate(shown[:26])
    ]
    sets = {
        "database": {f"{i:02d}": picture for i, picture in enumerate(pictures[:24])},
        "test": {},
    }
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
        import_images(
            ImportImages(
                root=root,
                name=name,
                source="folder",
                path=root / "own" / name,
                size=64,
                dataset=name,
            )
        )
        build_database(
            BuildDatabase(
                root=root, name=name, shards=name, encoder="rdm-shapes", weights="built-in"
            )
        )
    return root


def test_planted_copies_are_found_with_a_cap_calibrated_for_the_encoder(planted, tmp_path):
    text, value = duplicates(
        FindDuplicates(root=planted, database="database", keys=tmp_path / "keys.txt")
    )
    assert 0.8 < value["cap"] < 1 and value["calibrated_with"] == value["of_rows"]
    assert len(value["pairs"]) == 4 and value["surplus"] == 4 and value["rows"] == 8
    assert all("copy" in pair["key"] + pair["of"] for pair in value["pairs"])
    assert len((tmp_path / "keys.txt").read_text().split()) == 4
    assert (
        "4 pairs" in text
        and f"calibrated with altered copies of {value['of_rows']} of its images" in text
    )


def test_a_neighbor_table_passes_over_near_duplicates_above_a_calibrated_cap(planted, capfd):
    tables = {}
    for name, cap in (("all", 1.0), ("capped", "calibrated")):
        wanted = FindNeighbors(
            root=planted, name=name, queries="test", database="database", k=3, score_cap=cap
        )
        tables[cap] = find_neighbors(wanted)
    told = tables["calibrated"].parameters["score_cap"]
    assert f"near-duplicates above {told:.2f}, calibrated" in capfd.readouterr().err
    assert 0.8 < told < 1 and told == round(told, 2) and "score_cap" not in tables[1.0].parameters
    (with_copies, without) = (read_neighbors(table)[2] for table in tables.values())
    assert with_copies.max() > told >= without.max() > 0


def test_a_test_sets_images_that_the_database_holds_are_found(planted, tmp_path):
    value = duplicates(
        FindDuplicates(root=planted, database="database", other="test", out=tmp_path / "pairs.html")
    )[1]
    assert value["pairs"] and all("seen" in pair["key"] for pair in value["pairs"])
    assert value["rows"] == 2 and value["of_rows"] == 4 and "surplus" not in value
    assert (tmp_path / "pairs.html").read_text().count("<img") == 2


def test_within_one_database_both_pictures_of_a_pair_are_shown(planted, tmp_path):
    duplicates(FindDuplicates(root=planted, database="database", out=tmp_path / "pairs.html"))
    assert (tmp_path / "pairs.html").read_text().count("<img") == 8


def test_a_row_with_as_many_copies_as_were_looked_at_is_told(planted):
    text, value = duplicates(FindDuplicates(root=planted, database="database", cap=0.1, k=2))
    assert (
        value["rows_with_k_copies"] > 20
        and "have 2 copies, and perhaps more: ask again with --set k=8" in text
    )
    assert "ask again" not in duplicates(FindDuplicates(root=planted, database="database"))[0]


def test_a_given_cap_is_used_and_without_a_pair_there_is_no_sheet(planted, tmp_path):
    text, value = duplicates(
        FindDuplicates(root=planted, database="database", cap=0.999999, out=tmp_path / "none.png")
    )
    assert (
        not value["pairs"]
        and not (tmp_path / "none.png").exists()
        and "no contact sheet: there is no pair" in text
    )
    assert (
        len(duplicates(FindDuplicates(root=planted, database="database", cap=0.1))[1]["pairs"]) > 50
    )


def test_what_cannot_be_compared_is_refused(planted, small_world, monkeypatch):
    build_database(
        BuildDatabase(
            root=planted, name="foreign", shards="test", encoder="rdm-shapes", weights="random"
        )
    )
    with pytest.raises(ArtifactMismatch, match="different encoders"):
        duplicates(FindDuplicates(root=planted, database="database", other="foreign"))
    monkeypatch.setattr("flows.data.database.OpenDatabase.images", lambda self, keys: {})
    with pytest.raises(RequestError, match="Give one: 0.95"):
        duplicates(FindDuplicates(root=planted, database="database"))


@pytest.mark.parametrize("file", ["keys", "out"])
def test_where_a_large_part_would_be_copies_it_says_so_and_writes_nothing_unless_forced(
    planted, tmp_path, file
):
    wanted = tmp_path / ("keys.txt" if file == "keys" else "pairs.html")
    asked = {"root": planted, "database": "database", "cap": 0.1}
    text, value = duplicates(FindDuplicates(**asked))
    assert value["surplus"] == 27 and value["doubts"] == [
        "27 of 28 rows (96 %) would be copies of another one"
    ]
    assert "doubtful: 27 of 28 rows (96 %) would be copies" in text
    with pytest.raises(RequestError, match="27 of 28 rows .*Nothing was written.*--force"):
        duplicates(FindDuplicates(**asked, **{file: wanted}))
    assert not wanted.exists()
    duplicates(FindDuplicates(**asked, **{file: wanted}, force=True))
    assert wanted.exists()


def test_a_cap_that_different_pictures_pass_is_doubted_and_nothing_is_written(
    planted, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("rdm_core.duplicates.calibrated_cap", lambda *_: Cap(0.98, 0.25))
    keys = tmp_path / "keys.txt"
    told = "25.0 % of the 28 images it was calibrated with have a different picture above it"
    with pytest.raises(RequestError, match=told):
        duplicates(FindDuplicates(root=planted, database="database", keys=keys))
    assert not keys.exists()
    duplicates(FindDuplicates(root=planted, database="database", keys=keys, force=True))
    assert len(keys.read_text().split()) == 4
    tables._calibrated.cache_clear()
    names = {"queries": "test", "database": "database"}
    wanted = FindNeighbors(root=planted, name="doubted", k=3, score_cap="calibrated", **names)
    tables.neighbors_plan(wanted)
    tables._calibrated.cache_clear()
    assert f"doubt this cap: {told}" in capsys.readouterr().err


class AllAlike:
    """An encoder to which every picture is the same."""

    def encode_images(self, images):
        count = len(list(images))
        return np.ones((count, 4), np.float32) / 2, np.ones(count, np.float32)


def test_calibration_tells_different_pictures_from_copies_by_their_pixels():
    plain = {"style": "photograph", "background": "light", "size": "large"}
    shown = [
        ("red", "circle", "top left"),
        ("blue", "star", "bottom right"),
        ("green", "ring", "centre"),
    ]
    pictures = [
        world.render(world.Factors(colour=c, shape=s, position=p, **plain), 64, 1)
        for c, s, p in shown
    ]
    for image in pictures:
        glances = [at_a_glance(one) for one in (image, *altered_copies(image))]
        assert min(float(glances[0] @ other) for other in glances[1:]) > SAME_AT_A_GLANCE
    alike = np.full((3, 4), 0.5, np.float32)
    assert calibrated_cap(AllAlike(), [pictures[0]] * 3, alike).mistaken == 0, (
        "copies are no mistake"
    )
    nearer = 1.001 * alike  # a copy's cosine is the cap, and these are above it
    assert calibrated_cap(AllAlike(), pictures, nearer).mistaken == 1


def test_a_page_of_copies_is_not_called_a_search(planted, tmp_path):
    duplicates(FindDuplicates(root=planted, database="database", out=tmp_path / "pairs.html"))
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert "<title>Copies in database</title>" in page and "<h1>Copies</h1>" in page
    assert "Found" not in page and "Search" not in page


def test_the_pairs_are_saved_as_a_table(planted, tmp_path):
    value = duplicates(FindDuplicates(root=planted, database="database", out=tmp_path / "p.json"))[
        1
    ]
    assert json.loads((tmp_path / "p.json").read_text(encoding="utf-8")) == value["pairs"]
    assert len(value["pairs"]) == 4


def test_chains_of_pairs_are_one_group():
    groups = groups_of(np.asarray([[0, 1], [1, 4], [2, 3]]), 6)
    assert len(set(groups[[0, 1, 4]])) == len(set(groups[[2, 3]])) == 1 and len(set(groups)) == 3
    assert len(set(groups_of(np.empty((0, 2), int), 3))) == 3


def test_altered_copies_are_still_pictures():
    image = np.array(Image.linear_gradient("L").convert("RGB"))
    assert [copy.shape for copy in altered_copies(image)] == [
        (256, 256, 3),
        (128, 128, 3),
        (241, 241, 3),
    ]
