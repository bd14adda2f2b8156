"""Every stage on a small drawn world: what is kept, what travels, what is refused."""

import json
import sys

import numpy as np
import pytest
from asking import sample
from building import build_all
from launching import steps_of
from PIL import Image

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.config.train import TrainRDM
from flows.data.build_database import build_database, embed_images
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.data.upstream import ensured_queries
from flows.model.opening import facts_of
from flows.model.train_rdm import train_rdm
from rdm_core.clip import Encoder
from rdm_core.errors import EncoderError, RequestError
from rdm_core.families.facts import RunFacts
from storage.artifact import artifacts, open_artifact
from storage.checks import same_encoder
from storage.embeddings import read_columns, read_vectors
from storage.errors import ArtifactMismatch, ArtifactMissing, SourceError
from storage.manifest import Plan
from storage.neighbors import read_neighbors
from storage.shards import read_sidecar


def test_a_second_identical_run_keeps_every_artifact(small_world, small_training, capfd):
    before = {a.directory: a.fingerprint for a in artifacts(small_world.root)}
    again = ImportImages(
        root=small_world.root,
        name="shapes",
        source="shapes",
        size=32,
        encoding="png",
        count=96,
        split="shapes",
        images_per_part=40,
    )
    import_images(again)
    build_database(
        BuildDatabase(
            root=small_world.root,
            name="shapes",
            shards="shapes",
            encoder="rdm-shapes",
            weights="built-in",
        )
    )
    find_neighbors(
        FindNeighbors(root=small_world.root, name="shapes", queries="shapes", database="shapes")
    )
    encode_latents(EncodeLatents(root=small_world.root, name="shapes", shards="shapes"))
    train_rdm(TrainRDM(**small_training(small_world.root, "small")))
    said = capfd.readouterr().err
    assert said.count(" kept ") == 6 and " built " not in said
    assert before == {
        a.directory: a.fingerprint for a in artifacts(small_world.root) if a.directory in before
    }


def test_a_query_never_finds_its_own_image(small_world):
    keys, rows, scores = read_neighbors(open_artifact(small_world.root, "neighbors", "shapes"))
    database_keys = read_columns(open_artifact(small_world.root, "embeddings", "shapes"), ["key"])[
        "key"
    ].to_pylist()
    assert len(keys) == 96 and rows.shape == (96, 20)
    assert all(
        key not in {database_keys[row] for row in near}
        for key, near in zip(keys, rows, strict=True)
    )
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_run_says_what_it_was_trained_on_and_how_it_went(small_world):
    run = small_world.run
    assert set(run.inputs) == {"latents", "neighbors", "database", "index"}
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    facts = facts_of(run)
    assert facts == RunFacts.of(json.loads(run.file("weights/model.json").read_text()))
    assert {role: one.fingerprint for role, one in facts.trained_on.items()} == run.inputs
    assert (facts.family, facts.encoder["model"]) == ("diffusion", "rdm-shapes")
    assert (facts.k, facts.random_k, facts.steps, facts.latent_side) == (3, True, 6, 32)
    planned = json.loads(json.dumps(run.parameters["model"]))
    # A plan says nothing of what came later and has its default.
    assert facts.model | planned == facts.model and planned.keys() ^ facts.model.keys() == {
        "editing"
    }
    card = run.file("weights/README.md").read_text()
    assert "| CC0-1.0 | 32 |\n" in card and "| CC-BY-4.0 | 32 |\n" in card
    assert "| not stated | 32 |\n" in card


def test_the_workers_instruction_is_the_flows_own_parameters_and_where_things_are(
    small_world, small_training
):
    told = json.loads((small_world.run.directory / "config.json").read_text())
    config = TrainRDM(**small_training(small_world.root, "small"))
    beside = {"inputs", "autoencoder", "on_gpu"}
    assert told.keys() == TrainRDM.model_fields.keys() | beside
    given = {name: value for name, value in told.items() if name not in beside}
    assert given == config.model_dump(mode="json") | {"root": str(small_world.root.resolve())}
    assert TrainRDM(**given) == config.model_copy(update={"root": small_world.root.resolve()})
    trained_on = facts_of(small_world.run).trained_on
    assert told["inputs"] == {role: one.reference for role, one in trained_on.items()}
    assert (told["autoencoder"], told["on_gpu"]) == ("pixels", False)


def test_a_database_from_another_encoder_is_refused_with_both_names(small_world):
    other = BuildDatabase(
        root=small_world.root,
        name="foreign",
        shards="sketches",
        encoder="rdm-shapes",
        weights="random",
    )
    build_database(other)
    with pytest.raises(ArtifactMismatch, match=r"foreign.*rdm-shapes.*rdm build"):
        sample(small_world, "refused", texts=("a red circle",), database="foreign")
    with pytest.raises(ArtifactMismatch, match="different encoders"):
        find_neighbors(
            FindNeighbors(
                root=small_world.root, name="refused", queries="foreign", database="shapes"
            )
        )


def test_wrong_names_and_weights_are_told_and_leave_nothing(small_world, tmp_path):
    here = {"root": small_world.root, "name": "x"}
    misspelt = BuildDatabase(**here, shards="shapse")
    no_weights = BuildDatabase(**here, shards="shapes", encoder="ViT-B-32", weights="/no/such/file")
    no_annotations = ImportImages(**here, source="coco", path=without_annotations(tmp_path))
    cases = [
        (ArtifactMissing, "Present: shapes, sketches", lambda: embed_images(misspelt)),
        (EncoderError, "neither a tag nor a file", lambda: embed_images(no_weights)),
        (SourceError, "captions_val2017.json", lambda: import_images(no_annotations)),
        (
            RequestError,
            "smaller k",
            lambda: sample(small_world, "x", texts=("a",), k=500, context="neighbors"),
        ),
    ]
    for error, message, act in cases:
        with pytest.raises(error, match=message):
            act()
    assert not list(small_world.root.glob("*/x/*/manifest.json"))


def without_annotations(folder):
    (folder / "val2017").mkdir()
    Image.new("RGB", (20, 20)).save(folder / "val2017" / "000000000001.jpg")
    return folder


@pytest.mark.long
def test_an_interrupted_run_resumes_and_ends_with_equal_weights(
    small_world, small_training, monkeypatch
):
    module = sys.modules["flows.model.train_rdm"]
    interrupted = TrainRDM(**small_training(small_world.root, "interrupted", steps=6))

    def dies_after_three_steps(run, *more):
        settings = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(
            json.dumps(settings | {"training": settings["training"] | {"steps": 3}})
        )
        module_launch(run, *more)
        raise KeyboardInterrupt

    module_launch = module.launch_training
    monkeypatch.setattr(module, "launch_training", dies_after_three_steps)
    with pytest.raises(KeyboardInterrupt):
        train_rdm(interrupted)
    assert not list((small_world.root / "runs" / "interrupted").glob("*/manifest.json"))
    monkeypatch.undo()
    resumed = train_rdm(interrupted)
    assert resumed.file("weights/network/diffusion_pytorch_model.safetensors").read_bytes() == (
        small_world.run.file("weights/network/diffusion_pytorch_model.safetensors").read_bytes()
    )
    assert steps_of(resumed) == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


def test_files_that_are_absent_or_forbidden_end_as_rows(small_world, tmp_path):
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    without_annotations(coco)
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "license": 1} for i in (1, 2)]
    captions = [{"id": i, "image_id": i, "caption": "a thing"} for i in (1, 2)]
    licenses = [{"id": 1, "name": "CC", "url": "https://example.org"}]
    for kind, more in {
        "captions": {"annotations": captions},
        "instances": {"annotations": [], "categories": []},
    }.items():
        listed = {"images": images, "licenses": licenses} | more
        (coco / "annotations" / f"{kind}_val2017.json").write_text(json.dumps(listed))
    shards = import_images(
        ImportImages(root=small_world.root, name="absent", source="coco", path=coco, size=16)
    )
    rows = {row["key"]: row for row in read_sidecar(shards, "00000").to_pylist()}
    assert rows["coco-000000000001-00"]["status"] == "ok"
    assert (
        rows["coco-000000000002-00"]["reason"] == "missing file"
        and "000000000002" in rows["coco-000000000002-00"]["detail"]
    )


def test_a_kept_stage_is_shown_as_cached(recorded, small_world, small_training):
    config = TrainRDM(**small_training(small_world.root, "small"))
    state = train_rdm.flow(config, return_state=True)
    assert (state.name, state.type.value) == ("Cached", "COMPLETED")
    assert state.result() == small_world.run


def test_queries_are_the_databases_own_if_any_version_with_its_bytes_is_of_the_latents_shards(
    tmp_path, small_training
):
    names = {"latents": "images", "database": "base", "neighbors": "none"}
    config = TrainRDM(**small_training(tmp_path, "run") | names)
    build_all(tmp_path, Plan("latents", "images", {}, {"shards": "s1"}))
    for shards in ("s1", "s2"):
        build_all(tmp_path, Plan("embeddings", "base", {}, {"shards": shards}))
    assert open_artifact(tmp_path, "embeddings", "base").inputs["shards"] == "s2"
    assert ensured_queries(config) == "base"


@pytest.mark.long
def test_train_makes_what_is_missing_upstream_and_nothing_else(
    small_world, small_training, tmp_path
):
    settings = small_training(tmp_path, "fresh", steps=2)
    images = {
        "source": "shapes",
        "size": 32,
        "encoding": "png",
        "count": 96,
        "split": "shapes",
        "images_per_part": 40,
    }
    upstream = {"images": images, "encoder": "rdm-shapes", "weights": "built-in"}
    run = train_rdm(TrainRDM(**settings | {"upstream": upstream, "preview": 1}))
    same = train_rdm(TrainRDM(**small_training(small_world.root, "twin", steps=2)))
    weights = "weights/network/diffusion_pytorch_model.safetensors"
    assert run.file(weights).read_bytes() == same.file(weights).read_bytes(), (
        "made on demand or by hand: the same bytes"
    )
    assert {a.kind for a in artifacts(tmp_path)} == {
        "shards",
        "latents",
        "embeddings",
        "index",
        "neighbors",
        "runs",
        "samples",
    }
    with pytest.raises(ArtifactMissing, match="no artifact shards/nothing"):
        train_rdm(TrainRDM(**settings | {"name": "y", "latents": "nothing", "upstream": {}}))


def test_an_approximate_index_has_its_curve_in_the_manifest_and_a_target_out_of_reach_is_told(
    small_world, capfd
):
    asked = {
        "root": small_world.root,
        "name": "sketches",
        "shards": "sketches",
        "encoder": "rdm-shapes",
        "weights": "built-in",
    }
    approximate = {"recipe": "autofaiss", "recall_k": 5, "latency_target_milliseconds": 1e-6}
    _, index = build_database(BuildDatabase(**asked, **approximate))
    assert index.measured["curve"][-1]["recall"] >= 0.95 and index.measured["bytes_per_row"] > 0
    assert index.measured["targets_met"] is False
    assert "not both targets are met" in capfd.readouterr().err
    (index.directory / "index.faiss").unlink()
    _, again = build_database(BuildDatabase(**asked, **approximate))
    assert again.measured["targets_met"] is False and again.fingerprint == index.fingerprint, (
        "told after a repair too"
    )
    build_database(BuildDatabase(**asked))  # the exact one is current again


def test_shards_are_embedded_in_one_stream_and_their_vectors_do_not_depend_on_each_other(
    small_world, monkeypatch
):
    streams, whole_stream = [], Encoder.encode_stream

    def counted(self, *values):
        streams.append([])
        for vectors, norms in whole_stream(self, *values):
            streams[-1].append(len(norms))
            yield vectors, norms

    monkeypatch.setattr(Encoder, "encode_stream", counted)
    asked = {
        "root": small_world.root,
        "name": "one-go",
        "shards": "shapes",
        "encoder": "rdm-shapes",
        "weights": "built-in",
    }
    made = embed_images(BuildDatabase(**asked, precision="float32"))
    assert [part.rows for part in made.parts] == [80, 16]
    assert streams == [[40, 40, 16]], "at most 64 at once, evenly, and none across the border"
    monkeypatch.setattr("flows.data.build_database.SHARDS_A_STREAM", 1)
    again = embed_images(BuildDatabase(**asked | {"name": "one-by-one"}, precision="float32"))
    assert streams[1:] == [[40, 40], [16]] and again.fingerprint == made.fingerprint


def test_a_database_keeps_the_precision_it_was_begun_in_unless_another_is_asked_for(
    small_world, monkeypatch
):
    asked = {
        "root": small_world.root,
        "name": "kept",
        "shards": "sketches",
        "encoder": "rdm-shapes",
        "weights": "built-in",
    }
    module = sys.modules["flows.data.encoders"]
    monkeypatch.setattr(module, "fastest_precision", lambda device: "bfloat16")
    first = embed_images(BuildDatabase(**asked))
    monkeypatch.setattr(module, "fastest_precision", lambda device: "float32")
    assert (
        embed_images(BuildDatabase(**asked)).id == first.id
        and first.parameters["precision"] == "bfloat16"
    )
    assert (
        embed_images(BuildDatabase(**asked, precision="float32")).parameters["precision"]
        == "float32"
    )
    assert module.precision_for(BuildDatabase(**asked | {"name": "new"})) == "float32"


def test_the_precision_of_the_encoder_is_recorded_and_its_databases_go_together(small_world):
    asked = {
        "root": small_world.root,
        "name": "reduced",
        "shards": "shapes",
        "encoder": "rdm-shapes",
        "weights": "built-in",
    }
    reduced = embed_images(BuildDatabase(**asked, precision="bfloat16"))
    full = open_artifact(small_world.root, "embeddings", "shapes")
    assert reduced.parameters["precision"] == "bfloat16" and full.parameters["precision"] in (
        "float32",
        "bfloat16",
    )
    same_encoder(reduced, full)
    assert (read_vectors(reduced)[0].astype(np.float32) * read_vectors(full)[0]).sum(
        axis=1
    ).min() > 0.995
