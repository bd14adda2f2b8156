"""Checkpoints and snapshots of a run in an object store."""

import numpy as np
import pytest
from building import PLAN, files_under
from s3_bucket import (
    deleted,
    object_ending,
    truncated,
)

from storage.errors import ArtifactDamaged
from storage.runs import (
    append_metrics,
    latest_checkpoint,
    latest_step,
    read_metrics,
    read_snapshot,
    whole_snapshots,
    write_checkpoint,
    write_snapshot,
)

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'rdm[s3]'")


def state(step):
    return {"weights": np.full((3, 2), step, np.float32)}


@pytest.fixture
def run(machine):
    """run("a") is the directory of an unfinished run on machine a."""

    def on(name):
        directory = machine(name) / "runs" / "r" / PLAN.id
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    return on


def test_snapshots_are_found_on_another_machine_and_a_lost_one_is_told(run, s3):
    for step in (1, 2):
        write_snapshot(run("a"), step, {"power/0.1/w": np.full(3, step, np.float32)})
    there = run("b")
    files = whole_snapshots(there, [1, 2])
    assert [read_snapshot(path)["power/0.1/w"].tolist() for path in files] == [[1.0] * 3, [2.0] * 3]
    with pytest.raises(
        ArtifactDamaged, match="00000003.safetensors: this snapshot of the weights' means is absent"
    ):
        whole_snapshots(there, [1, 2, 3])
    # A copy in the mirror that was altered.
    files[0].write_bytes(b"other")
    with pytest.raises(ArtifactDamaged, match="00000001.safetensors: .*absent or damaged"):
        whole_snapshots(there, [1, 2])


def test_a_checkpoint_is_resumed_on_another_machine_with_the_metrics_up_to_it(run, s3):
    here = run("a")
    for step in (1, 2, 3):
        append_metrics(here, {"step": step})
        write_checkpoint(here, step, state(step))
    kept = sorted(name.split("/checkpoints/")[1] for name in s3.objects if "/checkpoints/" in name)
    assert kept == [
        "00000002/manifest.json",
        "00000002/metrics.jsonl",
        "00000002/state.safetensors",
        "00000003/manifest.json",
        "00000003/metrics.jsonl",
        "00000003/state.safetensors",
    ], "old ones are dropped there too"
    there = run("b")
    # The metrics of the checkpoint take its place.
    append_metrics(there, {"step": 1, "of": "an earlier attempt here"})
    step, arrays = latest_checkpoint(there)
    assert (step, arrays["weights"][0, 0]) == (3, 3)
    assert [record["step"] for record in read_metrics(there / "metrics.jsonl")] == [1, 2, 3]
    s3.log.clear()
    assert latest_checkpoint(there)[0] == 3
    assert [method for method, _ in s3.log] == ["LIST"], "it is there now"
    write_checkpoint(there, 4, state(4))
    assert latest_checkpoint(run("a"))[0] == 4


def test_the_step_of_a_checkpoint_is_known_from_a_listing_and_nothing_is_fetched(run, s3):
    assert latest_step(run("b")) is None
    write_checkpoint(run("a"), 100, state(100))
    stored = dict(s3.objects)
    write_checkpoint(run("a"), 200, state(200))
    s3.objects = stored  # killed before the upload
    s3.log.clear()
    assert latest_step(run("a")) == 200 and latest_step(run("b")) == 100
    assert {method for method, _ in s3.log} == {"LIST"} and files_under(run("b")) == []


def test_a_checkpoint_killed_before_any_put_leaves_the_one_before(run, s3):
    write_checkpoint(run("a"), 100, state(100))
    left = []
    s3.before_put = lambda name: left.append(dict(s3.objects))
    append_metrics(run("a"), {"step": 100})
    write_checkpoint(run("a"), 200, state(200))
    write_checkpoint(run("a"), 200, state(201))
    s3.before_put = None
    assert len(left) == 6
    for number, stored in enumerate(left):
        s3.objects = stored
        step, arrays = latest_checkpoint(run(f"b{number}"))
        assert (step, arrays["weights"][0, 0]) == (100, 100)


def test_a_run_without_a_checkpoint_has_none_and_what_only_this_mirror_has_counts(run, s3):
    assert latest_checkpoint(run("a")) is None
    write_checkpoint(run("a"), 100, state(100))
    stored = dict(s3.objects)
    write_checkpoint(run("a"), 200, state(200))
    s3.objects = stored  # killed before the upload
    assert latest_checkpoint(run("a"))[0] == 200
    assert latest_checkpoint(run("b"))[0] == 100


@pytest.mark.parametrize("harm", ["flipped", "truncated", "without a state", "manifest"])
def test_a_damaged_checkpoint_in_the_bucket_is_refused_with_the_way_back(harm, run, s3):
    write_checkpoint(run("a"), 100, state(100))
    name = object_ending(s3, "state.safetensors")
    folder = name.rpartition("/")[0]
    if harm == "flipped":
        s3.objects[name] = s3.objects[name][:-1] + b"x"
    elif harm == "truncated":
        truncated(s3, name)
    elif harm == "without a state":
        deleted(s3, name)
    else:
        s3.objects[f"{folder}/manifest.json"] = b"{"
    with pytest.raises(ArtifactDamaged, match=r"s3://.*/checkpoints/00000100.*(Delete|delete)"):
        latest_checkpoint(run("b"))
    assert files_under(run("b")) in ([], ["checkpoints/.00000100/manifest.json"])
