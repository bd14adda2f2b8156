"""What an image stood behind, and whose images stood behind some samples."""

import json

import pytest
from asking import sample

from flows.cli import main
from flows.look.who import who
from rdm_core.errors import RequestError
from storage.artifact import open_artifact
from storage.embeddings import read_columns
from storage.errors import ArtifactMissing
from storage.samples import read_samples


@pytest.fixture(scope="module")
def drawn(small_world):
    samples = sample(small_world, "who", texts=("a red circle", "a blue star"), count=3)
    return samples, read_samples(samples)


def test_an_image_is_told_with_every_sample_run_and_table_that_it_stood_behind(small_world, drawn):
    samples, records = drawn
    key = records[0]["neighbor_keys"][0]
    text, value = who(small_world.root, [key])
    mine = [one for one in value["samples"] if one["reference"] == samples.reference]
    expected = []
    for record in records:
        if key in record["neighbor_keys"]:
            expected.append((record["file"], record["neighbor_keys"].index(key) + 1))
    assert [(one["file"], one["rank"]) for one in mine] == expected and expected
    assert small_world.run.reference in {run["reference"] for run in value["runs"]}
    held = {holder["reference"].split("@")[0] for holder in value["holders"]}
    assert {"shards/shapes", "embeddings/shapes", "neighbors/shapes", "samples/who"} <= held
    (credit,) = value["credits"]
    assert credit["author"] in records[0]["authors"] and credit["author"] in text
    assert f"{samples.reference}/00000.png  neighbor 1" in text


def test_images_of_two_databases_are_each_told_with_their_credit(small_world, drawn):
    keys = []
    for name in ("shapes", "sketches"):
        rows = read_columns(open_artifact(small_world.root, "embeddings", name), ["key"])
        keys.append(rows["key"].to_pylist()[4])
    _, value = who(small_world.root, keys)
    assert [credit["key"] for credit in value["credits"]] == keys


def test_an_image_that_was_never_a_neighbor_stood_behind_no_sample(small_world, drawn):
    rows = read_columns(open_artifact(small_world.root, "embeddings", "shapes"), ["key"])
    every = set(rows["key"].to_pylist())
    for samples in (small_world.root / "samples").glob("*/*/samples.parquet"):
        import pyarrow.parquet as pq

        for keys in pq.read_table(samples)["neighbor_keys"].to_pylist():
            every -= set(keys)
    text, value = who(small_world.root, [sorted(every)[0]])
    assert value["samples"] == [] and "no sample was drawn from it" in text


def test_a_key_without_crop_is_every_crop_of_the_image(small_world, drawn):
    key = drawn[1][0]["neighbor_keys"][0]
    with_crop, without = (
        who(small_world.root, [name])[1] for name in (key, key.rpartition("-")[0])
    )
    assert with_crop["samples"] == without["samples"] != []


def test_shares_are_of_samples_and_their_neighbors_alike_and_sum_to_one(small_world, drawn):
    _, records = drawn
    text, value = who(small_world.root, ["samples/who"])
    expected = {}
    for record in records:
        for author in record["authors"]:
            expected[author] = expected.get(author, 0) + 1 / len(record["authors"]) / len(records)
    assert value["authors"] == pytest.approx(expected)
    assert sum(value["licences"].values()) == pytest.approx(1)
    assert list(value["authors"].values()) == sorted(value["authors"].values(), reverse=True)
    assert f"{len(records)} images of samples/who" in text and "authors:" in text


def test_samples_without_a_neighbor_are_told_as_such(small_world):
    sample(small_world, "who-alone", texts=("a red circle",), context="query")
    _, value = who(small_world.root, ["samples/who-alone"])
    assert value["authors"] == {"no image of a database": 1}


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        (["nobody-knows"], RequestError, "nothing here knows nobody-knows. Keys: rdm query"),
        (["samples/none"], ArtifactMissing, "there is no artifact samples/none"),
        (["samples/who", "a-key"], RequestError, "two questions. Ask one after the other"),
    ],
)
def test_what_cannot_be_answered_is_refused(small_world, drawn, asked, error, told):
    with pytest.raises(error, match=told):
        who(small_world.root, asked)


def test_the_command_answers_in_words_and_in_json(small_world, drawn, capsys):
    key = drawn[1][0]["neighbor_keys"][0]
    assert main(["who", key, "--root", str(small_world.root)]) == 0
    assert "stood behind:" in capsys.readouterr().out
    assert main(["who", key, "--root", str(small_world.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keys"] == [key]
