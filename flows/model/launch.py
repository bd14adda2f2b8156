"""A training as a child process group that cannot outlive us; its lines and metrics are passed on
while it runs.

Several processes are started by `accelerate launch`. A single one is started as it is, and may be
started early: it imports what it needs while we check whether it may begin, and waits for the
directory of its run.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from flows.config.train import TrainRDM
from flows.run.environment import for_child
from flows.run.messages import TrainingFailed
from flows.run.progress import bar, detail
from storage.atomic import write_json

_LIVE: set[subprocess.Popen] = set()
_READY: dict[int, subprocess.Popen] = {}
"""Number of threads -> a process that waits for the directory of its run."""
LAST_LINES = 20
SECONDS_BETWEEN_LINES = 30.0
"""Of a training's progress, in the run's log."""
_ERROR = re.compile(
    r"(?:\[rank\d+\]: ?)?"
    r"(?P<cause>(?:\w+\.)+[A-Z]\w*: .*|[A-Z]\w*(?:Error|Exception|Interrupt)\b.*)"
)
"""The last line of a traceback."""
_KILLED = re.compile(r"Signal \d+ \(SIG\w+\) received by PID")
"""How torchrun says that one of several processes was killed."""
_LAUNCHER = ("CalledProcessError", "ChildFailedError")
"""Errors that only say that a process ended with an error."""
SECONDS_TO_STOP = 15
"""What a group has to save its state before it is killed; a Prefect worker allows 30."""
GROUP_OF_OURS = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
"""Variables of a group that we were started in, which is none of the training's."""
Watch = Callable[[dict[str, Any]], None]
"""Takes every record of metrics as it comes."""


def launch_training(
    run: Path, config: TrainRDM, watch: Watch = lambda record: None, tight: bool = False
) -> None:
    """Run `flows.model.train_worker` on a run directory until it ends; where memory is tight, in
    less of it and more slowly.

    The whole group is stopped when this process is interrupted, cancelled or past
    `config.timeout_seconds`; one process on one machine saves its state before it goes. It ends
    when we die, whatever we die of (flows.run.leash). Raises TrainingFailed with the worker's last
    lines.
    """
    if not is_single(config):
        write_json(run / "accelerate.json", accelerate_config(config))
    with started(run, config, tight) as child:
        _LIVE.add(child)
        late = threading.Event()

        def end() -> None:
            late.set()
            stop_group(child)

        # A timer of its own: a training that hangs prints no line that a deadline could be checked
        # at.
        watchdog = threading.Timer(config.timeout_seconds or threading.TIMEOUT_MAX, end)
        watchdog.daemon = True
        watchdog.start()
        try:
            last = _follow(child, config.training.steps, watch)
        except BaseException:
            stop_group(child)
            raise
        finally:
            watchdog.cancel()
            _LIVE.discard(child)
    if late.is_set():
        cure = (
            "Run the same command again: it resumes from the last checkpoint. "
            "Or raise timeout_seconds."
        )
        late_by = f"runs/{run.parent.name}: training did not end within {config.timeout_seconds} s."
        raise TrainingFailed(f"{late_by} {cure}", resumable=False)
    if child.returncode:
        raise _failure(run, child.returncode, last)


def get_ready(config: TrainRDM) -> None:
    """Start the process of a training that is about to be launched: its imports take seconds, and
    go on beside ours. Nothing where several processes will train.
    """
    if is_single(config):
        _READY[threads_of(config)] = _popen(single_command(), config, tight=False)


def started(run: Path, config: TrainRDM, tight: bool) -> subprocess.Popen:
    """The process, or group of them, that trains the run: one that is ready, or a new one."""
    if not is_single(config):
        return _popen(launch_command(run, config), config, tight)
    child = _READY.pop(threads_of(config), None)
    # A ready one was started before it was known that memory is tight, or has ended meanwhile.
    if child is not None and (tight or child.poll() is not None):
        child.kill()
        child.wait()
        child = None
    child = child or _popen(single_command(), config, tight)
    assert child.stdin is not None, "opened as a pipe below"
    with suppress(BrokenPipeError):  # it has ended already; its exit code and last lines say why
        os.write(child.stdin.fileno(), os.fsencode(run) + b"\n")
    return child


def _popen(command: list[str], config: TrainRDM, tight: bool) -> subprocess.Popen:
    # The user's own Accelerate settings are none of the training's, nor is a group that we were
    # started in.
    environment = for_child() | {"PYTHONIOENCODING": "utf-8:backslashreplace"}  # as it is read
    for name in list(environment):
        if name.startswith("ACCELERATE_") or name in GROUP_OF_OURS:
            del environment[name]
    if is_single(config):
        environment["OMP_NUM_THREADS"] = str(threads_of(config))
    if tight:  # what is freed goes back to the system at once, for a third more time
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="backslashreplace", env=environment, start_new_session=True,
    )  # fmt: skip


def is_single(config: TrainRDM) -> bool:
    """Whether one process of this machine trains alone."""
    return config.processes * config.machines == 1


def threads_of(config: TrainRDM) -> int:
    """How many threads each process of this machine computes with."""
    return config.threads or max(1, len(os.sched_getaffinity(0)) // config.processes)


def single_command() -> list[str]:
    """One process, which is told of its run on standard input and ends when that closes."""
    return [sys.executable, "-m", "flows.run.leash", "flows.model.train_worker"]


def launch_command(run: Path, config: TrainRDM, rank: int = 0) -> list[str]:
    """The command of one machine of a run of several processes; `rank` 0 is this one. Nothing of
    the user's own Accelerate settings enters.
    """
    total = config.processes * config.machines
    # The leash ends the group when this process does; on another machine there is nobody to watch.
    leash = ["flows.run.leash"] if rank == 0 else []
    command = [
        sys.executable,
        "-m",
        *leash,
        "accelerate.commands.launch",
        "--config_file",
        str(run / "accelerate.json"),
    ]
    command += [
        "--num_machines",
        str(config.machines),
        "--num_processes",
        str(total),
        "--machine_rank",
        str(rank),
    ]
    # precision is the training loop's own
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    # torchrun underneath; on CPUs it talks over gloo
    command += ["--multi_gpu", "--main_process_port", str(config.main_process_port)]
    command += ["--main_process_ip", config.main_process_ip]
    return [
        *command,
        "--num_cpu_threads_per_process",
        str(threads_of(config)),
        "-m",
        "flows.model.train_worker",
        str(run),
    ]


def accelerate_config(config: TrainRDM) -> dict[str, Any]:
    """A whole Accelerate config file for several processes, so that the user's default one is not
    read.
    """
    total = config.processes * config.machines
    kind = {"distributed_type": "MULTI_GPU", "num_processes": total}
    return kind | {
        "compute_environment": "LOCAL_MACHINE",
        "mixed_precision": "no",
        "use_cpu": False,
        "debug": False,
    }


def on_gpu(config: TrainRDM) -> bool:
    """Whether the processes of this machine find a GPU each and may use it."""
    import torch

    return config.device == "auto" and torch.cuda.device_count() >= config.processes


def stop_all() -> None:
    """End every training this process has started, in whichever thread: what an interrupt does to
    one, it does to all.
    """
    for child in list(_LIVE):
        stop_group(child)


def stop_group(child: subprocess.Popen) -> None:
    """Ask the whole group to end, wait until the last of it has saved and gone, and kill what is
    left.
    """
    for sign, seconds in ((signal.SIGTERM, SECONDS_TO_STOP), (signal.SIGKILL, SECONDS_TO_STOP)):
        # The group and not the child: the launcher may be gone while its workers still save.
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            child.poll()  # else the child stays a zombie of the group
            if not members(child.pid):
                return
            time.sleep(0.1)


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    living = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                living.append(process.pid)
        except ProcessLookupError:  # it ended while we looked
            continue
    return living


def _failure(run: Path, code: int, last: deque[str]) -> TrainingFailed:
    # -N is Python's code for a process ended by signal N, and 128 + N a shell's.
    killed = code < 0 or code > 128 or _KILLED.search("\n".join(last)) is not None
    if killed:
        cause = f"it was ended from outside (exit code {code})"
        cure = "Run the same command again: it resumes from the last checkpoint."
    else:
        cause = _cause(last) or f"exit code {code}"
        cure = "Change what it names."
    text = f"runs/{run.parent.name}: training failed: {cause}. {cure} Its last lines:\n"
    return TrainingFailed(text + "\n".join(last), resumable=killed)


def _cause(last: Iterable[str]) -> str | None:
    """The last error that a line of output names, without those of the launcher around it."""
    cause = None
    for line in last:
        match = _ERROR.match(line)
        if match and not any(launcher in match["cause"] for launcher in _LAUNCHER):
            cause = match["cause"]
    return cause


def _follow(child: subprocess.Popen, steps: int, watch: Watch) -> deque[str]:
    last: deque[str] = deque(maxlen=LAST_LINES)
    told_at = time.monotonic()
    assert child.stdout is not None, "opened as a pipe above"
    with bar(steps, "train", "step") as shown:
        for line in child.stdout:
            record = _metrics(line)
            if record is None:  # what a library prints, or the last words of an error
                detail(line.rstrip())
                last.append(line.rstrip())
                continue
            shown.set_postfix_str(
                f"loss {record['loss']:.4f}, {record['images_per_second']:.0f} images/s",
                refresh=False,
            )
            shown.update(record["step"] - shown.n)
            watch(record)
            if time.monotonic() - told_at >= SECONDS_BETWEEN_LINES or record["step"] >= steps:
                told_at = time.monotonic()
                detail(_progress(record, steps))
    child.wait()
    return last


def _progress(record: Mapping[str, Any], steps: int) -> str:
    """One line for a person: where it is, how well, how fast."""
    share = f"step {record['step']:,} of {steps:,} ({100 * record['step'] / steps:.0f} %)"
    return f"{share}: loss {record['loss']:.4f}, {record['images_per_second']:.1f} images a second"


def _metrics(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and "step" in record else None
