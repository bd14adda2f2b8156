"""What runs on a borrowed GPU runs here first, in small: a typo must not cost that day."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import on_gpu
from benchmarks.on_gpu import OF_FAMILIES, PARTS, in_a_process, page

REPOSITORY = Path(__file__).resolve().parents[2]
WITHOUT_THE_REST = """
import sys
for name in ("prefect", "pydantic", "pyarrow", "faiss", "autofaiss", "webdataset", "torchmetrics",
             "prdc", "duckdb", "fsspec", "storage"):
    sys.modules[name] = None  # importing it raises ImportError
sys.argv = ["on_gpu", *sys.argv[1:]]
from benchmarks.on_gpu import main
main()
"""


@pytest.fixture(autouse=True)
def as_before():
    """What this process does when it is asked to end is as it was."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_every_part_runs_without_what_a_borrowed_machine_may_lack(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_REST, "--minutes", "0.02", "--out", str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "on_gpu.json").read_text())
    assert list(results["parts"]) == list(PARTS)
    for name in ("unet-400m", "transformer-256", "shapes"):
        for way in ("plain_eager", "loop", "loop_compiled"):
            assert results["parts"][name][f"{way}_images_per_second"] > 0
            assert 0 < results["parts"][name][f"{way}_share_of_peak"] < 1
    assert results["parts"]["table"]["recall"] > 0.99
    assert results["parts"]["embedding"]["images_per_second"] > 0
    assert results["parts"]["demo"]["steps"] == 4
    text = (tmp_path / "on_gpu.html").read_text()
    assert all(f"<h2>{name}</h2>" in text for name in PARTS) and "data:image/png" in text


@pytest.mark.long
def test_every_other_family_runs_without_what_a_borrowed_machine_may_lack(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_REST, "--minutes", "1", "--out", str(tmp_path)]
        + ["--only", *OF_FAMILIES],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "on_gpu.json").read_text())["parts"]
    large = {
        "knn": "knn-256",
        "autoregressive": "rarm-2022",
        "discrete": "knn-discrete-256",
        "references": "reimagen-256",
        "multimodal": "ra-cm3-small-256",
    }
    small = {
        "knn": "knn-shapes",
        "autoregressive": "rarm-shapes",
        "discrete": "knn-discrete-shapes",
        "references": "reimagen-shapes",
        "multimodal": "cm3-shapes",
    }
    for name in OF_FAMILIES:
        assert results[name][f"{large[name]}_loop_images_per_second"] > 0
        assert results[name][f"{small[name]}_steps"] == 4
        assert (tmp_path / results[name][f"{small[name]}_demo_picture"]).exists()


def test_one_part_alone_is_run(tmp_path, monkeypatch):
    monkeypatch.setitem(PARTS, "table", (lambda share: share.tell({"rows": 5}), 0.5))
    monkeypatch.setattr(sys, "argv", ["on_gpu", "--only", "table", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        on_gpu.main()
    assert ended.value.code == 0
    assert json.loads((tmp_path / "on_gpu.json").read_text())["parts"]["table"]["rows"] == 5


def refuses(tell):
    tell({"measured": 1})
    raise ValueError("no such kernel")


def dies(tell):
    tell({"measured": 1})
    os._exit(3)


def waits(tell):
    tell({"measured": 1})
    time.sleep(60)


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (refuses, "ValueError: no such kernel"),
        (dies, "its process ended with 3"),
        (waits, "it did not end within 1 s"),
    ],
)
def test_a_part_that_fails_keeps_what_it_measured_and_says_why(part, why, monkeypatch):
    monkeypatch.setattr(on_gpu, "LATE_SECONDS", 0.5)
    figures = in_a_process(part, 0.5)
    assert figures["failed"] == why and figures["measured"] == 1
    assert figures["seconds"] < 30


def alive(process):
    """Whether there is such a process; one that nobody has waited for yet is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(process, seconds=10):
    """Whether it is gone after so many seconds at most."""
    until = time.monotonic() + seconds
    while alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(process)


def starts_another(tell):
    tell({"other": subprocess.Popen(["sleep", "60"]).pid})
    time.sleep(60)


def test_a_late_part_is_killed_with_every_process_that_it_started(monkeypatch):
    monkeypatch.setattr(on_gpu, "LATE_SECONDS", 1.0)
    figures = in_a_process(starts_another, 1.0)
    assert "did not end" in figures["failed"] and gone(figures["other"])


ENDED_MEANWHILE = """
import signal, subprocess, sys, time
from benchmarks import on_gpu

def part(tell):
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    time.sleep(60)

signal.signal(signal.SIGTERM, on_gpu.ended)
on_gpu.in_a_process(part, 60.0)
"""


def test_a_part_is_killed_with_every_process_that_it_started_when_all_is_ended():
    whole = subprocess.Popen(
        [sys.executable, "-c", ENDED_MEANWHILE], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    other = int(whole.stdout.readline())
    assert alive(other)
    whole.terminate()
    assert whole.wait(30) == 128 + 15
    assert gone(other)


def test_where_nobody_can_say_what_device_there_is_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "machine", refuses)
    monkeypatch.setitem(PARTS, "table", (lambda share: share.tell({"rows": 5}), 0.5))
    monkeypatch.setattr(sys, "argv", ["on_gpu", "--only", "table", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="failed: machine"):
        on_gpu.main()
    results = json.loads((tmp_path / "on_gpu.json").read_text())
    assert results["parts"] == {} and results["machine"]["failed"].endswith("no such kernel")


def test_a_failed_part_takes_no_other_with_it_and_is_told_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setitem(PARTS, "table", (lambda share: refuses(share.tell), 0.5))
    monkeypatch.setitem(PARTS, "sampling", (lambda share: share.tell({"steps": 7}), 0.5))
    results = on_gpu.measure(["table", "sampling"], 1.0, tmp_path)
    assert "failed" in results["parts"]["table"] and results["parts"]["sampling"]["steps"] == 7
    assert "no such kernel" in page(results, tmp_path)
