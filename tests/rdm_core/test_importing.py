"""Importing large libraries where they are used."""

import gc

import pytest

from rdm_core.importing import large_import


def test_nobody_looks_for_garbage_while_a_library_is_imported_and_does_afterwards():
    with large_import():
        assert not gc.isenabled()
        with large_import():
            assert not gc.isenabled()
        assert not gc.isenabled(), "the outer one is not over"
    assert gc.isenabled()
    with pytest.raises(ImportError), large_import():
        raise ImportError
    assert gc.isenabled()


def test_who_does_not_look_by_himself_is_left_alone():
    gc.disable()
    try:
        with large_import():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
