"""Run a module as `python -m` would, in a process group that ends at once when whoever started it
is gone.
"""

import os
import queue
import runpy
import signal
import subprocess
import sys
import threading

_lines: queue.Queue[bytes] = queue.Queue()
"""What was said on standard input."""


def end_with_parent() -> None:
    """Kill this process's group when the one that started it is gone: its end of our standard input
    closes.
    """

    def watch() -> None:
        said = b""
        # the bare descriptor: a buffered reader's lock would outlive the interpreter
        while byte := os.read(0, 1):
            said += byte
            if byte == b"\n":
                _lines.put(said[:-1])
                said = b""
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def line_from_parent() -> str:
    """The next line that whoever started this process writes to it; waits for one."""
    return os.fsdecode(_lines.get())


if __name__ == "__main__":
    from flows.run import leash  # the module that others import, and not this one called __main__

    leash.end_with_parent()
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except subprocess.CalledProcessError as error:
        # what went wrong stands above; where it was started from does not help
        sys.exit(error.returncode if error.returncode > 0 else 128 - error.returncode)
