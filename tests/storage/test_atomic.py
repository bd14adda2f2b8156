"""Writes are whole or absent, and equal values give equal bytes."""

import json
import os
from pathlib import Path

import pytest

from storage import atomic
from storage.atomic import canonical_json, publish, sha256_file, sha256_of, write_bytes, write_json


def test_equal_values_give_equal_bytes_whatever_the_key_order():
    assert (
        canonical_json({"b": [1, 2.5], "a": {"d": None, "c": "é"}})
        == '{"a":{"c":"é","d":null},"b":[1,2.5]}'.encode()
    )
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"loss": [float("-inf")]}])
def test_what_json_cannot_say_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_and_its_bytes_have_one_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == sha256_of(b"abc")
    # The test vector of FIPS 180-2.
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_write_replaces_the_file_and_makes_its_directories(tmp_path):
    target = tmp_path / "deep" / "a.json"
    write_json(target, {"step": 1})
    write_json(target, {"step": 2})
    assert json.loads(target.read_text()) == {"step": 2}
    assert [path.name for path in target.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_bytes_and_no_temporary_file(
    moment, tmp_path, monkeypatch
):
    target = tmp_path / "current"
    write_bytes(target, b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[moment], full)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_bytes_are_on_the_disk_before_the_rename_and_the_name_after_it(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = atomic.fsync_path, Path.replace
    monkeypatch.setattr(
        atomic, "fsync_path", lambda path: (order.append(path), real_fsync(path))[1]
    )
    monkeypatch.setattr(
        Path, "replace", lambda s, t: (order.append("rename"), real_replace(s, t))[1]
    )
    (tmp_path / "scratch").write_bytes(b"x")
    publish(tmp_path / "scratch", tmp_path / "a")
    # First the bytes, then the name, then the folder that holds the name.
    assert order == [tmp_path / "scratch", "rename", tmp_path]


def test_what_is_published_can_be_read_by_everyone(tmp_path):
    write_bytes(tmp_path / "file", b"x")
    private = tmp_path / "scratch"
    private.mkdir(mode=0o700)
    publish(private, tmp_path / "folder")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755, (
        "a directory without x cannot be entered"
    )
