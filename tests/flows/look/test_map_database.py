"""The page that shows a database on a plane."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from flows.config.look import MapDatabase
from flows.look.map_database import SCRIPT, chosen_rows, coloured, map_database
from rdm_core.decode import decode


@pytest.fixture(scope="module")
def page(small_world, tmp_path_factory):
    out = tmp_path_factory.mktemp("map") / "map.html"
    map_database(
        MapDatabase(root=small_world.root, database="shapes", rows=50, thumbnail=16, out=out)
    )
    return out.read_text()


def test_every_row_has_a_place_a_picture_and_a_colour_in_each_column(page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert len(data["points"]) == len(set(data["keys"])) == 50
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in data["points"])
    assert {"style", "licence", "labels", "norm"} <= set(data["columns"])
    assert all(len(column["values"]) == 50 for column in data["columns"].values())
    atlas = decode(
        base64.b64decode(
            re.search(r'src="data:image/jpeg;base64,([^"]+)"[^>]* id="atlas"', page)[1]
        )
    )
    assert atlas.shape == (7 * 16, 8 * 16, 3), "50 pictures, eight in a line"
    assert atlas.std() > 20, "they are pictures, not grey"


def test_the_page_runs_its_own_script_and_fetches_nothing(page):
    digest = base64.b64encode(hashlib.sha256(SCRIPT.read_bytes()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page and "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "</script>" not in SCRIPT.read_text()


def test_the_same_database_gives_the_same_page(small_world, tmp_path, page):
    asked = {
        "root": small_world.root,
        "database": "shapes",
        "rows": 50,
        "thumbnail": 16,
        "out": tmp_path / "again.html",
    }
    map_database(MapDatabase(**asked))
    assert (tmp_path / "again.html").read_text() == page


def test_a_column_is_names_or_numbers():
    assert coloured(["b", "a", "a", None]) == {
        "names": ["a", "b", "not stated"],
        "values": [1, 0, 0, 2],
    }
    assert coloured([["x", "y"], []]) == {"names": ["x", "not stated"], "values": [0, 1]}
    assert coloured([1.0, None, 3.0]) == {"values": [1.0, None, 3.0], "low": 1.0, "high": 3.0}


def test_a_large_database_is_drawn_from_by_the_seed():
    rows = chosen_rows(np.arange(1000), 100, 0)
    assert len(rows) == 100 and (np.diff(rows) > 0).all()
    assert (rows == chosen_rows(np.arange(1000), 100, 0)).all() and (
        rows != chosen_rows(np.arange(1000), 100, 1)
    ).any()
    assert (chosen_rows(np.arange(20), 100, 0) == np.arange(20)).all()
