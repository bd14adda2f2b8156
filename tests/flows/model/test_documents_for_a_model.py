"""A model of documents is trained on codes and captions, of the images and of their neighbors."""

import numpy as np
import pytest
from PIL import Image

from flows.commands.answers import captioned
from flows.config.database import EncodeLatents, FindNeighbors
from flows.config.judge import BuiltInWorld
from flows.config.presets import PRESETS
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.judge.demo import prepare_images
from flows.model.opening import open_run
from flows.model.sample import sample_plan, sample_rdm
from flows.model.train_rdm import train_rdm
from flows.model.training_data import open_training_data
from rdm_core.clip import BUILT_IN, load_encoder
from rdm_core.errors import RequestError
from rdm_core.families.multimodal.config import Config, Draw
from rdm_core.families.multimodal.draw import captions
from rdm_core.judge.losses import held_out_losses
from rdm_core.shapes.entities import caption, entities
from rdm_core.shapes.world import BACKGROUNDS, POSITIONS
from storage.atomic import sha256_file
from storage.errors import ArtifactMismatch
from storage.samples import read_samples

SMALL = {
    "family": "multimodal", "codes": 1024, "tokens": 676, "caption_tokens": 32,
    "transformer": {"width": 32, "depth": 1, "head_channels": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """64 images as codes, with their neighbors in themselves."""
    root = tmp_path_factory.mktemp("documents")
    prepare_images(BuiltInWorld(root=root), "shapes", {"count": 64, "split": "train", "size": 40})
    find_neighbors(FindNeighbors(root=root, name="shapes", queries="shapes", database="shapes"))
    encode_latents(
        EncodeLatents(
            root=root, name="codes", shards="shapes", autoencoder="rdm-shapes-vq", stored="codes"
        )
    )
    return root


def training(root, **model):
    return TrainRDM(
        root=root, name="documents", latents="codes", neighbors="shapes", database="shapes",
        model=SMALL | model, context=PRESETS["cm3-shapes"]["context"] | {"score_cap": 1.0},
        training={"steps": 6, "batch": 8, "optimizer": "muon", "learning_rate": 1e-3},
    )  # fmt: skip


def test_it_is_trained_and_measured_and_writes(root, in_one_process):
    run = in_one_process(train_rdm, training(root))
    opened = open_run(root, "documents")
    assert run.rows
    references = {"latents": "codes", "neighbors": "shapes", "index": "shapes"}
    data = open_training_data(root, references, opened.model.reads, opened.encoder)
    losses = held_out_losses(opened.model, data, 2)
    assert losses.shape == (64,) and 0 < losses.mean() < 2 * np.log(1024)
    rows = np.arange(3)
    context = data.neighbors(rows, 2)
    written = captions(opened.model, context, data.raw(rows), [1, 2, 3], Draw())
    assert written.shape == (3, 32) and written.max() < 676


def test_images_are_drawn_completed_and_told_with_what_stood_behind_them(root, tmp_path):
    assert (root / "runs" / "documents").exists(), "trained above"
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.new("RGB", (50, 40), (200, 30, 30)).save(photo)
    Image.fromarray(np.eye(40, 50, dtype=np.uint8)[..., None].repeat(3, axis=2) * 255).save(mask)
    few = {"root": root, "run": "documents", "count": 2, "k": 2}
    drawn = sample_rdm(SampleRDM(**few, name="drawn", texts=("a red circle",)))
    assert len(list(drawn.directory.glob("0*.png"))) == 2
    assert {row["text"] for row in read_samples(drawn)} == {None}
    sample_rdm(SampleRDM(**few, name="completed", texts=("a star",), inpaint=photo, mask=mask))
    asked = SampleRDM(
        **few, name="told", caption=photo, images=(photo,), context="neighbors"
    )  # fmt: skip
    told = sample_rdm(asked)
    rows = read_samples(told)
    assert all(isinstance(row["text"], str) and "<" not in row["text"] for row in rows)
    assert all(len(row["neighbor_keys"]) == 2 and row["given_images"] for row in rows)
    assert rows[0]["text"] != rows[1]["text"], "each from its seed"
    said, value = captioned(told)
    assert repr(rows[0]["text"]) in said and rows[0]["neighbor_keys"][0] in said
    assert value["texts"][1]["text"] == rows[1]["text"] and value["texts"][1]["authors"]
    filled = sample_rdm(
        asked.model_copy(update={"name": "filled", "template": "a photograph of a ___ at the top"})
    )
    for row in read_samples(filled):
        assert row["text"].startswith("a photograph of a") and row["text"].endswith("at the top")
        assert len(row["neighbor_keys"]) == 2
    with pytest.raises(ValueError, match="template: 'a circle' needs ___ once"):
        SampleRDM(**few, name="x", caption=photo, images=(photo,), template="a circle")
    with pytest.raises(ValueError, match="template: is of texts that are written: needs caption"):
        SampleRDM(**few, name="x", texts=("a",), template="a ___")
    parts = sample_plan(asked).parameters
    assert "template" not in parts
    assert parts["caption"] == sha256_file(photo)
    assert "caption" not in sample_plan(SampleRDM(**few, name="drawn", texts=("a",))).parameters
    with pytest.raises(ValueError, match="caption and edit: write or draw"):
        SampleRDM(**few, name="x", texts=("a",), caption=photo, edit=photo)


def test_another_number_of_words_is_refused_with_the_right_one(root):
    with pytest.raises(RequestError, match="model.tokens: is 677, .* has 676 words"):
        train_rdm(training(root, tokens=677))


def test_captions_longer_than_the_model_reads_are_refused(root):
    with pytest.raises(ArtifactMismatch, match="captions are longer than the 8 tokens that the"):
        train_rdm(training(root, caption_tokens=8))


def test_the_preset_is_built_for_the_built_in_encoder():
    longest = [caption(one.name, POSITIONS[0], BACKGROUNDS[0]) for one in entities()]
    encoder, model = load_encoder("rdm-shapes", BUILT_IN), Config.of(PRESETS["cm3-shapes"]["model"])
    assert model.tokens == encoder.tokenizer.vocab_size
    assert encoder.tokens(longest).astype(bool).sum(axis=1).max() <= model.caption_tokens
