"""What an evaluation is measured on, and which runs and images it refuses."""

from contextlib import nullcontext

import numpy as np
import pytest
from evaluating import config, facts, opened, trial

from flows.judge import evaluate as module
from flows.judge import trial as trials
from rdm_core.errors import RequestError
from storage.errors import ArtifactMismatch, ArtifactMissing


def test_a_held_out_image_without_a_neighbor_is_named():
    with pytest.raises(ArtifactMismatch, match="1 held-out images have no neighbor.*number 1"):
        trials.nearest_present(np.array([[3, 4], [trials.NO_ROW, trials.NO_ROW]]))


# Twins


@pytest.mark.parametrize(
    ("changed", "dropout", "fits"),
    [
        ({}, 1, True),
        ({"training": {"steps": 6, "posthoc_ema": True, "snapshot_steps": 5}}, 1, True),
        ({"context": {"k": 4, "neighbor_dropout": 1.0}}, 1, True),
        ({"context": {"k": 5, "neighbor_dropout": 1.0}}, 1, False),
        ({"training": {"steps": 7}}, 1, False),
        ({"model": {"denoiser": {"depth": 2}}}, 1, False),
        ({"space": {"autoencoder": "x"}}, 1, False),
        ({}, 0.5, False),
    ],
)
def test_a_baseline_is_the_same_network_and_training_that_never_saw_a_neighbor(
    changed, dropout, fits
):
    run, twin = opened("run"), opened("twin", neighbor_dropout=dropout)
    twin.artifact.parameters |= changed
    refused = pytest.raises(ArtifactMismatch, match="runs/run and runs/twin: .*neighbor_dropout=1")
    with nullcontext() if fits else refused:
        module.same_but_for_neighbors(run, twin)


def test_a_converted_run_says_why_it_cannot_be_evaluated():
    converted = opened("old", trained_on={}, converted_from={"file": "x.ckpt"})
    with pytest.raises(ArtifactMismatch, match="runs/old: it does not say which index.*converted"):
        trials.heldout_data(config(), converted)


def test_a_converted_run_is_refused_before_anything_is_measured(small_world, monkeypatch):
    converted = facts(trained_on={}, converted_from={"file": "x.ckpt"})
    monkeypatch.setattr(module, "facts_of", lambda run: converted)
    asked = {"run": "small", "baseline": "small", "root": small_world.root}
    asked |= {"heldout_latents": "shapes", "heldout_neighbors": "shapes"}
    with pytest.raises(ArtifactMismatch, match="runs/small: it does not say which .*converted"):
        module.evaluation_plan(config(**asked))


def test_equal_settings_are_one_plan_and_nonsense_is_none(small_world, monkeypatch):
    monkeypatch.setattr(module, "refuse_if_trained_on", lambda *_: None)
    asked = {"run": "small", "baseline": "small", "root": small_world.root}
    asked |= {"heldout_latents": "shapes", "heldout_neighbors": "shapes"}
    ids = {
        module.evaluation_plan(config(**asked, draw=draw)).id
        for draw in ({}, {"steps": 50}, {"guidance_scale": 2}, {"guidance_scale": 2.0})
    }
    assert len(ids) == 1
    assert module.evaluation_plan(config(**asked, draw={"steps": 7})).id not in ids
    with pytest.raises(RequestError, match="nonsense is no setting"):
        module.evaluation_plan(config(**asked, draw={"nonsense": 1}))


# Images


def test_held_out_and_known_images_are_those_of_their_shards(small_world):
    from flows.model.opening import open_database, open_run

    root, run = small_world.root, open_run(small_world.root, "small")
    database, sketches = (open_database(root, name, run) for name in ("shapes", "sketches"))

    def first_pixels(images):
        return images[:, 0, 0].astype(float)

    shards = database.embeddings.inputs["shards"]
    parts = list(trials.images_by_part(root, shards))
    assert len(parts) > 1 and sum(map(len, parts)) == 96, "a part at a time"
    images = np.concatenate(parts)
    asked = trial(run=run, database=sketches, root=root, heldout_latents="shapes")
    held = trials.held_out_features(asked.config, first_pixels)
    assert np.array_equal(held, first_pixels(images))
    both = trials.known_features(asked, first_pixels)
    assert len(both) == 2 * 96, "the database's, then the training's"
    assert np.array_equal(both[96:], held)
    own = trial(run=run, database=database, root=root)
    assert len(trials.known_features(own, first_pixels)) == 96, "none twice"
    rows = np.array([7, 3])
    assert np.array_equal(trials.database_images(database, rows), images[rows])
    with pytest.raises(ArtifactMissing, match="no shards have the fingerprint 0000. Import them"):
        list(trials.images_by_part(root, "0000"))


def test_images_that_a_run_was_trained_on_are_no_test_of_it(small_world):
    from storage.artifact import open_artifact

    latents = open_artifact(small_world.root, "latents", "shapes")
    asked = config(root=small_world.root)
    with pytest.raises(ArtifactMismatch, match="96 of its 96 images are among those that runs/sm"):
        module.refuse_if_trained_on(asked, small_world.run, latents)


def test_captions_are_prompts_where_there_are_enough(small_world):
    asked = config(root=small_world.root, heldout_latents="shapes", judge="captions", prompts=90)
    captions = trials.held_out_captions(asked)
    assert len(captions) == 96 and len(set(captions)) > 10
    judge = trials.judge_of(asked, None)
    assert [wish.prompt for wish in judge.wishes(90)] == captions[:90]
    many = asked.model_copy(update={"prompts": 97})
    with pytest.raises(ArtifactMismatch, match="96 of its images have captions, 97 are asked for"):
        trials.held_out_captions(many)
