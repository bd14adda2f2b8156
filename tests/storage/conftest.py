"""Fixtures of the storage tests."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug, and each fsync costs 10 ms. That they are called is tested in
    test_atomic.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
