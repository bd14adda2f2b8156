"""Samples of the small world: what they are drawn from, and what they say of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from asking import sample
from PIL import Image

from flows.config.database import BuildDatabase
from flows.config.sample import SampleRDM
from flows.data.index_embeddings import index_embeddings
from flows.look.show import image_record
from flows.model.sample import sample_plan
from rdm_core.images import CELL_PIXELS
from storage.artifact import open_artifact
from storage.embeddings import read_columns
from storage.errors import ArtifactMissing
from storage.neighbors import read_neighbors
from storage.samples import read_samples


def test_every_image_carries_who_stood_behind_it(small_world):
    samples = sample(small_world, "text", texts=("a red circle", "a blue star"))
    records = read_samples(samples)
    assert [record["query"] for record in records] == ["a red circle"] * 2 + ["a blue star"] * 2
    assert [record["seed"] for record in records] == [0, 1, 2, 3]
    database = open_artifact(small_world.root, "embeddings", "shapes")
    rows = read_columns(database, ["key", "licence", "author", "source_url"]).to_pylist()
    credits = {row["key"]: row for row in rows}
    for record in records:
        assert len(record["neighbor_keys"]) == 2, "k = 3 is the text itself and two neighbors"
        for place, key in enumerate(record["neighbor_keys"]):
            assert record["licences"][place] == credits[key]["licence"]
            assert record["authors"][place] == credits[key]["author"]
            assert record["source_urls"][place] == credits[key]["source_url"]
        assert record["neighbor_scores"] == sorted(record["neighbor_scores"], reverse=True)
        assert len({*record["authors"]}) == 2, "no two of them say the same"
        assert record["weights"] == small_world.run.fingerprint
        _, inside = image_record(samples.file(record["file"]))
        assert (
            inside["neighbor_keys"] == record["neighbor_keys"] and inside["seed"] == record["seed"]
        )
    assert np.asarray(Image.open(samples.file("00000.png"))).shape == (32, 32, 3)
    wide, high = Image.open(samples.file("grid.png")).size
    most = max(len(record["neighbor_keys"]) for record in records)
    assert high == 2 + 4 * (CELL_PIXELS + 2)
    gap = CELL_PIXELS // 8
    assert wide == 2 + CELL_PIXELS + 2 + gap + 2 + most * (CELL_PIXELS + 2), "no empty cell"


def test_the_run_of_the_package_is_told_with_the_command_that_puts_it_there(tmp_path):
    for run, cure in {"emoji": "`rdm acquire emoji` puts it there", "mine": "Nothing of"}.items():
        with pytest.raises(ArtifactMissing, match=f"no artifact runs/{run}.*{cure}"):
            sample_plan(SampleRDM(root=tmp_path, name="a", run=run, texts=("a red apple",)))


def test_text_alone_never_opens_a_database(small_world, monkeypatch):
    def opened(*_):
        raise AssertionError("a database was opened")

    monkeypatch.setattr("flows.model.sample.open_database", opened)
    samples = sample(small_world, "text-alone", texts=("a red circle",), context="query")
    assert "database" not in samples.inputs
    assert read_samples(samples)[0]["neighbor_keys"] == []


def test_a_class_draws_different_neighbors_for_each_image(small_world):
    records = read_samples(sample(small_world, "class", classes=("circle",), count=4, pool=20))
    assert len({tuple(record["neighbor_keys"]) for record in records}) > 1
    assert all(len(record["neighbor_keys"]) == 3 for record in records)


def test_nothing_asked_starts_from_rows_that_training_retrieved(small_world):
    records = read_samples(sample(small_world, "nothing", count=3, top_m=0.1))
    _, rows, _ = read_neighbors(open_artifact(small_world.root, "neighbors", "shapes"))
    database_keys = read_columns(open_artifact(small_world.root, "embeddings", "shapes"), ["key"])[
        "key"
    ].to_pylist()
    retrieved = {database_keys[row] for row in rows[:, :3].ravel()}
    assert {record["query"] for record in records} <= retrieved
    assert all(record["neighbor_keys"][0] == record["query"] for record in records), (
        "rank 1 is the pseudo-query itself"
    )


def test_an_image_asks_with_its_own_vector_and_its_neighbors(small_world, tmp_path):
    picture = tmp_path / "query.png"
    Image.new("RGB", (50, 40), "red").save(picture)
    records = read_samples(sample(small_world, "image", images=(picture,)))
    assert records[0]["query"] == "query.png" and len(records[0]["neighbor_keys"]) == 2


def test_another_database_is_used_without_touching_the_weights(small_world):
    samples = sample(
        small_world, "swap", texts=("a red circle",), database="sketches", context="neighbors"
    )
    keys = {key for record in read_samples(samples) for key in record["neighbor_keys"]}
    assert keys and all(key.startswith("shapes-sketches-") for key in keys)
    assert samples.inputs["run"] == small_world.run.fingerprint


def test_the_same_request_gives_the_same_bytes(small_world):
    one = sample(small_world, "one", texts=("a green ring",))
    other = sample(small_world, "other", texts=("a green ring",))
    assert one.fingerprint == other.fingerprint and one.directory != other.directory


def test_another_index_over_equal_embeddings_is_another_plan(small_world, tmp_path):
    """An approximate index may find other neighbors."""
    root = Path(shutil.copytree(small_world.root, tmp_path / "root"))
    named = {"root": root, "name": "n", "run": "small", "texts": ("a red circle",)}
    requests = [
        SampleRDM(**named),
        SampleRDM(**named, database="sketches"),
        SampleRDM(**named, style_text="a sketch", style_database="sketches"),
    ]
    before = [sample_plan(request) for request in requests]
    for name in ("shapes", "sketches"):
        built = {"name": name, "shards": name, "encoder": "rdm-shapes", "weights": "built-in"}
        embeddings = open_artifact(root, "embeddings", name)
        index_embeddings(BuildDatabase(root=root, **built, recipe="autofaiss"), embeddings)
    for request, plan in zip(requests, before, strict=True):
        again = sample_plan(request)
        assert again.id != plan.id
        assert again.inputs["database"] == plan.inputs["database"], "the embeddings are the same"
    alone = SampleRDM(**named, context="query")
    assert "database_index" not in sample_plan(alone).inputs, "nothing is searched"
