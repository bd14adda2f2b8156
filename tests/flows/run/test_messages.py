"""What an operator reads of a failed run: the cause first, once, and no traceback where the error
says enough.
"""

import logging

import pytest

from flows.model.launch import TrainingFailed
from flows.run.messages import LOGGERS, OneCause, tell_causes_once
from flows.run.stage import stage_flow, stage_task
from storage.errors import StorageError


class Heard(logging.Handler):
    """Keeps what it is given, as it would be printed."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append((record.levelname, self.format(record)))


@pytest.fixture
def heard(recorded, monkeypatch):
    handler = Heard()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logging.INFO)
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    yield handler.lines


@stage_task(name="breaks")
def breaks(error):
    raise error


@stage_flow("inside")
def inside(error):
    breaks(error)


@stage_flow("around")
def around(error):
    inside(error)


def test_an_error_of_ours_is_told_once_without_a_traceback_through_a_task_and_two_flows(heard):
    with pytest.raises(StorageError):
        around(StorageError("shards/a", "it is broken", "Mend it."))
    told = [line for _, line in heard if "it is broken" in line]
    assert told == ["shards/a: it is broken. Mend it."]
    assert not any("Traceback" in line for _, line in heard)


def test_another_error_is_told_with_its_cause_first_and_one_traceback(heard):
    with pytest.raises(ZeroDivisionError):
        around(ZeroDivisionError("nothing to divide by"))
    told = [line for _, line in heard if "Traceback" in line]
    assert len(told) == 1
    assert told[0].startswith("ZeroDivisionError: nothing to divide by\n")


def test_two_errors_are_both_told(heard):
    for what in ("first", "second"):
        with pytest.raises(StorageError):
            inside(StorageError("a", what, "Mend it."))
    assert [line for _, line in heard if line.startswith("a: ")] == [
        "a: first. Mend it.",
        "a: second. Mend it.",
    ]


def test_hooks_have_no_lines_and_a_signal_is_no_crash(heard):
    around_hooks = logging.getLogger("prefect.flow_runs")
    around_hooks.info("Running hook %r in response to entering state %r", "tell", "Failed")
    around_hooks.info("Hook %r finished running successfully", "tell")
    around_hooks.info("Running hook %r in response to entering state %r", "theirs", "Failed")
    around_hooks.error("Crash detected! Execution was aborted by a termination signal.")
    around_hooks.error(
        "Finished in state Crashed('Execution was aborted by a termination signal.')"
    )
    assert heard == [
        ("INFO", "Running hook 'theirs' in response to entering state 'Failed'"),
        ("INFO", "Asked to end by a signal; what is done is kept."),
    ]


def test_the_filter_is_put_on_a_logger_once():
    tell_causes_once()
    tell_causes_once()
    for name in LOGGERS:
        assert (
            sum(isinstance(present, OneCause) for present in logging.getLogger(name).filters) == 1
        )


def test_a_failed_training_names_its_cause_in_the_first_line(heard):
    with pytest.raises(TrainingFailed):
        inside(
            TrainingFailed(
                "runs/a: training failed: RuntimeError: out of luck. Change it. "
                "Its last lines:\nTraceback ..."
            )
        )
    assert any(
        line.startswith("runs/a: training failed: RuntimeError: out of luck.") for _, line in heard
    )
