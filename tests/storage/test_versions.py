"""What each version is, and what changed since the one before it."""

import pytest
from building import NEXT, build_all

from storage.artifact import artifacts
from storage.build import begin
from storage.embeddings import write_embeddings
from storage.errors import StorageError
from storage.manifest import Plan
from storage.versions import history


@pytest.fixture
def database(tmp_path, sidecar, unit_vectors):
    """database(source, [0, 1], [2]) publishes a version with a part for each list of sample
    numbers.
    """

    def made(source, *parts):
        with begin(tmp_path, Plan("embeddings", "paintings", {}, {"shards": source})) as build:
            made_parts = []
            for place, numbers in enumerate(parts):
                name, origin = f"{place:05d}", f"made from {numbers}"
                part = build.existing_part(name, origin)
                made_parts.append(part or written(build, name, origin, numbers))
            return build.commit(made_parts, {})

    def written(build, name, origin, numbers):
        vectors, norms = unit_vectors(len(numbers))
        rows = sidecar(10).take(numbers)
        return build.write_part(
            name,
            origin,
            lambda scratch: (write_embeddings(scratch, name, rows, vectors, norms), {}),
        )

    return made


def test_a_history_tells_of_each_version_when_how_large_from_what_and_which_is_current(tmp_path):
    source = build_all(tmp_path)
    first = build_all(
        tmp_path, Plan("latents", "a", {}, {"shards": source.fingerprint, "other": "not here"})
    )
    second = build_all(tmp_path, Plan("latents", "a", {}, {"shards": source.fingerprint}))
    build_all(tmp_path, Plan("latents", "b", {}))
    older, newer = history(tmp_path, "latents", "a")
    assert (older.artifact, newer.artifact) == (first, second)
    assert (older.current, newer.current) == (False, True)
    assert older.inputs == {
        "shards": (source.fingerprint, source.reference),
        "other": ("not here", None),
    }
    assert (older.artifact.version, newer.artifact.version) == (1, 2)
    assert newer.artifact.measured["seconds"] == 1.5
    assert older.change is None and newer.change.against == 1


def test_a_change_names_the_parameters_and_inputs_that_differ_with_both_values(tmp_path):
    for parameters, inputs in (
        ({"size": 64, "deep": {"er": 1, "same": 0}}, {"source": "aa", "more": "x"}),
        ({"size": 64, "deep": {"er": 2, "same": 0}, "new": [1]}, {"source": "bb"}),
    ):
        build_all(tmp_path, Plan("shards", "paintings", parameters, inputs))
    change = history(tmp_path, "shards", "paintings")[1].change
    assert change.parameters == (("deep.er", 1, 2), ("new", None, [1]))
    assert change.inputs == (("more", "x", None), ("source", "aa", "bb"))


def test_a_change_tells_parts_taken_over_from_parts_made_and_dropped_whatever_they_are_called(
    tmp_path,
):
    build_all(tmp_path, contents=("one", "two", "three", "four"))
    # "one" was part 00000 and is 00001 now: parts are compared by what they were made from.
    build_all(tmp_path, NEXT, contents=("new", "one", "changed"))
    change = history(tmp_path, "shards", "paintings")[1].change
    assert change.taken_over == ("00001",)
    assert change.made == ("00000", "00002")
    assert change.dropped == ("00001", "00003"), (
        "their content is gone and no part of their name was made"
    )


def test_rows_are_counted_by_key_where_the_rows_have_keys(database, tmp_path):
    database("aa", [0, 1, 2, 9], [3, 4], [5])
    database("bb", [0, 1, 6], [3, 4], [2, 7, 8])
    change = history(tmp_path, "embeddings", "paintings")[1].change
    assert (change.rows_added, change.rows_removed) == (3, 2), (
        "6, 7, 8 came, 5, 9 went, 2 has moved"
    )
    assert change.taken_over == ("00001",)


def test_an_unchanged_part_is_not_even_read(database, tmp_path):
    first = database("aa", [0, 1], [2])
    database("bb", [0, 1], [3])
    path = first.file("00000.parquet")
    # Reading it would fail: the part has the same origin in both versions.
    path.unlink()
    change = history(tmp_path, "embeddings", "paintings")[1].change
    assert (change.rows_added, change.rows_removed) == (1, 1)


def test_rows_are_counted_by_number_where_they_have_no_key_or_cannot_be_read(database, tmp_path):
    build_all(tmp_path)
    # These parts hold no Parquet tables, so no keys: one part of 3 rows instead of two.
    build_all(tmp_path, NEXT, contents=("00000",))
    change = history(tmp_path, "shards", "paintings")[1].change
    assert (change.rows_added, change.rows_removed) == (0, 3)
    database("aa", [0, 1]).file("00000.parquet").write_bytes(b"not Parquet")
    database("bb", [3, 4, 5])
    change = history(tmp_path, "embeddings", "paintings")[1].change
    assert (change.rows_added, change.rows_removed) == (1, 0)


def test_a_version_that_is_gone_or_damaged_hides_no_other(tmp_path):
    versions = [
        build_all(tmp_path, Plan("shards", "paintings", {"size": size})) for size in (1, 2, 3, 4)
    ]
    (versions[1].directory / "manifest.json").write_text("{")
    (versions[2].directory / "manifest.json").unlink()
    seen = history(tmp_path, "shards", "paintings")
    assert [version.artifact.version for version in seen] == [1, 4]
    assert seen[1].change.against == 1 and seen[1].change.parameters == (("size", 1, 4),)


def test_of_several_artifacts_with_the_same_bytes_the_input_is_the_one_of_the_same_name(tmp_path):
    for name in ("paintings", "a", "z"):
        build_all(tmp_path, Plan("shards", name, {"size": 1}))
    source = artifacts(tmp_path, "shards", "a")[0]
    build_all(tmp_path, Plan("latents", "a", {}, {"shards": source.fingerprint}))
    assert history(tmp_path, "latents", "a")[0].inputs["shards"][1] == source.reference


def test_a_name_that_cannot_be_is_refused(tmp_path):
    for kind, name in (("shards", "../x"), ("shard", "x")):
        with pytest.raises(StorageError, match="is not a"):
            history(tmp_path, kind, name)
    assert history(tmp_path, "shards", "nothing") == []
