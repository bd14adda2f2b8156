"""What a training finds missing: made of what is described, used as it is where it is there."""

import pytest
from asking import changed
from building import build_all

from flows.config.train import TrainRDM
from flows.data import upstream
from storage.artifact import open_artifact
from storage.errors import ArtifactMissing
from storage.manifest import Plan

IMAGES = {"source": "shapes", "size": 32, "count": 40}
OTHERS = {"source": "shapes", "size": 48, "count": 20}
HOW = {"encoder": "rdm-shapes", "weights": "built-in", "precision": "float32"}


class Stages(list):
    """Stages that build a few bytes instead, and note what each was asked, in order."""

    def noted(self, what, kind, config, **inputs):
        self.append((what, config))
        content = f"{kind} {config.name} {inputs}"
        return build_all(config.root, Plan(kind, config.name, {}, inputs), contents=(content,))

    def import_images(self, config):
        self.noted("import", "shards", config)

    def encode_latents(self, config):
        self.noted("encode", "latents", config, shards=shards_of(config))

    def embed_images(self, config):
        return self.noted("embed", "embeddings", config, shards=shards_of(config))

    def index_embeddings(self, config, embeddings):
        self.noted("index", "index", config, embeddings=embeddings.fingerprint)

    def build_database(self, config):
        made = self.noted("build", "embeddings", config, shards=shards_of(config))
        self.index_embeddings(config, made)
        self.pop()

    def find_neighbors(self, config):
        self.noted("neighbors", "neighbors", config)


def shards_of(config):
    return open_artifact(config.root, "shards", config.shards).fingerprint


@pytest.fixture
def stages(monkeypatch):
    """What each stage was asked: (what, its parameters)."""
    made = Stages()
    names = ("import_images", "encode_latents", "embed_images", "index_embeddings")
    for name in (*names, "build_database", "find_neighbors"):
        monkeypatch.setattr(upstream, name, getattr(made, name))
    return made


def training(root, **how):
    """Of latents, neighbors and a database of three names."""
    names = {"name": "run", "latents": "train", "neighbors": "near", "database": "base"}
    return TrainRDM(root=root, **names, upstream=HOW | {"autoencoder": "pixels"} | how)


def given(config):
    """What a stage was asked, but for the root and the defaults."""
    values = changed(config)
    del values["root"]
    return values


def test_of_its_images_alone_everything_is_made_once(stages, tmp_path):
    config = training(tmp_path, images=IMAGES, k=7)
    upstream.make_missing(config)
    assert [what for what, _ in stages] == ["import", "encode", "build", "neighbors"]
    assert {asked.root for _, asked in stages} == {tmp_path}
    imported, encoded, built, searched = (given(asked) for _, asked in stages)
    assert imported == {"name": "train", "size": 32, "count": 40}, "the class says the source"
    assert encoded == {"name": "train", "shards": "train"}
    assert built == {"name": "base", "shards": "train", **HOW}
    assert searched == {"name": "near", "queries": "base", "database": "base", "k": 7}, "one set"
    stages.clear()
    upstream.make_missing(config)
    assert stages == []


def test_neighbors_are_found_as_the_preset_says(stages, tmp_path):
    how = {"search": "words", "within": "style", "in_turns": True}
    upstream.make_missing(training(tmp_path, images=IMAGES, **how))
    assert given(stages[-1][1]).items() >= how.items()


def test_a_database_of_other_images_has_shards_of_its_own_and_the_queries_are_embedded_too(
    stages, tmp_path
):
    upstream.make_missing(training(tmp_path, images=IMAGES, database_images=OTHERS))
    told = [(what, given(asked)) for what, asked in stages]
    assert [(what, asked["name"]) for what, asked in told] == [
        ("import", "train"), ("encode", "train"), ("import", "base"), ("build", "base"),
        ("embed", "train"), ("neighbors", "near"),
    ]  # fmt: skip
    assert told[2][1] == {"name": "base", "size": 48, "count": 20}
    assert told[3][1] == {"name": "base", "shards": "base", **HOW}
    assert told[4][1] == {"name": "train", "shards": "train", **HOW}
    assert told[5][1] == {"name": "near", "queries": "train", "database": "base"}


@pytest.mark.parametrize(("stored", "trained", "k"), [(20, 4, 20), (3, 9, 9), (5, 5, 5)])
def test_as_many_neighbors_are_stored_as_are_asked_for_or_trained_with(
    stages, tmp_path, stored, trained, k
):
    config = training(tmp_path, images=IMAGES, k=stored)
    context = config.context.__class__(k=trained)
    upstream.make_missing(config.model_copy(update={"context": context}))
    assert stages[-1][1].k == k


def test_a_database_without_an_index_is_given_one_and_embedded_no_second_time(stages, tmp_path):
    config = training(tmp_path, images=IMAGES)
    upstream.ensure_shards(config, config.upstream.images, "base")
    upstream.embed_images(upstream.embedding(config, "base", "base"))
    stages.clear()
    upstream.make_missing(config)
    told = [(what, given(asked)["name"]) for what, asked in stages]
    made = [("import", "train"), ("encode", "train"), ("index", "base"), ("embed", "train")]
    assert told == [*made, ("neighbors", "near")]
    assert given(stages[2][1]) == {"name": "base", "shards": "base", **HOW}


def test_a_database_is_made_of_the_shards_of_its_own_name_where_there_are_some(stages, tmp_path):
    build_all(tmp_path, Plan("shards", "base", {}), contents=("its own",))
    upstream.make_missing(training(tmp_path, images=IMAGES))
    (built,) = [given(asked) for what, asked in stages if what == "build"]
    assert built["shards"] == "base"


@pytest.mark.parametrize("present", [(), ("latents", "embeddings", "index")])
def test_images_that_are_neither_imported_nor_described_are_refused_by_the_shards_that_lack(
    stages, tmp_path, present
):
    """With latents and a database of two sets of images, the queries are what lacks."""
    for kind in present:
        name = "train" if kind == "latents" else "base"
        inputs = {"latents": {"shards": "aa"}, "embeddings": {"shards": "bb"}}.get(kind, {})
        if kind == "index":
            base = open_artifact(tmp_path, "embeddings", "base")
            inputs = {"embeddings": base.fingerprint}
        build_all(tmp_path, Plan(kind, name, {}, inputs))
    with pytest.raises(ArtifactMissing, match="there is no artifact shards/train"):
        upstream.make_missing(training(tmp_path))
    assert stages == [], "nothing was begun"


def test_without_a_description_the_shards_that_are_there_are_used(stages, tmp_path):
    build_all(tmp_path, Plan("shards", "train", {}), contents=("train",))
    upstream.make_missing(training(tmp_path))
    assert [what for what, _ in stages] == ["encode", "build", "neighbors"]


def test_a_version_that_is_gone_is_refused_and_none_is_made_in_its_place(stages, tmp_path):
    config = training(tmp_path, images=IMAGES).model_copy(update={"latents": "train@0123456789ab"})
    with pytest.raises(ArtifactMissing, match="latents/train/0123456789ab: it has no manifest"):
        upstream.make_missing(config)
    assert stages == []
