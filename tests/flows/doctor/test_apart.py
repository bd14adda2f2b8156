"""What a check in a process of its own says, whatever becomes of the process."""

import os
import time

import pytest

from flows.doctor import apart
from flows.doctor.apart import found_apart
from flows.doctor.findings import fails, note

SILENT, BROKEN = note("t", "silent", "wait"), fails("t", "broken", "mend")
SAYS = """
from flows.doctor.apart import say_all
from flows.doctor.findings import fine
import ctypes, os, sys, time
def look():
    print("what a library prints")
    yield fine("t", "said")
    {then}
say_all(look)
"""


@pytest.fixture
def says(monkeypatch, tmp_path):
    """says(code) -> what a check says whose process goes on with that code."""

    def asked(code, machine):
        (tmp_path / "said_apart.py").write_text(SAYS.format(then=code))
        # no safe path, so that the module is found where this process is sent
        monkeypatch.setattr(apart, "for_child", lambda: os.environ | {"PYTHONPATH": str(tmp_path)})
        found = found_apart("said_apart", machine, SILENT, BROKEN, [("SETTING", "given")])
        return [(one.mark, one.found) for one in found]

    return asked


def test_what_it_says_is_found_and_what_libraries_print_is_not(says, machine):
    code = "yield fine('t', os.environ['SETTING'])"
    assert says(code, machine()) == [("ok", "said"), ("ok", "given")]


def test_a_process_that_ends_by_a_signal_or_an_error_is_told_after_what_it_said(says, machine):
    ended = says("os.kill(os.getpid(), 11)", machine())
    assert ended == [("ok", "said"), ("x", "broken: ended by SIGSEGV")]
    raised = says("raise OSError('libcudart.so.13: cannot open')", machine())
    assert raised == [("ok", "said"), ("x", "broken: OSError: libcudart.so.13: cannot open")]


def test_a_process_that_hangs_is_killed_in_time(says, machine):
    began = time.monotonic()
    assert says("time.sleep(60)", machine(seconds=3)) == [("ok", "said"), ("!", "silent")]
    assert time.monotonic() - began < 10
