"""A process that has imported every flow and forks a child for each attempt of the crash test.

A child has run nothing before, as a fresh `rdm` has, but need not import for ten seconds.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crash_stages import FLOWS, NETWORK, PARAMETERS

PR_SET_PDEATHSIG = 1
"""Linux: a child that dies with its parent, so that an interrupted harness leaves nothing at
work.
"""
MARK = "RDM_CRASH_ATTEMPT"
"""Environment variable by which the children of an attempt are known."""


class CrashTestFailed(Exception):
    """A killed run did not end as the unbroken one did; the message says where it lies."""


def nursery() -> None:
    """Fork a child for each order on standard input, {"stage", "root", "log", "mark"}, or reap one,
    {"reap"}.

    The first order is {"warm up"}.
    """
    flows = {stage: _flow(stage) for stage in FLOWS}
    for line in sys.stdin:
        order = json.loads(line)
        if "warm up" in order:
            _import_what_is_imported_late()
            _answer(0)
            continue
        if "reap" in order:
            _answer(os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            _be_a_child(flows[order["stage"]], order)
        _answer(pid)


def _answer(value: int) -> None:
    print(json.dumps(value), flush=True)


def _import_what_is_imported_late() -> None:
    """What a stage imports when it uses it, so that no child does."""
    for name in ("autofaiss", "open_clip", "diffusers.models.autoencoders.autoencoder_kl"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import diffusers

    assert diffusers.PixArtTransformer2DModel and diffusers.UNet2DConditionModel


def _flow(stage: str) -> Callable[[Path], Any]:
    """Takes a root and runs the stage there."""
    module, flow, config = FLOWS[stage]
    flows = importlib.import_module(module)
    run = getattr(flows, flow)
    if stage == "import":  # its parameters are a class a source; this gives the right one
        configs: Any = importlib.import_module("flows.config.images")
    else:
        configs = flows
    parameters = PARAMETERS[stage]
    if stage == "demo":
        _make_the_demo_smaller(importlib.import_module(module))

    def act(root: Path) -> None:
        given = getattr(configs, config)(root=root, **parameters)
        if stage == "index":
            from storage.artifact import open_artifact

            run(given, open_artifact(root, "embeddings", given.name))
        else:
            run(given)

    return act


def _make_the_demo_smaller(demo: Any) -> None:
    """A smaller network, fewer sampler steps and several checkpoints; every stage is still
    there.
    """
    requests, evaluation = demo.requests, demo.evaluation_of
    demo.requests = lambda config: [
        request.model_copy(update={"draw": request.draw | {"steps": 3}})
        for request in requests(config)
    ]
    demo.evaluation_of = lambda config: evaluation(config).model_copy(
        update={"seeds": 1, "draw": {"steps": 2}, "quality_images": 16}
    )
    demo.PRESETS["shapes"]["model"]["denoiser"] |= NETWORK
    demo.PRESETS["shapes"]["reporting"]["checkpoint_steps"] = 3


def _be_a_child(act: Callable[[Path], Any], order: dict[str, str]) -> None:
    """Run the stage and never return."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ[MARK] = order["mark"]
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(source, target)
        act(Path(order["root"]))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Attempt:
    """A forked child at work."""

    def __init__(self, pid: int, mark: str, log: Path, reap: Callable[[], int]) -> None:
        self.pid, self.mark, self.log, self._reap = pid, mark, log, reap
        # readable once it has ended; it is a zombie until it is reaped
        self._descriptor = os.pidfd_open(pid)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, but not longer."""
        watch = select.poll()
        watch.register(self._descriptor, select.POLLIN)
        return bool(watch.poll(max(0.0, seconds) * 1000))

    def kill(self) -> None:
        """SIGKILL to its whole group, and wait until it is gone."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # killed before it led a group
            os.kill(self.pid, signal.SIGKILL)
        self.ends_within(60)

    def code(self) -> int:
        """The exit code, of a child that has ended; negative: the signal."""
        os.close(self._descriptor)
        return self._reap()

    def tail(self) -> str:
        """The last lines of what it said."""
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            if self.log.exists()
            else ""
        )


class Nursery:
    """Starts attempts; used by several threads."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).resolve())]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self._lock = threading.Lock()

    def start(self, stage: str, root: Path, log: Path) -> Attempt:
        """Fork a child that runs the stage."""
        mark = f"{os.getpid()}-{log.stem}"  # two crash tests on one machine know their own
        pid = self._ask({"stage": stage, "root": str(root), "log": str(log), "mark": mark})
        return Attempt(pid, mark, log, lambda: self._ask({"reap": pid}))

    def get_ready(self) -> None:
        """Import everything."""
        self._ask({"warm up": True})

    def close(self) -> None:
        """No more attempts."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise CrashTestFailed("the process that forks the attempts has ended")
        return json.loads(answer)


def marked(mark: str) -> list[int]:
    """Living processes that an attempt started: its forked child has the nursery's environment,
    theirs has the mark.
    """
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def environment() -> dict[str, str]:
    """Of the nursery: no server, one thread, no GPU, so that every sum is taken in the same
    order.
    """
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return one | {"PREFECT_API_URL": "", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}


if __name__ == "__main__":
    nursery()
    os._exit(0)  # to take a million imported objects apart takes seconds
