"""Captions as a model is trained on them, and what keeps them from being read."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.config.train import TrainRDM
from flows.data.build_database import build_database
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.model.preflight import refuse_database_without_images
from flows.model.readable import check_captions, encoder_of_database
from flows.model.train_rdm import learned, training_inputs
from flows.model.train_worker import encoder_of
from flows.model.training_data import open_training_data
from rdm_core.config import ContextConfig
from rdm_core.context import NO_TOKEN
from rdm_core.families.facts import ModelConfig, Reads
from storage.artifact import open_artifact
from storage.embeddings import read_columns
from storage.errors import ArtifactMismatch, ArtifactMissing, StorageError
from storage.index import open_index_of

ENCODER = {"encoder": "rdm-shapes", "weights": "built-in"}
WHOLE = Reads(captions=True, references=True)


@dataclass(frozen=True)
class ReadsCaptions(ModelConfig):
    """A model that reads captions of samples and neighbors."""

    family: str = "stand-in"

    @property
    def reads(self) -> Reads:
        return WHOLE


@dataclass(frozen=True)
class ReadsItsOwn(ModelConfig):
    """A model that reads the samples' captions alone."""

    family: str = "stand-in"

    @property
    def reads(self) -> Reads:
        return Reads(captions=True)


def versions(root, latents="known", neighbors="words", database="all"):
    """The inputs of a run, as name@id."""
    opened = {
        "latents": open_artifact(root, "latents", latents),
        "neighbors": open_artifact(root, "neighbors", neighbors),
        "database": open_artifact(root, "embeddings", database),
    }
    opened["index"] = open_index_of(root, opened["database"])
    return {role: f"{artifact.name}@{artifact.id}" for role, artifact in opened.items()}


def training(root, model=None, **values):
    """A training of a model that reads captions, on the entities."""
    names = {"latents": "known", "neighbors": "words", "database": "all"} | values
    config = TrainRDM(root=root, name="n", **names)
    return config.model_copy(update={"model": model or ReadsCaptions()})


@pytest.fixture(scope="module")
def encoder(entity_world):
    return encoder_of_database(open_artifact(entity_world, "embeddings", "all"))


def captions(root, name):
    columns = read_columns(open_artifact(root, "embeddings", name), ["key", "captions"])
    return dict(zip(columns["key"].to_pylist(), columns["captions"].to_pylist(), strict=True))


def test_training_data_says_what_each_sample_and_each_neighbor_shows(entity_world, encoder):
    data = open_training_data(entity_world, versions(entity_world), WHOLE, encoder)
    rows = np.arange(len(data))
    context = data.neighbors(rows, k=4)
    own, of_database = captions(entity_world, "known"), captions(entity_world, "all")
    wanted = encoder.tokens([own[key][0] for key in data.keys])
    np.testing.assert_array_equal(context.text, wanted)
    texts = [text[0] for text in of_database.values()]
    near = data.neighbor_rows[rows, :4]
    for sample in (0, 7, 39):
        there = near[sample] >= 0
        wanted = encoder.tokens([texts[row] for row in near[sample][there]])
        np.testing.assert_array_equal(context.neighbor_texts[sample][there], wanted)
    assert (context.neighbor_texts[near < 0] == NO_TOKEN).all()
    assert context.references.shape[:2] == (40, 4)


def test_a_model_that_reads_its_own_captions_reads_nothing_of_the_neighbors(entity_world, encoder):
    data = open_training_data(entity_world, versions(entity_world), Reads(captions=True), encoder)
    context = data.neighbors(np.arange(3), k=2)
    assert context.text.shape == (3, 32)
    assert context.neighbor_texts is context.references is None


def test_a_training_without_captions_reads_none(entity_world):
    data = open_training_data(entity_world, versions(entity_world))
    assert data.texts is data.neighbor_texts is data.references is None


def test_the_worker_opens_the_encoder_of_the_runs_database(entity_world, encoder):
    settings = {"root": str(entity_world), "inputs": versions(entity_world), "on_gpu": False}
    assert encoder_of(settings).identity == encoder.identity


def test_an_encoder_whose_weights_are_others_now_is_refused(entity_world, monkeypatch):
    from flows.model import train_worker
    from rdm_core.clip import load_encoder

    other = load_encoder("rdm-shapes", "random")
    monkeypatch.setattr(train_worker, "load_encoder", lambda *_: other)
    settings = {"root": str(entity_world), "inputs": versions(entity_world), "on_gpu": False}
    with pytest.raises(ArtifactMismatch, match="embeddings/all was made with .*build it again"):
        encoder_of(settings)


def test_text_dropout_is_in_a_plan_where_there_is_some(small_world, small_training):
    config = TrainRDM(**small_training(small_world.root, "n"))
    assert "text_dropout" not in learned(config)["context"]
    dropped = config.model_copy(update={"context": ContextConfig(text_dropout=0.1)})
    assert learned(dropped)["context"]["text_dropout"] == 0.1


def test_text_dropout_is_refused_for_a_model_that_reads_no_text():
    names = {"latents": "l", "neighbors": "n", "database": "d"}
    with pytest.raises(ValueError, match="context.text_dropout: is 0.1, and this model reads no"):
        TrainRDM(name="n", **names, context={"text_dropout": 0.1})
    with pytest.raises(ValueError, match="text_dropout: is 1.5"):
        ContextConfig(text_dropout=1.5)


# what is refused


def test_a_cap_on_cosines_is_refused_where_scores_are_none(entity_world):
    config = TrainRDM(
        **{"root": entity_world, "name": "n", "latents": "known", "neighbors": "words"},
        **{"database": "all", "context": {"score_cap": 0.9}},
    )
    told = "neighbors/words: its scores are of words, and context.score_cap is a cosine.*score_cap="
    with pytest.raises(StorageError, match=told):
        training_inputs(config)
    plain = config.model_copy(update={"context": ContextConfig()})
    assert set(training_inputs(plain)) == {"latents", "neighbors", "database", "index"}


def test_the_latents_of_the_database_are_an_input_where_the_model_reads_them(entity_world):
    inputs = training_inputs(training(entity_world))
    assert inputs["neighbor_images"].name == "all"


@pytest.fixture(scope="module")
def odd_world(tmp_path_factory):
    """Sets of three pictures: `bare` without captions, `some` with one, `long` with a caption that
    no text tower of 32 tokens reads.
    """
    root, folders = tmp_path_factory.mktemp("odd"), tmp_path_factory.mktemp("folders")
    texts = {"bare": [None] * 3, "some": ["a vorta", None, None]}
    texts["long"] = ["a vorta", "ring " * 40, None]
    for name, of_images in texts.items():
        folder = folders / name
        folder.mkdir()
        for number, text in enumerate(of_images):
            Image.new("RGB", (20, 20), (50 * number, 0, 90)).save(folder / f"{number}.png")
            if text:
                (folder / f"{number}.txt").write_text(text)
        import_images(ImportImages(root=root, name=name, path=folder, size=16, dataset=name))
        build_database(BuildDatabase(root=root, name=name, shards=name, **ENCODER))
        encode_latents(EncodeLatents(root=root, name=name, shards=name))
    return root


def test_images_without_captions_are_refused_where_they_are_read(odd_world):
    told = "shards/bare: none of its 3 images has a caption, and the model reads captions"
    with pytest.raises(ArtifactMismatch, match=told):
        check_captions(training(odd_world, ReadsItsOwn(), latents="bare", database="some"))
    with pytest.raises(ArtifactMismatch, match="embeddings/bare: none of its 3 images"):
        check_captions(training(odd_world, latents="some", database="bare"))
    check_captions(training(odd_world, ReadsItsOwn(), latents="some", database="bare"))


def test_images_of_which_some_have_no_caption_are_told(odd_world, capsys):
    check_captions(training(odd_world, latents="some", database="some"))
    assert (
        "2 of 3 images have no caption: the model sees them without text" in capsys.readouterr().err
    )


def test_captions_longer_than_the_context_are_refused(odd_world):
    told = (
        "shards/long: 1 of its 2 captions are longer than the 32 tokens that the text tower of "
        "rdm-shapes reads, the first is of 'long-1-png-.*Shorten them"
    )
    with pytest.raises(ArtifactMismatch, match=told):
        check_captions(training(odd_world, latents="long", database="some"))
    with pytest.raises(ArtifactMismatch, match="embeddings/long: 1 of its 2 captions"):
        check_captions(training(odd_world, latents="some", database="long"))


def test_a_model_that_reads_no_captions_is_refused_nothing(odd_world, small_training):
    names = {"latents": "bare", "neighbors": "n", "database": "long"}
    check_captions(TrainRDM(root=odd_world, name="n", **names))


def test_what_is_not_there_yet_is_not_looked_at(odd_world, tmp_path):
    config = training(tmp_path, latents="later", database="later")
    config = config.model_copy(update={"upstream": config.upstream.model_copy(update=ENCODER)})
    check_captions(config)


def test_captions_whose_images_are_gone_are_told(entity_world, encoder, tmp_path):
    root = tmp_path / "copy"
    for kind in ("embeddings", "index", "neighbors", "latents"):
        shutil.copytree(entity_world / kind, root / kind)
    with pytest.raises(ArtifactMissing, match="latents/known: its shards are no longer under"):
        open_training_data(root, versions(root), Reads(captions=True), encoder)


def test_a_database_whose_images_are_not_encoded_is_refused(odd_world):
    find_neighbors(FindNeighbors(root=odd_world, name="t", queries="some", database="some", k=2))
    shutil.rmtree(odd_world / "latents" / "some")
    config = training(odd_world, latents="long", neighbors="t", database="some")
    with pytest.raises(ArtifactMissing, match="database some: its images are not encoded"):
        refuse_database_without_images(config)
