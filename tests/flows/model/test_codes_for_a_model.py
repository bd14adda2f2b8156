"""A model of codes is trained on the codes of its own codebook, and on nothing else; refused are
others within seconds, with what to do.
"""

import pytest

from flows.config.database import EncodeLatents, FindNeighbors
from flows.config.judge import BuiltInWorld
from flows.config.presets import PRESETS
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.judge.demo import prepare_images
from flows.model.opening import open_run
from flows.model.sample import sample_rdm
from flows.model.train_rdm import train_rdm
from storage.errors import ArtifactMismatch

SMALL = {
    "family": "autoregressive",
    "codes": 1024,
    "transformer": {"width": 32, "depth": 1, "head_channels": 16, "remove_means": True},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """64 images as codes and as moments, with their neighbors in themselves."""
    root = tmp_path_factory.mktemp("codes")
    prepare_images(BuiltInWorld(root=root), "shapes", {"count": 64, "split": "train"})
    find_neighbors(FindNeighbors(root=root, name="shapes", queries="shapes", database="shapes"))
    for name, autoencoder, stored in (
        ("codes", "rdm-shapes-vq", "codes"), ("moments", "rdm-shapes-kl", "moments")
    ):  # fmt: skip
        encode_latents(
            EncodeLatents(
                root=root, name=name, shards="shapes", autoencoder=autoencoder, stored=stored
            )
        )
    return root


def training(root, latents="codes", **model):
    return TrainRDM(
        root=root, name="rarm", latents=latents, neighbors="shapes", database="shapes",
        model=SMALL | model, context={"k": 4},
        training={"steps": 6, "batch": 8, "optimizer": "muon", "learning_rate": 1e-3},
    )  # fmt: skip


def test_it_is_trained_drawn_from_and_says_what_it_was_trained_on(root, in_one_process):
    run = in_one_process(train_rdm, training(root))
    model = open_run(root, "rarm").model
    assert run.rows and model.transformer.means.any()
    samples = sample_rdm(
        SampleRDM(
            root=root, name="drawn", run="rarm", texts=("a red circle",), count=2,
            draw={"temperature": 0.9, "top_k": 50, "guidance_scale": 1.5},
        )
    )  # fmt: skip
    assert len(list(samples.directory.glob("0*.png"))) == 2


def test_moments_are_refused_with_how_to_make_codes(root):
    with pytest.raises(ArtifactMismatch, match="holds moments, and autoregressive is trained on"):
        train_rdm(training(root, latents="moments"))


def test_codes_of_another_codebook_are_refused_with_its_number(root):
    with pytest.raises(ArtifactMismatch, match="has 1,024 entries, and model.codes is") as caught:
        train_rdm(training(root, codes=512))
    assert "--set model.codes=1024" in str(caught.value)


def test_the_preset_is_built_for_the_built_in_codebook():
    assert PRESETS["rarm-shapes"]["model"]["codes"] == 1024
