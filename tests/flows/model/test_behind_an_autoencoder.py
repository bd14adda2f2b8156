"""What is made behind an autoencoder of our own: latents, a run, samples; named by its artifact."""

import shutil

import pytest

from flows.config.autoencoder import TrainAutoencoder
from flows.config.database import EncodeLatents
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.autoencoder import load_space, pinned, space_of
from flows.data.encode_latents import encode_latents, latents_plan
from flows.look.show import checked_artifacts
from flows.model.opening import facts_of
from flows.model.preflight import shape_of
from flows.model.sample import sample_rdm
from flows.model.train_autoencoder import train_autoencoder
from flows.model.train_rdm import train_rdm
from storage.artifact import open_artifact
from storage.collect import collect
from storage.errors import ArtifactMissing
from storage.latents import factor_of, side_of
from storage.runs import METRICS_FILE, read_metrics

NAME = "autoencoders/e"


@pytest.fixture(scope="module")
def behind(small_world, small_training, in_one_process, tmp_path_factory):
    """A copy of the small world with an autoencoder, latents behind it and a run of two steps."""
    root = shutil.copytree(small_world.root, tmp_path_factory.mktemp("behind") / "root")
    train_autoencoder(config_of(root))
    encode_latents(EncodeLatents(root=root, name="behind", shards="shapes", autoencoder=NAME))
    settings = small_training(root, "behind", steps=2) | {"latents": "behind"}
    in_one_process(train_rdm, TrainRDM(**settings))
    return root


@pytest.fixture
def root(behind, tmp_path):
    """A copy of it, elsewhere."""
    return shutil.copytree(behind, tmp_path / "elsewhere")


def config_of(root, **changes):
    network = {"widths": (8, 16), "latent_channels": 4, "batch": 4, "steps": 3} | changes
    return TrainAutoencoder(
        root=root, name="e", shards="shapes", autoencoder=network, held_out=0.2, device="cpu"
    )


def sampled(root):
    request = {"texts": ("a ring",), "count": 1, "draw": {"steps": 2}}
    return sample_rdm(SampleRDM(root=root, name="s", run="behind", **request))


def test_a_run_behind_it_draws_wherever_the_root_lies(root):
    made, latents = (
        open_artifact(root, "autoencoders", "e"),
        open_artifact(root, "latents", "behind"),
    )
    assert latents.inputs["autoencoder"] == made.fingerprint
    assert latents.measured["autoencoder_path"] == f"{NAME}@{made.id}"
    assert latents.parameters["space"]["autoencoder"] == NAME
    facts = facts_of(open_artifact(root, "runs", "behind"))
    assert (facts.space_path, facts.space) == (f"{NAME}@{made.id}", latents.parameters["space"])
    assert sampled(root).rows == 1
    checked_artifacts(root, None)


def test_a_new_version_of_it_changes_no_run_and_makes_latents_anew(root):
    old = open_artifact(root, "autoencoders", "e")
    before = open_artifact(root, "latents", "behind")
    sampled_before = sampled(root)
    new = train_autoencoder(config_of(root, seed=1))
    assert sampled(root) == sampled_before
    again = EncodeLatents(root=root, name="behind", shards="shapes", autoencoder=NAME)
    made = encode_latents(again)
    assert made.inputs["autoencoder"] == new.fingerprint != old.fingerprint
    assert (
        made.parameters["space"]["weights_sha256"] != before.parameters["space"]["weights_sha256"]
    )
    named = again.model_copy(update={"autoencoder": f"{NAME}@{old.id}"})
    assert latents_plan(named).id == before.id, "the version that was named"
    kept = collect(root, keep=1).kept
    assert kept[old.reference].startswith(f"input of {before.reference} (input of runs/behind@")
    assert sampled(root).rows == 1


def test_a_folder_and_a_hub_id_mean_what_they_meant(root, monkeypatch, tmp_path):
    folder = open_artifact(root, "autoencoders", "e").file("weights")
    assert load_space(root, str(folder)).name == "weights"
    shutil.copytree(folder, tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert pinned(root, f"./{NAME}") == str(tmp_path / NAME)
    assert pinned(root, "pixels") == "pixels" and pinned(root, "org/model") == "org/model"
    of_one_version = f"{NAME}@0123456789ab"
    assert pinned(root, of_one_version) == of_one_version, "nothing is opened for it"
    assert space_of(root, NAME).name == NAME
    assert space_of(root, NAME).weights_sha256 == load_space(root, str(folder)).weights_sha256


@pytest.mark.parametrize("autoencoder", ["autoencoders/none", f"{NAME}@0123456789ab"])
def test_one_that_is_not_there_is_refused_by_its_name(root, autoencoder):
    asked = EncodeLatents(root=root, name="x", shards="shapes", autoencoder=autoencoder)
    with pytest.raises(ArtifactMissing, match="autoencoders"):
        encode_latents(asked)


def test_images_kept_behind_it_train_as_its_moments_do_and_know_the_latents_side(
    root, small_training, in_one_process
):
    kept = EncodeLatents(root=root, name="kept", shards="shapes", autoencoder=NAME, stored="pixels")
    latents, moments = encode_latents(kept), open_artifact(root, "latents", "behind")
    assert latents.parameters["space"] == moments.parameters["space"]
    assert (factor_of(latents), factor_of(moments)) == (2, 1)
    assert side_of(latents) == side_of(moments) == 16
    losses = {}
    for name in ("kept", "behind"):
        config = TrainRDM(**small_training(root, f"on-{name}", steps=2) | {"latents": name})
        shape = shape_of(config)
        assert (shape.channels, shape.side) == (4, 16), "what the preflight reckons with"
        run = in_one_process(train_rdm, config)
        assert facts_of(run).latent_side == 16
        losses[name] = read_metrics(run.file(METRICS_FILE))[-1]["loss"]
    assert losses["kept"] == pytest.approx(losses["behind"], abs=1e-3)
