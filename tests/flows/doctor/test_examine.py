"""Checks are independent: one that fails or hangs is a line of its own, and the command ends in
time.
"""

import threading
import time

import pytest

from flows.doctor.examine import CHECKS, Check, doctor, examine, in_lines
from flows.doctor.findings import FAILS, NOTE, fails, fine, note
from flows.run.terminal import FailingAnswer


def good(machine):
    yield fine("good", "all is well")


def test_a_check_that_fails_is_a_line_and_the_others_hold(machine, told):
    def broken(machine):
        yield fine("broken", "this much is well")
        raise KeyError("gone")

    def ends(machine):
        raise SystemExit("Prefect does that")
        yield

    checks = [Check("broken", broken), Check("ends", ends), Check("good", good)]
    found = told(examine(machine(), 30, checks))
    assert [mark for mark, _ in found] == ["ok", "!", "!", "ok"]
    assert "KeyError: 'gone'" in found[1][1] and "SystemExit: Prefect" in found[2][1]


def test_a_check_that_hangs_is_a_line_with_what_it_had_found_within_the_time(machine):
    never = threading.Event()

    def hangs(machine):
        yield fine("hangs", "this much is well")
        never.wait(60)

    began = time.monotonic()
    checks = [Check("hangs", hangs, FAILS, "Pull the plug"), Check("good", good)]
    found = examine(machine(seconds=0.4), 0.4, checks)
    assert time.monotonic() - began < 5
    assert [(one.mark, one.found) for one in found] == [
        ("ok", "this much is well"),
        ("x", "no answer within 0.4 s"),
        ("ok", "all is well"),
    ]
    assert found[1].cure == "Pull the plug"
    never.set()


def test_checks_run_beside_each_other(machine):
    at_once = threading.Barrier(3)

    def meets(machine):
        at_once.wait(20)
        yield fine("meets", "the others")

    found = examine(machine(), 30, [Check("meets", meets)] * 3)
    assert [one.mark for one in found] == ["ok"] * 3


def test_a_line_each_its_cure_below_it_and_counts_at_the_end():
    found = [fine("python", "3.11"), note("hub", "away", "wait"), fails("root", "full", "free")]
    assert in_lines(found).splitlines() == [
        "ok  python  3.11",
        "!   hub     away",
        "            cure: wait",
        "x   root    full",
        "            cure: free",
        "1 fine, 1 worth knowing, 1 will fail",
    ]


def test_what_will_fail_ends_the_command_with_its_answer(tmp_path):
    text, value = doctor({}, tmp_path, checks=[Check("good", good)])
    assert text.endswith("1 fine, 0 worth knowing, 0 will fail")
    assert value["counts"] == {"fine": 1, "worth knowing": 0, "will fail": 0}

    def bad(machine):
        yield fails("bad", "Invalid port: 'hush'", "mend it")

    environment = {"HTTP_PROXY": "http://me:hush/x@host"}
    with pytest.raises(FailingAnswer) as caught:
        doctor(environment, tmp_path, checks=[Check("bad", bad)])
    (finding,) = caught.value.value["findings"]
    assert finding == {
        "mark": "x",
        "topic": "bad",
        "found": "Invalid port: '...'",
        "cure": "mend it",
    }
    assert "hush" not in caught.value.text


def test_silence_of_a_folder_that_is_needed_fails_and_of_anything_else_is_told():
    silent = {check.topic: check.if_silent for check in CHECKS}
    assert {topic for topic, mark in silent.items() if mark == FAILS} == {"root", "temporary"}
    assert set(silent.values()) == {FAILS, NOTE} and len(silent) == len(CHECKS)
