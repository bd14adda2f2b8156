"""A training process cannot outlive the one that started it, and says why it ended."""

import os
import subprocess
import sys

import pytest

from flows.launch import TrainingFailed, launch_training


def test_a_worker_ends_when_its_parent_is_gone():
    code = "from flows.train_worker import end_with_parent; import time\n"
    code += "end_with_parent(); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "up\n"
        worker.stdin.close()
        assert worker.wait(timeout=20) == 1


def test_a_failed_training_tells_its_last_lines_and_the_cure(tmp_path):
    with pytest.raises(TrainingFailed, match=r"exit code 1.*Change what they name(.|\n)*config\.json"):
        launch_training(tmp_path, 1, 1, 1, "cpu")


def test_an_interrupted_launch_leaves_no_process_behind(tmp_path, monkeypatch):
    started = []

    def interrupted(child, steps):
        started.append(child)
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.launch._follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch_training(tmp_path, 1, 1, 1, "cpu")
    assert started[0].returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0].pid, 0)
