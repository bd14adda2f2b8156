"""A condition chooses rows, by their columns alone, and can do nothing else."""

import pyarrow as pa
import pytest

from storage.conditions import LONGEST, ConditionError, columns_used, evaluated

ROWS = pa.table(
    {
        "key": ["a", "b", "c"],
        "licence": ["CC0", None, "CC BY"],
        "style": ["x", "y", "sketch"],
        "norm": [1.0, 2.0, 3.0],
        "captions": [["a dog"], [], None],
        "labels": [["Dog"], None, ["Cat", "Dog"]],
    }
)


def chosen(condition, rows=ROWS):
    used = columns_used(condition, rows.column_names)
    answer = evaluated(condition, rows.select(used or ["key"]))
    return "".join(key for key, yes in zip("abc", answer.tolist(), strict=True) if yes)


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        ("licence IN ('CC0', 'CC BY') AND style <> 'sketch'", "a"),
        ("Licence IS NULL", "b"),
        ("licence <> 'CC0'", "c"),
        ("NOT licence = 'CC0'", "c"),
        ("coalesce(licence, '') = ''", "b"),
        ("list_contains(labels, 'Dog')", "ac"),
        ("labels && ['Cat']", "c"),
        ("captions[1] ILIKE '%DOG%'", "a"),
        ("norm BETWEEN 1 AND 2 -- a comment", "ab"),
        ("CASE WHEN norm > 2 THEN true ELSE licence = 'CC0' END", "ac"),
        ("norm::int % 2 = 1", "ac"),
        ("regexp_matches(style, '^s')", "c"),
        ("style LIKE 's%' OR (norm + 1) * 2 = 4", "ac"),
        ("style = 'it''s'", ""),
        ("true", "abc"),
    ],
)
def test_rows_that_satisfy_it_are_chosen_and_null_is_no(condition, keys):
    assert chosen(condition) == keys


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("", "it is empty"),
        ("licence =", "cannot be read: syntax error"),
        ("colour = 'red'", r"no column colour\. Columns: key, licence, style"),
        ('style = "sketch"', r"no column sketch.*A text stands in single quotes"),
        ("rows.style = 'x'", "no column rows.style"),
        ("style", "it gives VARCHAR, not yes or no"),
        ("norm > 'abc'", "Could not convert string 'abc'"),
        ("EXISTS (SELECT 1)", "it has a sub-select"),
        ("style IN (SELECT style FROM rows)", "it has a sub-select"),
        ("row_number() OVER () = 1", "a window function"),
        ("count(*) > 1", "may not call count_star"),
        ("$1", "a parameter"),
        ("*", "a star"),
        ("1=1) UNION SELECT 1 FROM rows WHERE (1=1", "more than one expression"),
        ("1=1) ORDER BY (1", "more than one expression"),
        ("1=1) LIMIT (1", "more than one expression"),
        ("1=1) GROUP BY ALL HAVING (1=1", "more than one expression"),
        ("1=1; DROP TABLE rows", "cannot be read"),
        ("1=1); DROP TABLE rows; SELECT (1=1", "more than one expression|cannot be read"),
        ("1=1 /*", "cannot be read"),
        ("NOT " * 600 + "true", "cannot be read"),
        ("true OR " * LONGEST + "true", "characters"),
    ],
)
def test_what_is_no_condition_is_refused_with_what_and_cure(condition, told):
    with pytest.raises(ConditionError, match=told):
        chosen(condition)


@pytest.mark.parametrize(
    "call",
    ["read_text('/etc/passwd')", "read_blob('x')", "getenv('HOME')", "random()", "now()",
     "current_setting('threads')", "repeat('x', 1000000000)", "range(1000000000)", "nextval('a')",
     "sleep_ms(1000)", "list_filter(labels, x -> true)", "write_log('x')", "query('SELECT 1')",
     "main.lower(style)"],
)  # fmt: skip
def test_no_function_is_called_that_reads_writes_waits_or_says_something_else_each_time(call):
    with pytest.raises(ConditionError, match="may not call|sub-select|function of its own"):
        chosen(f"{call} IS NOT NULL")


def test_a_row_has_the_answer_to_its_own_values_however_many_there_are():
    count = 300_000  # more than DuckDB hands to one thread
    rows = pa.table({"key": pa.array(range(count))})
    answer = evaluated("key % 7 = 3", rows)
    assert answer.nonzero()[0].tolist() == list(range(3, count, 7))
