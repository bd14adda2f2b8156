"""Memory, cores, limits, locale and user, as a container or a careful administrator sets them."""

import locale
import os
import resource
from types import SimpleNamespace

import pytest

from flows.doctor import host
from flows.doctor.host import GB


def lends(monkeypatch, total, available, limit=None, used=0):
    seen = SimpleNamespace(total=total * GB, available=available * GB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: seen)
    within = (lambda whole: whole) if limit is None else (lambda whole: int(limit * GB))
    monkeypatch.setattr("rdm_core.memory.within_container", within)
    monkeypatch.setattr(host, "used_in_container", lambda: used * GB)


@pytest.mark.parametrize(
    ("given", "mark", "said"),
    [
        ({"total": 64, "available": 60}, "ok", "64.0 GB; 60.0 GB available"),
        ({"total": 64, "available": 2}, "!", "the demo"),
        ({"total": 64, "available": 0.3}, "x", "0.3 GB available"),
        ({"total": 64, "available": 60, "limit": 8, "used": 1}, "ok", "limit, of 64.0; 7.0 GB"),
        ({"total": 64, "available": 60, "limit": 8, "used": 7.9}, "x", "0.1 GB available"),
    ],
)
def test_memory_is_what_is_left_within_the_containers_limit(
    given, mark, said, monkeypatch, machine, told
):
    lends(monkeypatch, **given)
    ((found, text),) = told(host.memory(machine()))
    assert found == mark and said in text


def test_what_can_be_had_back_does_not_count_as_used(tmp_path):
    assert host.used_in_container(tmp_path) == 0
    (tmp_path / "memory.current").write_text("900\n")
    assert host.used_in_container(tmp_path) == 900
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 400\n")
    assert host.used_in_container(tmp_path) == 500
    old = tmp_path / "old"
    (old / "memory").mkdir(parents=True)
    (old / "memory" / "memory.usage_in_bytes").write_text("900\n")
    (old / "memory" / "memory.stat").write_text("total_inactive_file 300\n")
    assert host.used_in_container(old) == 600


def test_a_quota_is_read_in_both_versions(tmp_path):
    assert host.quota_of_cores(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert host.quota_of_cores(tmp_path) is None
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert host.quota_of_cores(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert host.quota_of_cores(tmp_path) is None
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert host.quota_of_cores(tmp_path) == 2.5


def test_fewer_cores_than_threads_are_told_with_the_number_that_suits(monkeypatch, machine, told):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(host, "quota_of_cores", lambda: 2.5)
    ((mark, text),) = told(host.cores(machine()))
    assert mark == "!" and "export OMP_NUM_THREADS=2" in text
    ((mark, text),) = told(host.cores(machine(OMP_NUM_THREADS="2")))
    assert mark == "ok" and "OMP_NUM_THREADS=2" in text
    monkeypatch.setattr(host, "quota_of_cores", lambda: None)
    (mark, text), (last, _) = told(host.cores(machine(OMP_NUM_THREADS="auto")))
    assert (mark, last) == ("!", "ok") and "is no number" in text


@pytest.mark.parametrize(
    ("soft", "hard", "mark", "cure"),
    [
        (20_000, 20_000, "ok", ""),
        (-1, -1, "ok", ""),
        (256, 4096, "!", "ulimit -n 4096"),
        (256, -1, "!", "ulimit -n unlimited"),
        (256, 256, "!", "limits.conf"),
        (64, 4096, "x", "ulimit -n 4096"),
    ],
)
def test_few_open_files_are_told(soft, hard, mark, cure, monkeypatch, machine, told):
    of = {resource.RLIMIT_NOFILE: (soft, hard), resource.RLIMIT_AS: (-1, -1)}
    monkeypatch.setattr(resource, "getrlimit", of.get)
    found, text = told(host.limits(machine()))[0]
    assert found == mark and cure in text


def test_a_limit_of_the_address_space_is_told(monkeypatch, machine, told):
    of = {resource.RLIMIT_NOFILE: (4096, 4096), resource.RLIMIT_AS: (8 * GB, 8 * GB)}
    monkeypatch.setattr(resource, "getrlimit", of.get)
    assert "ulimit -v unlimited" in told(host.limits(machine()))[1][1]


def test_little_shared_memory_and_none_are_told(monkeypatch, machine, told, tmp_path):
    monkeypatch.setattr(host, "SHARED", tmp_path)
    small = SimpleNamespace(f_bavail=64 * 1024, f_frsize=1024)
    monkeypatch.setattr(os, "statvfs", lambda _: small)
    mark, text = told(host.limits(machine()))[-1]
    assert mark == "!" and "--shm-size" in text
    monkeypatch.setattr(host, "SHARED", tmp_path / "absent")
    mark, text = told(host.limits(machine()))[-1]
    assert mark == "x" and "cannot be written" in text


def test_locales_that_are_absent_or_of_another_encoding_are_told(monkeypatch, machine, told):
    monkeypatch.setattr(host, "locale_is_there", lambda: True)
    monkeypatch.setattr(locale, "getencoding", lambda: "utf8")
    assert told(host.text(machine(LANG="de_DE.UTF-8")))[0][0] == "ok"
    monkeypatch.setattr(locale, "getencoding", lambda: "ANSI_X3.4-1968")
    ((mark, text),) = told(host.text(machine(LANG="C", LC_ALL="POSIX")))
    assert mark == "!" and "LC_ALL=POSIX: ANSI" in text and "export LC_ALL=C.UTF-8" in text
    monkeypatch.setattr(locale, "getencoding", lambda: "unheard-of")
    assert told(host.text(machine()))[0][0] == "!"
    monkeypatch.setattr(host, "locale_is_there", lambda: False)
    ((mark, text),) = told(host.text(machine(LANG="xx_XX")))
    assert mark == "!" and "no such locale" in text


def test_the_c_library_is_asked_for_the_locale(monkeypatch):
    assert host.locale_is_there()

    def unknown(*_):
        raise locale.Error("unsupported locale setting")

    monkeypatch.setattr(locale, "setlocale", unknown)
    assert not host.locale_is_there()


def nobody(number):
    raise KeyError(number)


def test_a_user_without_a_name_or_a_home_is_told(monkeypatch, machine, told, tmp_path):
    assert told(host.user(machine(HOME=str(tmp_path))))[0][0] == "ok"
    monkeypatch.setattr(host.pwd, "getpwuid", nobody)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setenv("HOME", "/elsewhere")
    (one, text), (other, _) = told(host.user(machine(HOME=str(tmp_path))))
    assert (one, other) == ("!", "ok") and "uid 12345 is in no passwd" in text
    assert "HOME is not set: /elsewhere is used" in told(host.user(machine()))[1][1]
    assert "/gone is not there" in told(host.user(machine(HOME="/gone")))[1][1]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in told(host.user(machine(HOME=str(tmp_path))))[1][1]
