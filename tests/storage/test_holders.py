"""Who still holds some samples, and which runs were trained on them."""

import json

import numpy as np
import pytest
from building import keys_of

from storage.build import begin
from storage.embeddings import write_embeddings
from storage.holders import MAY_HOLD, holders, trained_on
from storage.index import write_vectors
from storage.latents import write_latents
from storage.manifest import Plan
from storage.neighbors import NO_ROW, write_neighbors
from storage.samples import write_samples
from storage.shards import write_shard


@pytest.fixture
def world(make, sample, sidecar, unit_vectors):
    """Samples 0 to 3 in every kind; each made from those above it. world["embeddings"] and so
    on.
    """
    keys = keys_of(range(4))
    vectors, norms = unit_vectors(4)
    # Query 0 has the neighbors 1 and 2, query 1 only 2.
    rows = np.array([[1, 2], [2, NO_ROW]])
    record = {
        "file": "0.png",
        "query": "a text",
        "seed": 0,
        "guidance_scale": 1.0,
        "weights": "",
        "database": None,
    }
    record |= {
        "neighbor_scores": [1.0],
        "licences": [None],
        "authors": [None],
        "source_urls": [None],
    }
    record |= {"style_database": None, "given_images": [], "attributions": None}
    record |= {"neighbor_keys": [keys[1]]}
    made = {}

    def add(kind, write, *inputs, name="a"):
        fingerprints = {role: made[role].fingerprint for role in inputs}
        made[kind] = make(kind, name, write, inputs=fingerprints)

    add(
        "shards",
        lambda d, n: write_shard(d, n, [*map(sample, range(4)), sample(9, reason="too small")]),
    )
    add("embeddings", lambda d, n: write_embeddings(d, n, sidecar(4), vectors, norms), "shards")
    add("index", lambda d, n: write_vectors(d, [(vectors, norms)], len(vectors)), "embeddings")
    add(
        "neighbors",
        lambda d, n: write_neighbors(d, n, keys[:2], np.array(keys), rows, rows / 4),
        "embeddings",
    )
    add(
        "latents",
        lambda d, n: write_latents(d, n, keys[:3], np.zeros((3, 3, 4, 4), np.uint8)),
        "shards",
    )
    add(
        "runs",
        lambda d, n: (d / "metrics.jsonl").write_text("{}"),
        "embeddings",
        "index",
        "neighbors",
        "latents",
    )
    add("samples", lambda d, n: write_samples(d, [b"PNG"], [record], b"PNG"), "runs")
    add("evaluations", lambda d, n: (d / "evaluation.json").write_text("{}"), "runs")
    add("reports", lambda d, n: (d / "report.html").write_text("x"), "runs", "samples")
    return made


def held(root, *removed):
    """Kind -> the keys that its one artifact holds of the samples."""
    keys = {}
    for holder in holders(root, set(removed)):
        keys[holder.reference.partition("/")[0]] = list(holder.keys)
    return keys


def test_every_kind_that_holds_or_names_a_sample_is_listed_with_what_it_holds(world, tmp_path):
    one, three = "folder-1-00", "folder-3-00"
    kinds = ["shards", "embeddings", "index"]
    assert held(tmp_path, three) == dict.fromkeys(kinds, [three])
    kinds += ["latents", "neighbors"]
    for key in keys_of((0, 2)):  # the first is only a query, the other only a neighbor
        assert held(tmp_path, key) == dict.fromkeys(kinds, [key])
    kinds += ["samples", "reports"]
    assert held(tmp_path, "folder-1") == dict.fromkeys(kinds, [one])
    assert held(tmp_path, "folder-1", three)["embeddings"] == [one, three]
    assert held(tmp_path, "folder-9", "folder-7") == {}, "a rejected image is a row, but not held"


def test_a_run_is_listed_with_the_inputs_that_held_them(world, tmp_path):
    (run,) = trained_on(tmp_path, holders(tmp_path, {"folder-1"}))
    roles = ("embeddings", "index", "neighbors", "latents")
    assert run.reference == world["runs"].reference and run.finished and run.unknown == ()
    assert run.held == {role: world[role].reference for role in roles}
    assert set(trained_on(tmp_path, holders(tmp_path, {"folder-3"}))[0].held) == {
        "embeddings",
        "index",
    }
    assert trained_on(tmp_path, holders(tmp_path, {"folder-7"})) == []


def test_an_autoencoder_trained_on_them_and_a_run_behind_it_are_listed(world, make, tmp_path):
    def weights(directory, part_name):
        (directory / "config.json").write_text("{}")

    def of_others(directory, part_name):
        return write_latents(directory, part_name, ["b-0-00"], np.zeros((1, 3, 4, 4), np.uint8))

    shards = world["shards"].fingerprint
    trained = make("autoencoders", "a", weights, inputs={"shards": shards})
    latents = make("latents", "b", of_others, inputs={"autoencoder": trained.fingerprint})
    run = make("runs", "b", weights, inputs={"latents": latents.fingerprint})
    holding = holders(tmp_path, {"folder-1"})
    (holder,) = [one for one in holding if one.reference == trained.reference]
    assert (holder.what, holder.keys) == ("weights, pictures of some", ("folder-1-00",))
    listed = {one.reference: one for one in trained_on(tmp_path, holding)}
    assert set(listed) == {trained.reference, world["runs"].reference, run.reference}
    assert listed[trained.reference].held == {"shards": world["shards"].reference}
    assert listed[run.reference].held == {"latents": latents.reference}
    assert trained_on(tmp_path, holders(tmp_path, {"folder-9"})) == []


def test_a_run_that_is_still_being_trained_is_listed(world, tmp_path):
    inputs = {"latents": world["latents"].fingerprint}
    with begin(tmp_path, Plan("runs", "b", {}, inputs)) as build:
        _, run = trained_on(tmp_path, holders(tmp_path, {"folder-1"}))
        assert (run.reference, run.finished) == (f"runs/b@{build.plan.id}", False)


def test_a_run_whose_input_is_gone_is_listed_as_one_that_nobody_can_tell_of(world, tmp_path):
    # As when its version was collected.
    (world["latents"].directory / "manifest.json").unlink()
    (run,) = trained_on(tmp_path, holders(tmp_path, {"folder-7"}))
    assert run.held == {} and run.unknown == ("latents",)


def test_an_unfinished_build_holds_what_its_finished_parts_hold(tmp_path, sidecar, unit_vectors):
    with pytest.raises(KeyboardInterrupt), begin(tmp_path, Plan("embeddings", "b", {})) as build:
        build.write_part(
            "00000", "", lambda d: (write_embeddings(d, "00000", sidecar(2), *unit_vectors(2)), {})
        )
        # A record that a power cut left half: its part does not count.
        (build.directory / ".build" / "00001.part.json").write_text("{")
        raise KeyboardInterrupt
    (holder,) = holders(tmp_path, {"folder-1"})
    assert (holder.reference, holder.keys) == (f"embeddings/b@{build.plan.id}", ("folder-1-00",))


def test_what_cannot_be_read_may_hold_them(world, tmp_path):
    world["latents"].file("00000.parquet").write_bytes(b"not Parquet")
    world["embeddings"].file("00000.parquet").unlink()
    manifest = world["samples"].directory / "manifest.json"
    manifest.write_text(json.dumps({"format": 99}))
    references = set()
    for holder in holders(tmp_path, {"folder-7"}):
        if holder.what == MAY_HOLD:
            references.add(holder.reference)
    assert references == {world["latents"].reference, world["embeddings"].reference, str(manifest)}
