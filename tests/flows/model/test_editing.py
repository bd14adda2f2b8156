"""An image that is changed by a text: trained from a run that draws, told with what was changed,
refused where it cannot be.
"""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from asking import sample
from PIL import Image

from flows.cli import main
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.model.editing import differences, how_much, sheet_of_edits
from flows.model.opening import facts_of
from flows.model.preflight import refuse_database_without_images
from flows.model.sample import sample_plan
from flows.model.train_rdm import learned, train_rdm, training_plan
from flows.model.training_data import latents_of_database
from rdm_core.errors import RequestError
from rdm_core.images import CELL_PIXELS
from rdm_core.provenance import read_record
from storage.artifact import open_artifact
from storage.atomic import sha256_file
from storage.errors import ArtifactMissing
from storage.samples import EDITS_FILE, read_samples

RELAXED = {"picture": True, "least_correlation": -1.0}


@pytest.fixture(scope="module")
def world(small_world, small_training, in_one_process):
    """The small world with a run that edits, begun with the small run's weights."""
    settings = small_training(small_world.root, "edits", steps=2)
    model = settings["model"] | {"editing": RELAXED}
    config = TrainRDM(**settings | {"model": model, "start_from": "small"})
    in_one_process(train_rdm, config)
    return dataclasses.replace(small_world, run=open_artifact(small_world.root, "runs", "edits"))


@pytest.fixture
def photo(tmp_path):
    """A picture of the size that the runs draw."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def edit(world, name, photo, **request):
    asked = {"run": "edits", "texts": ("a red circle",), "edit": photo}
    return sample(world, name, **asked | request)


def test_a_run_that_edits_says_what_it_was_trained_on(world):
    trained_on = facts_of(world.run).trained_on
    assert trained_on["start_from"].name == "small"
    of_database = open_artifact(world.root, "latents", "shapes")
    assert trained_on["neighbor_images"].fingerprint == of_database.fingerprint
    assert world.run.inputs["neighbor_images"] == of_database.fingerprint
    assert facts_of(world.run).model["editing"]["picture"] is True


def test_plans_of_runs_that_do_not_edit_are_what_they_were(world, small_training):
    config = TrainRDM(**small_training(world.root, "plain"))
    parameters = learned(config)
    assert "editing" not in parameters["model"] and "query_alone" not in parameters["context"]
    assert "neighbor_images" not in training_plan(config).inputs
    assert not {"neighbor_scale", "picture_scale"} & set(
        sample_plan(SampleRDM(root=world.root, name="p", run="small")).parameters["draw"]
    )
    asked = SampleRDM(root=world.root, name="p", run="small", draw={"neighbor_scale": 1.5})
    assert sample_plan(asked).parameters["draw"]["neighbor_scale"] == 1.5


def test_an_edit_is_told_with_its_image_and_what_was_changed(world, photo):
    made = edit(world, "edited", photo)
    records = read_samples(made)
    assert len(records) == 2
    for record in records:
        assert record["given_images"] == [sha256_file(photo)]
        assert record["neighbor_keys"] and record["licences"] and record["authors"]
        own = read_record(made.file(record["file"]).read_bytes(), "it")
        assert own["given_images"] == record["given_images"]
    sheet = np.asarray(Image.open(made.file(EDITS_FILE)))
    assert sheet.shape == (2 + 2 * (CELL_PIXELS + 2), 2 + 3 * (CELL_PIXELS + 2), 3)
    original = np.asarray(Image.open(photo))
    images = np.stack([np.asarray(Image.open(made.file(one["file"]))) for one in records])
    expected = how_much(differences(original, images))  # pixels come back as they are
    assert {name: made.measured[name] for name in expected} == expected
    assert edit(world, "edited", photo).id == made.id


def test_other_bytes_of_the_image_are_another_plan(world, photo):
    def plan():
        request = {"run": "edits", "texts": ("a star",), "edit": photo}
        return sample_plan(SampleRDM(root=world.root, name="e", **request))

    first = plan()
    assert first.parameters["edit"] == sha256_file(photo)
    Image.new("RGB", (32, 32)).save(photo)
    assert plan().id != first.id


@pytest.mark.parametrize(
    ("size", "mode", "told"),
    [
        ((32, 32), "RGB", ""),
        ((40, 20), "RGB", "is 40 x 20 pixels: its centred square is scaled to 32 x 32, the size"),
        ((24, 24), "RGB", "is 24 x 24 pixels: scaled to 32 x 32, the size that edits draws"),
        ((32, 32), "RGBA", "is transparent: white is behind it"),
    ],
)
def test_what_is_done_to_the_image_before_is_said(world, tmp_path, capsys, size, mode, told):
    Image.new(mode, size).save(tmp_path / "given.png")
    edit(world, f"said-{mode}-{size[0]}", tmp_path / "given.png")
    said = capsys.readouterr().err
    assert f"given.png {told}" in said if told else "given.png" not in said


def test_a_run_without_the_channels_is_refused_before_its_weights_are_loaded(
    world, photo, monkeypatch
):
    monkeypatch.setattr(
        "flows.model.sample.open_run", lambda *_: pytest.fail("weights were loaded")
    )
    with pytest.raises(RequestError, match=r"edit, run 'small': was trained without the channels"):
        edit(world, "refused", photo, run="small")


def test_an_edit_says_what_is_wanted_and_is_of_one_kind(world, photo):
    with pytest.raises(ValueError, match="edit: needs a text, an image or a class"):
        edit(world, "x", photo, texts=())
    with pytest.raises(ValueError, match="edit and inpaint: change an image in one way"):
        edit(world, "x", photo, inpaint=photo, mask=photo)


def test_images_of_the_database_that_are_not_there_are_asked_for_by_the_command(world):
    table = open_artifact(world.root, "neighbors", "shapes")
    alike = open_artifact(world.root, "latents", "shapes")
    other = SimpleNamespace(
        parameters=dict(alike.parameters) | {"revision": 99}, measured=alike.measured
    )
    told = r"rdm encode --name shapes-pixels --shards shapes --set autoencoder=pixels --set stored"
    with pytest.raises(ArtifactMissing, match=told):
        latents_of_database(world.root, table, other)


def test_a_database_without_encoded_images_is_refused_before_others_are_imported(
    world, small_training, monkeypatch
):
    settings = small_training(world.root, "early", steps=2)
    settings["model"] |= {"editing": RELAXED}
    images = {"source": "shapes", "size": 32, "count": 8, "encoding": "png", "split": "other"}
    new = {"latents": "new", "neighbors": "new", "upstream": {"images": images}}
    refuse_database_without_images(TrainRDM(**settings | new))
    # Its images are stored in pixel space, and not behind the autoencoder.
    behind = {"images": images, "autoencoder": "rdm-shapes-kl", "stored": "pixels"}
    monkeypatch.setattr(
        "flows.model.train_rdm.make_missing", lambda config: pytest.fail("something was made")
    )
    with pytest.raises(ArtifactMissing, match=r"database shapes: its images are not encoded"):
        train_rdm(TrainRDM(**settings | new | {"upstream": behind}))
    # Its own images will be encoded with the training's.
    own = {"neighbors": "new", "latents": "sketches", "database": "sketches", "upstream": behind}
    refuse_database_without_images(TrainRDM(**settings | own))


def test_the_sheet_shows_the_original_the_edit_and_the_change():
    original = np.zeros((8, 8, 3), dtype=np.uint8)
    edits = np.stack([original, original + 255])
    changes = differences(original, edits)
    assert changes[0].max() == 0 and changes[1].min() == 1
    assert how_much(changes) == {"mean_change": 0.5, "changed_pixels": 0.5}
    sheet = sheet_of_edits(original, edits, changes)
    cell = CELL_PIXELS + 2
    middles = sheet[2 + CELL_PIXELS // 2 :: cell, 2 + CELL_PIXELS // 2 :: cell, 0]
    assert middles.tolist() == [[0, 0, 0], [0, 255, 255]]


def test_the_command_tells_where_the_edits_lie_and_how_much_was_changed(world, photo, capsys):
    words = ["edit", "--root", str(world.root), "--run", "edits", "--image", str(photo)]
    more = ["--text", "a star", "--strength", "1.5", "--set", "steps=2", "--set", "count=1"]
    assert main([*words, *more, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["edits"].endswith("edits.png") and 0 <= value["measured"]["mean_change"] <= 1
    assert main([*words, *more]) == 0
    told = capsys.readouterr().out
    assert value["edits"] in told and "changed: " in told
    assert main([*words[:5], "--text", "a star"]) == 2
    assert "--image: is needed once" in capsys.readouterr().err
