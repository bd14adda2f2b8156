"""The memory of this machine, and how several threads share it."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Condition

import psutil

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much a container may use, in its two versions."""


def within_container(host_bytes: int) -> int:
    """So many bytes of the host, or the container's limit if that is less."""
    limits = [
        path.read_text(encoding="utf-8").strip()
        for path in map(Path, CGROUP_LIMITS)
        if path.is_file()
    ]
    return min([host_bytes, *(int(limit) for limit in limits if limit != "max")])


@cache
def all_memory_bytes() -> int:
    """What this machine has, within its container's limit."""
    return within_container(psutil.virtual_memory().total)


class Room:
    """Memory that the threads of a process share: who asks for more than is left waits, first
    come, first served.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._taken = 0
        self._queue: deque[object] = deque()
        self._changed = Condition()

    @contextmanager
    def holding(self, wanted_bytes: int) -> Iterator[None]:
        """Hold so much until the block ends; more than there is in all is had by whoever is alone.

        Never ask inside such a block: two threads that do would wait for each other.
        """
        share, ticket = min(wanted_bytes, self.total_bytes), object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._queue[0] is ticket and self._taken + share <= self.total_bytes
                )
                self._taken += share
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= share
                self._changed.notify_all()
