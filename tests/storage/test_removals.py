"""The removal list: what is on it stays on it, and who reads it knows."""

import multiprocessing

import pytest
from building import keys_of

from storage.build import begin
from storage.embeddings import embeddings_schema, write_embeddings, write_embeddings_without
from storage.errors import FormatError, StorageError
from storage.manifest import Plan
from storage.parquet import read_table
from storage.removals import (
    add_removals,
    on_list,
    read_keys,
    read_removals,
    removal_parameters,
    removals_file,
    removed_from_shard,
)
from storage.shards import write_shard


def test_the_list_only_grows_and_is_one_sorted_key_a_line(tmp_path):
    assert read_removals(tmp_path, "a") == frozenset()
    assert add_removals(tmp_path, "a", ["b-00", "a"]) == {"a", "b-00"}
    assert add_removals(tmp_path, "a", ["c"]) == {"a", "b-00", "c"}
    assert removals_file(tmp_path, "a").read_text() == "a\nb-00\nc\n"
    assert (
        read_removals(tmp_path, "a") == {"a", "b-00", "c"}
        and read_removals(tmp_path, "b") == frozenset()
    )


def test_a_key_that_is_on_the_list_changes_nothing_on_the_disk(tmp_path):
    add_removals(tmp_path, "a", ["a", "b"])
    # Every write replaces the file, and so its time.
    before = removals_file(tmp_path, "a").stat().st_mtime_ns
    add_removals(tmp_path, "a", ["b"])
    assert removals_file(tmp_path, "a").stat().st_mtime_ns == before


def add_many(root, who):
    for number in range(20):
        add_removals(root, "a", [f"{who}-{number}"])


def test_two_that_remove_at_once_lose_no_key(tmp_path):
    (tmp_path / "embeddings" / "a").mkdir(parents=True)
    # Processes, not threads: the lock is one of the kernel between processes.
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=add_many, args=(tmp_path, who)) for who in "xy"]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    keys = set()
    for number in range(20):
        keys |= {f"x-{number}", f"y-{number}"}
    assert read_removals(tmp_path, "a") == keys


def test_a_list_that_is_gone_is_told_before_a_key_can_come_back(tmp_path, make):
    removed = add_removals(tmp_path, "a", ["x"])
    make(
        "embeddings",
        "a",
        lambda scratch, name: (scratch / name).write_bytes(b"rows"),
        parameters=removal_parameters(removed),
    )
    removals_file(tmp_path, "a").unlink()
    with pytest.raises(
        FormatError, match=r"removed.txt: is absent, although embeddings/a@.* Put it back"
    ):
        read_removals(tmp_path, "a")
    with pytest.raises(FormatError):
        add_removals(tmp_path, "a", ["y"])


def test_a_plan_says_nothing_of_an_empty_list_and_the_same_of_equal_ones():
    assert removal_parameters(frozenset()) == {}
    assert (
        removal_parameters({"a", "b"})
        == removal_parameters(frozenset(["b", "a"]))
        != removal_parameters({"a"})
    )


def test_a_key_names_one_crop_and_a_source_key_every_crop():
    keys = ["d-a-00", "d-a-01", "d-b-00", "d-ab-00", "d-a-1-00"]
    assert on_list(keys, {"d-a"}) == ["d-a-00", "d-a-01"]
    assert on_list(keys, {"d-a-01", "d-b"}) == ["d-a-01", "d-b-00"]
    # Half of a source key names nothing.
    assert on_list(keys, {"d", ""}) == []


def test_a_file_of_keys_may_hold_blank_lines_comments_windows_line_ends_and_repeats(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_bytes(
        "\ufeffa-00\r\n\r\n# asked for on Monday\r\n  b  # by mail\r\na-00\r\n".encode()
    )
    assert read_keys(path) == ("a-00", "b")
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(StorageError, match="cannot be read"):
            read_keys(wrong)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe", "is no text in UTF-8 .it is UTF-16"),
        ("a-00\n".encode("utf-16"), "is no text in UTF-8 .it is UTF-16"),
        ("a-00\n".encode("utf-16-le"), "is no text in UTF-8 .it holds NUL"),
        (b"caf\xe9-00\n", "is no text in UTF-8 .byte 3"),
        (b"a-00\nkey,why\n", "'key,why' is no key. Write one key a line and nothing else"),
        (b"a-00;asked\n", "is no key"),
        (b"a-00 b-00\n", "is no key"),
        (b'"a-00"\n', "is no key"),
        ("caf\u00e9\n".encode(), "is no key"),
        (b"../../etc/passwd\n", "is no key"),
        (b"PK\x03\x04\x14\n", "is no key"),
    ],
)
def test_a_file_that_holds_anything_but_keys_is_refused(content, told, tmp_path):
    path = tmp_path / "keys.txt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=told):
        read_keys(path)


def test_a_shard_names_its_accepted_samples_on_the_list(make, sample):
    samples = [sample(1), sample(2, reason="too small"), sample(3)]
    shards = make("shards", "a", lambda scratch, name: write_shard(scratch, name, samples))
    assert removed_from_shard(shards, "00000", {"folder-3", "folder-2", "folder-1-00"}) == [
        "folder-1-00",
        "folder-3-00",
    ]
    shards.file("00000.parquet").unlink()
    assert removed_from_shard(shards, "00000", frozenset()) == [], "an empty list costs nothing"


def test_a_filtered_part_is_bit_by_bit_the_part_that_never_held_them(
    tmp_path, make, sidecar, unit_vectors
):
    vectors, norms = unit_vectors(6)
    whole = make(
        "embeddings",
        "a",
        lambda scratch, name: write_embeddings(scratch, name, sidecar(6), vectors, norms),
    )
    source, rest = whole.file("00000.parquet"), [1, 2, 3, 5]
    assert write_embeddings_without(source, tmp_path, "new", {"folder-0-00", "folder-4-00"}) == 4
    write_embeddings(tmp_path, "never", sidecar(6).take(rest), vectors[rest], norms[rest])
    assert (tmp_path / "new.parquet").read_bytes() == (tmp_path / "never.parquet").read_bytes()
    assert write_embeddings_without(source, tmp_path, "none", set(keys_of(range(6)))) == 0
    assert read_table(tmp_path / "none.parquet").schema.equals(embeddings_schema(8))


def test_a_list_in_an_object_store_is_the_stores(tmp_path, monkeypatch):
    from storage.roots import mirror_of

    for mirror in ("one", "other"):
        monkeypatch.setenv("RDM_MIRROR", str(tmp_path / mirror))
        add_removals(mirror_of(f"file://{tmp_path}/bucket"), "a", [mirror])
    assert (tmp_path / "bucket" / "embeddings" / "a" / "removed.txt").read_text() == "one\nother\n"
    with begin(mirror_of(f"file://{tmp_path}/bucket"), Plan("embeddings", "a", {})):
        assert read_removals(mirror_of(f"file://{tmp_path}/bucket"), "a") == {"one", "other"}
