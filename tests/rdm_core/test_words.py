"""Search by words: names are found that no encoder has learned, and ties fall by row."""

import logging
import subprocess
import sys
from math import log

import numpy as np
import pytest

from rdm_core.errors import RequestError
from rdm_core.search import NO_ROW, NO_SCORE
from rdm_core.shapes import entities
from rdm_core.words import K1, B, WordIndex, prompt_of, query_of, words_of

CAPTIONS = [
    ["a photograph of a vorta on a dark background"],
    ["a photograph of a mupi on a dark background"],
    [],
    ["a photograph of a mupi on a light background", "a Vorta beside it"],
    ["a photograph of a zed on a striped background"],
]


def test_words_are_small_letters_and_digits_of_any_script():
    assert words_of("A red-ish Circle, 3×: Größe!") == ["a", "red", "ish", "circle", "3", "grösse"]
    assert words_of(" .,- ") == []


def test_a_query_holds_each_word_once_in_the_texts_order():
    assert query_of("a vorta on a dark vorta") == ["a", "vorta", "on", "dark"]


def test_a_rare_word_counts_more_than_all_common_ones():
    rows, scores = WordIndex(CAPTIONS).search([query_of("a zed on a dark background")], 4)
    assert rows[0, 0] == 4, "dark is in two captions, zed in one"
    assert set(rows[0, 1:3]) == {0, 1}
    assert (np.diff(scores[0]) <= 0).all()


def test_any_of_several_captions_of_a_row_is_found():
    rows, _ = WordIndex(CAPTIONS).search([["vorta"]], 5)
    assert rows[0].tolist() == [0, 3, NO_ROW, NO_ROW, NO_ROW]


def test_rows_that_share_no_word_and_rows_without_captions_are_not_found():
    rows, scores = WordIndex(CAPTIONS).search([["striped"], ["unheard"], []], 3)
    assert rows.tolist() == [[4, NO_ROW, NO_ROW], [NO_ROW] * 3, [NO_ROW] * 3]
    np.testing.assert_array_equal(scores == NO_SCORE, rows == NO_ROW)
    assert rows.dtype == np.int64 and scores.dtype == np.float32


def test_the_scores_are_those_of_bm25():
    """Lucene's form (Kamphuis et al., ECIR 2020), counted by hand."""
    rows, scores = WordIndex(CAPTIONS).search([["vorta", "dark"]], 5)
    lengths = np.array([9, 9, 0, 13, 9])
    reach = K1 * (1 - B + B * lengths / lengths.mean())
    weight = log(1 + (5 - 2 + 0.5) / (2 + 0.5))  # both words are in two of five captions
    own = 2 * weight / (1 + K1 * (1 - B + B * 2 / lengths.mean()))
    wanted = {0: 2 * weight / (1 + reach[0]), 1: weight / (1 + reach[1])}
    wanted[3] = weight / (1 + reach[3])
    for row, score in zip(rows[0, :3].tolist(), scores[0, :3], strict=True):
        assert score == pytest.approx(wanted[row] / own, rel=1e-5)


def test_a_score_says_how_much_of_the_query_was_found():
    index = WordIndex([["a red circle"], ["a blue star"], ["a red star"]])
    _, (whole, unknown) = index.search([query_of("a red circle"), query_of("a red vorta")], 3)
    assert whole[0] == pytest.approx(1)
    assert 0 < unknown[0] < 0.5, "the name is nowhere"
    twice = WordIndex([["red circle red circle", "circle"], ["a blue star"]])
    assert twice.search([["circle"]], 1)[1][0, 0] == 1, "no score is above 1"


def test_equal_scores_are_in_the_order_of_the_rows_whatever_k_is():
    index = WordIndex([["a vorta"], ["a mupi"]] * 40)
    whole, _ = index.search([["vorta"], ["a"]], 80)
    assert whole[0].tolist() == list(range(0, 80, 2)) + [NO_ROW] * 40
    assert whole[1].tolist() == list(range(80))
    for k in (1, 7, 39):
        np.testing.assert_array_equal(index.search([["vorta"], ["a"]], k)[0], whole[:, :k])


def test_a_database_without_captions_is_refused():
    for captions in ([], [[], []], [["?"]]):
        with pytest.raises(RequestError, match="captions: none of its rows has a caption.*vectors"):
            WordIndex(captions)


def test_query_dropout_leaves_words_out_and_always_the_same_of_one_key():
    text = "a photograph of a vorta at the top left on a checkered background"
    whole = query_of(text)
    shares = []
    for key in map(str, range(300)):
        kept = query_of(text, 0.2, key)
        assert kept == query_of(text, 0.2, key)
        assert kept == [word for word in whole if word in kept], "the order stays"
        shares.append(len(kept) / len(whole))
    assert np.mean(shares) == pytest.approx(0.8, abs=0.03)
    assert query_of(text, 0.2, "1") != query_of(text, 0.2, "2")
    assert query_of(text, 0.0, "1") == whole


def test_query_dropout_leaves_one_word_at_least():
    for key in map(str, range(50)):
        assert len(query_of("red circle", 0.99, key)) >= 1
    assert query_of("", 0.5, "1") == []


def test_held_out_entities_are_found_by_their_names():
    """Which no encoder can know: their names are in databases alone."""
    held_out = entities.group("held out")
    drawn = [entities.sample("database", index, 16, entities="all") for index in range(1500)]
    captions = [[one.caption] for one in drawn]
    queries = [query_of(entities.caption(one.name, "centre", "dark")) for one in held_out]
    rows, _ = WordIndex(captions).search(queries, 2)
    there = {one.entity.name for one in drawn}
    shown = [drawn[row].entity.name for row in rows[:, 0]]
    for entity, name in zip(held_out, shown, strict=True):
        assert entity.name not in there or name == entity.name


def test_the_library_is_loaded_when_words_are_searched_and_not_before():
    code = (
        "import sys; from rdm_core.words import WordIndex; assert 'bm25s' not in sys.modules; "
        "WordIndex([['a']]); assert 'bm25s' in sys.modules; "
        "assert not {'torch', 'transformers', 'numba'} & (set(sys.modules) - before)"
    )
    code = f"import sys, rdm_core.search; before = set(sys.modules); {code}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_library_says_nothing_of_its_own(caplog):
    with caplog.at_level(logging.DEBUG):
        WordIndex([["a red circle"], ["a blue star"]]).search([["red"]], 1)
    assert not [record for record in caplog.records if record.name == "bm25s"]


def test_articles_of_a_prompt_are_not_looked_up_unless_there_is_nothing_else():
    assert prompt_of("A goose, the goose") == ["goose"]
    assert prompt_of("the a") == ["the", "a"]
    index = WordIndex([["A button (blood type)"], ["goose", "bird"]])
    assert index.search([prompt_of("a goose")], 2)[0].tolist() == [[1, NO_ROW]]
