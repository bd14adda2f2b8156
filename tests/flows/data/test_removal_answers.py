"""What `rdm remove` answers: what was published, who was trained on it, what still holds it."""

from types import SimpleNamespace

import pytest
from building import build_all

from flows.config.database import RemoveKeys
from flows.data.rehearse import holder_line, run_lines
from flows.data.remove import Removal
from storage.holders import Holder, TrainedRun
from storage.manifest import Plan
from storage.removals import removals_file

NEW = (
    SimpleNamespace(reference="embeddings/cats@000000000001", rows=12_345),
    SimpleNamespace(reference="index/cats@000000000002", rows=12_345),
)
TRAINED = TrainedRun("runs/cat@000000000003", True, {"database": "embeddings/cats@0"}, ())
BEGUN = TrainedRun("runs/dog@000000000004", False, {}, ("latents",))


@pytest.fixture
def removal(tmp_path):
    """removal(...): of two keys of the database cats, 7 rows, with what is given."""
    config = RemoveKeys(root=tmp_path, database="cats", keys_file=tmp_path / "keys.txt")

    def made(published=NEW, stale=(), runs=(), holders=()):
        return Removal(config, 7, published, stale, runs, holders)

    return made


def test_a_removal_that_nobody_else_saw_is_told_in_whole(removal, tmp_path):
    text, value = removal().answer()
    listed = str(removals_file(tmp_path, "cats"))
    assert value == {
        "database": "cats",
        "removal_list": listed,
        "rows_removed": 7,
        "published": [
            {"artifact": "embeddings/cats@000000000001", "rows": 12_345},
            {"artifact": "index/cats@000000000002", "rows": 12_345},
        ],
        "stale": [],
        "runs": [],
        "holders": [],
    }
    out = "7 rows taken out of the database cats; no build brings them back"
    assert text.splitlines() == [
        f"{out}: {listed}",
        "",
        "published without them:",
        "  embeddings/cats@000000000001                      12,345 rows",
        "  index/cats@000000000002                           12,345 rows",
        "",
        "no run was trained on a version that held them",
        "",
        "nothing under this root holds them any more",
    ]


def test_runs_that_saw_them_and_tables_that_stay_as_they_are_are_told(removal):
    text, value = removal(stale=("neighbors/far@5",), runs=(TRAINED, BEGUN)).answer()
    assert value["stale"] == ["neighbors/far@5"]
    assert value["runs"] == [
        {
            "reference": "runs/cat@000000000003",
            "finished": True,
            "held": {"database": "embeddings/cats@0"},
            "unknown": (),
        },
        {
            "reference": "runs/dog@000000000004",
            "finished": False,
            "held": {},
            "unknown": ("latents",),
        },
    ]
    stale = (
        f"  {'neighbors/far@5':<44} not made again: "
        "what it was made from, or every row of it, is gone"
    )
    assert text.splitlines()[5:] == [
        stale,
        "",
        "trained on versions that held them:",
        "  runs/cat@000000000003",
        "    database     embeddings/cats@0",
        "  runs/dog@000000000004 (unfinished)",
        "    latents      nobody can tell: it is not under this root",
        "",
        "nothing under this root holds them any more",
    ]


def test_what_still_holds_them_is_told_with_whether_the_next_collection_takes_it(removal, tmp_path):
    old = build_all(tmp_path, Plan("shards", "cats", {"size": 1}))
    new = build_all(tmp_path, Plan("shards", "cats", {"size": 2}))
    found = [Holder(one.reference, "images", ("a", "b"), one.fingerprint) for one in (old, new)]
    text, value = removal(holders=(*found, Holder("gone", "cannot be read", (), None))).answer()
    assert value["holders"] == [
        {
            "reference": old.reference,
            "what": "images",
            "keys": ("a", "b"),
            "fingerprint": old.fingerprint,
            "goes_with_gc": True,
            "stays_because": None,
        },
        {
            "reference": new.reference,
            "what": "images",
            "keys": ("a", "b"),
            "fingerprint": new.fingerprint,
            "goes_with_gc": False,
            "stays_because": "current",
        },
        {
            "reference": "gone",
            "what": "cannot be read",
            "keys": (),
            "fingerprint": None,
            "goes_with_gc": False,
            "stays_because": None,
        },
    ]
    lines = text.splitlines()
    still = lines.index("still there:")
    assert [" ".join(line.split()) for line in lines[still + 1 : still + 5]] == [
        f"{old.reference} images (2) goes with rdm gc --keep 1",
        f"{new.reference} images (2) stays: current",
        "gone cannot be read stays",
        "",
    ]
    assert "rdm gc --keep 1" in lines[still + 5] and len(lines) == still + 8
    assert lines[-1].endswith("rdm sample --database cats")


def test_a_line_of_a_run_or_a_holder_is_aligned_with_the_others():
    assert run_lines(TRAINED) == ["  runs/cat@000000000003", "    database     embeddings/cats@0"]
    held = {"reference": "shards/cats@1", "what": "images", "keys": ["a"], "goes_with_gc": True}
    line = holder_line(held | {"stays_because": None})
    assert line == f"  {'shards/cats@1':<44} {'images (1)':<28} goes with rdm gc --keep 1"
