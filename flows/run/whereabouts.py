"""Where a process is, in one string that another process can check: what a run's
`infrastructure_pid` says.

    HOST/MACHINE/BOOT/NAMESPACE:PROCESS.BEGAN:WORKER.BEGAN

A process id alone is used again after a restart; a host's name may be shared, and each container
has a process 7. So its whereabouts hold the machine, its boot, the namespace of process ids, and
with each id the tick at which that process began.
"""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process of one boot of one machine, and nobody who gets its number later."""

    process_id: int
    began: str
    """Ticks since the boot."""

    @property
    def lives(self) -> bool:
        """Whether it still works: a zombie does not."""
        return began_at(self.process_id) == self.began

    def __str__(self) -> str:
        return f"{self.process_id}.{self.began}"


@dataclass(frozen=True)
class Whereabouts:
    """A run's process, and the worker that started it."""

    where: str
    process: Process
    worker: Process

    def __str__(self) -> str:
        return f"{self.where}:{self.process}:{self.worker}"

    @property
    def here(self) -> bool:
        """Whether its process ids are ours to look up: this boot of this machine, this
        namespace.
        """
        return self.where == this_system()

    @property
    def before_restart(self) -> bool:
        """Whether it is on this machine, which was restarted since: then nothing of it lives."""
        there, ours = self.where.split("/"), this_system().split("/")
        return len(there) == len(ours) and there[:2] == ours[:2] and there[2] != ours[2]

    @property
    def is_mine(self) -> bool:
        """Whether this process is its worker."""
        return self.here and self.worker == process_of(os.getpid())


def whereabouts_of(process_id: int) -> Whereabouts:
    """Of a process that this one has started."""
    worker = process_of(os.getpid())
    return Whereabouts(this_system(), process_of(process_id), worker)


def read_whereabouts(text: str | None) -> Whereabouts | None:
    """Read what `str(whereabouts)` wrote; None for what another kind of worker wrote."""
    try:
        where, process, worker = (text or "").rsplit(":", 2)
        return Whereabouts(where, _read_process(process), _read_process(worker))
    except ValueError:
        return None


def process_of(process_id: int) -> Process:
    """A process of this machine; one that is gone already never lives."""
    return Process(process_id, began_at(process_id) or "gone")


def began_at(process_id: int) -> str | None:
    """Ticks from the boot to the start of a living process; None when it is gone or a zombie.
    proc(5): stat.
    """
    try:
        text = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # its name, in brackets, may hold anything
    return None if fields[0] in ("Z", "X") else fields[19]


@cache
def this_system() -> str:
    """HOST/MACHINE/BOOT/NAMESPACE of this process."""
    machine = _first_line(Path("/etc/machine-id"))
    boot = _first_line(Path("/proc/sys/kernel/random/boot_id"))
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    return f"{socket.gethostname()}/{machine[:8]}/{boot[:8]}/{namespace}"


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return "-"


def _read_process(text: str) -> Process:
    process_id, _, began = text.partition(".")
    return Process(int(process_id), began)
