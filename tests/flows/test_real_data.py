"""The pipeline on real files: COCO as queries, OpenImages and WikiArt as databases, an
autoencoder's latents, a U-Net.
"""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.build_database import build_database, embed_images
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.model.sample import sample_rdm
from flows.model.train_rdm import train_rdm
from storage.artifact import artifacts, check, open_artifact
from storage.neighbors import read_neighbors
from storage.samples import read_samples
from storage.shards import read_sidecar

ENCODER = {"encoder": "rdm-shapes", "weights": "random"}


@pytest.fixture(scope="module")
def root(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three datasets, imported and embedded by a small encoder with weights of no meaning."""
    root = tmp_path_factory.mktemp("real")
    common = {"root": root, "size": 64, "images_per_part": 50}
    import_images(ImportImages(**common, name="coco", source="coco", path=real_data / "coco"))
    crops = {"crop": "random", "crops_per_image": 2, "frame": 96}
    import_images(
        ImportImages(
            **common, **crops, name="openimages", source="openimages", path=real_data / "openimages"
        )
    )
    import_images(
        ImportImages(**common, name="wikiart", source="wikiart", path=real_data / "wikiart")
    )
    embed_images(BuildDatabase(root=root, name="coco", shards="coco", **ENCODER))
    for name in ("openimages", "wikiart"):
        build_database(BuildDatabase(root=root, name=name, shards=name, **ENCODER))
    return root


def test_every_real_image_is_counted_in_and_out(root):
    assert open_artifact(root, "shards", "coco").counts == {"ok": 66}
    assert open_artifact(root, "shards", "openimages").counts == {"ok": 98}, (
        "49 images, two crops each"
    )
    assert open_artifact(root, "shards", "wikiart").counts == {"ok": 154}
    for name, rows in {"coco": 66, "openimages": 98, "wikiart": 154}.items():
        assert open_artifact(root, "embeddings", name).rows == rows
    for artifact in artifacts(root):
        check(artifact, hashes=True)


def test_licence_author_and_source_travel_from_the_dataset(root):
    sidecar = read_sidecar(open_artifact(root, "shards", "coco"), "00000").to_pylist()
    assert all(row["licence"] and row["source_url"] and row["captions"] for row in sidecar)
    paintings = read_sidecar(open_artifact(root, "shards", "wikiart"), "00000").to_pylist()
    assert all(row["style"] and row["author"] and row["licence"] for row in paintings)


def test_crops_of_one_image_have_keys_of_their_own_and_one_source(root):
    rows = read_sidecar(open_artifact(root, "shards", "openimages"), "00000").to_pylist()
    assert len({row["key"] for row in rows}) == len(rows) == 98
    assert len({row["source_key"] for row in rows}) * 2 == len(rows)
    assert all(row["crop"][2] - row["crop"][0] == 64 for row in rows)


def test_hostile_files_end_as_rows_and_stop_nothing(root, real_data):
    shards = import_images(
        ImportImages(
            root=root, name="awkward", source="folder", path=real_data / "awkward", size=32
        )
    )
    rejected = {reason: count for reason, count in shards.counts.items() if reason != "ok"}
    assert shards.rows == 68 and sum(shards.counts.values()) == 68
    assert shards.counts["ok"] + sum(rejected.values()) == 68 and len(rejected) >= 6
    expected = (
        "truncated",
        "too many pixels",
        "empty file",
        "not an image",
        "git-lfs pointer",
        "damaged",
        "too small",
    )
    assert set(rejected) == {f"rejected: {reason}" for reason in expected}
    rows = [row for row in read_sidecar(shards, "00000").to_pylist() if row["status"] == "rejected"]
    assert all(row["reason"] and row["detail"] for row in rows)


def test_real_databases_train_a_unet_on_latents_and_swap(root, tmp_path, in_one_process):
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    small = AutoencoderKL(
        **blocks,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        layers_per_block=1,
    )
    small.save_pretrained(tmp_path / "autoencoder")
    latents = encode_latents(
        EncodeLatents(
            root=root, name="coco", shards="coco", autoencoder=str(tmp_path / "autoencoder")
        )
    )
    assert latents.rows == 66
    table = find_neighbors(
        FindNeighbors(root=root, name="coco", queries="coco", database="openimages")
    )
    keys, rows, _ = read_neighbors(table)
    assert len(keys) == 66 and rows.shape == (66, 20) and rows.min() >= 0
    network = {
        "network": "unet",
        "channels": [16, 32],
        "depth": 1,
        "attention_levels": [1],
        "head_channels": 8,
    }
    parts = {
        "model": {"denoiser": network},
        "context": {"neighbor_dropout": 0.2},
        "training": {"steps": 4, "batch": 4},
        "reporting": {"log_steps": 2, "checkpoint_steps": 2},
    }
    inputs = {"latents": "coco", "neighbors": "coco", "database": "openimages"}
    config = TrainRDM(root=root, name="coco", **inputs, **parts, device="cpu")
    run = in_one_process(train_rdm, config)
    request = {
        "root": root,
        "run": run.name,
        "texts": ("a dog",),
        "context": "neighbors",
        "count": 2,
        "draw": {"steps": 2},
    }
    own = sample_rdm(SampleRDM(**request, name="own"))
    art = sample_rdm(SampleRDM(**request, name="art", database="wikiart"))
    assert all(key.startswith("openimages-") for key in read_samples(own)[0]["neighbor_keys"])
    behind = read_samples(art)[0]
    assert all(key.startswith("wikiart-") for key in behind["neighbor_keys"])
    assert all("WikiArt" in licence for licence in behind["licences"])
