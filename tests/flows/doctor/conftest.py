"""A machine to look at, whose environment a test chooses."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.doctor.findings import Machine

SECONDS = 30.0


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Machine]:
    """machine(HOME="/x") is one with these variables and no others; options begin with a small
    letter.
    """

    def made(root=None, offline=False, seconds=SECONDS, **environment):
        return Machine(environment, root or tmp_path / "data", time.monotonic() + seconds, offline)

    return made


@pytest.fixture
def told() -> Callable[..., list[tuple[str, str]]]:
    """told(findings) -> the mark and the whole text of each."""
    return lambda findings: [(one.mark, f"{one.found} | {one.cure}") for one in findings]
