"""Everything that an evaluation measures is fixed and checked before anything is drawn: on a copy
of the small world, in which anything may be built and deleted.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from evaluating import config

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.data.build_database import build_database, embed_images
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.judge import evaluate as module
from flows.judge import inputs, measures
from flows.judge import trial as trials
from flows.judge.rows import COPIES_OF_TRAINING
from flows.judge.summary import full_table, measured_in
from storage.artifact import open_artifact
from storage.errors import ArtifactMismatch, ArtifactMissing

BUILT_IN = {"encoder": "rdm-shapes", "weights": "built-in"}


def held_out(root, split, name="unseen", count=12):
    """Images that no run has seen, their neighbors and latents; a second split, a new version."""
    drawn = {"source": "shapes", "size": 32, "encoding": "png", "count": count, "split": split}
    import_images(ImportImages(root=root, name=name, **drawn))
    embed_images(BuildDatabase(root=root, name=name, shards=name, **BUILT_IN))
    find_neighbors(FindNeighbors(root=root, name=name, queries=name, database="shapes"))
    return encode_latents(EncodeLatents(root=root, name=name, shards=name))


@pytest.fixture
def world(small_world, tmp_path):
    """A root of its own with the small run, and what is asked of it."""
    root = tmp_path / "world"
    shutil.copytree(small_world.root, root)
    held_out(root, "unseen")
    names = {"run": "small", "baseline": None, "swaps": {"sketch": "sketches"}}
    names |= {"heldout_latents": "unseen", "heldout_neighbors": "unseen"}
    quick = {"seeds": 1, "prompts": 2, "quality_images": 11, "draw": {"steps": 1}}
    return config(root=root, **names, **quick)


def without(root, kind, name):
    """Delete every version of a name."""
    shutil.rmtree(root / kind / name)


def mean_of_each(images):
    return images.reshape(len(images), -1).mean(axis=1, keepdims=True)


def test_what_was_found_is_measured_whatever_is_built_meanwhile(world):
    root = world.root
    found = inputs.found_inputs(world)
    opened = trials.opened_trial(world, found)
    before = trials.held_out_features(opened.config, mean_of_each)
    keys = list(opened.held_out.keys)
    newer = held_out(root, "newer", count=13)
    sketches = {"source": "shapes", "size": 32, "encoding": "png", "count": 20, "split": "newer"}
    import_images(ImportImages(root=root, name="sketches", **sketches))
    build_database(BuildDatabase(root=root, name="sketches", shards="sketches", **BUILT_IN))
    assert open_artifact(root, "latents", "unseen").id == newer.id != found.latents.id
    again = trials.opened_trial(world, found)
    for trial in (opened, again):
        assert np.array_equal(trials.held_out_features(trial.config, mean_of_each), before)
        assert list(trial.held_out.keys) == keys and len(keys) == 12
        assert trials.held_out_images(trial.config, keys[:1]).shape == (1, 32, 32, 3)
        assert trial.swaps["sketch"].embeddings.id == found.swaps["sketch"].id


def test_the_images_that_a_run_that_edits_reads_are_those_that_the_plan_names(world, monkeypatch):
    found = inputs.found_inputs(world)
    plain = module.evaluation_plan(world, found).inputs
    assert "neighbor_images" not in plain
    editing = found.facts.model["editing"] | {"picture": True}
    facts = replace(found.facts, model={**found.facts.model, "editing": editing})
    monkeypatch.setattr(inputs, "facts_of", lambda run: facts)
    encoded = open_artifact(world.root, "latents", "shapes")
    found = inputs.found_inputs(world)
    named = {"neighbor_images": encoded.fingerprint}
    assert module.evaluation_plan(world, found).inputs == {**plain, **named}
    really, opened = trials.open_training_data, []

    def open_these(root, references, *reads):
        opened.append(references.get("neighbor_images"))
        return really(root, references, *reads)

    monkeypatch.setattr(trials, "open_training_data", open_these)
    encode_latents(EncodeLatents(root=world.root, name="later", shards="shapes"))
    assert len(trials.opened_trial(world, found).held_out) == 12
    assert opened == [f"shapes@{encoded.id}"]


def test_training_images_that_are_gone_are_left_out_of_the_copies_and_that_is_told(
    world, monkeypatch
):
    without(world.root, "latents", "shapes")
    said = []
    monkeypatch.setattr(module, "say", lambda *words: said.append(words[-1]))
    measured = measured_in(module.evaluate_rdm(world))
    (why,) = measured["not checked"]
    assert why.endswith("which runs/small was trained on, were deleted")
    told = measured["left out"][COPIES_OF_TRAINING]
    assert "are no longer under this root; copies are counted among database images" in told
    assert measured["copies"]["return the neighbour"] == 1.0
    assert measured["judged"]["images"] == 11
    assert f"left out: {COPIES_OF_TRAINING}: the images of latents/shapes@" in full_table(measured)
    assert any(text.startswith(COPIES_OF_TRAINING) for text in said)


def test_a_database_whose_images_are_gone_is_evaluated_without_them(world):
    database = open_artifact(world.root, "embeddings", "sketches")
    find_neighbors(
        FindNeighbors(root=world.root, name="far", queries="unseen", database="sketches")
    )
    without(world.root, "shards", "sketches")
    asked = world.model_copy(
        update={"database": "sketches", "heldout_neighbors": "far", "swaps": {}}
    )
    trial = trials.opened_trial(asked, inputs.found_inputs(asked))
    assert not trial.has_images and trial.training_shards is not None
    left = module.what_is_left_out(trial, inputs.found_inputs(asked))
    why = f"no shards have the fingerprint {database.inputs['shards']}"
    assert why in left["return the neighbour"] and why in left["random database images"]


@pytest.fixture
def nothing_is_drawn(monkeypatch):
    for drawing in (measures, trials):
        monkeypatch.setattr(drawing, "draw", lambda *_: pytest.fail("it drew"))


def test_held_out_images_that_are_gone_are_refused_before_anything_is_drawn(
    world, nothing_is_drawn
):
    without(world.root, "shards", "unseen")
    with pytest.raises(ArtifactMissing, match="no shards have the fingerprint"):
        module.evaluate_rdm(world)


@pytest.mark.parametrize(
    ("rows", "length", "told"),
    [
        ([[trials.NO_ROW, trials.NO_ROW]], 12, "held-out images have no neighbor"),
        ([[1, 2]], 10, "10 held-out images are left; fewer than 11"),
    ],
)
def test_held_out_images_that_cannot_be_used_are_refused_before_anything_is_drawn(
    world, nothing_is_drawn, monkeypatch, rows, length, told
):
    class Left:
        neighbor_rows = np.array(rows * length)

        def __len__(self):
            return length

    monkeypatch.setattr(trials, "open_training_data", lambda *_: Left())
    with pytest.raises(ArtifactMismatch, match=told):
        module.evaluate_rdm(world)


def test_a_database_of_another_encoder_is_refused_before_anything_is_drawn(world, nothing_is_drawn):
    other = {"encoder": "rdm-shapes", "weights": "random"}
    build_database(BuildDatabase(root=world.root, name="other", shards="sketches", **other))
    asked = world.model_copy(update={"swaps": {"sketch": "other"}})
    with pytest.raises(ArtifactMismatch, match="database 'other@.*these differ in"):
        module.evaluate_rdm(asked)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"heldout_latents": "shapes", "heldout_neighbors": "shapes"}, "96 of its 96 images are"),
        ({"judge_clip": "rdm-shapes:built-in"}, "it is the encoder the run was conditioned on"),
        ({"extractor": "clip:rdm-shapes:built-in"}, "it is the encoder the run was conditioned"),
        ({"judge": "captions", "judge_clip": "rdm-shapes:random", "prompts": 13,
          "extractor": "oracle"}, "12 of its images have captions, 13 are asked for"),
    ],
)  # fmt: skip
def test_who_may_not_judge_and_what_was_seen_is_refused_before_anything_is_drawn(
    world, nothing_is_drawn, changed, told
):
    with pytest.raises(ArtifactMismatch, match=told):
        module.evaluate_rdm(world.model_copy(update=changed))
