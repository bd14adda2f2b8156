"""A fix that changes bytes rebuilds what it spoiled, and nothing else."""

import ast
from pathlib import Path

import numpy as np
import pytest

from flows.config.autoencoder import TrainAutoencoder
from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.config.judge import EvaluateRDM, WriteReport
from flows.config.sample import SampleRDM
from flows.config.train import AverageRun, TrainRDM
from flows.data.build_database import embedding_plan
from flows.data.encode_latents import encode_latents, latents_plan
from flows.data.find_neighbors import neighbors_plan
from flows.data.import_images import import_images, import_plan
from flows.data.index_embeddings import index_plan
from flows.judge.evaluate import evaluation_plan
from flows.judge.report import Subject, report_plan
from flows.model.average import average_plan
from flows.model.sample import sample_plan
from flows.model.train_autoencoder import autoencoder_plan
from flows.model.train_rdm import training_plan
from flows.run import revisions
from flows.run.revisions import REVISIONS, plan_of
from rdm_core.families.facts import RunFacts, Version
from storage.artifact import Artifact, artifacts, open_artifact
from storage.build import begin
from storage.errors import BuildRefused
from storage.layout import KINDS
from storage.manifest import Plan
from storage.runs import write_checkpoint
from storage.unfinished import unfinished

PARAMETERS = {"encoder": {"dimension": 64}, "space": {}, "k": 20}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Every artifact that a plan asks for is there, and says the least."""

    def opened(root, kind, reference):
        inputs = {"database": "d", "shards": "s", "queries": "q"}
        return Artifact(
            kind,
            reference,
            "0" * 12,
            1,
            f"{kind}-{reference}",
            PARAMETERS,
            inputs,
            (),
            {},
            "",
            tmp_path,
        )

    for module in (
        "data.build_database",
        "data.encode_latents",
        "data.find_neighbors",
        "model.sample",
        "judge.inputs",
        "model.average",
    ):
        monkeypatch.setattr(f"flows.{module}.open_artifact", opened)
    for check in ("same_shards", "searched_in", "fit_for"):
        monkeypatch.setattr(f"flows.judge.inputs.{check}", lambda *_: None)
    facts = RunFacts(
        family="diffusion",
        model={},
        encoder={},
        vectors_of="image",
        encoder_weights="",
        space={},
        space_path="",
        latent_side=1,
        k=1,
        random_k=False,
        neighbor_dropout=0.0,
        steps=1,
        parameters=1,
        trained_on={role: Version(role, "1", "f") for role in ("latents", "database")},
    )
    for module in ("model.sample", "judge.inputs"):
        monkeypatch.setattr(f"flows.{module}.facts_of", lambda run: facts)
    return opened


def plans(root, made):
    """The plan of each stage, by the name of what makes it."""
    here = {"root": root, "name": "a"}
    run, embeddings = made(root, "runs", "r"), made(root, "embeddings", "e")
    database = BuildDatabase(
        **here, shards="a", encoder="rdm-shapes", weights="built-in", precision="float32"
    )
    evaluated = {"run": "r", "baseline": "b", "heldout_latents": "l", "heldout_neighbors": "n"}
    training = TrainRDM(**here, latents="a", neighbors="a", database="a")
    page = WriteReport(**here, run="r", baseline="b", evaluation="e", samples=("s",))
    return {
        "import": import_plan(ImportImages(**here, source="shapes", count=4, size=16)),
        "embed": embedding_plan(database),
        "index": index_plan(database, embeddings),
        "neighbors": neighbors_plan(FindNeighbors(**here, queries="a", database="a")),
        "autoencoder": autoencoder_plan(TrainAutoencoder(**here, shards="a"), embeddings),
        "encode": latents_plan(EncodeLatents(**here, shards="a")),
        "train": training_plan(
            training, dict.fromkeys(("latents", "neighbors", "database", "index"), embeddings)
        ),
        "average": average_plan(AverageRun(**here, run="r")),
        "sample": sample_plan(SampleRDM(**here, run="r", texts=("a",))),
        "evaluate": evaluation_plan(EvaluateRDM(**here, **evaluated, judge="shapes")),
        "report": report_plan(page, Subject(root, run, run, run, (run,), (run,))),
    }


def test_there_is_a_revision_of_every_kind():
    assert set(REVISIONS) == set(KINDS)
    assert all(number >= 1 for number in REVISIONS.values())


def test_the_plan_of_every_stage_holds_its_revision(tmp_path, made, monkeypatch):
    before = plans(tmp_path, made)
    assert {plan.kind for plan in before.values()} == set(KINDS)
    for stage, plan in before.items():
        assert plan.parameters.get("revision", 1) == REVISIONS[plan.kind], stage
    for kind, number in REVISIONS.items():
        monkeypatch.setitem(revisions.REVISIONS, kind, number + 1)
    for stage, plan in plans(tmp_path, made).items():
        assert plan.parameters["revision"] == REVISIONS[plan.kind], stage
        assert plan.id != before[stage].id, stage


def test_no_stage_makes_a_plan_of_its_own():
    """But for a removal, which is asked for as the version before was."""
    found = []
    for path in sorted(Path(revisions.__file__).parents[1].rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Plan":
                found.append(path.name)
    assert found == ["rehearse.py", "revisions.py"]


def test_revision_1_says_nothing_so_that_what_was_made_before_is_kept(monkeypatch):
    monkeypatch.setitem(revisions.REVISIONS, "latents", 1)
    assert plan_of("latents", "a", {"space": 1}, {}) == Plan("latents", "a", {"space": 1}, {})


def test_a_raised_revision_makes_the_stage_anew_and_keeps_what_its_bytes_allow(
    tmp_path, monkeypatch
):
    asked = ImportImages(root=tmp_path, name="a", source="shapes", count=4, size=16, encoding="png")
    first = import_images(asked)
    latents = encode_latents(EncodeLatents(root=tmp_path, name="a", shards="a"))
    monkeypatch.setitem(revisions.REVISIONS, "shards", REVISIONS["shards"] + 1)
    second = import_images(asked)
    assert (second.version, second.fingerprint) == (2, first.fingerprint) and second.id != first.id
    assert {part.made_from for part in first.parts}.isdisjoint(
        part.made_from for part in second.parts
    ), "made, not taken over"
    assert open_artifact(tmp_path, "shards", f"a@{first.id}").rows == 4, (
        "the old version stays readable"
    )
    assert encode_latents(EncodeLatents(root=tmp_path, name="a", shards="a")).id == latents.id, (
        "equal bytes, nothing to do"
    )
    monkeypatch.setitem(revisions.REVISIONS, "latents", REVISIONS["latents"] + 1)
    again = encode_latents(EncodeLatents(root=tmp_path, name="a", shards="a"))
    assert again.version == 2 and {p.made_from for p in again.parts}.isdisjoint(
        p.made_from for p in latents.parts
    )
    assert len(artifacts(tmp_path)) == 4


def begun(root, plan, name="00000", origin="x"):
    with pytest.raises(KeyboardInterrupt), begin(root, plan) as build:
        build.write_part(name, origin, lambda scratch: ((scratch / name).write_bytes(b"abc"), {}))
        raise KeyboardInterrupt
    return unfinished(root, plan.kind, plan.name)[-1]


def test_an_unfinished_build_of_an_earlier_revision_is_no_obstacle(tmp_path):
    left = begun(tmp_path, Plan("latents", "a", {"space": 1}))
    with begin(tmp_path, Plan("latents", "a", {"space": 1, "revision": 2})) as build:
        taken_over = build.existing_part("00000", "x")
        assert taken_over is not None and build.existing_part("00001", "y") is None
        build.commit([taken_over], {})
    assert not left.exists()
    begun(tmp_path, Plan("latents", "a", {"space": 2}))
    refused = pytest.raises(
        BuildRefused, match=r"asked for with revision=null \(now 3\), space=2 \(now 1\)"
    )
    with refused, begin(tmp_path, Plan("latents", "a", {"space": 1, "revision": 3})):
        pass


def test_an_unfinished_training_of_an_earlier_revision_is_dropped_by_a_person_alone(tmp_path):
    left = begun(tmp_path, Plan("runs", "a", {"steps": 1}))
    write_checkpoint(left, 1, {"weight": np.zeros(1)})
    refused = pytest.raises(
        BuildRefused, match=r"asked for with revision=null \(now 2\).*rdm gc --unfinished runs/a"
    )
    with refused, begin(tmp_path, Plan("runs", "a", {"steps": 1, "revision": 2})):
        pass
    assert left.exists()
