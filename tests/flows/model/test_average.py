"""A run with a running mean of another length, mixed from the snapshots that it kept."""

import shutil

import numpy as np
import pytest

from flows.config.sample import SampleRDM
from flows.config.train import AverageRun, TrainRDM
from flows.model.average import average_run
from flows.model.opening import facts_of, space_of_run
from flows.model.sample import sample_rdm
from flows.model.train_rdm import train_rdm
from rdm_core.families import load_model
from storage.errors import ArtifactDamaged, StorageError
from storage.runs import read_metrics, read_snapshot, snapshots_of


@pytest.fixture(scope="module")
def run(small_world, small_training, in_one_process):
    settings = small_training(small_world.root, "kept-means", posthoc_ema=True, snapshot_steps=2)
    return in_one_process(train_rdm, TrainRDM(**settings))


def test_a_run_keeps_a_snapshot_of_its_means_every_so_many_steps_whatever_it_reports(run):
    assert list(snapshots_of(run)) == [2, 4, 6]
    assert {name.split("/")[1] for name in read_snapshot(snapshots_of(run)[6])} == {"0.05", "0.1"}


def test_a_length_that_was_kept_gives_its_own_mean_and_the_run_draws(run, small_world):
    made = average_run(
        AverageRun(root=small_world.root, name="mean-01", run="kept-means", length=0.1)
    )
    facts = facts_of(made)
    model = load_model(made.file("weights"), facts, space_of_run(small_world.root, made, facts))
    kept = read_snapshot(snapshots_of(run)[6])
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(
            parameter.detach().numpy(), kept[f"power/0.1/{name}"], rtol=0.01, atol=2e-3
        )
    assert facts.ema_length == 0.1 and made.measured["profile_distance"] < 0.01
    card = (made.file("weights") / "README.md").read_text()
    assert (
        "running mean of length 0.1 (arXiv 2312.02696)" in card
        and "rdm sample --run mean-01" in card
    )
    assert read_metrics(made.file("metrics.jsonl")) == read_metrics(run.file("metrics.jsonl"))
    request = {"root": small_world.root, "texts": ("a ring",), "count": 1, "draw": {"steps": 2}}
    drawn = [
        sample_rdm(SampleRDM(**request, run=name, name=name)) for name in ("mean-01", "kept-means")
    ]
    images = [sample.file("00000.png").read_bytes() for sample in drawn]
    assert images[0] != images[1], "other weights"


def test_another_length_is_another_version_and_a_second_time_it_is_kept(run, small_world):
    first, second = (
        average_run(AverageRun(root=small_world.root, name="m", run="kept-means", length=x))
        for x in (0.1, 0.08)
    )
    assert first.id != second.id
    again = average_run(AverageRun(root=small_world.root, name="m", run="kept-means", length=0.08))
    assert again.id == second.id and again.created_at == second.created_at


def test_a_length_that_the_snapshots_do_not_give_is_refused(run, small_world):
    with pytest.raises(
        StorageError, match="3 snapshots give no mean of length 0.28 .* Ask for a length between"
    ):
        average_run(AverageRun(root=small_world.root, name="x", run="kept-means", length=0.28))


@pytest.mark.long
def test_a_snapshot_that_was_damaged_or_lost_is_never_published_as_whole(
    small_world, small_training
):
    settings = small_training(small_world.root, "damaged", posthoc_ema=True, snapshot_steps=3)
    made = train_rdm(TrainRDM(**settings))
    (made.directory / "snapshots" / ".00000003.safetensors-left").write_text("by a crash")
    snapshots_of(made)[3].write_bytes(b"other bytes")
    with pytest.raises(
        ArtifactDamaged, match="absent or damaged. It cannot be made again: delete .*checkpoints"
    ):
        train_rdm(TrainRDM(**settings))
    shutil.rmtree(made.directory / "checkpoints")
    again = train_rdm(TrainRDM(**settings))
    assert again.fingerprint == made.fingerprint and [
        file.path for part in again.parts for file in part.files
    ][-2:] == ["snapshots/00000003.safetensors", "snapshots/00000006.safetensors"]


def test_a_run_without_snapshots_is_refused_with_the_cure(small_world):
    with pytest.raises(StorageError, match="kept no snapshots .* --set training.posthoc_ema=true"):
        average_run(AverageRun(root=small_world.root, name="x", run="small"))
    with pytest.raises(ValueError, match="length"):
        AverageRun(name="x", run="small", length=0.3)
