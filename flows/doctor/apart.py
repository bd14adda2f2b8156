"""Checks in a process of their own: what imports torch or Prefect may hang or die of a broken
library, and ends with everything that it has said so far.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict

from flows.doctor.findings import Finding, Findings, Machine
from flows.run.environment import for_child

LEASH = ("-m", "flows.run.leash")
"""Ends the process when this one is gone."""


def found_apart(
    module: str,
    machine: Machine,
    silent: Finding,
    broken: Finding,
    settings: Sequence[tuple[str, str]] = (),
) -> Findings:
    """What `python -m module` says by `say_all`, and `silent` or `broken` where it did not come to
    its end.

    `settings` are added to its environment. `broken` gets the signal or the last words.
    """
    read, write = os.pipe()
    try:
        child = subprocess.Popen(
            [sys.executable, *LEASH, module],
            stdin=read,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=for_child() | dict(settings),
        )
        os.close(read)
        ended = True
        try:
            said, complaints = child.communicate(timeout=machine.seconds_left)
        except subprocess.TimeoutExpired:
            ended = False
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            said, complaints = child.communicate()
    finally:
        os.close(write)
    yield from _read(said)
    if not ended:
        yield silent
    elif child.returncode != 0:
        why = f"{broken.found}: {_last_words(child.returncode, complaints)}"
        yield Finding(broken.mark, broken.topic, why, broken.cure)


def say_all(look: Callable[[], Iterable[Finding]]) -> None:
    """In the process apart: write each finding for `found_apart` as soon as there is one."""
    # What libraries print to standard output goes to standard error instead.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as told:
        os.dup2(2, 1)
        for finding in look():
            print(json.dumps(asdict(finding)), file=told, flush=True)


def _read(said: bytes) -> Findings:
    for line in said.decode("utf-8", "replace").splitlines():
        with suppress(ValueError, TypeError):  # the one it was killed at
            yield Finding(**json.loads(line))


def _last_words(code: int, complaints: bytes) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    lines = complaints.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"
