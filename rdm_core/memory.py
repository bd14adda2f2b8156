"""The memory of this machine, and how several threads share a part of it."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Condition

import psutil

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files of Linux with the memory that a container may use, in versions 2 and 1 of cgroups."""


def within_container(host_bytes: int) -> int:
    """`host_bytes`, or the container's limit if that is less."""
    least = host_bytes
    for path in CGROUP_LIMITS:
        if Path(path).is_file():
            limit = Path(path).read_text(encoding="utf-8").strip()
            if limit != "max":  # no limit
                least = min(least, int(limit))
    return least


@cache
def all_memory_bytes() -> int:
    """The memory of this machine, within its container's limit."""
    return within_container(psutil.virtual_memory().total)


class Room:
    """Memory that the threads of a process share.

    A thread that wants more than is left waits; threads are served in the order in which they came.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._taken = 0
        self._queue: deque[object] = deque()
        self._changed = Condition()

    @contextmanager
    def holding(self, wanted_bytes: int) -> Iterator[None]:
        """Hold `wanted_bytes` until the block ends.

        A thread that wants more than the whole room gets it when it is alone. Never hold twice in
        one thread: two threads that do could wait for each other for ever.
        """
        # A ticket is this thread's place in the queue: only the first one may enter.
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
