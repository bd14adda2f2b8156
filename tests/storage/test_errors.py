"""The tree of errors."""

import inspect
import pickle

import pytest

from storage import errors
from storage.errors import StorageError

ALL = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, StorageError)]


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
