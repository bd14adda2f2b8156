"""Copies of a small world, to take samples out of."""

import shutil

import pytest


@pytest.fixture
def root(small_world, tmp_path):
    """Shards and embeddings of one's own: a database without an index, as queries are."""
    for kind in ("shards", "embeddings"):
        shutil.copytree(small_world.root / kind / "shapes", tmp_path / kind / "shapes")
    return tmp_path


@pytest.fixture
def searched(small_world, root):
    """With index, neighbor table and latents."""
    for kind in ("index", "neighbors", "latents"):
        shutil.copytree(small_world.root / kind / "shapes", root / kind / "shapes")
    return root
