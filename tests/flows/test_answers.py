"""What `rdm show`, `check`, `log` and `gc` answer, key by key and line by line."""

import pytest
from building import PLAN, build_all, writer

from flows.look.show import checked_artifacts, collected, log_of, one_artifact, table_of_artifacts
from storage.artifact import artifacts
from storage.build import begin
from storage.manifest import Plan

BYTES = 2 * (50 * len("images of 00000") + len("00000"))
"""Of the built artifact: two parts of two files."""
NEXT = Plan("shards", "paintings", {"size": 64, "crop": "left"}, {"source": "bb"})
NOTHING_ELSE = {"unreadable": [], "unfinished": []}


@pytest.fixture
def paintings(tmp_path):
    """One version of shards/paintings, alone under its root."""
    return build_all(tmp_path)


@pytest.fixture
def versions(tmp_path):
    """Two versions of it: another crop, and the second of two parts made anew."""
    return build_all(tmp_path), build_all(tmp_path, NEXT, contents=("00000", "other"))


def row_of(artifact, current=True):
    return {
        "kind": "shards",
        "name": "paintings",
        "id": artifact.id,
        "current": current,
        "version": artifact.version,
        "rows": 6,
        "bytes": artifact.bytes,
        "directory": str(artifact.directory),
    }


def left_behind(root, name="left"):
    """An unfinished build of one part."""
    with pytest.raises(KeyboardInterrupt), begin(root, Plan("runs", name, {})) as build:
        build.write_part("00000", "00000", writer("00000"))
        raise KeyboardInterrupt
    return build.directory


# rdm show


def test_the_listing_is_a_line_and_a_row_an_artifact_with_a_star_at_the_current_version(
    versions, tmp_path
):
    old, new = versions
    assert old.bytes == new.bytes == BYTES
    text, value = table_of_artifacts(tmp_path)
    assert value == {"artifacts": [row_of(old, current=False), row_of(new)], **NOTHING_ELSE}
    assert text.splitlines() == [
        f"shards       paintings                    {old.id}          6 rows          1,510 bytes",
        f"shards       paintings                    {new.id}*         6 rows          1,510 bytes",
    ]


def test_the_listing_of_an_empty_root_says_what_to_try(tmp_path):
    text, value = table_of_artifacts(tmp_path)
    assert text == f"nothing has been built under {tmp_path} yet; try: rdm demo"
    assert value == {"artifacts": [], **NOTHING_ELSE}


def test_a_build_that_nobody_is_at_is_a_value_with_its_place(tmp_path):
    left = left_behind(tmp_path)
    one = {"directory": str(left), "built_by": None, "step": None, "steps": None}
    assert table_of_artifacts(tmp_path)[1] == {
        "artifacts": [],
        "unreadable": [],
        "unfinished": [one],
    }
    assert one_artifact(tmp_path, "runs/left")[1] == {"unfinished": [one]}


def test_an_artifact_is_its_row_with_what_it_was_made_of_and_what_was_measured(paintings, tmp_path):
    text, value = one_artifact(tmp_path, "shards/paintings")
    assert value == row_of(paintings) | {
        "fingerprint": paintings.fingerprint,
        "inputs": {"source": "aa"},
        "parameters": {"size": 64, "crop": "center"},
        "counts": {"ok": 4, "rejected: too small": 2},
        "measured": {"seconds": 1.5},
        "unfinished": [],
    }
    assert text.splitlines() == [
        "kind: shards",
        "name: paintings",
        f"id: {paintings.id}",
        "current: True",
        "version: 1",
        "rows: 6",
        "bytes: 1510",
        f"directory: {paintings.directory}",
        f"fingerprint: {paintings.fingerprint}",
        "inputs:",
        "  source: aa",
        "parameters:",
        "  crop: center",
        "  size: 64",
        "counts:",
        "  ok: 4",
        "  rejected: too small: 2",
        "measured:",
        "  seconds: 1.5",
    ]


def test_the_record_of_an_image_is_told_as_it_is_written(tmp_path):
    import numpy as np

    from flows.look.show import image_record
    from rdm_core.provenance import encode_png

    record = {"neighbor_keys": ["k", "l"], "query": "a\nb", "seed": 3}
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8), record))
    text, value = image_record(path)
    assert value == record
    assert text == "neighbor_keys: ['k', 'l']\nquery: a\\nb\nseed: 3"


# rdm check


def test_a_check_counts_artifacts_and_files(versions, tmp_path):
    told = "2 artifacts, 8 files: every size and hash is as written"
    assert checked_artifacts(tmp_path, None) == (told, {"artifacts": 2, "files": 8})
    one = "1 artifacts, 4 files: every size and hash is as written"
    assert checked_artifacts(tmp_path, "shards/paintings") == (one, {"artifacts": 1, "files": 4})


# rdm log


def test_a_version_is_told_by_all_that_a_machine_wants_to_know(versions, tmp_path):
    old, new = versions
    text, value = log_of(tmp_path, "shards/paintings")
    common = {"kind": "shards", "name": "paintings", "seconds": 1.5, "rows": 6}
    assert value == NOTHING_ELSE | {
        "versions": [
            common
            | {
                "version": 1,
                "id": old.id,
                "created_at": old.created_at,
                "current": False,
                "bytes": old.bytes,
                "inputs": {"source": {"fingerprint": "aa", "artifact": None}},
                "change": None,
            },
            common
            | {
                "version": 2,
                "id": new.id,
                "created_at": new.created_at,
                "current": True,
                "bytes": new.bytes,
                "inputs": {"source": {"fingerprint": "bb", "artifact": None}},
                "change": {
                    "against": 1,
                    "parameters": (("crop", "center", "left"),),
                    "inputs": (("source", "aa", "bb"),),
                    "taken_over": ("00000",),
                    "made": ("00001",),
                    "dropped": (),
                    "rows_added": 0,
                    "rows_removed": 0,
                },
            },
        ]
    }
    size = f"6 rows  {new.bytes:,} bytes"
    assert text.splitlines() == [
        f"shards/paintings version 1  {old.id}  {old.created_at}  1.5 s  6 rows  1,510 bytes",
        "    from source aa (no artifact under this root)",
        f"shards/paintings version 2 (current)  {new.id}  {new.created_at}  1.5 s  {size}",
        "    from source bb (no artifact under this root)",
        '    crop: "center" -> "left"',
        "    input source: aa -> bb",
        "    against version 1: parts 1 taken over, 1 made, 0 dropped; rows 0 added, 0 removed",
    ]


def test_a_version_whose_time_nobody_measured_is_told_without_one(tmp_path):
    with begin(tmp_path, PLAN) as build:
        made = build.commit([build.write_part("00000", "", writer("00000"))], {})
    text, value = log_of(tmp_path, "shards/paintings")
    head = f"shards/paintings version 1 (current)  {made.id}  {made.created_at}  3 rows  755 bytes"
    assert text.splitlines()[0] == head
    assert value["versions"][0]["seconds"] is None


def test_an_input_that_is_here_is_told_by_its_name(paintings, tmp_path):
    latents = Plan("latents", "paintings", {}, {"shards": paintings.fingerprint})
    build_all(tmp_path, latents, contents=("latent",))
    text, value = log_of(tmp_path, "latents/paintings")
    made_of = {"fingerprint": paintings.fingerprint, "artifact": paintings.reference}
    assert value["versions"][0]["inputs"] == {"shards": made_of}
    assert text.splitlines()[1:] == [f"    from shards {paintings.reference}"]


# rdm gc


def test_a_collection_tells_what_goes_what_it_frees_and_what_stays_for_what(versions, tmp_path):
    old, new = versions
    gone = {"artifact": old.reference, "what": "version", "version": 1}
    for dry_run, would in ((True, "would be"), (False, "were")):
        text, value = collected(tmp_path, 1, "", dry_run)
        freed = value["freed"]
        assert old.bytes / 2 < freed < 2 * old.bytes, "its manifest too, but not what both share"
        assert value == {
            "dry_run": dry_run,
            "removed": [gone | {"freed": freed}],
            "freed": freed,
            "kept": {new.reference: "current"},
            "untouched": {},
        }
        assert text.splitlines() == [
            f"{old.reference:<44} {freed:>14,} bytes  version 1",
            f"1 {would} removed, {freed:,} bytes freed; 1 versions stay",
        ]
    assert artifacts(tmp_path) == [new]


def test_a_build_that_somebody_is_at_is_not_touched_and_one_that_was_left_goes(tmp_path):
    import os

    left_behind(tmp_path)
    with begin(tmp_path, Plan("runs", "going", {})) as build:
        text, value = collected(tmp_path, None, "all", dry_run=True)
    (removed,) = value["removed"]
    assert (removed["what"], removed["version"]) == ("unfinished", None)
    assert f"bytes  unfinished build\n{'runs/going':<10}" in text and value["kept"] == {}
    ((reference, why),) = value["untouched"].items()
    assert reference == f"runs/going@{build.directory.name}"
    assert (
        why.startswith(f"process {os.getpid()} on ")
        and f"{reference:<44} not touched: {why}" in text
    )
