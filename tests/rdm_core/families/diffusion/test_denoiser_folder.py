"""The folder of a denoiser: what is saved is what was trained, and nothing else is loaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from neighbor_sets import D, K, sets, with_slots
from safetensors.torch import load_file, save_file
from tiny import EVERYTHING, TINY
from training import assert_equal

from rdm_core.context import ABSENT, NEIGHBOR, TEXT
from rdm_core.errors import WeightsError
from rdm_core.families.diffusion.denoiser import load_denoiser

TRANSFORMER = TINY["transformer"]
NETWORK = "network/diffusion_pytorch_model.safetensors"
NETWORK_CONFIG = "network/config.json"


@pytest.fixture
def folder(tiny_denoiser, tmp_path):
    """A saved transformer."""
    tiny_denoiser().save(tmp_path / "weights")
    return tmp_path / "weights"


def test_what_is_loaded_predicts_what_was_saved(config, tiny_denoiser, noisy, tmp_path):
    denoiser = tiny_denoiser(config)
    denoiser.save(tmp_path)
    loaded = load_denoiser(tmp_path, config, D)
    with torch.no_grad():
        for slots in ([TEXT] + [NEIGHBOR] * 4, [NEIGHBOR] * K, [ABSENT] * K):
            context = with_slots(sets(), slots)
            assert torch.equal(loaded(*noisy, context), denoiser(*noisy, context))
    assert not loaded.training
    assert loaded.config == denoiser.config == config
    assert loaded.dimension == D
    assert_equal(loaded.state_dict(), denoiser.state_dict())


@pytest.mark.parametrize("extra", [*EVERYTHING])
@pytest.mark.parametrize("how", ["too few", "too many"])
def test_a_folder_whose_tensors_are_not_those_of_the_configuration_is_refused(
    extra, how, tiny_denoiser, tmp_path
):
    plain, with_extra = TRANSFORMER, replace(TRANSFORMER, **{extra: EVERYTHING[extra]})
    saved, told = (plain, with_extra) if how == "too few" else (with_extra, plain)
    tiny_denoiser(saved).save(tmp_path)
    with pytest.raises(WeightsError, match=r"tensors of the context are absent or too many, \w+"):
        load_denoiser(tmp_path, told, D)


def test_a_folder_for_vectors_of_another_dimension_is_refused(folder):
    with pytest.raises(WeightsError, match="not a weights folder of this project"):
        load_denoiser(folder, TRANSFORMER, D + 1)


def test_only_safetensors_and_json_are_written(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["context.safetensors", NETWORK_CONFIG, NETWORK]


def without_a_tensor(folder: Path) -> None:
    """The network's file lacks one of its tensors."""
    state = load_file(folder / NETWORK)
    del state["pos_embed.proj.weight"]
    save_file(state, folder / NETWORK)


def only_a_pickle(folder: Path) -> None:
    """The same tensors in the format that runs code."""
    torch.save(load_file(folder / NETWORK), (folder / NETWORK).with_suffix(".bin"))
    (folder / NETWORK).unlink()


def with_config(folder: Path, **changed) -> None:
    """The network's file is untouched, what it is said to be is not."""
    config = json.loads((folder / NETWORK_CONFIG).read_text())
    (folder / NETWORK_CONFIG).write_text(json.dumps(config | changed))


SPOILED: dict[str, Callable[[Path], object]] = {
    "no such folder": shutil.rmtree,
    "only the network": lambda folder: (folder / "context.safetensors").unlink(),
    "truncated": lambda folder: (folder / NETWORK).write_bytes(
        (folder / NETWORK).read_bytes()[:1000]
    ),
    "only a pickle": only_a_pickle,
    "a tensor too few": without_a_tensor,
    "a block too many": lambda folder: with_config(folder, num_layers=0),
    "another class": lambda folder: with_config(folder, _class_name="AutoencoderKL"),
    "a word for a number": lambda folder: with_config(folder, num_layers="two"),
    "no JSON": lambda folder: (folder / NETWORK_CONFIG).write_text("{"),
    "other JSON": lambda folder: (folder / NETWORK_CONFIG).write_text("[]"),
    "null of another dimension": lambda folder: save_file(
        {"null": torch.zeros(D + 1)}, folder / "context.safetensors"
    ),
    "no null": lambda folder: save_file({"nil": torch.zeros(D)}, folder / "context.safetensors"),
}


@pytest.mark.parametrize("how", list(SPOILED))
def test_a_folder_that_is_not_whole_is_refused(how, folder):
    SPOILED[how](folder)
    with pytest.raises(
        WeightsError,
        match=r"weights: not a weights folder of this project \(.+\).*Give a run's name",
    ):
        load_denoiser(folder, TRANSFORMER, D)
