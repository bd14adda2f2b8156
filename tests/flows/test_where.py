"""Only rows that satisfy a condition are found, drawn from, learned from and shown."""

import numpy as np
import pytest
from asking import sample

from flows.config.arguments import UsageError
from flows.config.database import BuildDatabase, FindNeighbors
from flows.config.look import FindDuplicates, MapDatabase, SearchDatabase
from flows.config.sample import SampleRDM
from flows.data.build_database import build_database
from flows.data.database import searchable
from flows.data.find_neighbors import find_neighbors
from flows.look.duplicates import duplicates
from flows.look.map_database import map_database
from flows.look.search import search
from flows.look.show import image_record
from flows.model.sample import sample_plan
from rdm_core import selection
from rdm_core.errors import RequestError
from storage.artifact import open_artifact
from storage.conditions import ConditionError, satisfying
from storage.embeddings import read_columns, read_vectors
from storage.neighbors import NO_ROW, read_neighbors
from storage.samples import read_samples

FREE = "licence = 'CC0-1.0'"
"""One in three rows of the small world; the next has CC BY, and the third states none."""


@pytest.fixture(scope="module")
def database(small_world):
    return open_artifact(small_world.root, "embeddings", "shapes")


def licences_of(database, rows):
    licences = np.asarray(read_columns(database, ["licence"])["licence"].to_pylist(), dtype=object)
    return set(licences[np.asarray(rows)].tolist())


def nearest_free(database, query, k):
    """The k nearest rows with the licence, by all scores."""
    vectors, _ = read_vectors(database)
    free = np.flatnonzero(satisfying(database, FREE))
    return free[np.argsort(-(vectors[free] @ query), kind="stable")[:k]].tolist()


def test_a_search_finds_the_nearest_of_those_that_satisfy_it(small_world, database):
    asked = SearchDatabase(
        root=small_world.root, database="shapes", texts=("a red circle",), k=9, where=FREE
    )
    _, value = search(asked)
    found = value["queries"][0]["found"]
    query = searchable(small_world.root, database).encoder.encode_prompts(("a red circle",))[0]
    assert [hit["row"] for hit in found] == nearest_free(database, query, 9)
    assert value["where"] == FREE and value["where_rows"] == 32


def test_a_wrong_condition_waits_for_no_encoder(small_world, monkeypatch):
    def loaded(*_):
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr("flows.data.encoders.the_encoder", loaded)
    asked = {"root": small_world.root, "database": "shapes", "texts": ("a",)}
    with pytest.raises(ConditionError, match="no column colour"):
        search(SearchDatabase(**asked, where="colour = 'red'"))


def test_a_row_that_does_not_satisfy_it_may_still_be_asked_with(small_world, database):
    key = read_columns(database, ["key"])["key"][2].as_py()
    asked = {"root": small_world.root, "database": "shapes", "keys": (key,)}
    _, value = search(SearchDatabase(**asked, k=1000, where=FREE))
    assert len(value["queries"][0]["found"]) == 32


def test_samples_have_only_such_neighbors_and_say_by_which_condition(small_world):
    config = SampleRDM(
        root=small_world.root, name="free", run="small", texts=("a red circle",), count=2,
        where=FREE, draw={"steps": 2},
    )  # fmt: skip
    plan = sample_plan(config)
    assert plan.parameters["where"] == FREE and plan.parameters["where_rows"] == 32
    samples = sample(small_world, "free", texts=("a red circle",), where=FREE)
    for record in read_samples(samples):
        assert set(record["licences"]) == {"CC0-1.0"} and len(record["licences"]) == 2
        assert (record["condition"], record["condition_rows"]) == (FREE, 32)
    _, inside = image_record(samples.file("00000.png"))
    assert inside["condition"] == FREE


def test_without_a_query_only_such_rows_stand_for_one(small_world, database):
    samples = sample(small_world, "free-alone", count=8, where=FREE, top_m=1.0)
    keys = read_columns(database, ["key"])["key"].to_pylist()
    rows = [keys.index(record["query"]) for record in read_samples(samples)]
    assert licences_of(database, rows) == {"CC0-1.0"}
    for record in read_samples(samples):
        assert set(record["licences"]) == {"CC0-1.0"}


def test_a_plan_without_a_condition_is_as_it_was(small_world):
    config = SampleRDM(root=small_world.root, name="any", run="small", texts=("a red circle",))
    assert "where" not in sample_plan(config).parameters


@pytest.mark.parametrize("by", ["vectors", "words"])
def test_a_training_sees_only_such_neighbors(small_world, database, by):
    config = FindNeighbors(
        root=small_world.root, name=f"free-{by}", queries="shapes", database="shapes", k=5,
        search=by, where=FREE,
    )  # fmt: skip
    table = find_neighbors(config)
    assert table.parameters["where"] == FREE and table.parameters["where_rows"] == 32
    _, rows, _ = read_neighbors(table)
    assert licences_of(database, rows[rows != NO_ROW]) == {"CC0-1.0"}
    if by == "vectors":
        vectors, _ = read_vectors(database)
        own = [row for row in nearest_free(database, vectors[2], 5)]
        assert rows[2].tolist() == own, "row 2 has another licence, and is no neighbor of its own"
    again = find_neighbors(config)
    assert again.id == table.id


def test_a_map_shows_only_such_rows(small_world, tmp_path):
    out = tmp_path / "map.html"
    _, value = map_database(
        MapDatabase(root=small_world.root, database="shapes", out=out, where=FREE)
    )
    assert value["rows"] == 32 and "CC-BY-4.0" not in out.read_text(encoding="utf-8")


def test_copies_are_looked_for_among_such_rows(small_world, database):
    asked = {"root": small_world.root, "database": "shapes", "cap": 0.5, "k": 40, "force": True}
    _, every = duplicates(FindDuplicates(**asked))
    _, free = duplicates(FindDuplicates(**asked, where=FREE))
    keys = read_columns(database, ["key"])["key"].to_pylist()
    is_free = dict(zip(keys, satisfying(database, FREE).tolist(), strict=True))

    def as_pairs(value):
        return {frozenset((pair["key"], pair["of"])) for pair in value["pairs"]}

    among = {pair for pair in as_pairs(every) if all(is_free[key] for key in pair)}
    assert as_pairs(free) == among and among and free["of_rows"] == 32


def test_an_index_that_finds_too_little_under_it_is_not_used(small_world, monkeypatch, capsys):
    monkeypatch.setattr(selection, "FEW_ROWS", 5)
    name = "indexed"
    build_database(
        BuildDatabase(
            root=small_world.root, name=name, shards="shapes", encoder="rdm-shapes",
            weights="built-in", recipe="autofaiss",
        )
    )  # fmt: skip
    opened = searchable(small_world.root, open_artifact(small_world.root, "embeddings", name))
    assert opened.retrieval.searcher.index is not None
    kept = opened.only_where(FREE)
    assert "of whose nearest 20 the index finds" in capsys.readouterr().err
    monkeypatch.setattr(selection.SelectiveSearcher, "recall", lambda *_: 0.5)
    refused = opened.only_where(FREE)
    assert kept.retrieval.searcher.index is not None and refused.retrieval.searcher.index is None
    assert "finds 50 %: every one is compared" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("colour = 'red'", r"no column colour\. Columns: key, source_key, norm, captions"),
        ("licence = 'WTFPL'", r"none of the 96 rows of shapes satisfies it.*rdm query"),
        ("read_text('/etc/passwd') <> ''", "may not call read_text"),
    ],
)
def test_a_condition_that_cannot_be_used_is_refused_before_anything_is_drawn(
    small_world, condition, told
):
    with pytest.raises(ConditionError, match=told):
        sample(small_world, "refused", texts=("a red circle",), where=condition)
    with pytest.raises(ConditionError, match=told):
        search(
            SearchDatabase(root=small_world.root, database="shapes", texts=("a",), where=condition)
        )


def test_more_neighbors_than_rows_that_satisfy_it_are_refused(small_world):
    with pytest.raises(RequestError, match="a database of 96 rows, of which 32 may be neighbors"):
        sample(small_world, "many", texts=("a red circle",), where=FREE, k=40)


def test_a_condition_where_nothing_is_looked_up_is_refused(small_world):
    with pytest.raises((ValueError, UsageError), match="where: context='query' looks no rows up"):
        SampleRDM(
            root=small_world.root, name="a", run="small", texts=("a",), context="query", where=FREE
        )
