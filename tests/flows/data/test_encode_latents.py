"""What is stored of an image: pixels, moments or codes; asked for, or by default."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from flows.config.database import EncodeLatents, Rebuild
from flows.config.images import ImportImages
from flows.config.train import TrainRDM
from flows.data.autoencoder import space_of
from flows.data.encode_latents import encode_latents, latents_plan
from flows.data.import_images import import_images
from flows.data.rebuild import rebuild
from flows.data.space_needed import PreflightFailed, check_rebuild
from flows.look.show import one_artifact
from flows.model.preflight import check_training
from flows.model.train_rdm import train_rdm, training_inputs
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from storage.artifact import artifacts, open_artifact
from storage.errors import ArtifactMismatch
from storage.latents import open_latents
from storage.shards import read_images
from storage.unfinished import unfinished

BLOCKS = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}
DRAWN = {"source": "shapes", "size": 32, "count": 12, "encoding": "png", "images_per_part": 5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny random autoencoder of each kind, halving the side."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("autoencoders")
    AutoencoderKL(**BLOCKS, latent_channels=4).save_pretrained(folder / "kl")
    vq = VQModel(**BLOCKS, latent_channels=3, num_vq_embeddings=16)
    torch.nn.init.normal_(vq.quantize.embedding.weight)
    vq.save_pretrained(folder / "vq")
    return {"pixels": "pixels", "kl": str(folder / "kl"), "vq": str(folder / "vq")}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve drawn images."""
    root = tmp_path_factory.mktemp("root")
    import_images(ImportImages(root=root, name="a", **DRAWN))
    return root


def encoded(root, name, autoencoder, stored=None):
    return encode_latents(
        EncodeLatents(root=root, name=name, shards="a", autoencoder=autoencoder, stored=stored)
    )


def test_codes_are_those_of_each_image_and_decode_to_it(root, folders):
    codes = encoded(root, "codes", folders["vq"], "codes")
    keys, arrays = open_latents(codes)
    assert {(array.dtype, array.shape[1:]) for array in arrays} == {(np.dtype("u2"), (16, 16))}
    shards, space = open_artifact(root, "shards", "a"), space_of(root, folders["vq"])
    stored = {key: decode(data) for part in shards.parts for key, data in
              read_images(shards, part.name)}  # fmt: skip
    assert keys == list(stored) and len(keys) == 12
    np.testing.assert_array_equal(
        np.concatenate(arrays), space.encode(list(stored.values()), "codes")
    )
    assert space.decode_codes(arrays[0]).shape[1:] == (32, 32, 3)


@pytest.mark.parametrize(
    ("which", "default"), [("pixels", "pixels"), ("kl", "moments"), ("vq", "moments")]
)
def test_the_plan_says_what_is_stored_and_the_default_by_its_name_is_the_default(
    root, folders, which, default
):
    left_out = encoded(root, which, folders[which])
    assert left_out.parameters["stored"] == default
    asked = EncodeLatents(
        root=root, name=which, shards="a", autoencoder=folders[which], stored=default
    )
    assert latents_plan(asked).id == left_out.id
    told, _ = one_artifact(root, f"latents/{which}")
    assert f"stored: {default}" in told


def test_codes_and_moments_of_one_autoencoder_share_nothing(root, folders):
    moments, codes = (
        encoded(root, "either", folders["vq"], stored) for stored in ("moments", "codes")
    )
    assert codes.version == moments.version + 1
    made = [{part.made_from for part in artifact.parts} for artifact in (moments, codes)]
    assert not made[0] & made[1]


@pytest.mark.parametrize(
    ("which", "stored", "told"),
    [
        ("pixels", "codes", "'pixels': stored=codes .*pixel space has none. Name a VQModel"),
        ("pixels", "moments", "'pixels': stored=moments .*Name an AutoencoderKL or a VQModel"),
        ("kl", "codes", "'kl': stored=codes .*an AutoencoderKL has none. Name a VQModel"),
    ],
)
def test_what_the_autoencoder_does_not_have_is_refused_and_leaves_nothing(
    root, folders, which, stored, told
):
    with pytest.raises(RequestError, match=f"autoencoder {told}"):
        encoded(root, "refused", folders[which], stored)
    assert not [one for one in artifacts(root) if one.name == "refused"]
    assert not unfinished(root, "latents", "refused")
    wrong = Rebuild(
        root=root, name="refused", images=DRAWN, encoder="rdm-shapes",
        weights="built-in", autoencoder=folders[which], stored=stored,
    )  # fmt: skip
    with pytest.raises(RequestError, match=f"autoencoder {told}"):
        check_rebuild(wrong)


def test_a_diffusion_training_refuses_codes_by_name_before_anything_is_started(
    small_world, small_training, folders
):
    settings = small_training(small_world.root, "on-codes")
    encode_latents(
        EncodeLatents(
            root=small_world.root, name="on-codes", shards="shapes",
            autoencoder=folders["vq"], stored="codes",
        )
    )  # fmt: skip
    config = TrainRDM(**settings | {"latents": "on-codes"})
    told = rf"latents/on-codes: holds codes, .*--set autoencoder={folders['vq']} --set stored=mom"
    for opens in (training_inputs, check_training, train_rdm):
        with pytest.raises(ArtifactMismatch, match=told):
            opens(config)
    assert not list(unfinished(small_world.root, "runs", "on-codes"))


def test_a_training_that_would_make_codes_for_itself_is_refused_before_that(tmp_path, folders):
    upstream = {"images": DRAWN, "autoencoder": folders["vq"], "stored": "codes"}
    upstream |= {"encoder": "rdm-shapes", "weights": "built-in"}
    names = dict.fromkeys(("name", "latents", "neighbors", "database"), "new")
    with pytest.raises(PreflightFailed, match="train new: upstream.stored=codes, .*Leave it out"):
        train_rdm(TrainRDM(root=tmp_path, **names, upstream=upstream, device="cpu"))
    assert artifacts(tmp_path) == []


def test_a_rebuild_stores_what_it_is_asked_for(tmp_path, folders):
    asked = Rebuild(
        root=tmp_path, name="new", images=DRAWN, encoder="rdm-shapes", weights="built-in",
        autoencoder=folders["vq"], stored="codes", k=3,
    )  # fmt: skip
    rebuild(asked)
    assert open_artifact(tmp_path, "latents", "new").parameters["stored"] == "codes"
