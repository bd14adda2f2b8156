"""What an evaluation is measured on, and which runs and images it refuses."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from evaluating import a_database, config, facts, opened, trial

from flows.judge import evaluate as module
from flows.judge import inputs
from flows.judge import trial as trials
from rdm_core.clip import BUILT_IN
from rdm_core.errors import EncoderError, RequestError
from rdm_core.families.facts import Reads, Version
from rdm_core.judge.judges import FeaturesJudge
from storage.artifact import open_artifact
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
        inputs.same_but_for_neighbors(run, twin)


# Who judges


BUILT = {"model": "rdm-shapes"}


@pytest.mark.parametrize(
    ("known", "asked", "found"),
    [
        ({"encoder": BUILT, "encoder_weights": BUILT_IN}, {}, ("shapes", "oracle")),
        (
            {"encoder": BUILT, "encoder_weights": BUILT_IN},
            {"judge_clip": "a:b", "extractor": "clip:a:b"},
            ("shapes", "clip:a:b"),
        ),
        (
            {"encoder": BUILT, "encoder_weights": "random"},
            {"extractor": "timm:x"},
            ("features", "timm:x"),
        ),
        ({}, {"judge_clip": "a:b", "extractor": "clip:a:b"}, ("captions", "clip:a:b")),
        ({}, {"judge": "shapes"}, ("shapes", "oracle")),
    ],
)
def test_a_judge_is_found_from_the_encoder_and_from_what_is_named(known, asked, found):
    assert inputs.who_judges(config(**asked), facts(**known)) == found


def test_held_out_entities_are_judged_as_such():
    built_in = facts(encoder=BUILT, encoder_weights=BUILT_IN)
    assert inputs.who_judges(config(), built_in, "entities") == ("entities", "oracle")
    assert inputs.who_judges(config(), built_in, "coco") == ("shapes", "oracle")
    asked = config(judge="entities", extractor="timm:x")
    assert inputs.who_judges(asked, facts(), "entities") == ("entities", "timm:x")
    assert inputs.who_judges(config(judge="shapes"), facts(), "entities") == ("shapes", "oracle")
    with pytest.raises(RequestError, match="judge: the held-out images are of the source folder"):
        inputs.who_judges(config(judge="entities"), facts(), "folder")


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({}, RequestError, "extractor: no features are named.*clip:MODEL:WEIGHTS, timm:MODEL"),
        ({"extractor": "nonsense:x"}, EncoderError, "'nonsense:x': there is no such kind. Give"),
        ({"extractor": "clip:"}, EncoderError, "there is no such kind"),
        ({"extractor": ""}, EncoderError, "features '': there is no such kind. Give 'oracle'"),
        ({"extractor": "", "judge": "shapes"}, EncoderError, "features '': .*Give 'oracle'"),
        ({"judge": "captions"}, RequestError, "judge_clip: nobody compares.*MODEL:WEIGHTS"),
        ({"judge": "features", "judge_clip": "a:b"}, RequestError, "has no prompts.*Leave it out"),
    ],
)
def test_who_cannot_judge_is_refused_in_one_message_with_the_cure(asked, error, told):
    with pytest.raises(error, match=told):
        inputs.who_judges(config(**asked), facts())


# Converted runs


def test_a_converted_run_wants_a_database_and_says_whose_images_nobody_knows(small_world):
    root = small_world.root
    old = SimpleNamespace(name="old")
    converted = facts(trained_on={}, converted_from={"file": "x.ckpt"})
    with pytest.raises(RequestError, match="runs/old: it was converted.*--database NAME"):
        inputs.database_asked_for(config(root=root), old, converted)
    named = inputs.database_asked_for(config(root=root, database="sketches"), old, converted)
    sketches = open_artifact(root, "embeddings", "sketches")
    assert named == (f"sketches@{sketches.id}", sketches.fingerprint)


@pytest.fixture
def of_a_converted_run(small_world, monkeypatch):
    """A run of the small world that does not say what it was trained on."""
    known = inputs.facts_of(small_world.run)
    silent = trials.replace(known, trained_on={}, converted_from={"file": "x.ckpt"})
    monkeypatch.setattr(inputs, "facts_of", lambda run: silent)
    asked = {"run": "small", "baseline": None, "database": "shapes", "root": small_world.root}
    return config(**asked, heldout_latents="shapes", heldout_neighbors="shapes")


def test_what_nobody_can_check_of_a_converted_run_is_in_the_record(of_a_converted_run):
    found = inputs.found_inputs(of_a_converted_run)
    assert found.judge == "shapes" and found.baseline is None
    (why,) = found.unchecked
    assert why == "runs/small was converted and does not say what it was trained on"
    judged = module.who_judged(of_a_converted_run, found, 20)
    assert (judged["judge"], judged["extractor"], judged["baseline"]) == ("shapes", "oracle", None)
    plan = module.evaluation_plan(of_a_converted_run, found)
    assert plan.parameters["judge"] == "shapes" and "baseline" not in plan.inputs


def test_what_is_left_out_says_why_and_what_is_named_but_not_used_is_said_aloud(
    monkeypatch, small_world
):
    said = []
    monkeypatch.setattr(module, "say", lambda *words: said.append(words[-1]))
    asked = trial(FeaturesJudge(None), [], alone=True, swaps={"sketch": "sketches"})
    left = module.what_is_left_out(asked, SimpleNamespace(judge="features"))
    assert set(left) == {"trained without neighbors", "prompts", "swaps", "clip scores"}
    assert "knows no styles: the databases named in swaps are not used" in left["swaps"]
    assert module.said(asked.config, left, ("runs/x was converted",)) == left
    assert len(said) == 2 and said[0].startswith("swaps left out: the judge features knows no")
    assert said[1] == "it may have been trained on the held-out images: runs/x was converted"
    converted = opened("old", trained_on={})
    more = {"swaps": {"sketch": "s"}, "clip": 1, "trained": None, "run": converted}
    bare = trial(database=a_database(images=False), **more)
    left = module.what_is_left_out(bare, SimpleNamespace(judge="shapes"))
    assert set(left) == {"return the neighbour", "random database images", "copies"}
    assert "embeddings/db: it was made of published vectors" in left["copies"]
    left = module.what_is_left_out(trial(**more), SimpleNamespace(judge="shapes"))
    assert set(left) == {"copies of training images"}
    assert "runs/old was converted and does not say" in left["copies of training images"]


# Plans


def test_equal_settings_are_one_plan_and_nonsense_is_none(small_world, monkeypatch):
    monkeypatch.setattr(inputs, "refuse_if_trained_on", lambda *_: [])
    asked = {"run": "small", "baseline": "small", "root": small_world.root}
    asked |= {"heldout_latents": "shapes", "heldout_neighbors": "shapes"}
    ids = {
        module.evaluation_plan(config(**asked, **more)).id
        for more in (
            {"draw": {}},
            {"draw": {"steps": 50}},
            {"draw": {"guidance_scale": 2}},
            {"draw": {"guidance_scale": 2.0}},
            {"draw": {}, "judge": "shapes", "extractor": "oracle", "database": "shapes"},
        )
    }
    assert len(ids) == 1
    assert module.evaluation_plan(config(**asked, draw={"steps": 7})).id not in ids
    assert module.evaluation_plan(config(**asked | {"baseline": None}, draw={})).id not in ids
    with pytest.raises(RequestError, match="nonsense is no setting"):
        module.evaluation_plan(config(**asked, draw={"nonsense": 1}))


def test_neighbors_of_another_database_are_refused_with_the_command_that_finds_them(small_world):
    asked = {"run": "small", "baseline": None, "root": small_world.root, "database": "sketches"}
    with pytest.raises(ArtifactMismatch) as caught:
        module.evaluation_plan(
            config(**asked, heldout_latents="shapes", heldout_neighbors="shapes")
        )
    assert str(caught.value).startswith("neighbors/shapes: its neighbors come from a database")
    assert "rdm neighbors --name shapes --queries ... --database sketches" in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"space": {"autoencoder": "x", "weights_sha256": "1"}}, r"space pixels .*works in x .*1"),
        ({"latent_side": 8}, "they are of side 32, runs/small draws side 8"),
    ],
)
def test_latents_that_a_run_cannot_be_given_are_refused(small_world, changed, told):
    latents = open_artifact(small_world.root, "latents", "shapes")
    known = inputs.facts_of(small_world.run)
    inputs.fit_for(latents, small_world.run, known)
    with pytest.raises(ArtifactMismatch, match=told):
        inputs.fit_for(latents, small_world.run, trials.replace(known, **changed))


def test_the_name_of_an_autoencoder_is_no_part_of_its_latent_space(small_world):
    latents = open_artifact(small_world.root, "latents", "shapes")
    known = inputs.facts_of(small_world.run)
    renamed = known.space | {"autoencoder": "/moved/elsewhere"}
    inputs.fit_for(latents, small_world.run, trials.replace(known, space=renamed))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"parameters": {"stored": "codes"}}, "holds codes, and diffusion is trained on pixels or"),
        ({"parts": ()}, "there are 0 held-out images; sets of fewer than 11"),
    ],
)
def test_latents_of_codes_and_of_nothing_are_refused_by_name(small_world, changed, told):
    latents = open_artifact(small_world.root, "latents", "shapes")
    parameters = {**latents.parameters, **changed.get("parameters", {})}
    other = trials.replace(latents, **changed | {"parameters": parameters})
    with pytest.raises(ArtifactMismatch, match=told):
        inputs.fit_for(other, small_world.run, inputs.facts_of(small_world.run))


def test_fewer_than_11_held_out_images_are_refused(small_world, monkeypatch):
    latents = open_artifact(small_world.root, "latents", "shapes")
    monkeypatch.setattr(inputs, "FEWEST", 97)
    with pytest.raises(ArtifactMismatch, match="latents/shapes: there are 96 held-out .*than 97"):
        inputs.fit_for(latents, small_world.run, inputs.facts_of(small_world.run))
    monkeypatch.setattr(trials, "open_training_data", lambda *_: range(10))
    database = SimpleNamespace(index=SimpleNamespace(name="i", id="1"))
    run = SimpleNamespace(model=SimpleNamespace(reads=Reads()))
    with pytest.raises(ArtifactMismatch, match="latents/h: 10 held-out images are left; fewer"):
        trials.heldout_data(config(), run, database)


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
    asked = trial(run=run, database=sketches, root=root, heldout_latents="shapes", trained=shards)
    held = trials.held_out_features(asked.config, first_pixels)
    assert np.array_equal(held, first_pixels(images))
    both = trials.known_features(asked, first_pixels)
    assert len(both) == 2 * 96, "the database's, then the training's"
    assert np.array_equal(both[96:], held)
    own = trial(run=run, database=database, root=root, trained=shards)
    assert len(trials.known_features(own, first_pixels)) == 96, "none twice"
    rows = np.array([7, 3])
    assert np.array_equal(trials.database_images(database, rows), images[rows])
    with pytest.raises(ArtifactMissing, match="no shards have the fingerprint 0000. Import them"):
        list(trials.images_by_part(root, "0000"))


def test_a_database_of_published_vectors_has_no_images_to_return(small_world, monkeypatch):
    from flows.model.opening import open_database, open_run

    run = open_run(small_world.root, "small")
    database = open_database(small_world.root, "shapes", run)
    bare = trials.replace(database, embeddings=trials.replace(database.embeddings, inputs={}))
    with pytest.raises(ArtifactMissing, match="embeddings/shapes: .*never published.*rdm import"):
        trials.database_images(bare, np.array([1]))
    trained = database.embeddings.inputs["shards"]
    asked = trial(run=run, database=bare, root=small_world.root, trained=trained)
    assert len(trials.known_features(asked, len_of_each)) == 96, "the training's"
    nothing = trials.replace(asked, training_shards=None)
    assert trials.known_features(nothing, len_of_each) is None


def len_of_each(images):
    return np.ones((len(images), 1))


def test_held_out_images_come_in_the_order_of_their_keys(small_world):
    from storage.latents import open_latents

    keys, latents = open_latents(open_artifact(small_world.root, "latents", "shapes"))
    asked = config(root=small_world.root, heldout_latents="shapes")
    images = trials.held_out_images(asked, [keys[7], keys[3]])
    stored = np.concatenate(latents)[[7, 3]]
    assert images.shape == (2, 32, 32, 3)
    assert np.array_equal(images.transpose(0, 3, 1, 2), stored), "pixels are latents here"


def test_images_that_a_run_was_trained_on_are_no_test_of_it(small_world):
    latents = open_artifact(small_world.root, "latents", "shapes")
    asked = config(root=small_world.root)
    with pytest.raises(ArtifactMismatch, match="96 of its 96 images are among those that runs/sm"):
        list(inputs.refuse_if_trained_on(asked, small_world.run, latents))


def test_training_images_that_are_gone_cannot_be_checked_and_that_is_told(small_world, monkeypatch):
    latents = open_artifact(small_world.root, "latents", "shapes")
    gone = {role: Version(role, "0" * 12, "f") for role in ("latents", "start_from")}
    known = trials.replace(inputs.facts_of(small_world.run), trained_on=gone)
    monkeypatch.setattr(inputs, "facts_of", lambda run: known)
    asked = config(root=small_world.root)
    whys = list(inputs.refuse_if_trained_on(asked, small_world.run, latents))
    assert whys == [
        "runs/start_from@000000000000, whose weights small began with, was deleted",
        "latents/latents@000000000000, which runs/small was trained on, were deleted",
    ]


def test_captions_are_prompts_where_there_are_enough(small_world, monkeypatch):
    asked = config(root=small_world.root, heldout_latents="shapes", judge="captions", prompts=90)
    captions = trials.held_out_captions(asked)
    assert len(captions) == 96 and len(set(captions)) > 10
    judge = trials.judge_of(asked, "captions", None)
    assert [wish.prompt for wish in judge.wishes(90)] == captions[:90]
    many = asked.model_copy(update={"prompts": 97})
    with pytest.raises(ArtifactMismatch, match="96 of its images have captions, 97 are asked for"):
        trials.held_out_captions(many)
    monkeypatch.setattr(trials, "accepted", lambda sidecar: sidecar.slice(0, 0))
    with pytest.raises(ArtifactMismatch, match="shards/shapes: none of its images has a caption"):
        trials.held_out_captions(asked)
