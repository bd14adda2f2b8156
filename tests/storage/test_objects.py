"""Requests to an object store: which answers are asked for again, which are told at once, and in
which words.
"""

import errno
from types import SimpleNamespace

import pytest

from storage import objects
from storage.errors import Unreachable
from storage.objects import ATTEMPTS, Remote


class Answered(Exception):
    """What botocore raises: an error that carries the answer."""

    # Errors are told apart by the name of their module: botocore itself need not be installed.
    __module__ = "botocore.exceptions"

    def __init__(self, code="", status=0):
        super().__init__("secret words of the answer")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class Cut(Exception):
    """An error of a library of the network."""

    __module__ = "aiohttp.client_exceptions"


class Store:
    """A file system that answers with errors, one after the other, and then with bytes."""

    async_impl = False

    def __init__(self, *errors):
        self.errors, self.asked = list(errors), []

    def _strip_protocol(self, url):
        return url.partition("://")[2]

    # Whatever method is called: it notes the call and answers.
    def __getattr__(self, method):
        def answer(*arguments, **options):
            self.asked.append((method, arguments, options))
            if self.errors:
                raise self.errors.pop(0)
            return b"bytes"

        return answer


@pytest.fixture
def store(monkeypatch):
    """store(*errors) stands behind every url; nobody waits."""

    def made(*errors):
        system = Store(*errors)
        monkeypatch.setattr(objects, "file_system", lambda url: system)
        monkeypatch.setattr(objects.time, "sleep", waits.append)
        return system

    waits = []
    made.waits = waits
    return made


ABROAD = Remote("s3://bucket/a")


@pytest.mark.parametrize(
    "error",
    [
        Answered("SlowDown", 503),
        Answered("InternalError", 500),
        Answered("RequestTimeout", 400),
        Answered("", 408),
        Answered("", 429),
        Answered("BadDigest", 400),
        Answered("Throttling", 400),
        Answered("ConditionalRequestConflict", 409),
        Answered("SlowDown", 403),
        ConnectionResetError(),
        Cut(),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'response', '')}",
)
def test_what_may_pass_is_asked_for_again(error, store):
    system = store(error, error)
    assert ABROAD.read() == b"bytes"
    assert system.asked == [("cat_file", ("bucket/a",), {})] * 3


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Answered("NoSuchBucket", 404), "there is no such bucket.*Create it"),
        (
            Answered("AccessDenied", 403),
            r"access is refused.*\(AccessDenied, HTTP 403\).*Check the credentials",
        ),
        (Answered("", 401), "access is refused.*HTTP 401"),
        (Answered("InvalidAccessKeyId"), "access is refused"),
        (PermissionError("of the store"), r"access is refused.*\(PermissionError\)"),
        (
            Answered("PermanentRedirect", 301),
            "the request is refused.*HTTP 301.*Correct the root and AWS_ENDPOINT",
        ),
        (Answered("Wrong", 400), "the request is refused.*HTTP 400"),
        (Answered("Wrong", 499), "the request is refused"),
        (
            type("NoCredentialsError", (Exception,), {})(),
            "no credentials.*NoCredentialsError.*AWS_PROFILE",
        ),
        (ValueError("Invalid endpoint: x"), "AWS_ENDPOINT_URL is not the url of an endpoint"),
    ],
    ids=str,
)
def test_what_asking_again_does_not_help_is_told_at_once_without_the_words_of_the_answer(
    error, told, store
):
    system = store(error)
    with pytest.raises(Unreachable, match=told) as caught:
        ABROAD.read()
    assert len(system.asked) == 1 and "secret words" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_what_our_own_disk_refuses_is_not_taken_for_the_network(number, store):
    system = store(OSError(number, "ours"))
    with pytest.raises(OSError, match="ours"):
        ABROAD.write(b"x")
    assert len(system.asked) == 1


def test_a_mistake_of_ours_is_not_asked_for_again(store):
    system = store(KeyError("a mistake"))
    with pytest.raises(KeyError, match="a mistake"):
        ABROAD.write(b"x")
    assert len(system.asked) == 1


def test_what_stays_busy_is_given_up_in_bounded_time_each_wait_longer_than_the_last(
    store, monkeypatch
):
    # Without chance the waits are exact.
    monkeypatch.setattr(objects.random, "uniform", lambda low, high: high)
    busy = [Answered("SlowDown", 503)] * 99
    system = store(*busy)
    with pytest.raises(
        Unreachable, match=r"in 6 attempts and \d+ s \(SlowDown, HTTP 503\).*same command again"
    ):
        ABROAD.read()
    assert len(system.asked) == ATTEMPTS == 6
    assert store.waits == [0.5, 1, 2, 4, 8]


def test_what_is_absent_is_none_and_deleting_it_is_nothing(store):
    store(FileNotFoundError())
    assert ABROAD.read() is None
    store(FileNotFoundError())
    ABROAD.delete()
    store(FileNotFoundError())
    assert ABROAD.sizes() == {}
    store(NotADirectoryError())
    assert ABROAD.folders() == []


def test_an_object_is_created_only_where_there_is_none(store):
    system = store()
    assert ABROAD.create(b"new") is False and [name for name, *_ in system.asked] == ["cat_file"]
    system = store(FileNotFoundError())
    assert ABROAD.create(b"new") is True
    assert system.asked[1] == ("pipe_file", ("bucket/a", b"new"), {"mode": "create"})
    system = store(FileNotFoundError(), FileExistsError())
    assert ABROAD.create(b"new") is False, "another one was faster"


@pytest.mark.parametrize("error", [NotImplementedError(), Answered("NotImplemented", 501)])
def test_a_store_that_cannot_create_just_puts(error, store):
    system = store(FileNotFoundError(), error)
    assert ABROAD.create(b"new") is True
    assert system.asked[2] == ("pipe_file", ("bucket/a", b"new"), {})


def test_a_file_is_read_in_pieces_and_one_that_ends_early_ends_there(store, monkeypatch):
    monkeypatch.setattr(objects, "PIECE", 10)
    system = store()
    assert list(ABROAD.pieces(25)) == [b"bytes"] * 3
    spans = [(options["start"], options["end"]) for _, _, options in system.asked]
    assert spans == [(0, 10), (10, 20), (20, 25)]
    for beyond in (Answered("InvalidRange", 0), Answered("", 416)):
        store(beyond)
        assert list(ABROAD.pieces(25)) == []


def test_files_go_up_and_copies_stay_inside(store, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    system = store()
    ABROAD.upload(tmp_path / "file")
    ABROAD.copy_to(Remote("s3://bucket/b"), 7)
    ABROAD.delete()
    assert [(name, arguments) for name, arguments, _ in system.asked] == [
        ("put_file", (str(tmp_path / "file"), "bucket/a")),
        ("cp_file", ("bucket/a", "bucket/b")),
        ("rm_file", ("bucket/a",)),
    ]


def test_a_listing_names_what_lies_below_and_nothing_beside(monkeypatch):
    # "bucket/ab" begins as the folder is called, but lies beside it.
    found = {"bucket/a/x": {"size": 1}, "bucket/a/y/z": {"size": 2}, "bucket/ab": {"size": 3}}
    kinds = [{"name": "bucket/a/d/", "type": "directory"}, {"name": "bucket/a/x", "type": "file"}]
    kinds += [{"name": "bucket/a/c", "type": "directory"}]
    system = SimpleNamespace(
        async_impl=False,
        _strip_protocol=lambda url: "bucket/a/",
        find=lambda path, detail: found if detail else None,
        ls=lambda path, detail: kinds if detail else None,
    )
    monkeypatch.setattr(objects, "file_system", lambda url: system)
    assert ABROAD.sizes() == {"x": 1, "y/z": 2}
    assert ABROAD.folders() == ["c", "d"]


def test_messages_name_the_host_of_a_store_that_is_not_aws_and_nothing_else_of_its_url(
    store, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://name:word@host:9000/path")
    store(Answered("NoSuchBucket"))
    with pytest.raises(Unreachable, match="no such bucket at host:9000. Create") as caught:
        ABROAD.read()
    assert "word" not in str(caught.value) and "path" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://other:1")
    store(Answered("NoSuchBucket"))
    with pytest.raises(Unreachable, match="at other:1"):
        ABROAD.read()
    store(Answered("NoSuchBucket"))
    with pytest.raises(Unreachable, match="no such bucket. Create"):
        Remote("gs://bucket/a").read()


def test_a_larger_file_is_given_more_time():
    # 10 s to connect and 20 s to answer; 100 s for the bytes at the slowest speed.
    small, large = objects._seconds_for(0), objects._seconds_for(256 * 1024 * 100)
    assert (small, large) == (30, 130)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nothing://x", "nothing:// is no scheme that fsspec knows"),
        ("s3://b/a", r"pip install 'rdm\[s3\]'"),
    ],
)
def test_a_scheme_that_nothing_installed_knows_is_told_with_the_cure(url, told, monkeypatch):
    if url.startswith("s3"):
        import fsspec

        def absent(*_, **__):
            raise ImportError

        monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(Unreachable, match=told):
        objects.file_system(url)
