"""Fixtures of the storage tests."""

import os
from contextlib import contextmanager

import pytest
from s3_bucket import SECRET, URL
from s3_server import Switches, serving

from storage import objects
from storage.roots import mirror_of


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug, and each fsync costs 10 ms. That they are called is tested in
    test_atomic.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def server():
    with serving() as state:
        yield state


@pytest.fixture
def s3(server, monkeypatch):
    """The server, empty and well, with the environment that leads to it."""
    server.objects, server.log, server.buckets, server.uploads = {}, [], {"bucket"}, {}
    server.switches, server.before_put, server.page = Switches(), None, 1000
    server.knows_if_none_match = True
    environment = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
        # Nothing of the machine that runs the tests may answer instead.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "SECONDS_BEFORE_RETRY", 0.01)
    # botocore's own waits are up to a second and more
    monkeypatch.setattr(objects, "ATTEMPTS_OF_A_PART", 1)
    return server


@pytest.fixture
def machine(s3, tmp_path, monkeypatch):
    """machine("a") makes this process machine a, with its own mirror, and gives the root there."""

    def on(name, url=URL):
        monkeypatch.setenv("RDM_MIRROR", str(tmp_path / name))
        return mirror_of(url)

    return on


@pytest.fixture
def impatient(monkeypatch):
    """impatient() is a block with few attempts; impatient(0.5) also with so many seconds to connect
    and to answer.
    """

    @contextmanager
    def block(seconds=None):
        with monkeypatch.context() as patch:
            patch.setattr(objects, "ATTEMPTS", 3)
            if seconds:
                patch.setattr(objects, "SECONDS_TO_CONNECT", seconds)
                patch.setattr(objects, "SECONDS_TO_ANSWER", seconds)
            yield

    return block
