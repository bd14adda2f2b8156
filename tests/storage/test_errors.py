"""The tree of errors."""

import errno
import inspect
import pickle

import pytest

from storage import errors
from storage.errors import CannotWrite, StorageError, explaining_disk_errors
from storage.roots import root_of

ALL = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, StorageError)
]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_crosses_a_process_border_with_where_what_and_cure(kind):
    error = kind("shards/a", "it is gone", "Build it again.")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.where, back.what, back.cure) == ("shards/a", "it is gone", "Build it again.")
    assert str(back) == str(error) == "shards/a: it is gone. Build it again."


def test_the_docstring_is_the_whole_tree():
    assert len(ALL) == 9
    for kind in ALL:
        assert f"{kind.__name__} " in errors.__doc__


def test_a_path_is_named_as_it_is_and_one_of_a_mirror_by_its_url(tmp_path, monkeypatch):
    odd = tmp_path / "two  spaces" / "naïve {x} %d"
    assert str(StorageError(odd, "it is gone", "Look.")).startswith(
        f"{tmp_path}/two  spaces/naïve {{x}} %d: it is gone. "
    )
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path / "mirror"))
    root = root_of("s3://bucket/a/b")
    error = StorageError(root / "shards" / "mine", "it is gone", "Look.")
    assert error.where == "s3://bucket/a/b/shards/mine"
    with pytest.raises(CannotWrite, match="^" + str(tmp_path)), explaining_disk_errors(root):
        raise OSError(errno.ENOSPC, "full")


def test_a_root_that_is_no_folder_and_can_become_none_is_refused(tmp_path):
    file, gone, link = tmp_path / "file", tmp_path / "gone", tmp_path / "link"
    file.write_bytes(b"x")
    gone.symlink_to("nowhere")
    link.symlink_to(tmp_path)
    refused = {
        file: "file' is no folder",
        file / "a/b": "file' is no folder",
        gone / "a": "gone' is a link that leads to no",
    }
    for path, told in refused.items():
        with pytest.raises(StorageError, match=f"{told}.* Give a folder"):
            root_of(str(path))
    assert root_of(str(link / "new/root")) == link / "new/root"
