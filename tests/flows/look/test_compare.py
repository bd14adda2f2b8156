"""What changed between two databases."""

import pytest

from flows.config.database import BuildDatabase
from flows.config.images import ImportImages
from flows.config.look import CompareDatabases
from flows.data.build_database import build_database
from flows.data.import_images import import_images
from flows.look.compare import compare
from storage.artifact import artifacts


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A database of 60 shapes, its next version with 80, and the first 60 under another encoder."""
    root = tmp_path_factory.mktemp("versions")
    for count in (60, 80):
        drawn = {
            "source": "shapes",
            "size": 32,
            "encoding": "png",
            "count": count,
            "images_per_part": 40,
        }
        import_images(ImportImages(root=root, name="shapes", **drawn))
        build_database(
            BuildDatabase(
                root=root, name="shapes", shards="shapes", encoder="rdm-shapes", weights="built-in"
            )
        )
    build_database(
        BuildDatabase(
            root=root, name="other", shards="shapes", encoder="rdm-shapes", weights="random"
        )
    )
    old, new = (
        a.id for a in sorted(artifacts(root, "embeddings", "shapes"), key=lambda a: a.version)
    )
    return root, f"shapes@{old}", f"shapes@{new}"


def test_a_version_with_more_rows_is_told_row_by_row(versions):
    root, old, new = versions
    text, value = compare(CompareDatabases(root=root, one=old, other=new, k=5))
    assert (
        value["rows_kept"],
        value["rows_added"],
        value["rows_removed"],
        value["rows_changed"],
    ) == (60, 20, 0, 0)
    assert len(value["added"]) == 5 and "shapes-all-000060-00, " in text
    assert value["shift"]["mean_distance"] > 0 and value["neighbor_recall"] == 1.0, (
        "among the kept rows nothing moved"
    )
    back = compare(CompareDatabases(root=root, one=new, other=old, k=5))[1]
    assert (back["rows_added"], back["rows_removed"]) == (0, 20)
    assert "licence CC0-1.0: 60 -> 80" in text


def test_a_database_equals_itself(versions):
    root, _, new = versions
    value = compare(CompareDatabases(root=root, one=new, other="shapes"))[1]
    assert value["rows_added"] == value["rows_removed"] == value["rows_changed"] == 0
    assert value["shift"]["mean_distance"] == 0 and abs(value["shift"]["frechet_distance"]) < 1e-6
    assert value["neighbor_recall"] == 1.0


def test_two_encoders_are_compared_by_neighbors_alone(versions):
    root, _, new = versions
    text, value = compare(CompareDatabases(root=root, one=new, other="other", k=5))
    assert "shift" not in value and "other encoder: vectors are not compared" in text
    assert 0 < value["neighbor_recall"] < 0.9
