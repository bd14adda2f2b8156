"""Signals that ask a process to end, heard when what it does can be kept."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

POLITE = (signal.SIGTERM, signal.SIGINT)
"""Those that ask; the others cannot be put off."""


@contextmanager
def heard_later() -> Iterator[Callable[[], bool]]:
    """Note the first signal that asks to end, and give it again when the block ends; yields whether
    one was noted.

    A second one does at once what it did before the block. In another thread than the main one,
    which no signal reaches, nothing is noted.
    """
    noted: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def as_before() -> None:
        while before:
            signal.signal(*before.popitem())

    def note(number: int, _: Any) -> None:
        as_before()
        noted.append(number)

    try:
        for sign in POLITE:
            handler = signal.getsignal(sign)
            # None is a handler that is not Python's, and cannot be put back.
            if handler not in (None, signal.SIG_IGN):
                signal.signal(sign, note)
                before[sign] = handler
    except ValueError:  # in a thread
        before.clear()
    try:
        yield lambda: bool(noted)
    finally:
        as_before()
        if noted:
            signal.raise_signal(noted[0])
