"""What a database holds near a text, an image, a row or a vector, with the credit of every
image.
"""

import json
import re
from dataclasses import replace

import numpy as np
import polars
import pytest

from flows.config.look import SearchDatabase
from flows.data import encoders
from flows.data.database import searchable
from flows.look.search import nearest_rows, queries_by_key, search
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from rdm_core.images import CELL_PIXELS
from rdm_core.search import Searcher, build_index
from storage.artifact import open_artifact
from storage.embeddings import read_columns, read_vectors
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.saved import SEARCH_ROWS, save_rows
from storage.shards import read_some_images

LICENCES = ("CC0-1.0", "CC-BY-4.0", None)
"""Of the small world's images, in turn (conftest)."""


def look(small_world, **asked):
    return search(SearchDatabase(root=small_world.root, **{"database": "shapes", "k": 5} | asked))


def hits(small_world, **asked):
    return look(small_world, **asked)[1]["queries"][0]["found"]


def test_a_text_finds_what_it_names_with_scores_falling_and_credits(small_world):
    found = hits(small_world, texts=("a red circle",))
    assert "red circle" in found[0]["captions"][0]
    scores = [hit["score"] for hit in found]
    assert scores == sorted(scores, reverse=True) and len(found) == 5
    for hit in found:
        number = int(hit["key"].split("-")[2])
        assert hit["licence"] == LICENCES[number % 3]
        assert hit["author"] == f"shapes author {number}"


def test_a_row_finds_others_but_itself(small_world):
    key = read_columns(open_artifact(small_world.root, "embeddings", "shapes"), ["key"])["key"][
        7
    ].as_py()
    assert key not in {hit["key"] for hit in hits(small_world, keys=(key,))}
    every = hits(small_world, keys=(key,), k=1000)
    assert len(every) == 95, "all but itself"


def test_an_image_file_finds_itself(small_world, tmp_path):
    embeddings = open_artifact(small_world.root, "embeddings", "shapes")
    key = read_columns(embeddings, ["key"])["key"][3].as_py()
    (tmp_path / "query.png").write_bytes(
        read_some_images(open_artifact(small_world.root, "shards", "shapes"), [key])[key]
    )
    first = hits(small_world, images=(tmp_path / "query.png",))[0]
    assert first["key"] == key and first["score"] > 0.999


def test_vectors_of_any_length_find_their_rows(small_world, tmp_path):
    vectors, _ = read_vectors(open_artifact(small_world.root, "embeddings", "shapes"))
    np.save(tmp_path / "v.npy", 7 * vectors[:2])
    found = look(small_world, vectors=tmp_path / "v.npy")[1]["queries"]
    assert [query["query"] for query in found] == [f"{tmp_path}/v.npy[0]", f"{tmp_path}/v.npy[1]"]
    assert [query["found"][0]["row"] for query in found] == [0, 1]


@pytest.mark.parametrize(
    "vectors, told",
    [
        (np.full(64, np.nan, np.float32), "vector 0 has no direction"),
        (np.stack([np.ones(64), np.zeros(64)]), "vector 1 has no direction"),
        (np.ones((0, 64)), "it holds no vector"),
        (np.ones(63), r"it holds float64 \[63\], a query has 64 numbers"),
        (np.ones((2, 3, 64)), "a query has 64 numbers"),
        (np.asarray(["a"] * 64), "a query has 64 numbers"),
    ],
    ids=["NaN", "zeros", "none", "dimension", "shape", "text"],
)
def test_vectors_that_are_no_queries_are_refused_with_their_file(
    small_world, tmp_path, vectors, told
):
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(RequestError, match=f"v.npy: .*{told}"):
        look(small_world, vectors=tmp_path / "v.npy")


def test_what_cannot_be_looked_for_is_refused_with_where_and_cure(small_world, tmp_path):
    (tmp_path / "no.png").write_text("text")
    (tmp_path / "no.npy").write_text("text")
    with pytest.raises(RequestError, match="no.png: .*not an image"):
        look(small_world, images=(tmp_path / "no.png",))
    with pytest.raises(RequestError, match="no.npy: not a plain array"):
        look(small_world, vectors=tmp_path / "no.npy")
    with pytest.raises(RequestError, match="there is no key 'nobody'. Keys: rdm query"):
        look(small_world, keys=("nobody",))
    with pytest.raises(ArtifactMissing, match="Present: .*shapes.*sketches"):
        look(small_world, database="nothing", texts=("a",))


def test_other_weights_than_the_databases_are_refused(small_world, monkeypatch):
    other = encoders.encoder_of("rdm-shapes", "random")
    monkeypatch.setattr(encoders, "encoder_of", lambda name, weights: other)
    with pytest.raises(
        ArtifactMismatch, match="Put the original weights back, or build the database again"
    ):
        look(small_world, texts=("a",))


def test_the_same_weights_with_another_preprocessing_are_refused_by_its_name(
    small_world, monkeypatch
):
    encoder = encoders.encoder_of("rdm-shapes", "built-in")
    monkeypatch.setattr(
        encoders, "encoder_of", lambda name, weights: replace(encoder, preparation=None)
    )
    with pytest.raises(
        ArtifactMismatch, match="but its resized_as is not. Build the database again"
    ):
        look(small_world, texts=("a",))


def test_an_index_whose_rows_are_not_the_embeddings_is_refused(small_world, monkeypatch):
    embeddings = open_artifact(small_world.root, "embeddings", "shapes")
    monkeypatch.setattr("storage.index.open_vectors", lambda index: np.zeros((95, 64), np.float16))
    with pytest.raises(
        ArtifactMismatch, match=r"index/shapes: it holds 96 norms and vectors \[95, 64\]"
    ):
        searchable(small_world.root, embeddings)


def test_the_sheet_shows_every_hit_with_its_credit_and_fetches_nothing(small_world, tmp_path):
    _, value = look(small_world, texts=("a <b>star</b>",), out=tmp_path / "found.html")
    page = (tmp_path / "found.html").read_text()
    assert page.count("<img") == 5 and "a &lt;b&gt;star" in page
    assert all(hit["key"] in page for hit in value["queries"][0]["found"])
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_a_picture_of_the_result_is_a_line_a_query_with_score_licence_and_author(
    small_world, tmp_path
):
    look(small_world, texts=("a star", "a ring"), out=tmp_path / "found.png")
    cell = CELL_PIXELS + 3 * 12
    page = decode((tmp_path / "found.png").read_bytes())
    assert page.shape == (2 + 2 * (cell + 2), 2 + 5 * (CELL_PIXELS + 2), 3)
    assert (
        (page[2 + CELL_PIXELS : 2 + cell] < 128).any(axis=(1, 2)).reshape(3, 12).any(axis=1).all()
    ), "score, licence and author"


def test_the_result_is_json(small_world):
    assert json.loads(json.dumps(look(small_world, texts=("a",))[1]))["database"].startswith(
        "embeddings/shapes@"
    )


def test_a_search_without_a_query_and_a_sheet_of_no_kind_are_refused():
    with pytest.raises(ValueError, match="give something to look for"):
        SearchDatabase(database="a")
    with pytest.raises(ValueError, match="ends with none of .html, .png, .csv, .parquet, .json"):
        SearchDatabase(database="a", texts=("a",), out="x.gif")


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_a_result_is_saved_as_a_table_a_row_an_answer(small_world, tmp_path, ending):
    file = tmp_path / f"found.{ending}"
    text, value = look(small_world, texts=("a red circle", "a star"), k=2, out=file)
    read = {"csv": polars.read_csv, "parquet": polars.read_parquet, "json": polars.read_json}[
        ending
    ]
    rows = read(file).to_dicts()
    assert f"table: {file}" in text and value["out"] == str(file)
    assert [(row["query"], row["rank"]) for row in rows] == [
        ("a red circle", 1), ("a red circle", 2), ("a star", 1), ("a star", 2)]  # fmt: skip
    first, second = value["queries"]
    for row, hit in zip(rows, first["found"] + second["found"], strict=True):
        captions = json.loads(row["captions"]) if ending == "csv" else row["captions"]
        assert row | {"captions": captions} == {"query": row["query"], "rank": row["rank"], **hit}


def test_an_empty_result_is_a_table_with_its_columns(tmp_path):
    save_rows(tmp_path / "none.parquet", [], SEARCH_ROWS)
    save_rows(tmp_path / "none.csv", [], SEARCH_ROWS)
    assert polars.read_parquet(tmp_path / "none.parquet").columns == SEARCH_ROWS.names
    assert (tmp_path / "none.csv").read_text().strip() == ",".join(SEARCH_ROWS.names)


def test_what_a_caption_or_author_holds_forges_no_line(small_world, monkeypatch):
    steering = "red\x1b[31m\n  0.9999  forged"
    credit = {"captions": [steering], "author": steering, "licence": steering, "source_url": None}
    credits = lambda self, rows: [{"key": "k", "source_key": "s", **credit} for _ in rows]  # noqa: E731
    monkeypatch.setattr("flows.data.database.OpenDatabase.credits", credits)
    text, _ = look(small_world, texts=("a\nb",), k=2)
    assert len(text.splitlines()) == 3 and "\x1b" not in text


def test_more_rows_than_there_are_cost_no_more_than_all_of_them(small_world):
    every = hits(small_world, texts=("a star",), k=10**12)
    assert len(every) == len(set(map(str, every))) == 96


def test_a_prompt_without_a_template_is_refused():
    with pytest.raises(ValueError, match="templates"):
        SearchDatabase(database="a", texts=("a",), templates=())


def test_an_index_answers_as_comparing_everything_does(small_world, tmp_path):
    embeddings = open_artifact(small_world.root, "embeddings", "shapes")
    database = searchable(small_world.root, embeddings)
    build_index(np.asarray(database.retrieval.searcher.vectors), tmp_path / "index.faiss")
    searcher = Searcher(database.retrieval.searcher.vectors, tmp_path / "index.faiss")
    indexed = replace(database, retrieval=replace(database.retrieval, searcher=searcher))
    queries = queries_by_key(read_columns(embeddings, ["key"])["key"].to_pylist()[:3], indexed)
    assert searcher.index is not None
    approximate = nearest_rows(indexed, queries, 5, exact=False)
    exact = nearest_rows(indexed, queries, 5, exact=True)
    for hits_of_index, hits_of_all in zip(approximate, exact, strict=True):
        assert [hit["key"] for hit in hits_of_index] == [hit["key"] for hit in hits_of_all]
        assert len(hits_of_index) == 5
