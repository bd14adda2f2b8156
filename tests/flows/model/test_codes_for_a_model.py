"""A model of codes is trained on the codes of its own codebook, and on nothing else; refused are
others within seconds, with what to do.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

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
from flows.model.training_data import open_training_data
from rdm_core.families.over_codes import WEIGHTS_FILE
from rdm_core.judge.losses import held_out_losses
from storage.errors import ArtifactMismatch

SMALL = {
    "codes": 1024,
    "transformer": {"width": 32, "depth": 1, "head_channels": 16, "remove_means": True},
}
HOW = {"autoregressive": {"top_k": 50}, "discrete": {"steps": 3, "top_p": 0.9}}
"""Family -> settings of its own for drawing."""


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


def training(root, family="autoregressive", latents="codes", **model):
    return TrainRDM(
        root=root, name=family, latents=latents, neighbors="shapes", database="shapes",
        model=SMALL | {"family": family} | model, context={"k": 4},
        training={"steps": 6, "batch": 8, "optimizer": "muon", "learning_rate": 1e-3},
    )  # fmt: skip


@pytest.mark.parametrize("family", HOW)
def test_it_is_trained_drawn_from_and_measured(family, root, in_one_process):
    run = in_one_process(train_rdm, training(root, family))
    model = open_run(root, family).model
    assert run.rows and model.transformer.means.any()
    how = {"temperature": 0.9, "guidance_scale": 1.5, **HOW[family]}
    samples = sample_rdm(
        SampleRDM(
            root=root, name=family, run=family, texts=("a red circle",), count=2, draw=how
        )
    )  # fmt: skip
    assert len(list(samples.directory.glob("0*.png"))) == 2
    references = {"latents": "codes", "neighbors": "shapes", "index": "shapes"}
    data = open_training_data(root, references, model.reads)
    losses = held_out_losses(model, data, 4, draws=1)
    assert losses.shape == (64,) and 0 < losses.mean() < 2 * np.log(1024)


def test_moments_are_refused_with_how_to_make_codes(root):
    with pytest.raises(ArtifactMismatch, match="holds moments, and autoregressive is trained on"):
        train_rdm(training(root, latents="moments"))


def test_codes_of_another_codebook_are_refused_with_its_number(root):
    with pytest.raises(ArtifactMismatch, match="has 1,024 entries, and model.codes is") as caught:
        train_rdm(training(root, codes=512))
    assert "--set model.codes=1024" in str(caught.value)


def test_the_preset_is_built_for_the_built_in_codebook():
    assert PRESETS["rarm-shapes"]["model"]["codes"] == 1024


@pytest.mark.long
@pytest.mark.parametrize("family", HOW)
def test_two_processes_learn_what_one_learns(family, root):
    alone = {"name": f"{family}-one", "threads": 1}
    both = {"name": f"{family}-two", "threads": 1, "processes": 2, "main_process_port": 0}
    one = train_rdm(training(root, family).model_copy(update=alone))
    two = train_rdm(training(root, family).model_copy(update=both))
    weights = [load_file(run.file("weights") / WEIGHTS_FILE) for run in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-6, atol=5e-6)
