"""The files of released checkpoints: tensors are read, and no code in them is run."""

import os
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from rdm_core.errors import WeightsError
from rdm_core.originals import read_checkpoint

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
LIGHTNING = {"state_dict": TENSORS, "epoch": 3, "optimizer_states": [{"lr": 1e-4}]}
READABLE = {
    "whole.ckpt": lambda path: torch.save(LIGHTNING, path),
    "oldest.ckpt": lambda path: torch.save(LIGHTNING, path, _use_new_zipfile_serialization=False),
    "bare.pt": lambda path: torch.save(TENSORS, path),
    "bare.safetensors": lambda path: save_file(TENSORS, path),
}


@pytest.mark.parametrize("file", list(READABLE))
def test_a_checkpoints_tensors_are_read(file, tmp_path):
    READABLE[file](tmp_path / file)
    state = read_checkpoint(tmp_path / file)
    assert state.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert torch.equal(state[key], tensor), key
    assert read_checkpoint(str(tmp_path / file)).keys() == state.keys()


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_named_and_not_run(zipped, tmp_path):
    trace = tmp_path / "it-ran"
    torch.save(
        {"state_dict": TENSORS, "x": Touch(trace)},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(
        WeightsError,
        match=rf"a.ckpt: its pickle asks for {os.system.__module__}.system, and only tensors",
    ):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not trace.exists()


def test_a_harmless_class_in_a_pickle_is_named_with_a_cure(tmp_path, monkeypatch):
    module = ModuleType("lightning_of_2022")
    monkeypatch.setitem(sys.modules, "lightning_of_2022", module)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": "lightning_of_2022"})
    torch.save(
        LIGHTNING | {"callbacks": {module.ModelCheckpoint: {"best": 1}}}, tmp_path / "model.ckpt"
    )
    with pytest.raises(
        WeightsError,
        match=r"asks for lightning_of_2022.ModelCheckpoint, .*Only if you trust its maker",
    ) as told:
        read_checkpoint(tmp_path / "model.ckpt")
    command = str(told.value).split('python -c "')[1].removesuffix('"')
    exec(compile(command, "the cure", "exec"), {})
    assert read_checkpoint(tmp_path / "model-tensors.pt").keys() == TENSORS.keys()


def cut(path, write: Callable) -> None:
    """The first half of a file."""
    write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


REFUSED = {
    "half.ckpt": (lambda path: cut(path, READABLE["whole.ckpt"]), "is no whole checkpoint"),
    "half-oldest.ckpt": (lambda path: cut(path, READABLE["oldest.ckpt"]), "is no whole checkpoint"),
    "half.safetensors": (
        lambda path: cut(path, READABLE["bare.safetensors"]),
        "is no whole checkpoint",
    ),
    "empty.ckpt": (lambda path: path.write_bytes(b""), "is no whole checkpoint"),
    "page.ckpt": (lambda path: path.write_text("<html>404</html>"), "is no whole checkpoint"),
    "page.safetensors": (
        lambda path: path.write_text("<html>404</html>"),
        "is no whole checkpoint",
    ),
    "folder.ckpt": (lambda path: path.mkdir(), "is no whole checkpoint"),
    "absent.ckpt": (lambda path: None, "there is no such file"),
    "absent.safetensors": (lambda path: None, "there is no such file"),
    "list.pt": (lambda path: torch.save([torch.zeros(2)], path), "holds no table of tensors"),
    "nothing.pt": (lambda path: torch.save({"state_dict": {}}, path), "holds no table of tensors"),
    "numbers.pt": (lambda path: torch.save({"epoch": 3}, path), "holds no table of tensors"),
}


@pytest.mark.parametrize("file", list(REFUSED))
def test_what_is_no_checkpoint_is_refused(file, tmp_path):
    write, told = REFUSED[file]
    write(tmp_path / file)
    with pytest.raises(WeightsError, match=f"{file}: {told}") as error:
        read_checkpoint(tmp_path / file)
    assert "weights_only" not in str(error.value), "no advice to open it all the same"
