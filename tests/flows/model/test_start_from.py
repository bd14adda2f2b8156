"""A training that begins with the weights of another run."""

import json
import shutil
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from flows.config.train import TrainRDM
from flows.model.opening import facts_of
from flows.model.start import run_to_start_from
from flows.model.train_rdm import learned, look_ahead, train_rdm, training_inputs, training_plan
from flows.model.train_worker import model_and_data
from rdm_core.errors import RequestError, WeightsError
from rdm_core.families import FACTS_FILE, FAMILIES
from rdm_core.latents import load_latent_space
from storage.artifact import open_artifact
from storage.build import begin
from storage.errors import ArtifactMismatch, ArtifactMissing, BuildRefused
from storage.holders import holders, trained_on
from storage.manifest import Plan
from storage.query import query
from storage.unfinished import unfinished

WEIGHTS = "weights/network/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def settings(small_world, small_training):
    """Of a run that begins with the small run's weights."""
    return small_training(small_world.root, "further", steps=2) | {"start_from": "small"}


def told(root, name, facts):
    """Publish a run of which only this is known: its weights cannot be loaded."""

    def write(scratch):
        (scratch / "weights").mkdir()
        (scratch / "weights" / FACTS_FILE).write_text(json.dumps(facts))
        return 1, {}

    with begin(root, Plan("runs", name, {"told": facts})) as build:
        return build.finished or build.commit([build.write_part("weights", "", write)], {})


def test_its_weights_are_those_of_the_other_run_before_the_first_step(small_world, settings):
    config = TrainRDM(**settings)
    inputs = {role: f"{one.name}@{one.id}" for role, one in training_inputs(config).items()}
    asked = config.model_dump(mode="json") | {"root": str(config.root), "inputs": inputs}
    model, _ = model_and_data(asked, load_latent_space("pixels"), config.training.seed)
    of_other = load_file(small_world.run.file(WEIGHTS))
    begun = model.denoiser.network.state_dict()
    assert begun.keys() == of_other.keys()
    for name, values in of_other.items():
        np.testing.assert_array_equal(begun[name].numpy(), values, err_msg=name)
    del inputs["start_from"]
    fresh, _ = model_and_data(asked, load_latent_space("pixels"), config.training.seed)
    assert any((begun[n] != v).any() for n, v in fresh.denoiser.network.state_dict().items())


def test_it_is_in_the_plan_by_its_bytes_and_in_what_the_run_says_of_itself(
    small_world, settings, in_one_process
):
    config = TrainRDM(**settings)
    plan = training_plan(config)
    assert plan.inputs["start_from"] == small_world.run.fingerprint
    assert "start_from" not in plan.parameters and plan.parameters == learned(config) | {
        name: plan.parameters[name] for name in ("encoder", "space")
    }
    from_nothing = training_plan(TrainRDM(**settings | {"start_from": None}))
    assert from_nothing.id != plan.id and "start_from" not in from_nothing.inputs
    named = f"small@{small_world.run.id}"
    assert training_plan(TrainRDM(**settings | {"start_from": named})).id == plan.id
    run = in_one_process(train_rdm, config)
    assert run.id == plan.id
    assert facts_of(run).trained_on["start_from"].reference == named
    assert f"| start_from | small | {small_world.run.id} |" in (
        run.file("weights/README.md").read_text()
    )


def test_what_the_other_run_was_trained_on_was_seen_too(small_world, settings, in_one_process):
    root = small_world.root
    run = in_one_process(train_rdm, TrainRDM(**settings))
    key = query(root, "SELECT key FROM latents LIMIT 1").rows()[0]["key"]
    found = holders(root, {key})
    without = [one for one in found if one.reference.partition("/")[0] != "latents"]
    by_reference = {one.reference: one for one in trained_on(root, without)}
    assert by_reference[run.reference].held["start_from"] == small_world.run.reference
    sql = "SELECT role, artifact FROM seen WHERE run = 'further' GROUP BY ALL"
    roles = {row["role"] for row in query(root, sql).rows()}
    assert roles == {"latents", "neighbors", "database"}


def test_what_a_run_began_with_is_told_to_be_unknown_where_it_is_gone(tmp_path, small_world):
    inputs = {"start_from": "0" * 16}
    with begin(tmp_path, Plan("runs", "further", {}, inputs)) as build:
        build.commit([build.write_part("w", "", lambda d: ((d / "w").write_text("w"), {}))], {})
    rows = query(tmp_path, "SELECT role, artifact, key FROM seen ORDER BY role").rows()
    assert rows == [
        {"role": role, "artifact": None, "key": None}
        for role in ("database", "latents", "neighbors")
    ]
    (run,) = trained_on(tmp_path, [])
    assert run.unknown == ("start_from",)


def test_once_interrupted_it_goes_on_to_equal_weights_and_from_no_other_run(
    small_world, small_training, settings, in_one_process
):
    root, module = small_world.root, sys.modules["flows.model.train_rdm"]
    in_one_process(train_rdm, TrainRDM(**small_training(root, "other", steps=1)))
    asked = small_training(root, "unbroken", steps=6) | {"start_from": "small"}
    unbroken = in_one_process(train_rdm, TrainRDM(**asked))

    def interrupted():
        whole_launch = module.launch_training

        def dies_after_three_steps(run, *more):
            given = json.loads((run / "config.json").read_text())
            shorter = given | {"training": given["training"] | {"steps": 3}}
            (run / "config.json").write_text(json.dumps(shorter))
            whole_launch(run, *more)
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, "launch_training", dies_after_three_steps)
            train_rdm(TrainRDM(**asked | {"name": "broken"}))

    in_one_process(interrupted)
    assert [path.parent.name for path in unfinished(root, "runs")] == ["broken"]
    broken = asked | {"name": "broken"}
    with pytest.raises(BuildRefused, match="start_from small@.*, while other is asked for"):
        in_one_process(train_rdm, TrainRDM(**broken | {"start_from": "other"}))
    with pytest.raises(BuildRefused, match="start_from small@.*, while none is asked for"):
        in_one_process(train_rdm, TrainRDM(**broken | {"start_from": None}))
    resumed = in_one_process(train_rdm, TrainRDM(**broken))
    assert not unfinished(root, "runs")
    assert resumed.file(WEIGHTS).read_bytes() == unbroken.file(WEIGHTS).read_bytes()


def test_what_began_with_random_weights_does_not_go_on_from_another_runs(
    small_world, small_training, in_one_process
):
    asked = small_training(small_world.root, "random", steps=2)

    def stopped(run, *_):
        (run / "checkpoints" / "00000001").mkdir(parents=True)
        (run / "checkpoints" / "00000001" / "manifest.json").write_text('{"step": 1}')
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("flows.model.train_rdm.launch_training", stopped)
        train_rdm(TrainRDM(**asked))
    (left,) = unfinished(small_world.root, "runs", "random")
    with pytest.raises(BuildRefused, match="start_from none, while small is asked for") as refused:
        in_one_process(train_rdm, TrainRDM(**asked | {"start_from": "small"}))
    assert "rdm gc --unfinished runs/random" in str(refused.value) and left.is_dir()
    shutil.rmtree(left)


OTHERS = {
    "family": {"family": "made-up"},
    "latent space": {"space": {"autoencoder": "x", "weights_sha256": "0", "channels": 4}},
    "encoder": {"encoder": {"model": "x", "weights_sha256": "0", "dimension": 64}},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_of_another_kind_is_refused_with_the_cure(
    what, small_world, settings, monkeypatch, in_one_process
):
    monkeypatch.setitem(FAMILIES, "made-up", "made_up")
    name = f"of-another-{what.replace(' ', '-')}"
    facts = replace(facts_of(small_world.run), **OTHERS[what])
    told(small_world.root, name, asdict(facts))
    with pytest.raises(ArtifactMismatch) as refused:
        in_one_process(
            train_rdm, TrainRDM(**settings | {"name": "never-begun", "start_from": name})
        )
    assert refused.value.where == f"start_from={name}"
    assert refused.value.what.startswith(f"that run is of another {what}: ")
    assert refused.value.cure == f"Start from a run of the same {what}, or leave start_from out."
    assert not (small_world.root / "runs" / "never-begun").exists(), "before anything is started"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"denoiser": {"remove_means": True}}, "model.denoiser.remove_means"),
        ({"denoiser": {"context_norm": "raw"}}, "model.denoiser.context_norm"),
        ({"noise": {"process": "velocity"}}, "model.noise"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(
    change, named, small_world, settings, in_one_process
):
    model = dict(settings["model"])
    for part, values in change.items():
        model[part] = {**model[part], **values}
    asked = TrainRDM(**settings | {"name": "never-begun", "model": model})
    with pytest.raises(ArtifactMismatch, match=f"trained with {named}=.*mean something else"):
        in_one_process(train_rdm, asked)


def test_a_run_whose_autoencoder_went_by_another_name_is_of_the_same_latent_space(
    small_world, settings
):
    facts = facts_of(small_world.run)
    renamed = replace(facts, space=facts.space | {"autoencoder": "/moved/elsewhere"})
    run = told(small_world.root, "of-a-renamed-autoencoder", asdict(renamed))
    latents = open_artifact(small_world.root, "latents", "shapes")
    asked = TrainRDM(**settings | {"start_from": "of-a-renamed-autoencoder"})
    assert run_to_start_from(asked, latents).id == run.id


def test_a_family_that_this_version_does_not_know_is_refused_by_name(small_world, settings):
    facts = replace(facts_of(small_world.run), family="unheard-of")
    told(small_world.root, "of-the-future", asdict(facts))
    with pytest.raises(WeightsError, match="'unheard-of' is none of diffusion.*[Gg]ive a run's"):
        training_inputs(TrainRDM(**settings | {"start_from": "of-the-future"}))
    told(small_world.root, "unread", asdict(facts) | {"family": "diffusion", "model": {"x": 1}})
    with pytest.raises(WeightsError, match="model.json: cannot be read .x: unknown"):
        look_ahead(TrainRDM(**settings | {"name": "y", "start_from": "unread"}))


def test_another_network_is_refused_with_the_first_tensor_that_has_no_place(
    small_world, settings, in_one_process
):
    network = settings["model"]["denoiser"]
    for changed, told in (
        ({"depth": 2}, r"is None there and \[\d+.*\] here"),
        ({"channels": [64]}, r"is \[.*32.*\] there and \[.*64.*\] here"),
        ({"set_layers": 1}, "is None there and"),
    ):
        model = settings["model"] | {"denoiser": network | changed}
        asked = TrainRDM(**settings | {"name": "wider", "model": model})
        with pytest.raises(RequestError, match=told) as refused:
            in_one_process(train_rdm, asked)
        assert refused.value.where == "start_from"
        assert refused.value.cure == "Train the same network as that run's."
        assert not (small_world.root / "runs" / "wider").exists(), "before anything is started"


def test_a_run_that_is_not_there_is_told_before_anything_upstream_is_made(
    tmp_path, settings, monkeypatch
):
    monkeypatch.setattr(
        "flows.model.train_rdm.check_training", lambda config: pytest.fail("looked on")
    )
    images = {"source": "shapes", "size": 32, "count": 40, "encoding": "png"}
    upstream = {"images": images, "encoder": "rdm-shapes", "weights": "built-in"}
    config = TrainRDM(**settings | {"root": tmp_path, "upstream": upstream})
    with pytest.raises(ArtifactMissing, match="runs/small"):
        look_ahead(config)
    monkeypatch.setitem(FAMILIES, "made-up", "made_up")
    told(tmp_path, "small", {"family": "made-up"})
    with pytest.raises(WeightsError, match="missing .* required"):
        look_ahead(config)
    assert not (tmp_path / "shards").exists()
    with pytest.raises(ArtifactMissing):
        open_artifact(tmp_path, "latents", "shapes")


def test_a_model_that_sees_references_may_begin_with_a_run_of_diffusion(small_world, settings):
    model = settings["model"] | {"family": "references", "text_width": 96}
    config = TrainRDM(**settings | {"model": model})
    assert facts_of(small_world.run).family == "diffusion"
    assert run_to_start_from(config).fingerprint == small_world.run.fingerprint
