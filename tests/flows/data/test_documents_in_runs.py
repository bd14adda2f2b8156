"""Runs that were trained with databases of captions or documents, and what is made for them."""

import json

import pytest
from pydantic import ValidationError

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors, Rebuild
from flows.config.images import ImportImages
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM, Upstream
from flows.data import encoders
from flows.data.build_database import build_database, embed_images
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.data.rebuild import rebuild
from flows.data.space_needed import PreflightFailed
from flows.model.sample import sample_rdm
from flows.model.train_rdm import train_rdm
from storage.artifact import artifacts, open_artifact
from storage.errors import ArtifactMismatch


@pytest.fixture(scope="module")
def trained(small_world, small_training, in_one_process):
    """A run of each kind, on the small world."""
    for of in ("text", "document"):
        names = {"name": f"shapes-{of}", "shards": "shapes", "of": of}
        encoder = {"encoder": "rdm-shapes", "weights": "built-in", "precision": "float32"}
        build_database(BuildDatabase(root=small_world.root, **names, **encoder))
    neighbors = {"queries": "shapes-text", "database": "shapes-text"}
    find_neighbors(FindNeighbors(root=small_world.root, name="shapes-text", **neighbors, k=3))
    settings = small_training(small_world.root, "on-text", steps=2)
    settings |= {"neighbors": "shapes-text", "database": "shapes-text"}
    return settings, in_one_process(train_rdm, TrainRDM(**settings))


def asked(small_world, run, **request):
    common = {"root": small_world.root, "name": "of", "run": run, "count": 1, "k": 3}
    common["draw"] = {"steps": 2}
    return sample_rdm(SampleRDM(**common | {"texts": ("a red circle",)} | request))


def test_a_run_draws_from_databases_of_what_it_was_trained_with(small_world, trained):
    _, run = trained
    facts = json.loads(run.file("weights/model.json").read_text())
    assert facts["vectors_of"] == "text"
    assert asked(small_world, "on-text").rows == 1
    for name, request in {
        "shapes": {"run": "on-text", "database": "shapes"},
        "shapes-document": {
            "run": "on-text",
            "style_database": "shapes-document",
            "style_text": "a",
        },
        "shapes-text": {"run": "small", "database": "shapes-text"},
    }.items():
        with pytest.raises(
            ArtifactMismatch, match=f"embeddings/{name}: its vectors are of .*--set"
        ):
            asked(small_world, **request)


def test_means_of_images_are_not_taken_from_captions(small_world, trained):
    settings, _ = trained
    network = settings["model"]["denoiser"] | {"remove_means": True}
    with pytest.raises(ArtifactMismatch, match="subtracts the mean .*denoiser.remove_means=false"):
        train_rdm(TrainRDM(**settings | {"name": "means", "model": {"denoiser": network}}))


def test_a_network_that_is_given_the_image_itself_is_not_given_its_caption(small_world, trained):
    settings, _ = trained
    network = settings["model"]["denoiser"] | {"query_token": True}
    with pytest.raises(ArtifactMismatch, match="training images' own vectors.*query_token=false"):
        train_rdm(TrainRDM(**settings | {"name": "token", "model": {"denoiser": network}}))


@pytest.mark.parametrize("wants", ["remove_means", "query_token"])
def test_what_would_be_refused_once_it_is_made_is_not_made(tmp_path, small_training, wants):
    drawn = {"source": "shapes", "size": 32, "count": 12, "encoding": "png"}
    upstream = {"images": drawn, "of": "text", "encoder": "rdm-shapes", "weights": "built-in"}
    settings = small_training(tmp_path, "new") | dict.fromkeys(
        ("latents", "neighbors", "database"), "new"
    )
    settings["model"]["denoiser"] |= {wants: True}
    with pytest.raises(PreflightFailed, match="train new: upstream.of=text.*Leave it out"):
        train_rdm(TrainRDM(**settings, upstream=upstream))
    assert artifacts(tmp_path) == []


def test_what_is_made_upstream_and_by_a_rebuild_is_of_what_was_asked_for(
    tmp_path, small_training, in_one_process
):
    drawn = {"source": "shapes", "size": 32, "count": 24, "encoding": "png"}
    rebuild(
        Rebuild(root=tmp_path, name="rebuilt", images=drawn, of="document", k=3,
                encoder="rdm-shapes", weights="built-in")
    )  # fmt: skip
    assert open_artifact(tmp_path, "embeddings", "rebuilt").parameters["of"] == "document"
    encode_latents(EncodeLatents(root=tmp_path, name="made", shards="rebuilt"))
    upstream = {"database_images": drawn, "of": "text", "k": 3}
    upstream |= {"encoder": "rdm-shapes", "weights": "built-in", "images": drawn}
    settings = small_training(tmp_path, "made", steps=1)
    settings |= dict.fromkeys(("latents", "neighbors", "database"), "made")
    in_one_process(train_rdm, TrainRDM(**settings, upstream=upstream))
    assert open_artifact(tmp_path, "embeddings", "made").parameters["of"] == "text"


@pytest.mark.parametrize("cls", [BuildDatabase, Upstream, Rebuild])
def test_a_precision_of_the_image_tower_is_refused_where_no_image_is_embedded(cls):
    given = {
        BuildDatabase: {"name": "a", "shards": "a"},
        Upstream: {},
        Rebuild: {"name": "a", "images": {"source": "shapes"}},
    }[cls]
    for precision in ("auto", "float32"):
        cls(**given, of="text", precision=precision)
    cls(**given, of="document", precision="bfloat16")
    with pytest.raises(ValidationError, match="precision: is of the image tower, and of=text"):
        cls(**given, of="text", precision="bfloat16")


def test_captions_alone_are_in_float32_and_say_nothing_about_the_fastest(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "fastest_precision", lambda device: "bfloat16")
    here = {"root": tmp_path, "name": "a", "shards": "a"}
    assert encoders.precision_for(BuildDatabase(**here, of="text")) == "float32"
    assert encoders.precision_for(BuildDatabase(**here, of="document")) == "bfloat16"
    drawn = {"source": "shapes", "size": 32, "count": 4, "encoding": "png"}
    import_images(ImportImages(root=tmp_path, name="a", **drawn))
    asked = BuildDatabase(**here, encoder="rdm-shapes", weights="built-in", of="text")
    assert embed_images(asked).parameters["precision"] == "float32"
    assert encoders.precision_for(BuildDatabase(**here)) == "bfloat16"
