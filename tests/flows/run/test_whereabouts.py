"""Whereabouts lead back to their process, and to nobody who got its number or name later."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from flows.run.whereabouts import Process, process_of, read_whereabouts, this_system, whereabouts_of


def child():
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_whereabouts_are_read_back_as_they_were_written():
    whereabouts = whereabouts_of(os.getppid())
    assert (
        read_whereabouts(str(whereabouts)) == whereabouts
        and whereabouts.here
        and whereabouts.is_mine
    )
    assert whereabouts.process.lives and whereabouts.worker == process_of(os.getpid())


@pytest.mark.parametrize("text", [None, "", "7", "host:7", "host:4026531836:seven", "a:b.1:c.2"])
def test_what_another_worker_wrote_is_no_place(text):
    assert read_whereabouts(text) is None


def test_a_bare_process_id_of_another_kind_of_worker_leads_nowhere():
    assert not read_whereabouts("host:4026531836:7").here


def test_a_process_lives_until_it_ends_and_its_number_alone_is_not_it():
    started = child()
    process = process_of(started.pid)
    assert process.lives and not replace(process, began="1").lives
    started.kill()
    deadline = time.monotonic() + 10
    while process.lives:  # a zombie works no more, though its number is still taken
        assert time.monotonic() < deadline
    assert started.poll() is not None or not process.lives
    started.wait()
    assert not process.lives and not process_of(started.pid).lives


def test_a_process_whose_name_looks_like_the_end_of_its_record_is_found(tmp_path):
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to(sys.executable)
    started = subprocess.Popen([odd, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_of(started.pid).lives
    started.kill()
    started.wait()


def test_other_machines_namespaces_and_boots_are_told_apart():
    host, machine, boot, namespace = this_system().split("/")
    whereabouts = whereabouts_of(os.getpid())
    wheres = {
        f"other/{machine}/{boot}/{namespace}": (False, False),
        f"{host}/other/{boot}/{namespace}": (False, False),
        f"{host}/{machine}/{boot}/1": (False, False),
        f"{host}/{machine}/other/{namespace}": (False, True),
        f"{host}/other/other/{namespace}": (False, False),
    }
    for where, (here, before) in wheres.items():
        other = replace(whereabouts, where=where)
        assert (other.here, other.before_restart, other.is_mine) == (here, before, False), where
    assert not replace(whereabouts, worker=Process(os.getpid(), "1")).is_mine
