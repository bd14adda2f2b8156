"""The pages of `rdm search` and `rdm map`: every picture, credit and note on them."""

import json
from collections import Counter

import numpy as np
import pytest
from markup import read

from flows.config.look import MapDatabase, SearchDatabase
from flows.data.database import searchable
from flows.look.map_database import map_database
from flows.look.search import search, write_sheet
from storage.artifact import open_artifact
from storage.embeddings import read_columns, read_vectors


@pytest.fixture(scope="module")
def database(small_world):
    return searchable(small_world.root, open_artifact(small_world.root, "embeddings", "shapes"))


@pytest.fixture(scope="module")
def rows(database):
    """What the database says of each row, by key."""
    columns = ["captions", "labels", "style", "author", "licence", "source_url", "norm"]
    table = read_columns(database.embeddings, ["key", *columns]).to_pylist()
    return {row["key"]: row for row in table}


def one_picture(element):
    (found,) = element.every("img")
    return found


# rdm search


@pytest.fixture(scope="module")
def searched(small_world, tmp_path_factory):
    """What two texts found, as it was told and as it stands on the page."""
    out = tmp_path_factory.mktemp("found") / "found.html"
    texts = ("a red circle", "a blue <star>")
    asked = SearchDatabase(root=small_world.root, database="shapes", texts=texts, k=3, out=out)
    return *search(asked), read(out.read_text(encoding="utf-8"))


def test_an_answer_is_the_database_the_file_and_for_each_query_its_rows_nearest_first(
    searched, database, rows
):
    _, value, _ = searched
    vectors, keys = read_vectors(database.embeddings)[0], list(rows)
    queries = database.encoder.encode_prompts(["a red circle", "a blue <star>"], ["{}"])
    assert set(value) == {"database", "of", "queries", "out"}
    assert value["database"] == database.embeddings.reference
    assert [query["query"] for query in value["queries"]] == ["a red circle", "a blue <star>"]
    for query, vector in zip(value["queries"], queries, strict=True):
        cosines = vectors @ vector
        nearest = np.argsort(-cosines)[:3].tolist()
        credit = ("key", "captions", "licence", "author", "source_url")
        for hit, row in zip(query["found"], nearest, strict=True):
            expected = {name: rows[keys[row]][name] for name in credit} | {"row": row}
            assert hit == expected | {"score": hit["score"]}
            assert hit["score"] == pytest.approx(cosines[row], abs=2e-3)


def test_the_lines_are_the_query_and_a_score_a_key_a_credit_and_a_caption_each(searched):
    text, value, _ = searched
    expected = []
    for query in value["queries"]:
        expected.append(query["query"])
        for hit in query["found"]:
            licence = hit["licence"] or "licence not stated"
            credit = f"{licence} · {hit['author']}  {hit['captions'][0][:60]}"
            expected.append(f"  {hit['score']:.4f}  {hit['key']:<32} {credit}")
    assert text.splitlines() == [*expected, f"contact sheet: {value['out']}"]


def test_the_page_is_named_after_its_database_and_says_what_its_scores_are(searched, database):
    page = searched[2]
    model = database.embeddings.parameters["encoder"]["model"]
    assert page.texts("title") == ["Found in shapes"]
    assert page.texts("h1") == ["Found"]
    (note,) = page.texts("p")
    before, _, after = note.partition(", encoder ")
    assert before == "Database shapes (96 rows)" and model in after
    assert after.endswith(". Scores are cosines, to within 0.0005: rows are stored as float16.")


def test_each_query_is_a_heading_over_its_pictures_with_what_they_show_and_their_scores(searched):
    _, value, page = searched
    assert page.texts("h2") == ["a red circle", "a blue <star>"]
    lines = page.of_class("div", "row")
    for line, query in zip(lines, value["queries"], strict=True):
        shown = [(one_picture(cell).attributes["alt"], cell.text) for cell in line.inside]
        assert shown == [(hit["captions"][0], f"{hit['score']:.3f}") for hit in query["found"]]
        pictures = {one_picture(cell).attributes["src"] for cell in line.inside}
        assert len(pictures) == 3 and all(src.startswith("data:image/") for src in pictures)


def test_below_each_query_stands_who_made_what_it_found(searched):
    _, value, page = searched
    tables = list(page.every("table"))
    for table, query in zip(tables, value["queries"], strict=True):
        assert table.texts("caption") == ["Who made them"]
        head, *lines = table.every("tr")
        assert head.texts("th") == ["Key", "Score", "Caption", "Licence", "Author", "Source"]
        for line, hit in zip(lines, query["found"], strict=True):
            assert [cell.text for cell in line.inside] == [
                hit["key"],
                f"{hit['score']:.3f}",
                hit["captions"][0],
                hit["licence"] or "not stated",
                hit["author"],
                hit["source_url"],
            ]


def test_what_is_not_known_or_not_at_hand_is_said_in_its_place(database, tmp_path):
    nobody = {"key": "gone-1", "captions": [], "licence": None, "author": None, "source_url": None}
    found = [{"query": "q", "found": [nobody | {"score": 0.25, "row": 0}]}]
    write_sheet(tmp_path / "page.html", database, found, "Copies")
    page = read((tmp_path / "page.html").read_text(encoding="utf-8"))
    (line,) = page.of_class("div", "row")
    assert [(one.tag, one.text) for one in line.inside[0].inside] == [("p", "not at hand")]
    assert line.text == "not at hand0.250" and not list(page.every("img"))
    (_, credit) = [[cell.text for cell in one.inside] for one in page.every("tr")]
    assert credit == ["gone-1", "0.250", "", "not stated", "not stated", "not stated"]
    assert page.texts("title") == ["Copies in shapes"]


def test_a_row_without_a_caption_is_shown_by_its_key(database, rows, tmp_path):
    key = next(iter(rows))
    hit = {"key": key, "captions": None, "licence": None, "author": None, "source_url": None}
    found = [{"query": "q", "found": [hit | {"captions": [], "score": 0.5, "row": 0}]}]
    write_sheet(tmp_path / "page.html", database, found)
    page = read((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert one_picture(page).attributes["alt"] == key


# rdm map


@pytest.fixture(scope="module")
def mapped(small_world, tmp_path_factory):
    """What was told, the page, and the data inside it."""
    out = tmp_path_factory.mktemp("map") / "map.html"
    asked = {"database": "shapes", "rows": 40, "thumbnail": 16, "out": out}
    told = map_database(MapDatabase(root=small_world.root, **asked))
    page = read(out.read_text(encoding="utf-8"))
    (data,) = [one for one in page.every("script") if one.attributes.get("id") == "data"]
    return told, out, page, json.loads(data.text)


def test_a_map_is_told_by_its_file_its_rows_and_its_database(mapped, database):
    told, out, _, _ = mapped
    reference = database.embeddings.reference
    value = {"out": str(out), "rows": 40, "database": reference}
    assert told == (f"map of 40 rows: {out}", value)


def test_what_is_told_under_the_pointer_is_what_the_database_says_of_that_row(mapped, rows):
    data = mapped[3]
    of = [rows[key] for key in data["keys"]]
    assert set(data) == {"points", "keys", "cell", "across", "told", "columns"}
    assert data["told"] == {
        "captions": [" · ".join(row["captions"]) for row in of],
        "labels": [" · ".join(row["labels"]) for row in of],
        "style": [row["style"] or "" for row in of],
        "author": [row["author"] for row in of],
        "licence": [row["licence"] or "" for row in of],
        "source_url": [row["source_url"] for row in of],
    }
    assert len(set(data["told"]["author"])) == 40 and "" in data["told"]["licence"]
    assert (data["cell"], data["across"], len(data["points"])) == (16, 7, 40)


def test_a_colour_is_what_the_row_has_in_that_column_the_most_frequent_first(mapped, rows):
    data = mapped[3]
    of = [rows[key] for key in data["keys"]]
    columns = dict(data["columns"])
    norms = columns.pop("norm")
    assert norms["values"] == [round(row["norm"], 4) for row in of]
    assert {norms["low"], norms["high"]} <= {row["norm"] for row in of}
    assert set(columns) == {"style", "labels", "licence", "author", "captions", "source_url"}
    for name, column in columns.items():
        firsts = [row[name][0] if isinstance(row[name], list) else row[name] for row in of]
        wanted = [value or "not stated" for value in firsts]
        assert [column["names"][place] for place in column["values"]] == wanted, name
        counts = Counter(wanted)
        frequent = [counts[value] for value in column["names"]]
        assert frequent == sorted(counts.values(), reverse=True), name


def test_the_map_names_its_database_says_how_to_read_it_and_has_a_place_for_all_it_tells(mapped):
    page = mapped[2]
    assert page.texts("title") == ["Map of shapes"]
    assert page.texts("h1") == ["shapes"]
    facts = next(page.every("p"))
    assert facts.attributes == {"class": "soft"}
    assert facts.text.startswith("40 of 96 rows, encoder ") and facts.text.endswith(
        "Near rows have near vectors; the sizes of clumps and the distances between them mean "
        "nothing (t-SNE). Drag to move, wheel to come nearer."
    )
    plane, picture = page.every("canvas")
    named = {"id": "map", "role": "img", "aria-label": "Map of shapes"}
    assert plane.attributes == named
    assert picture.attributes == {"id": "picture", "width": "192", "height": "192"}
    assert [one.attributes for one in page.every("dl")] == [{"id": "told"}]
    assert [one.attributes for one in page.every("ul")] == [{"id": "legend"}]
    assert [one.attributes for one in page.every("select")] == [{"id": "colour"}]
    assert page.texts("label") == ["Colour by "]
    atlas = one_picture(page)
    assert (atlas.attributes["alt"], atlas.attributes["id"]) == ("", "atlas")
