"""An autoencoder of our own: trained on shards, interrupted, resumed to the bit, or refused."""

import errno
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from PIL import Image
from prefect.client.orchestration import get_client

from flows.config.autoencoder import TrainAutoencoder
from flows.config.images import ImportImages
from flows.data.import_images import import_images
from flows.look.show import one_artifact
from flows.model import train_autoencoder as module
from flows.model.shard_images import divided, draw_of, refuse_sizes
from flows.model.train_autoencoder import autoencoder_plan, train_autoencoder
from flows.run.messages import TrainingFailed
from rdm_core.autoencoders import codebook
from rdm_core.autoencoders.train import AutoencoderTraining
from rdm_core.decode import decode
from rdm_core.errors import EncoderError, RequestError
from rdm_core.features import load_features
from rdm_core.latents import load_latent_space
from storage.artifact import artifacts, open_artifact
from storage.collect import collect
from storage.errors import ArtifactMissing, BuildRefused, CannotWrite, StorageError
from storage.runs import latest_step, read_metrics
from storage.stored_images import stored_images
from storage.unfinished import unfinished

DRAWN = {"source": "shapes", "size": 32, "encoding": "png", "images_per_part": 25}
NETWORK = {"widths": (8, 16), "latent_channels": 4, "batch": 4, "steps": 6}
CODES = {"kind": "vq", "codes": 16, "codebook_from": 2, "revive_steps": 1}
WEIGHTS = "weights/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Sixty drawn images of 32 pixels."""
    root = tmp_path_factory.mktemp("world")
    import_images(ImportImages(root=root, name="a", count=60, **DRAWN))
    return root


@pytest.fixture
def root(world, tmp_path):
    """A copy of it."""
    return shutil.copytree(world, tmp_path / "root")


def config_of(root, name="e", autoencoder=None, **more):
    settings = {"root": root, "name": name, "shards": "a", "held_out": 0.2, "device": "cpu"}
    settings |= {"reporting": {"log_steps": 1, "checkpoint_steps": 2}}
    return TrainAutoencoder(**settings | more, autoencoder=NETWORK | (autoencoder or {}))


def sha256(artifact, file=WEIGHTS):
    return hashlib.sha256(artifact.file(file).read_bytes()).hexdigest()


@pytest.fixture
def interrupted_at(monkeypatch):
    """interrupted_at(step, config) trains until Ctrl-C comes while that step is taken."""

    def train(step, config):
        whole = AutoencoderTraining.step

        def dies(training):
            if training.done + 1 == step:
                raise KeyboardInterrupt
            return whole(training)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(AutoencoderTraining, "step", dies)
            train_autoencoder(config)

    return train


@pytest.mark.parametrize("kind", [{}, CODES], ids=["kl", "vq"])
def test_an_interrupted_training_ends_as_an_unbroken_one(root, kind, interrupted_at, capfd):
    config = config_of(root, autoencoder=kind)
    interrupted_at(6, config)
    (left,) = unfinished(root, "autoencoders")
    assert latest_step(left) == 4
    assert "unfinished, step 4 of 6, left" in one_artifact(root, "autoencoders/e")[0]
    capfd.readouterr()
    resumed = train_autoencoder(config)
    assert "continues from step 4 of 6\n" in capfd.readouterr().err
    unbroken = train_autoencoder(config_of(root, "unbroken", kind))
    assert resumed.fingerprint == unbroken.fingerprint
    assert sha256(resumed) == sha256(unbroken)
    steps = [record["step"] for record in read_metrics(resumed.file("metrics.jsonl"))]
    assert steps == [1, 2, 3, 4, 5, 6]
    other = train_autoencoder(config_of(root, "other", kind | {"seed": 1}))
    assert sha256(other) != sha256(unbroken)


def test_it_holds_a_diffusers_folder_a_picture_and_what_was_measured(root):
    made = train_autoencoder(config_of(root, autoencoder=CODES))
    assert VQModel.from_pretrained(made.file("weights")).config.num_vq_embeddings == 16
    space = load_latent_space(str(made.file("weights")))
    assert (space.factor, space.channels, space.quantises) == (2, 4, True)
    images = divided(config_of(root), open_artifact(root, "shards", "a"))
    latents = space.final(torch.from_numpy(space.encode(list(images.held_out[np.arange(8)]))))
    assert float(latents.std()) == pytest.approx(1, abs=0.25)
    measured = dict(made.measured)
    assert set(measured) == {
        "images", "mean_absolute_error", "psnr", "grain_kept", "edge_energy_kept", "fd",
        "codes_in_use", "perplexity", "latents_deviation", "seconds",
    }  # fmt: skip
    assert measured["images"] == len(images.held_out)
    assert measured["latents_deviation"] == pytest.approx(1, abs=0.25)
    assert 0 < measured["codes_in_use"] <= 1 <= measured["perplexity"] <= 16
    sheet = decode(made.file("reconstructions.png").read_bytes())
    originals = images.held_out[np.arange(8)]
    np.testing.assert_array_equal(sheet[2:130, 2:130], originals[0].repeat(4, 0).repeat(4, 1))
    restored = space.decode(final_of(space, originals[:1]))[0]
    np.testing.assert_array_equal(sheet[132:260, 2:130], restored.repeat(4, 0).repeat(4, 1))


def final_of(space, images):
    """Final latents of images, not rounded to half precision as stored ones are."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
    return space.autoencoder.encode(x).latents * space.autoencoder.config.scaling_factor


def test_a_kl_has_no_codes_and_other_images_no_distance_unless_features_are_named(root, tmp_path):
    (tmp_path / "images").mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (30, 3)).tolist()
    for number, colour in enumerate(colours):
        Image.new("RGB", (32, 32), tuple(colour)).save(tmp_path / "images" / f"{number}.png")
    folder = {"source": "folder", "path": tmp_path / "images", "size": 32, "encoding": "png"}
    import_images(ImportImages(root=root, name="b", **folder))
    plain = train_autoencoder(config_of(root, shards="b"))
    assert AutoencoderKL.from_pretrained(plain.file("weights"))
    absent = {"fd", "codes_in_use", "perplexity", "grain_kept", "edge_energy_kept"}
    assert not absent & set(plain.measured), "pictures of one colour have no grain and no edge"
    assert "fd" in train_autoencoder(config_of(root, shards="b", features="oracle")).measured


def test_what_is_measured_is_another_version_with_the_same_weights(root, monkeypatch):
    first = train_autoencoder(config_of(root))
    monkeypatch.setattr(module, "run_training", None)
    second = train_autoencoder(config_of(root, measured_images=3))
    assert second.id != first.id and second.measured["images"] == 3
    assert sha256(second) == sha256(first)
    again = train_autoencoder(config_of(root, measured_images=3))
    assert again == second, "kept"


def test_what_is_told_and_where_it_runs_is_no_part_of_the_plan(root):
    plain = autoencoder_plan(config_of(root))
    told = {"log_steps": 3, "checkpoint_steps": 5}
    assert autoencoder_plan(config_of(root, reporting=told, device="auto")).id == plain.id
    for change in ({"held_out": 0.3}, {"precision": "bf16"}, {"size": 16}, {"features": "oracle"}):
        other = autoencoder_plan(config_of(root, **change))
        assert (other.id == plain.id) == (change == {"features": "oracle"}), change
    assert autoencoder_plan(config_of(root, autoencoder={"flips": True})).id != plain.id


def test_images_are_scaled_down_if_asked_and_divided_by_their_keys(root):
    shards = open_artifact(root, "shards", "a")
    small = divided(config_of(root, size=16), shards)
    whole = divided(config_of(root), shards)
    assert small.training.shape[1:] == (16, 16, 3) and whole.training.shape[1:] == (32, 32, 3)
    assert len(whole.training) + len(whole.held_out) == 60
    more = divided(config_of(root, held_out=0.4), shards)
    few, many = len(whole.held_out), len(more.held_out)
    assert few < many, "and those that were held out are, first of all"
    np.testing.assert_array_equal(more.held_out[np.arange(few)], whole.held_out[np.arange(few)])
    draws = [draw_of(f"a-{number}") for number in range(2000)]
    assert 0.17 < np.mean(np.array(draws) < 0.2) < 0.23 and len(set(draws)) == 2000


def test_no_image_is_on_both_sides_and_some_of_those_held_out_are_measured(root):
    shards = open_artifact(root, "shards", "a")
    sides = divided(config_of(root), shards)
    training, held_out = ({image.tobytes() for image in side[np.arange(len(side))]}
                          for side in (sides.training, sides.held_out))  # fmt: skip
    assert not training & held_out and len(training | held_out) == 60
    some = divided(config_of(root, measured_images=3), shards)
    assert len(some.held_out) == 3 and len(some.training) == len(sides.training)


def test_an_unfinished_one_goes_on_with_the_images_it_began_with(root, interrupted_at, capfd):
    config = config_of(root)
    began = open_artifact(root, "shards", "a")
    interrupted_at(4, config)
    newer = import_images(ImportImages(root=root, name="a", count=70, **DRAWN))
    capfd.readouterr()
    made = train_autoencoder(config)
    assert dict(made.inputs) == {"shards": began.fingerprint}
    told = f"continues on the version it began with: shards a@{began.id}; a newer one is there. "
    assert told + "To train on that: rdm gc --unfinished autoencoders/e" in capfd.readouterr().err
    assert dict(train_autoencoder(config).inputs) == {"shards": newer.fingerprint}


def test_an_unfinished_one_whose_images_are_gone_is_refused(root, interrupted_at):
    config = config_of(root)
    interrupted_at(4, config)
    began = open_artifact(root, "shards", "a")
    import_images(ImportImages(root=root, name="a", count=70, **DRAWN))
    shutil.rmtree(began.directory)
    told = rf"autoencoders/e: .* step 2 of 6, was begun on shards {began.fingerprint}, which is no"
    with pytest.raises(BuildRefused, match=told + ".*rdm gc --unfinished autoencoders/e"):
        train_autoencoder(config)


def test_an_unfinished_one_with_other_parameters_is_refused_until_it_is_dropped(
    root, interrupted_at
):
    interrupted_at(4, config_of(root))
    other = config_of(root, autoencoder={"learning_rate": 0.01})
    told = r"autoencoders/e: .*autoencoder.learning_rate=0.001 \(now 0.01\).*rdm gc --unfinished"
    with pytest.raises(BuildRefused, match=told):
        train_autoencoder(other)
    collect(root, None, unfinished_of="autoencoders/e")
    assert train_autoencoder(other).version == 1


@pytest.mark.parametrize(
    "change", [{"measured_images": 3}, {"features": "clip:rdm-shapes:built-in"}]
)
def test_what_is_measured_can_be_changed_when_the_unfinished_one_is_done(
    root, change, interrupted_at, capfd, monkeypatch
):
    interrupted_at(4, config_of(root))
    capfd.readouterr()
    (name,) = change
    told = rf"autoencoders/e: .*{name}=.* \(now .*Finish it with those values first: .* the weights"
    with pytest.raises(BuildRefused, match=told):
        train_autoencoder(config_of(root, **change))
    assert "continues" not in capfd.readouterr().err, "and no newer shards are told of"
    finished = train_autoencoder(config_of(root))
    monkeypatch.setattr(module, "run_training", None)
    assert sha256(train_autoencoder(config_of(root, **change))) == sha256(finished)


def test_a_training_goes_on_without_a_word_of_newer_shards_where_the_name_has_none(
    root, interrupted_at, capfd
):
    config, began = config_of(root), open_artifact(root, "shards", "a")
    interrupted_at(4, config)
    newer = import_images(ImportImages(root=root, name="a", count=70, **DRAWN))
    (newer.directory / "manifest.json").write_text("{")
    capfd.readouterr()
    train_autoencoder(config)
    told = f"continues on the version it began with: shards a@{began.id}\n"
    assert told in capfd.readouterr().err


def test_features_are_loaded_before_a_training_let_go_of_and_loaded_again_to_measure(
    root, monkeypatch
):
    order, whole = [], module.run_training

    class Loaded:
        def __init__(self, name, device):
            order.append(("loaded", name, str(device)))

        def __call__(self, images):
            return load_features("oracle")(images)

        def __del__(self):
            order.append("gone")

    def train(*given):
        order.append("trained")
        return whole(*given)

    monkeypatch.setattr(module, "load_features", Loaded)
    monkeypatch.setattr(module, "run_training", train)
    train_autoencoder(config_of(root, features="timm:some"))
    loaded = ("loaded", "timm:some", "cpu")
    assert order[:4] == [loaded, "gone", "trained", loaded]


def test_features_are_fetched_again_after_the_network_failed(root, monkeypatch):
    failures = [ConnectionError("reset")]

    def load(name, device):
        if failures:
            raise failures.pop()
        return load_features("oracle")

    monkeypatch.setattr(module, "load_features", load)
    monkeypatch.setattr("flows.run.stage.time.sleep", lambda seconds: None)
    assert "fd" in train_autoencoder(config_of(root, features="timm:some")).measured


def test_training_states_go_with_a_collection_and_the_autoencoder_stays(root):
    made = train_autoencoder(config_of(root))
    done = collect(root, keep=1)
    assert [(one.reference, one.what) for one in done.removed] == [(made.reference, "states")]
    assert not (made.directory / "checkpoints").exists()
    assert train_autoencoder(config_of(root)) == open_artifact(root, "autoencoders", "e")


# Refused


def test_a_loss_that_is_no_number_is_told_with_its_step_and_the_cure(root, monkeypatch):
    whole = AutoencoderTraining.step

    def breaks(training):
        if training.done == 3:
            with torch.no_grad():
                training.model.decoder.conv_out.bias.fill_(float("nan"))
        return whole(training)

    monkeypatch.setattr(AutoencoderTraining, "step", breaks)
    told = r"autoencoders/e: step 4: the loss .* is nan; lower the learning rate\. .*--name"
    with pytest.raises(TrainingFailed, match=told):
        train_autoencoder(config_of(root))
    assert latest_step(unfinished(root, "autoencoders")[0]) == 2


def test_collapsed_codes_are_told_with_their_share_and_the_cure(root, monkeypatch):
    monkeypatch.setattr("rdm_core.autoencoders.train.GRACE", 1)
    monkeypatch.setattr(codebook, "LEAST_USED", 1.1)  # not even all would do
    told = r"autoencoders/e: step 4: \d+\.\d% of the codes are used.*Lower the learning rate.*gc"
    with pytest.raises(TrainingFailed, match=told):
        train_autoencoder(config_of(root, autoencoder=CODES))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"autoencoder": {"widths": (8,) * 5}}, RequestError, "32x32 pixels, and factor 16 needs"),
        ({"size": 64}, StorageError, "shards/a: .*32x32 pixels, size=64 .* size=32 or less"),
        ({"held_out": 0.001}, StorageError, "of its 60 images, 0 are held out .* held_out=..."),
        ({"features": "none"}, EncoderError, "features 'none': there is no such kind"),
        ({"features": ""}, EncoderError, "features '': there is no such kind"),
        ({"shards": "none"}, ArtifactMissing, "no artifact shards/none"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(root, change, error, told):
    with pytest.raises(error, match=told):
        train_autoencoder(config_of(root, **change))
    assert not artifacts(root, "autoencoders") and not unfinished(root, "autoencoders")


def test_shards_without_images_are_refused(root, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    import_images(
        ImportImages(root=root, name="none", source="folder", path=tmp_path / "broken", size=32)
    )
    with pytest.raises(StorageError, match="shards/none: holds no accepted image.*rdm show"):
        train_autoencoder(config_of(root, shards="none"))


def test_images_of_several_sizes_are_refused_until_one_is_asked_for(root):
    stored = stored_images(open_artifact(root, "shards", "a"))
    stored.sizes[3] = (48, 40)
    told = "shards/a: its images have 2 sizes: 32x32, 48x40. Scale them to one: --set size=32"
    with pytest.raises(StorageError, match=told):
        refuse_sizes(config_of(root), stored, "shards/a")
    refuse_sizes(config_of(root, size=32), stored, "shards/a")


def test_a_full_disk_is_told_and_the_training_goes_on_when_there_is_room(root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(CannotWrite, match="No space left"):
        patch.setattr(module, "write_checkpoint", full)
        train_autoencoder(config_of(root))
    assert train_autoencoder(config_of(root)).version == 1


def test_where_a_server_is_configured_it_shows_losses_and_reconstructions(recorded, root):
    state = train_autoencoder.flow(config_of(root), return_state=True)
    assert state.type.value == "COMPLETED"
    with get_client(sync_client=True) as client:
        shown = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert shown["autoencoders-e-progress"].data == 100.0
    assert [row["step"] for row in json.loads(shown["autoencoders-e-loss"].data)][-1] == 6
    assert "below each what e makes of it" in shown["autoencoders-e-images"].description
    again = train_autoencoder.flow(config_of(root), return_state=True)
    assert (again.name, again.result()) == ("Cached", state.result())
