"""What an operator reads of a run that failed: its cause, first and once.

Prefect logs the same exception at the task, at each flow around it and at the engine, a traceback
each time, and a pair of lines for every hook. A filter on its loggers leaves one: the cause in the
first line; the traceback below it only where the error is none of ours, as ours say where, what and
the cure.
"""

import logging
import re

from rdm_core.errors import CoreError
from storage.errors import StorageError
from storage.text import printable

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
_TOLD = "_rdm_told"
"""Marks an exception whose cause is in the log."""
_HOOK = re.compile(r"(Running hook|Hook) 'tell'")
_ENDED = re.compile(r"Finished in state (?P<name>Failed|Crashed)\(")
_AGAIN = ("Engine execution exited with unexpected exception", "Execution of flow run")
_SIGNAL = "Execution was aborted by a termination signal"


class TrainingFailed(RuntimeError):
    """The worker ended with an error; the message holds its last lines."""

    def __init__(self, message: str, resumable: bool = False) -> None:
        super().__init__(message)
        self.resumable = resumable
        """Whether it was ended from outside, so that the same command goes on from its last
        checkpoint.
        """

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.resumable)


def is_ours(error: BaseException) -> bool:
    """Whether an error already says where, what and the cure."""
    return isinstance(error, StorageError | CoreError | TrainingFailed)


class OneCause(logging.Filter):
    """Lets the first telling of each exception through, with its cause first; drops what repeats
    it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; it may be made shorter."""
        message = record.getMessage()
        if _HOOK.match(message):
            return False
        if _SIGNAL in message:  # a cancellation, or a worker that stops, is no crash
            _say(record, "Asked to end by a signal; what is done is kept.")
            record.levelno, record.levelname = logging.INFO, "INFO"
            return not _ENDED.match(message)
        ended = _ENDED.match(message)
        if ended:  # the cause stands above, and in the state
            _say(record, f"Finished in state {ended['name']}")
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if message.startswith(_AGAIN) or getattr(error, _TOLD, False):
            return False
        setattr(error, _TOLD, True)
        if is_ours(error):
            _say(record, str(error))
            record.exc_info, record.exc_text = None, None
        else:
            _say(record, f"{type(error).__name__}: {error}")
        return True


def tell_causes_once() -> None:
    """Put the filter on Prefect's loggers of runs, once a process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, OneCause) for present in logger.filters):
            logger.addFilter(OneCause())


def _say(record: logging.LogRecord, message: str) -> None:
    record.msg, record.args = printable(message), ()
