"""An object store that is slow, busy, cut off, or refuses.

What passes costs time only; what stays is told with its cure.
"""

import errno
import os
import re
import sys
import time
from dataclasses import replace

import pytest
from building import PLAN, build_all, files_under
from s3_bucket import (
    FINGERPRINT,
    HERE,
    SECRET,
    URL,
    bytes_of,
    object_ending,
)
from s3_server import Switches

from storage import objects
from storage.artifact import artifacts, check, open_artifact
from storage.build import begin
from storage.errors import ArtifactDamaged, CannotWrite, Unreachable

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'rdm[s3]'")

# What passes


TROUBLES = {
    "every third request is refused as too many": {"busy_every": 3},
    "five requests in a row are refused as too many": {"busy": 5},
    "connections are cut in the middle of what comes down": {"cut_get": 4},
    "connections are cut in the middle of what goes up": {"cut_put": 4},
    "answers are lost": {"lost_answers": 4},
    "answers are slow": {"seconds": 0.03},
    "the wrong bytes come twice": {"wrong": 2},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_passes_costs_time_only(trouble, machine, s3):
    before = Switches(**TROUBLES[trouble])
    s3.switches = replace(before)
    assert build_all(machine("a")).fingerprint == FINGERPRINT
    after_build, s3.switches = s3.switches, replace(before)
    opened = open_artifact(machine("b"), "shards", "paintings")
    assert opened.fingerprint == FINGERPRINT
    assert bytes_of(opened)["00001.tar"] == b"images of 00001" * 50
    check(opened)
    # The other switches count down with each request that met the trouble.
    lasting = "busy_every" in TROUBLES[trouble] or "seconds" in TROUBLES[trouble]
    assert lasting or before != after_build or before != s3.switches, "it was met"
    assert [a.version for a in artifacts(machine("c"))] == [1]


def test_a_lost_answer_to_the_commit_itself_is_a_commit(machine, s3):
    s3.before_put = lambda name: (
        name.endswith("manifest.json") and setattr(s3.switches, "lost_answers", 1)
    )
    assert build_all(machine("a")).fingerprint == FINGERPRINT
    assert s3.names("PUT").count(f"{HERE}/manifest.json") == 2
    check(open_artifact(machine("b"), "shards", "paintings"))


def test_a_large_object_comes_in_pieces_and_a_cut_costs_one_of_them(machine, s3, monkeypatch):
    # The file has 750 bytes.
    monkeypatch.setattr(objects, "PIECE", 100)
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")
    s3.log.clear()
    s3.switches.cut_get = 1
    assert opened.file("00000.tar").read_bytes() == b"images of 00000" * 50
    assert len(s3.names("GET")) == 8 + 1  # 750 bytes in pieces of 100, one of them twice


def test_a_large_file_goes_up_in_parts_each_of_which_may_be_repeated(machine, s3, monkeypatch):
    monkeypatch.setattr(objects, "ATTEMPTS_OF_A_PART", 3)
    monkeypatch.setattr(
        "s3fs.core.calculate_chunksize", lambda size, chunksize=None: 1000 if size > 2000 else 10**6
    )

    def write(scratch):
        (scratch / "large.tar").write_bytes(bytes(range(250)) * 20)
        return 1, {}

    s3.before_put = lambda name: (
        s3.uploads.get("1", {}).keys() == {1, 2} and setattr(s3.switches, "busy", 1)
    )
    with begin(machine("a"), PLAN) as build:
        build.commit([build.write_part("00000", "", write)], {})
    # 5,000 bytes in parts of 1,000, one of them twice
    assert s3.log.count(("PUT", object_ending(s3, "large.tar"))) == 5 + 1
    opened = open_artifact(machine("b"), "shards", "paintings")
    assert opened.file("large.tar").read_bytes() == bytes(range(250)) * 20
    assert s3.uploads == {}, "no upload was left open"


# What stays


LASTING = {
    "always too busy": ({"busy": 10**6}, "SlowDown, HTTP 503"),
    "always cut on the way up": ({"cut_put": 10**6}, r"\w+Error"),
    "never an answer in time": ({"seconds": 1.2}, r"\w+Error"),
}


@pytest.mark.parametrize("trouble", LASTING)
def test_trouble_that_stays_ends_in_bounded_time_with_one_told_error_and_nothing_published(
    trouble, machine, s3, impatient
):
    switches, reason = LASTING[trouble]
    s3.switches, started = Switches(**switches), time.monotonic()
    with impatient(0.5 if "seconds" in switches else None), pytest.raises(Unreachable) as caught:
        build_all(machine("a"))
    assert time.monotonic() - started < 20
    message = (
        rf"{URL}/.*: no usable answer at 127.0.0.1:\d+ in 3 attempts and \d s "
        rf"\({reason}\). Check the network"
    )
    assert re.match(message, str(caught.value)), str(caught.value)
    assert "run the same command again: it continues where it stopped" in str(caught.value)
    s3.switches = Switches()
    assert artifacts(machine("a")) == []
    assert build_all(machine("a")).fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    "switches", [{"cut_get": 10**6}, {"trickle": 0.1}], ids=["always cut", "a byte at a time"]
)
def test_a_download_that_never_ends_is_given_up_and_leaves_nothing_half(
    switches, machine, s3, impatient
):
    build_all(machine("a"))
    root = machine("b")
    opened, started = open_artifact(root, "shards", "paintings"), time.monotonic()
    s3.switches = Switches(**switches)
    with impatient(0.5), pytest.raises(Unreachable, match=r"s3://.*00000.tar: no usable answer"):
        opened.file("00000.tar")
    assert time.monotonic() - started < 20
    assert files_under(opened.directory) == ["manifest.json"]
    s3.switches = Switches()
    assert opened.file("00000.tar").read_bytes() == b"images of 00000" * 50


def test_bytes_that_are_always_wrong_are_never_served_and_told_with_the_cure(machine, s3):
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")
    s3.switches.wrong = 10**6
    with pytest.raises(
        ArtifactDamaged,
        match=r"s3://.*00000.tar: it has other bytes than its manifest says. Delete that obj",
    ):
        opened.file("00000.tar")
    assert files_under(opened.directory) == ["manifest.json"]


def test_a_full_disk_under_the_mirror_is_told_with_the_cure(machine, monkeypatch):
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(CannotWrite, match="No space left on device.*RDM_MIRROR"):
        opened.file("00000.tar")


def test_wrong_credentials_missing_bucket_and_unreachable_endpoint_are_told(
    machine, s3, impatient, monkeypatch
):
    root, messages = machine("a"), []

    def refused(match):
        for act in (build_all, artifacts):
            with impatient(), pytest.raises(Unreachable, match=match) as caught:
                act(root)
            messages.append(str(caught.value))

    s3.buckets.clear()
    refused(
        rf"^{URL}.*: there is no such bucket at 127.0.0.1:\d+. Create it, or correct the root.$"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    fresh_clients()
    refused(
        f"^{URL}.*: access is refused at 127.*InvalidAccessKeyId, HTTP 403.*. "
        "Check the credentials and that they may list"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    fresh_clients()
    refused(rf"^{URL}.*: there are no credentials for it \(NoCredentialsError\). Set AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    fresh_clients()
    # Nobody listens at port 1.
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:1")
    refused(
        rf"^{URL}.*: no usable answer at 127.0.0.1:1 in 3 attempts and \d s \(\w+\). "
        "Check the network and AWS_ENDPOINT_URL"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"not a url {SECRET}")
    refused(rf"^{URL}.*: AWS_ENDPOINT_URL is not the url of an endpoint")
    assert SECRET not in " ".join(messages)
    assert s3.objects == {}
    fresh_clients()


def fresh_clients():
    """Forget clients that were made with other credentials."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def test_a_missing_library_is_told_with_the_command_that_installs_it(machine, monkeypatch):
    fresh_clients()
    root = machine("a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    # fsspec remembers classes that it imported once.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
    with pytest.raises(Unreachable, match=r"is not installed. Run: pip install 'rdm\[s3\]'"):
        artifacts(root)


def test_an_unknown_scheme_is_told(machine):
    with pytest.raises(Unreachable, match="nosuch:// is no scheme that fsspec knows"):
        artifacts(machine("a", "nosuch://box/a"))
