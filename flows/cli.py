"""`rdm`: one subcommand a flow (flows.commands). A flow is imported only when it runs, so
`rdm --help` answers at once.

Exit codes: 0 done, 1 the data or a run refused, 2 the command line was wrong.
"""

import _thread
import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flows.commands.parser import parser
from flows.config.arguments import UsageError
from flows.run.environment import in_utf8_mode, prepare
from flows.run.terminal import FailingAnswer, as_json, escape_what_cannot_be_shown, tell

INTERRUPTED = 130
SECONDS_TO_GO = 25
"""More than a training needs to save its state; what is published is whole at any moment."""
SECONDS_UNTIL_AGAIN = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one command, print its result; errors are one message on standard error."""
    if arguments is None:  # from a terminal
        in_utf8_mode()
        atexit.register(_leave_at_once)
    escape_what_cannot_be_shown()
    options = parser().parse_args(arguments)
    options.as_found = dict(os.environ)  # what a doctor looks at, before some of it is mended
    prepare(options.root)
    with suppress(ValueError):  # called in a thread: the program it belongs to hears its signals
        for polite in (signal.SIGTERM, signal.SIGINT):
            signal.signal(polite, interrupt)
    try:
        text, value = options.command(options)
        return _answered(as_json(value) if options.json else text)
    except FailingAnswer as told:
        _answered(as_json(told.value) if options.json else told.text)
        return 1
    except KeyboardInterrupt:
        _complain("rdm: interrupted; the same command continues where it stopped")
        return INTERRUPTED
    except Exception as error:  # told in one message if it is one of ours, in full if it is not
        return _exit_code(error)


def _answered(text: str) -> int:
    """Print what came out. That it cannot be written is a failure on a full disk, and none for
    `| head`, which has seen enough.
    """
    try:
        tell(text)
    except OSError as error:
        # the interpreter would complain once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            _complain(
                f"rdm: the answer cannot be written: {error.strerror or error}. "
                "What was asked for is done."
            )
            return 1
    return 0


def _complain(text: str) -> None:
    """One message on standard error, if it can be written."""
    with suppress(OSError):
        tell(text, sys.stderr)


def interrupt(*_: Any) -> None:
    """End what runs, trainings included; at the latest after SECONDS_TO_GO, as Prefect may wait for
    a server that is gone.
    """
    at_the_latest = threading.Timer(SECONDS_TO_GO, os._exit, [INTERRUPTED])
    at_the_latest.daemon = True
    at_the_latest.start()
    sys.unraisablehook = interrupt_again
    raise KeyboardInterrupt


def interrupt_again(lost: Any) -> None:
    """Interrupt once more, a moment later, where Python has dropped an interrupt: it does so in
    callbacks of its own, of which imports have many.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        again = threading.Timer(SECONDS_UNTIL_AGAIN, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def _leave_at_once() -> None:
    """Leave imported objects as they are: to take a million of them apart takes a second. DuckDB's
    are taken apart, as it complains of any that is left.
    """
    if "duckdb" not in sys.modules:
        gc.freeze()


def _exit_code(error: Exception) -> int:
    """Say what went wrong in one message, and return the command's exit code. Raises an error that
    is none of ours, whose traceback is needed.
    """
    if isinstance(error, UsageError):
        _complain(f"rdm: {error}")
        return 2
    from flows.run.deployments import DeploymentFailed
    from flows.run.messages import is_ours
    from flows.run.server import ServerFailed, lost

    if is_ours(error) or isinstance(error, OSError | DeploymentFailed | ServerFailed):
        _complain(f"rdm: {error}")
        return 1
    if away := lost(error):
        _complain(f"rdm: {away}")
        return 1
    raise error


if __name__ == "__main__":
    sys.exit(main())
