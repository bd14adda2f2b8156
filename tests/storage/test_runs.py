"""Checkpoints that resume, and metrics that a crash cannot spoil."""

from pathlib import Path

import numpy as np
import pytest

from storage import runs
from storage.errors import FormatError
from storage.runs import (
    METRICS_FILE,
    append_metrics,
    latest_checkpoint,
    latest_step,
    read_metrics,
    rewind_metrics,
    write_checkpoint,
)


def state(step):
    return {"weights": np.full((3, 2), step, np.float32), "steps": np.array([step], np.int64)}


def steps_in(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture
def run(tmp_path):
    """A run with whole checkpoints after 100 and 200 steps."""
    for step in (100, 200):
        write_checkpoint(tmp_path, step, state(step))
    return tmp_path


# Checkpoints


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    arrays = state(7) | {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "scalar": np.float32(0.5).reshape(()),
    }
    assert write_checkpoint(tmp_path, 7, arrays) == tmp_path / "checkpoints" / "00000007"
    step, read = latest_checkpoint(tmp_path)
    assert step == 7
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_run_without_a_checkpoint_has_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_step(tmp_path) is None


def test_the_step_of_the_newest_whole_checkpoint_is_known_without_reading_it(run, monkeypatch):
    unfinished = run / "checkpoints" / "00000300"
    unfinished.mkdir()
    (unfinished / "state.safetensors").write_bytes(b"cut")
    (run / "checkpoints" / ".00000400").mkdir()
    (run / "checkpoints" / ".00000400" / "manifest.json").write_text("{}")
    for reader in ("load_file", "sha256_file"):
        monkeypatch.setattr(runs, reader, lambda path: pytest.fail(f"{path} was read"))
    assert latest_step(run) == 200


def test_the_newest_whole_checkpoint_wins_by_step_and_not_by_time(run):
    write_checkpoint(run, 50, state(50), keep=3)
    assert latest_checkpoint(run)[0] == 200


def test_a_checkpoint_without_a_manifest_does_not_count(run):
    unfinished = run / "checkpoints" / "00000300"
    unfinished.mkdir()
    (unfinished / "state.safetensors").write_bytes(
        (run / "checkpoints/00000200/state.safetensors").read_bytes()
    )
    assert latest_checkpoint(run)[0] == 200
    write_checkpoint(run, 300, state(300))
    assert latest_checkpoint(run)[0] == 300


@pytest.mark.parametrize("moment", ["state", "manifest", "rename"])
def test_a_checkpoint_killed_while_written_leaves_the_one_before(moment, run, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            runs,
            {"state": "save_file", "manifest": "write_json", "rename": "publish"}[moment],
            killed,
        )
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(run, 300, state(300))
    assert "00000300" not in steps_in(run)
    assert latest_checkpoint(run)[0] == 200
    write_checkpoint(run, 300, state(300))
    assert steps_in(run) == ["00000200", "00000300"], "the scratch of the killed write is gone too"
    assert latest_checkpoint(run)[1]["weights"][0, 0] == 300


def test_only_the_newest_two_are_kept(tmp_path):
    write_checkpoint(tmp_path, 1, state(1))
    assert steps_in(tmp_path) == ["00000001"]
    for step in range(2, 6):
        write_checkpoint(tmp_path, step, state(step))
        assert steps_in(tmp_path) == [f"0000000{step - 1}", f"0000000{step}"]


def test_more_are_kept_when_asked_for(tmp_path):
    for step in range(1, 6):
        write_checkpoint(tmp_path, step, state(step), keep=3)
    assert steps_in(tmp_path) == ["00000003", "00000004", "00000005"]


def test_a_step_written_twice_is_the_second_one(run):
    write_checkpoint(run, 200, state(201))
    assert latest_checkpoint(run)[1]["weights"][0, 0] == 201
    assert steps_in(run) == ["00000100", "00000200"]


def flipped(raw):
    return raw[:-1] + bytes([raw[-1] ^ 1])


def cut(raw):
    return raw[: len(raw) // 2]


@pytest.mark.parametrize("damage", [flipped, cut])
def test_altered_bytes_are_refused_with_the_way_back(damage, run):
    path = run / "checkpoints/00000200/state.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        FormatError,
        match="state.safetensors: other bytes than were written. Delete .*00000200 to resume",
    ):
        latest_checkpoint(run)


def test_a_lost_state_is_refused_with_the_way_back(run):
    (run / "checkpoints/00000200/state.safetensors").unlink()
    with pytest.raises(FormatError, match="cannot be read .*Delete .*00000200"):
        latest_checkpoint(run)


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"step": 200}'])
def test_an_unreadable_manifest_is_refused_with_the_way_back(manifest, run):
    (run / "checkpoints/00000200/manifest.json").write_text(manifest)
    with pytest.raises(
        FormatError, match="Delete .*00000200 to resume from the checkpoint before it"
    ):
        latest_checkpoint(run)


def test_a_checkpoint_can_be_entered_and_read_by_everyone(run):
    directory = run / "checkpoints" / "00000200"
    assert directory.stat().st_mode & 0o777 == 0o755
    assert (directory / "manifest.json").stat().st_mode & 0o777 == 0o644
    assert (directory / "state.safetensors").stat().st_mode & 0o444 == 0o444


# Metrics


def test_metrics_come_back_line_by_line(tmp_path):
    records = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "text": "é\n"}]
    for record in records:
        append_metrics(tmp_path, record)
    assert read_metrics(tmp_path / METRICS_FILE) == records
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 2


def test_a_run_that_has_not_logged_has_no_metrics(tmp_path):
    assert read_metrics(tmp_path / METRICS_FILE) == []


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_a_last_line_cut_by_a_crash_is_left_out(lost, tmp_path):
    for step in (1, 2, 3):
        append_metrics(tmp_path, {"loss": 0.123456, "step": step})
    path = Path(tmp_path / METRICS_FILE)
    path.write_bytes(path.read_bytes()[:-lost])
    assert [record["step"] for record in read_metrics(path)] == [1, 2]


def test_a_resumed_run_tells_no_step_twice(tmp_path):
    for step in (1, 2, 3, 4):
        append_metrics(tmp_path, {"step": step, "try": 1})
    with (tmp_path / METRICS_FILE).open("a") as stream:
        stream.write('{"step": 5, "tr')
    rewind_metrics(tmp_path, 2)
    for step in (3, 4):
        append_metrics(tmp_path, {"step": step, "try": 2})
    assert read_metrics(tmp_path / METRICS_FILE) == [
        {"step": 1, "try": 1},
        {"step": 2, "try": 1},
        {"step": 3, "try": 2},
        {"step": 4, "try": 2},
    ]


def test_a_rewind_to_the_start_leaves_an_empty_file(tmp_path):
    rewind_metrics(tmp_path, 0)
    assert (tmp_path / METRICS_FILE).read_bytes() == b""
    append_metrics(tmp_path, {"step": 1})
    rewind_metrics(tmp_path, 0)
    assert read_metrics(tmp_path / METRICS_FILE) == []
