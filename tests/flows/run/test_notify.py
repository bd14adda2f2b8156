"""Somebody is told how a run ended: once, by the block that one setting names, and never at the
run's expense.
"""

from pathlib import Path

import pytest
from prefect.blocks.core import Block

from flows.run.stage import stage_flow


class Messenger(Block):
    """Writes what it is told into a file."""

    path: str

    def notify(self, body: str, subject: str | None = None) -> None:
        with Path(self.path).open("a") as file:
            file.write(f"{subject} | {body}\n")


@pytest.fixture
def told(recorded, tmp_path, monkeypatch):
    path = tmp_path / "told.txt"
    Messenger(path=str(path)).save("team", overwrite=True)
    monkeypatch.setenv("RDM_NOTIFY", f"{Messenger.get_block_type_slug()}/team")
    return lambda: path.read_text().splitlines() if path.exists() else []


@stage_flow("inner")
def inner(fails):
    if fails:
        raise ValueError("the disk is full\nand more")
    return 1


@stage_flow("outer")
def outer(fails):
    return inner(fails)


def test_a_failed_run_is_told_once_with_its_reason_though_a_stage_inside_it_failed_too(told):
    with pytest.raises(ValueError, match="disk is full"):
        outer(True)
    (line,) = told()
    assert (
        line.startswith("rdm: outer Failed | ")
        and "the disk is full" in line
        and "and more" not in line
    )


def test_success_is_told_only_where_it_is_asked_for(told, monkeypatch):
    outer(False)
    assert told() == []
    monkeypatch.setenv("RDM_NOTIFY_SUCCESS", "1")
    outer(False)
    assert len(told()) == 1 and "outer Completed" in told()[0]


def test_a_messenger_that_is_not_there_does_not_change_how_a_run_ends(recorded, monkeypatch):
    monkeypatch.setenv("RDM_NOTIFY", "slack-webhook/nobody")
    assert outer(False) == 1
    with pytest.raises(ValueError, match="disk is full"):
        outer(True)
