"""`accelerate launch` as a child process group that cannot outlive us, its metrics shown while it runs."""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

from flows.progress import bar

_LIVE: set[subprocess.Popen] = set()
LAST_LINES = 20
SECONDS_TO_STOP = 10


class TrainingFailed(RuntimeError):
    """The worker ended with an error; the message holds its last lines."""


def launch_training(run: Path, steps: int, processes: int, threads: int | None, device: str) -> None:
    """Run `flows.train_worker` on a run directory until it ends.

    The group is stopped when this process is interrupted; the worker watches its standard input and ends when we die.
    Raises TrainingFailed with the worker's last lines.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--num_processes", str(processes)]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    threads = threads or max(1, len(os.sched_getaffinity(0)) // processes)
    command += ["--num_cpu_threads_per_process", str(threads)]
    command += ["--cpu"] if device == "cpu" else []
    command += ["--multi_gpu"] if device == "auto" and processes > 1 and _cuda_devices() > 1 else []
    command += ["-m", "flows.train_worker", str(run)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment, start_new_session=True,
    ) as child:  # fmt: skip
        _LIVE.add(child)
        try:
            last = _follow(child, steps)
        except BaseException:
            _stop(child)
            raise
        finally:
            _LIVE.discard(child)
    if child.returncode:
        killed = child.returncode < 0 or any("died with <Signals" in line for line in last)
        cure = "Run the same command again: it resumes from the last checkpoint." if killed else "Change what they name."
        raise TrainingFailed(
            f"{run}: training ended with exit code {child.returncode}. {cure} Its last lines:\n" + "\n".join(last)
        )


def stop_all() -> None:
    """End every training this process has started, in whichever thread: what an interrupt does to one, it does to all."""
    for child in list(_LIVE):
        _stop(child)


def _follow(child: subprocess.Popen, steps: int) -> deque[str]:
    last: deque[str] = deque(maxlen=LAST_LINES)
    assert child.stdout is not None, "opened as a pipe above"
    with bar(steps, "train", "step") as shown:
        for line in child.stdout:
            record = _metrics(line)
            if record is None:
                last.append(line.rstrip())
                continue
            shown.set_postfix_str(f"loss {record['loss']:.4f}, {record['images_per_second']:.0f} images/s", refresh=False)
            shown.update(record["step"] - shown.n)
    child.wait()
    return last


def _metrics(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "step" in record else None


def _stop(child: subprocess.Popen) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
            child.wait(SECONDS_TO_STOP)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()
