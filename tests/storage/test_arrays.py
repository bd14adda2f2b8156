"""Nothing in storage reads a pickle, wherever one is put."""

import json
import os
import pickle

import numpy as np
import pytest

from storage.arrays import open_array
from storage.atomic import sha256_file
from storage.errors import FormatError
from storage.index import VECTORS_FILE, open_norms, open_vectors
from storage.latents import open_latents, write_latents
from storage.parquet import read_table
from storage.runs import latest_checkpoint, write_checkpoint


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def exploded(tmp_path):
    return tmp_path / "exploded"


@pytest.fixture
def bomb(tmp_path, exploded):
    """Bytes of an array file that holds a bomb, and of a bare pickle."""
    np.save(tmp_path / "bomb.npy", np.array([Bomb(exploded)], dtype=object), allow_pickle=True)
    return {"array": (tmp_path / "bomb.npy").read_bytes(), "pickle": pickle.dumps(Bomb(exploded))}


def test_the_bomb_is_live(tmp_path, bomb, exploded):
    np.load(tmp_path / "bomb.npy", allow_pickle=True)
    assert exploded.is_dir()
    exploded.rmdir()
    pickle.loads(bomb["pickle"])
    assert exploded.is_dir()


@pytest.mark.parametrize("form", ["array", "pickle"])
def test_no_array_file_is_unpickled(form, bomb, exploded, make):
    def vectors(scratch, part_name):
        (scratch / VECTORS_FILE).write_bytes(bomb[form])
        (scratch / "norms.npy").write_bytes(bomb[form])

    def latents(scratch, part_name):
        write_latents(scratch, part_name, ["a"], np.zeros((1, 1, 2, 2), np.uint8))
        (scratch / f"{part_name}.npy").write_bytes(bomb[form])

    index = make("index", "a", vectors)
    for read, artifact, name in [
        (open_vectors, index, VECTORS_FILE),
        (open_norms, index, "norms.npy"),
        (open_latents, make("latents", "a", latents), "00000.npy"),
    ]:
        with pytest.raises(FormatError, match=f"{name}: not a plain array .*rdm check"):
            read(artifact)
    assert not exploded.exists()


@pytest.mark.parametrize("form", ["array", "pickle"])
def test_no_checkpoint_is_unpickled(form, bomb, exploded, tmp_path):
    directory = write_checkpoint(tmp_path, 1, {"w": np.zeros(2)})
    state = directory / "state.safetensors"
    state.write_bytes(bomb[form])
    (directory / "manifest.json").write_text(json.dumps({"step": 1, "sha256": sha256_file(state)}))
    with pytest.raises(FormatError, match="state.safetensors: cannot be read"):
        latest_checkpoint(tmp_path)
    assert not exploded.exists()


@pytest.mark.parametrize("form", ["array", "pickle"])
def test_no_table_is_unpickled(form, bomb, exploded, tmp_path):
    (tmp_path / "a.parquet").write_bytes(bomb[form])
    with pytest.raises(FormatError, match="a.parquet: cannot be read as Parquet"):
        read_table(tmp_path / "a.parquet")
    assert not exploded.exists()


@pytest.mark.parametrize("raw", [b"", b"\x93NUMPY", b"PK\x03\x04" + b"\0" * 40, b"text"])
def test_what_is_no_array_is_refused(raw, tmp_path):
    (tmp_path / "a.npy").write_bytes(raw)
    with pytest.raises(FormatError, match="a.npy: not a plain array"):
        open_array(tmp_path / "a.npy")


def test_a_short_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(100))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(FormatError, match="a.npy: not a plain array"):
        open_array(tmp_path / "a.npy")


def test_an_absent_array_is_told_by_name(tmp_path):
    with pytest.raises(FormatError, match="gone.npy"):
        open_array(tmp_path / "gone.npy")


def test_an_archive_of_arrays_is_not_an_array(tmp_path):
    np.savez(tmp_path / "a.npz", np.arange(3))
    with pytest.raises(FormatError, match="not a plain array"):
        open_array(tmp_path / "a.npz")
