"""SQL reads everything that was built, and can do nothing else."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from building import files_under

from storage.artifact import artifacts, open_artifact
from storage.build import begin
from storage.embeddings import write_embeddings
from storage.errors import ArtifactDamaged, StorageError
from storage.manifest import Plan
from storage.neighbors import write_neighbors
from storage.query import VIEWS, QueryError, query
from storage.removals import add_removals
from storage.runs import append_metrics
from storage.shards import read_images, write_shard


@pytest.fixture
def root(tmp_path, make, sample, sidecar, unit_vectors):
    """Two names of shards, one of embeddings with an older version, a neighbor table and a run."""
    make(
        "shards",
        "coco",
        lambda d, n: write_shard(d, n, [sample(0), sample(1), sample(2, reason="truncated")]),
    )
    make("shards", "own", lambda d, n: write_shard(d, n, [sample(3, author=None, licence=None)]))
    for rows in (2, 3):
        write = lambda d, n, rows=rows: write_embeddings(d, n, sidecar(rows), *unit_vectors(rows))  # noqa: E731
        make("embeddings", "coco", write, parameters={"rows": rows})
    keys = np.asarray(["a", "b"], dtype=object)
    table = (np.asarray([[0, 1]]), np.asarray([[0.9, 0.5]], np.float32))
    make("neighbors", "coco", lambda d, n: write_neighbors(d, n, ["q"], keys, *table))
    make(
        "runs",
        "first",
        two_steps,
    )
    make(
        "evaluations",
        "first",
        lambda d, n: (d / "evaluation.json").write_text('{"loss": {"mean": 0.5}}') and 1,
    )
    return tmp_path


def two_steps(directory, _):
    append_metrics(directory, {"step": 1, "loss": 1.0})
    append_metrics(directory, {"step": 2, "loss": 0.5})
    return 2


def rows(root, sql):
    return [tuple(row.values()) for row in query(root, sql).rows()]


def bytes_under(root):
    """The bytes of every file below a folder, in the order of their paths."""
    return [(root / name).read_bytes() for name in files_under(root)]


def test_each_kind_is_a_view_of_the_current_versions_with_their_names(root):
    each = "SELECT artifact, status, count(*) FROM shards GROUP BY ALL ORDER BY ALL"
    assert rows(root, each) == [("coco", "ok", 2), ("coco", "rejected", 1), ("own", "ok", 1)]
    assert rows(root, "SELECT count(*) FROM embeddings") == [(3,)]
    assert rows(root, "select keys[1] from NEIGHBORS") == [("a",)], "whatever the case"
    assert rows(root, "SELECT step, loss FROM runs ORDER BY step") == [(1, 1.0), (2, 0.5)]


def test_a_run_that_logged_nothing_has_no_rows(make, root):
    make("runs", "converted", lambda d, n: (d / "weights").write_text("w"))
    assert rows(root, 'SELECT step FROM runs."converted"') == []
    assert rows(root, "SELECT count(*) FROM runs WHERE artifact = 'converted'") == [(0,)]
    assert rows(root, "SELECT evaluation->>'$.loss.mean' FROM evaluations") == [("0.5",)]


def test_an_autoencoder_is_the_metrics_of_its_training(make, root):
    lines = '{"step": 1, "l1": 0.5}\n{"step": 2, "l1": 0.25}\n'
    make("autoencoders", "small", lambda d, n: (d / "metrics.jsonl").write_text(lines))
    asked = "SELECT artifact, step, l1 FROM autoencoders ORDER BY step"
    assert rows(root, asked) == [("small", 1, 0.5), ("small", 2, 0.25)]


def test_one_name_and_one_version_of_it_can_be_asked_for(root):
    old, new = sorted(artifacts(root, "embeddings", "coco"), key=lambda a: a.version)
    assert (
        rows(root, 'SELECT count(*) FROM embeddings."coco"')
        == rows(root, "SELECT count(*) FROM embeddings.coco")
        == [(3,)]
    )
    assert rows(root, f'SELECT count(*) FROM embeddings."coco@{old.id}"') == [(2,)]
    added = (
        f'SELECT key FROM embeddings."coco@{new.id}" '
        f'WHERE key NOT IN (SELECT key FROM embeddings."coco@{old.id}")'
    )
    assert rows(root, added) == [("folder-2-00",)]


def test_the_artifacts_themselves_are_a_view(root):
    found = rows(
        root,
        "SELECT version, current, rows, parameters->>'$.rows' FROM artifacts "
        "WHERE kind = 'embeddings' ORDER BY 1",
    )
    assert found == [(1, False, 2, "2"), (2, True, 3, "3")]


def test_an_empty_root_has_views_without_rows(tmp_path):
    assert query(tmp_path, "SELECT * FROM artifacts").rows() == []
    with pytest.raises(QueryError, match="nothing of kind embeddings has been built"):
        query(tmp_path, "SELECT * FROM embeddings")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM shards",
        "INSERT INTO shards VALUES (1)",
        "UPDATE shards SET key = ''",
        "DROP VIEW shards",
        "CREATE TABLE mine AS SELECT 1",
        "COPY shards TO 'stolen.csv'",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "SET threads = 1",
        "PRAGMA database_list",
        "SELECT 1; DROP VIEW shards",
        (
            "EXPLAIN ANALYZE COPY (SELECT 42 AS a FROM shards) "
            "TO '{part}' (FORMAT parquet, USE_TMP_FILE false)"
        ),
        "EXPLAIN COPY (SELECT 42 AS a FROM shards) TO '{part}'",
        "",
    ],
)
def test_what_does_not_only_read_is_refused(root, sql):
    parts = sorted(root.rglob("*.parquet"))
    names, before = files_under(root), bytes_under(root)
    with pytest.raises(QueryError, match="where one SELECT is allowed"):
        query(root, sql.replace("{part}", str(parts[0])))
    assert (files_under(root), bytes_under(root)) == (names, before)


@pytest.mark.parametrize("function", ["read_text", "read_csv", "read_parquet", "read_blob", "glob"])
def test_files_outside_the_artifacts_cannot_be_read(root, function):
    # Under the root, but no file of an artifact.
    (root / "secret.txt").write_text("secret")
    with pytest.raises(QueryError, match="(?i)permission|disabled"):
        query(root, f"SELECT * FROM {function}('{root}/secret.txt')")


def test_a_mistake_is_told_with_the_views_there_are(root):
    with pytest.raises(QueryError, match='"licens" not found.*Views: ' + ", ".join(VIEWS)):
        query(root, "SELECT licens FROM shards")
    with pytest.raises(QueryError, match="syntax error"):
        query(root, "SELEC 1")


def test_a_result_is_saved_whole_by_its_ending(root, tmp_path):
    found = query(root, "SELECT key, captions FROM shards ORDER BY key")
    for ending in ("parquet", "csv", "json"):
        found.save(tmp_path / f"out.{ending}")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == found.rows()
    assert json.loads((tmp_path / "out.json").read_text()) == found.rows()
    with (tmp_path / "out.csv").open() as file:
        for written, row in zip(csv.DictReader(file), found.rows(), strict=True):
            assert json.loads(written["captions"]) == row["captions"]
    with pytest.raises(StorageError, match="its ending is none of .parquet, .csv, .json"):
        found.save(tmp_path / "out.xlsx")


def test_every_stored_picture_is_found_by_its_place_in_its_tar(root):
    found = query(root, "SELECT * FROM pictures ORDER BY ALL").rows()
    assert rows(root, "SELECT artifact, key FROM pictures ORDER BY ALL") == rows(
        root, "SELECT artifact, key FROM shards WHERE status = 'ok' ORDER BY ALL"
    )
    assert len(found) == 3
    for row in found:
        stored = dict(read_images(open_artifact(root, "shards", row["artifact"]), "00000"))
        with Path(row["tar"]).open("rb") as tar:
            tar.seek(row["position"])
            assert tar.read(row["bytes"]) == stored[row["key"]] and row["format"] == "png"


def test_a_damaged_tar_is_told(root):
    (tar,) = open_artifact(root, "shards", "own").files(".tar")
    tar.write_bytes(b"x" * tar.stat().st_size)
    with pytest.raises(StorageError, match="damaged tar"):
        query(root, "SELECT * FROM pictures")


def test_what_was_taken_out_of_a_database_is_listed(root):
    assert rows(root, "SELECT * FROM removed") == []
    add_removals(root, "coco", ["folder-2-00", "folder-1"])
    assert rows(root, "SELECT * FROM removed") == [("coco", "folder-1"), ("coco", "folder-2-00")]


def test_which_runs_were_trained_with_an_image_is_asked_over_all_versions(root, make):
    old, new = sorted(artifacts(root, "embeddings", "coco"), key=lambda a: a.version)
    table = open_artifact(root, "neighbors", "coco")
    for at, embeddings in enumerate((old, new)):
        inputs = {
            "database": embeddings.fingerprint,
            "neighbors": table.fingerprint,
            "latents": "gone",
        }
        write = lambda d, n, at=at: append_metrics(d, {"step": at}) or 1  # noqa: E731
        make("runs", "trained", write, inputs=inputs)
    first, second = sorted(artifacts(root, "runs", "trained"), key=lambda a: a.version)
    asked = "SELECT run, id, role, artifact FROM seen WHERE key = '{}' ORDER BY version"
    assert rows(root, asked.format("folder-2-00")) == [
        ("trained", second.id, "database", new.reference)
    ]
    assert rows(root, asked.format("a")) == [
        ("trained", first.id, "neighbors", table.reference),
        ("trained", second.id, "neighbors", table.reference),
    ]
    unknown = "SELECT run, version FROM seen WHERE key IS NULL AND role = 'latents' ORDER BY 2"
    assert rows(root, unknown) == [("trained", 1), ("trained", 2)]


def test_a_kind_of_which_nothing_is_there_has_no_rows_or_is_named(tmp_path):
    for kind in ("shards", "samples", "autoencoders", "runs", "evaluations"):
        assert rows(tmp_path, f"SELECT artifact FROM {kind}") == []
    assert rows(tmp_path, "SELECT file FROM samples WHERE list_contains(neighbor_keys, 'a')") == []
    for kind in ("embeddings", "Neighbors", "latents"):
        with pytest.raises(
            QueryError, match=f"nothing of kind {kind.lower()} has been built under"
        ):
            query(tmp_path, f"SELECT * FROM {kind}")


def test_where_no_run_is_there_none_has_seen_anything(tmp_path):
    assert rows(tmp_path, "SELECT * FROM seen") == rows(tmp_path, "SELECT * FROM pictures") == []


def test_an_unfinished_build_is_not_seen(root):
    with begin(root, Plan("shards", "half", {}, {})):
        assert rows(root, "SELECT DISTINCT artifact FROM shards ORDER BY 1") == [
            ("coco",),
            ("own",),
        ]


def test_columns_of_one_name_are_told_apart_and_none_is_lost(root, tmp_path):
    found = query(
        root,
        "SELECT a.key, b.key, a.key AS key_1, 1 AS n "
        "FROM shards a, shards b WHERE a.key < b.key ORDER BY ALL",
    )
    assert (
        list(found.rows()[0]) == ["key", "key_1", "key_1_1", "n"]
        and len(set(found.rows()[0].values())) == 3
    )
    found.save(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        for written, row in zip(csv.DictReader(file), found.rows(), strict=True):
            assert written == row | {"n": str(row["n"])}


def test_what_json_or_a_file_cannot_hold_is_told_or_told_otherwise(root, tmp_path):
    found = query(
        root,
        "SELECT 'nan'::FLOAT AS x, [1.5, 'inf'::FLOAT] AS y, "
        "INTERVAL 1 DAY AS z, [DATE '2020-01-01'] AS d",
    )
    (row,) = found.rows()
    assert (row["x"], row["y"]) == (None, [1.5, None])
    for ending in ("csv", "json"):
        found.save(tmp_path / f"out.{ending}")
        assert "2020-01-01" in (tmp_path / f"out.{ending}").read_text()
    with pytest.raises(StorageError, match="out.parquet: parquet cannot hold it .*CAST the column"):
        found.save(tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_damaged_artifact_is_told_and_does_not_stand_in_the_way_of_others(root):
    (part,) = open_artifact(root, "shards", "coco").files(".parquet")
    part.write_bytes(part.read_bytes()[:-10])
    assert rows(root, 'SELECT count(*) > 0 FROM shards."own"') == [(True,)]
    others = (
        "SELECT count(*) > 0 FROM artifacts WHERE kind <> 'shards' AND name <> 'é' "
        "-- don't open shards.coco"
    )
    assert rows(root, others) == [(True,)]
    for sql in (
        'SELECT * FROM shards."coco"',
        "SELECT * FROM shards",
        "SELECT 'é', * FROM Shards",
        "DESCRIBE shards",
    ):
        with pytest.raises(ArtifactDamaged, match="00000.parquet has .*builds it again"):
            query(root, sql)


# Names that differ by case alone


@pytest.fixture
def three_cases(root, make, sample):
    """Shards called coco (3 rows), Coco (1) and COCO (2, of an id that Coco's may be too)."""
    make("shards", "Coco", lambda d, n: write_shard(d, n, [sample(4)]))
    make("shards", "COCO", lambda d, n: write_shard(d, n, [sample(5), sample(6)]))
    return root


def test_names_that_differ_by_case_alone_are_told_apart(three_cases):
    for name, count in (("coco", 3), ("Coco", 1), ("COCO", 2)):
        assert rows(three_cases, f'SELECT count(*) FROM shards."{name}"') == [(count,)]
        assert rows(three_cases, f"SELECT count(*) FROM SHARDS . {name}") == [(count,)]
        [one] = artifacts(three_cases, "shards", name)
        assert rows(three_cases, f'SELECT count(*) FROM shards."{name}@{one.id}"') == [(count,)]
    together = (
        "SELECT (SELECT count(*) FROM shards.coco), "
        '(SELECT count(*) FROM shards."COCO"), count(*) FROM shards'
    )
    assert rows(three_cases, together) == [(3, 2, 7)]
    both = (
        'SELECT a.key FROM shards."COCO" a JOIN shards."COCO" b USING (key) '
        "WHERE a.key <> 'shards.\"coco\"' -- shards.Coco"
    )
    assert len(rows(three_cases, both)) == 2


def test_a_name_that_may_be_two_is_refused_with_both(three_cases):
    with pytest.raises(
        QueryError,
        match=r'shards.cOCO may be COCO or Coco or coco, which differ by case alone.*shards."COCO"',
    ):
        query(three_cases, "SELECT * FROM shards.cOCO")


def test_one_name_may_be_written_in_any_case(root):
    assert (
        rows(root, 'SELECT count(*) FROM shards."OWN"')
        == rows(root, "SELECT count(*) FROM Shards.Own")
        == [(1,)]
    )
    assert rows(root, 'SELECT count(*) FROM shards."OWN" JOIN shards.own USING (key)') == [(1,)]


def test_a_message_keeps_the_spaces_of_a_path(root):
    with pytest.raises(QueryError, match=re.escape("/a  b   c.parquet")):
        query(root, "SELECT * FROM '/a  b   c.parquet'")


@pytest.mark.parametrize("kind", ['"embeddings"', '"EMBEDDINGS"', '"embeddings" ', "Embeddings"])
def test_a_kind_may_stand_in_quotes(kind, root):
    assert (
        rows(root, f'SELECT count(*) FROM {kind}."coco"')
        == rows(root, f"SELECT count(*) FROM {kind}")
        == [(3,)]
    )


def test_what_json_has_no_words_for_is_none_however_deep_it_lies(root):
    assert rows(root, "SELECT MAP {'a': 'nan'::DOUBLE} AS m, {'b': ['inf'::FLOAT]} AS s") == [
        ([["a", None]], {"b": [None]})
    ]


@pytest.mark.parametrize(
    "value", ["'infinity'::TIMESTAMP", "'290000-01-01'::DATE", "'-infinity'::TIMESTAMPTZ"]
)
@pytest.mark.parametrize("ending", ["", ".json", ".csv"])
def test_a_date_that_python_has_none_for_is_told(value, ending, root, tmp_path):
    asked = query(root, f"SELECT {value} AS d")
    with pytest.raises(StorageError, match="a value cannot be read .*CAST its column to TEXT"):
        asked.save(tmp_path / f"x{ending}") if ending else asked.rows()
