"""Roots as a person writes them: folders and urls."""

import os
from pathlib import Path

import pytest
from s3_bucket import SECRET, URL

from storage.errors import StorageError
from storage.mirror import url_of
from storage.place import place_of
from storage.roots import mirror_of, root_of

# Urls


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///a",
        "s3://bucket//a",
        "s3://bucket/../other",
        "s3://bucket/a/..",
        "s3://bucket/./a",
        "s3://../a",
        "s3://bucket/a b",
        "s3://bucket/a?versionId=1",
        "s3://bucket/a#b",
        "s3://bucket/a%2e%2e/b",
        "s3://bucket/a\\b",
        "s3://bucket/a\n",
        "s3://bucket/.hidden",
        "s3://bucket/*",
        "s3://bucket/é",
        "://bucket/a",
        "../s3://bucket/a",
        "S3://bucket/a",
        "s3:/bucket/a",
        "bucket/a",
        "",
        "zip::s3://bucket/a",
        "file://",
        "file:///../etc",
        "s3://b:x/a",
        "s3://bucket/" + "x" * 256,
    ],
)
def test_a_url_that_is_no_plain_folder_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path))
    with pytest.raises(StorageError, match="is not a root: a root is scheme://bucket/folder"):
        mirror_of(url)


@pytest.mark.parametrize(
    "url", [f"s3://key:{SECRET}@bucket/a", f"abfs://box/a?sig={SECRET}", f"s3://k@b/{SECRET}/../a"]
)
def test_a_refused_url_is_not_repeated_when_it_may_hold_a_secret(url, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path))
    with pytest.raises(StorageError) as caught:
        mirror_of(url)
    assert SECRET not in str(caught.value) and "AWS_PROFILE" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["s3://bucket", URL, "file:///a/b_c/d-e.f=1", "hdfs://host:8020/a", "memory://a", "gs://b/c"],
)
def test_a_mirror_knows_its_url_again(url, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path / "mirror"))
    root = mirror_of(url)
    assert root.is_relative_to(tmp_path / "mirror")
    assert root_of(url) == root and root_of("some/data") == Path("some/data")
    assert url_of(root) == url == url_of(mirror_of(url + "/"))
    assert url_of(root / "shards" / "a") == f"{url}/shards/a"
    assert place_of(root).far
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path / "moved"))
    assert url_of(root) is None and not place_of(root).far and mirror_of(url) != root


def test_paths_outside_every_mirror_have_no_url(tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path / "mirror"))
    outside = (
        tmp_path,
        Path("data"),
        tmp_path / "mirror",
        tmp_path / "mirror" / "s3",
        tmp_path / "mirror/s3/b/../../x",
    )
    assert [url_of(path) for path in outside] == [None] * 5
    monkeypatch.delenv("RDM_MIRROR")
    monkeypatch.delenv("HOME")
    # As where there is no home directory.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert url_of(tmp_path) is None
    with pytest.raises(StorageError, match="no home directory. Set RDM_MIRROR"):
        mirror_of(URL)


# Folders


@pytest.mark.parametrize("kind", ["file", "device", "link to nothing", "link to a file"])
def test_a_root_that_is_there_and_no_folder_is_refused(kind, tmp_path):
    path = tmp_path / "root"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "device":
        path = Path("/dev/null")
    else:
        (tmp_path / "file").write_bytes(b"")
        path.symlink_to(tmp_path / ("file" if kind == "link to a file" else "nothing"))
    what = "a link that leads to no folder" if "link" in kind else "no folder"
    with pytest.raises(StorageError, match=f"{path.name}' is {what}. Give a folder"):
        root_of(str(path))


def test_a_root_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert root_of("~/data") == tmp_path / "data", "as --root=~/data leaves it to us"
    assert root_of("./~/data") == tmp_path / "~/data", (
        "a folder of that name, which Arrow would take for the home"
    )
    assert root_of("~no-such-user/data") == tmp_path / "~no-such-user/data"
