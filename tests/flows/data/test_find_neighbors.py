"""Neighbor tables by words, and tables whose neighbors are not alike."""

import shutil

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from flows.config.database import BuildDatabase, FindNeighbors, RemoveKeys
from flows.config.images import ImportImages
from flows.data.build_database import build_database
from flows.data.database import searched_by
from flows.data.find_neighbors import find_neighbors, neighbors_plan
from flows.data.import_images import import_images
from flows.data.remove import remove_keys
from rdm_core.search import NO_ROW, NO_SCORE
from rdm_core.words import WordIndex, query_of
from storage.artifact import open_artifact
from storage.embeddings import read_columns, read_vectors
from storage.errors import StorageError
from storage.neighbors import read_neighbors
from storage.parquet import read_table

ENCODER = {"encoder": "rdm-shapes", "weights": "built-in"}
SIDES = {"queries": "known", "database": "all"}


def captions(root, name):
    texts = read_columns(open_artifact(root, "embeddings", name), ["captions"])["captions"]
    return [of_row or [] for of_row in texts.to_pylist()]


def vectors(root, name):
    return read_vectors(open_artifact(root, "embeddings", name))[0]


def name_in(caption):
    """The entity that a caption names."""
    return caption.split()[4]


def test_neighbors_by_words_are_those_whose_captions_say_most_of_the_querys(entity_world):
    table = open_artifact(entity_world, "neighbors", "words")
    _, rows, scores = read_neighbors(table)
    texts = captions(entity_world, "all")
    asked = [query_of(of_query[0]) for of_query in captions(entity_world, "known")]
    wanted_rows, wanted_scores = WordIndex(texts).search(asked, 4)
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    there = {name_in(of_row[0]) for of_row in texts}
    for words, of_query in zip(asked, rows, strict=True):
        if words[3] in there:  # a comes twice in a caption, and once in a query
            assert name_in(texts[of_query[0]][0]) == words[3]
    assert (scores[scores != NO_SCORE] <= 1).all() and (np.diff(scores) <= 0).all()


def test_a_table_says_how_it_was_searched_and_what_its_scores_are(entity_world):
    table = open_artifact(entity_world, "neighbors", "words")
    assert searched_by(table) == "words"
    schema = read_table(table.files(".parquet")[0], None).schema
    assert schema.field("scores").metadata[b"doc"].startswith(b"BM25 as a share")
    assert table.counts["queries without a caption"] == 0


def test_what_came_later_is_in_no_plan_at_its_default(small_world):
    asked = {"root": small_world.root, "name": "n", "queries": "shapes", "database": "shapes"}
    plain = neighbors_plan(FindNeighbors(**asked))
    assert plain.parameters == {"k": 20, "exclusion": "source_key", "search": "exact"}
    table = open_artifact(small_world.root, "neighbors", "shapes")
    assert searched_by(table) == searched_by(plain) == "vectors"
    schema = read_table(table.files(".parquet")[0], None).schema
    assert schema.field("scores").metadata[b"doc"] == b"cosine, falling; -2 where the row is -1"
    for change in ({"search": "words"}, {"most_alike": 0.9}, {"within": "style"}):
        assert neighbors_plan(FindNeighbors(**asked, **change)).id != plain.id
    words = neighbors_plan(FindNeighbors(**asked, search="words"))
    dropped = neighbors_plan(FindNeighbors(**asked, search="words", query_word_dropout=0.2))
    assert dropped.id != words.id


@pytest.mark.parametrize("search", ["vectors", "words"])
def test_neighbors_within_a_style_are_all_of_the_querys_own(small_world, root, search):
    shutil.copytree(small_world.root / "index/shapes", root / "index/shapes")
    asked = {"queries": "shapes", "database": "shapes", "within": "style", "search": search}
    table = find_neighbors(FindNeighbors(root=root, name="n", k=4, **asked))
    columns = read_columns(open_artifact(root, "embeddings", "shapes"), ["key", "style"])
    styles = np.asarray(columns["style"].to_pylist(), dtype=object)
    assert len(set(styles)) > 1
    rows = np.asarray(read_columns(table, ["rows"])["rows"].to_pylist())
    found = rows != NO_ROW
    assert found.mean() > 0.9 and (styles[rows] == styles[:, None])[found].all()


def test_neighbors_from_everywhere_and_from_within_are_taken_in_turns(small_world, root):
    shutil.copytree(small_world.root / "index/shapes", root / "index/shapes")
    asked = {"root": root, "queries": "shapes", "database": "shapes", "k": 4}
    tables = {}
    for name, how in (
        ("anywhere", {}),
        ("within", {"within": "style"}),
        ("turns", {"within": "style", "in_turns": True}),
    ):
        table = find_neighbors(FindNeighbors(name=name, **asked, **how))
        tables[name] = np.asarray(read_columns(table, ["rows"])["rows"].to_pylist())
    assert (tables["turns"][:, 0] == tables["anywhere"][:, 0]).all()
    both = tables["anywhere"][:, 0] != tables["within"][:, 0]
    assert both.any() and (tables["turns"][both, 1] == tables["within"][both, 0]).all()


def test_words_of_the_queries_are_left_out_the_same_ones_every_time(entity_world, tmp_path):
    asked = {**SIDES, "k": 4, "search": "words", "query_word_dropout": 0.4}
    tables = []
    for name in ("dropped", "again"):
        table = find_neighbors(FindNeighbors(root=entity_world, name=name, **asked))
        tables.append(read_neighbors(table)[1])
    np.testing.assert_array_equal(*tables)
    plain = read_neighbors(open_artifact(entity_world, "neighbors", "words"))[1]
    assert (tables[0] != plain).any()


def test_the_querys_own_image_is_no_neighbor_by_words_either(entity_world):
    asked = {"queries": "all", "database": "all", "k": 3, "search": "words"}
    table = find_neighbors(FindNeighbors(root=entity_world, name="own", **asked))
    _, rows, _ = read_neighbors(table)
    assert (rows != np.arange(len(rows))[:, None]).all()


@pytest.mark.parametrize("search", ["vectors", "words"])
def test_planted_duplicates_are_passed_over(entity_world, tmp_path, search):
    """A cap far below the cosines of pictures of one entity on one ground."""
    near = vectors(entity_world, "all")
    asked = {**SIDES, "k": 3, "search": search, "most_alike": 0.8}
    table = find_neighbors(FindNeighbors(root=entity_world, name=f"apart-{search}", **asked))
    _, rows, scores = read_neighbors(table)
    asking = vectors(entity_world, "known")
    passed_over = 0
    plain = {**asked, "most_alike": 1.0}
    _, others, _ = read_neighbors(
        find_neighbors(FindNeighbors(root=entity_world, name=f"plain-{search}", **plain))
    )
    for query, of_query, before in zip(asking, rows, others, strict=True):
        chosen = of_query[of_query != NO_ROW]
        alike = near[chosen] @ near[chosen].T - 2 * np.eye(len(chosen))
        assert alike.max(initial=-1) <= 0.8 and (near[chosen] @ query).max(initial=-1) <= 0.8
        passed_over += len(set(before) - set(of_query))
    assert passed_over and (rows != NO_ROW).any()
    np.testing.assert_array_equal(scores == NO_SCORE, rows == NO_ROW)


def test_the_cap_is_on_cosines_where_words_are_searched(entity_world):
    asked = {**SIDES, "k": 4, "search": "words", "score_cap": 0.3}
    table = find_neighbors(FindNeighbors(root=entity_world, name="capped", **asked))
    _, rows, scores = read_neighbors(table)
    near, asking = vectors(entity_world, "all"), vectors(entity_world, "known")
    cosines = np.einsum("qkd,qd->qk", near[np.maximum(rows, 0)], asking)
    assert cosines[rows != NO_ROW].max() <= 0.3
    assert scores.max() > 0.3


def test_a_removal_searches_again_by_words(entity_world, tmp_path):
    root = tmp_path / "copy"
    for kind in ("shards", "embeddings", "index", "neighbors"):
        shutil.copytree(entity_world / kind, root / kind)
    keep = {"words"}
    for other in (root / "neighbors").iterdir():
        if other.name not in keep:
            shutil.rmtree(other)
    asked = {**SIDES, "k": 3, "search": "words", "most_alike": 0.95, "query_word_dropout": 0.2}
    before = find_neighbors(FindNeighbors(root=root, name="apart", **asked))
    gone = tmp_path / "keys.txt"
    _, rows, _ = read_neighbors(before)
    names = read_columns(open_artifact(root, "embeddings", "all"), ["key"])["key"].to_pylist()
    gone.write_text(names[rows[0, 0]] + "\n")
    remove_keys(RemoveKeys(root=root, database="all", keys_file=gone))
    after = open_artifact(root, "neighbors", "apart")
    assert after.parameters == before.parameters and after.id != before.id
    assert searched_by(open_artifact(root, "neighbors", "words")) == "words"


def test_words_are_refused_where_there_are_no_captions(entity_world, tmp_path):
    root = tmp_path / "data"
    for name in ("bare", "named"):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(3):
            Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(folder / f"{number}.png")
            if name == "named":
                (folder / f"{number}.txt").write_text("a vorta")
        import_images(ImportImages(root=root, name=name, path=folder, size=16, dataset=name))
        build_database(BuildDatabase(root=root, name=name, shards=name, **ENCODER))
    for queries, database in (("bare", "named"), ("named", "bare")):
        asked = {"queries": queries, "database": database, "search": "words", "k": 2}
        with pytest.raises(StorageError, match="embeddings/bare: none of its images has a caption"):
            find_neighbors(FindNeighbors(root=root, name="n", **asked))
    asked = {"queries": "named", "database": "named", "search": "words", "k": 2}
    assert find_neighbors(FindNeighbors(root=root, name="n", **asked)).rows == 3


@pytest.mark.parametrize(
    "values, said",
    [
        ({"query_word_dropout": 0.2}, r"query_word_dropout: is for search=words \(given: 0.2\)"),
        ({"search": "words", "query_word_dropout": 1.0}, "less than 1"),
        ({"most_alike": 0}, "greater than 0"),
        ({"search": "bm25"}, "'vectors' or 'words'"),
        ({"within": "style", "group": "style"}, "both are style, which leaves no neighbor"),
        ({"in_turns": True}, "takes turns with within, which is not set"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        FindNeighbors(name="n", queries="q", database="d", **values)
