"""An evaluation of photographs: COCO's images are asked, WikiArt's answer. Encoders have random or
meaningless weights, so that the numbers say nothing: the way is what is tested. Skips where the
real files are not at hand.
"""

from pathlib import Path

import pytest

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.config.judge import EvaluateRDM
from flows.config.train import TrainRDM
from flows.data.build_database import build_database, embed_images
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.judge.evaluate import evaluate_rdm
from flows.judge.rows import OTHERS, SHARP, TEXT
from flows.judge.summary import measured_in, summary
from flows.model.train_rdm import train_rdm
from storage.errors import ArtifactMismatch

ENCODER = {"encoder": "rdm-shapes", "weights": "random"}
OTHER_CLIP = "rdm-shapes:built-in"


@pytest.fixture(scope="module")
def asked(real_data: Path, tmp_path_factory, small_training, in_one_process):
    """A run on COCO's training images with neighbors in WikiArt, and what is asked of it."""
    root = tmp_path_factory.mktemp("photographs")
    sources = {
        "shapes": {"source": "coco", "path": real_data / "coco", "split": "train"},
        "unseen": {"source": "coco", "path": real_data / "coco", "split": "val"},
        "wikiart": {"source": "wikiart", "path": real_data / "wikiart"},
    }
    for name, source in sources.items():
        import_images(ImportImages(root=root, name=name, size=32, **source))
    build_database(BuildDatabase(root=root, name="wikiart", shards="wikiart", **ENCODER))
    for name in ("shapes", "unseen"):
        embed_images(BuildDatabase(root=root, name=name, shards=name, **ENCODER))
        find_neighbors(FindNeighbors(root=root, name=name, queries=name, database="wikiart"))
        encode_latents(EncodeLatents(root=root, name=name, shards=name))
    training = small_training(root, "coco") | {"database": "wikiart"}
    in_one_process(train_rdm, TrainRDM(**training))
    quick = {"seeds": 2, "prompts": 20, "quality_images": 20, "draw": {"steps": 2}}
    names = {"heldout_latents": "unseen", "heldout_neighbors": "unseen"}
    return {"root": root, "run": "coco", **names, "extractor": f"clip:{OTHER_CLIP}"} | quick


def test_sets_of_photographs_are_compared_without_words(asked):
    measured = measured_in(evaluate_rdm(EvaluateRDM(**asked, name="features")))
    assert measured["judged"]["judge"] == "features" and measured["not checked"] == []
    assert measured["judged"]["images"] == 20
    assert set(measured["left out"]) == {
        "trained without neighbors",
        "prompts",
        "swaps",
        "clip scores",
    }
    assert len(measured["quality"]) == 5 and len(measured[SHARP]) == 6
    assert measured[SHARP]["held-out neighbors"]["grain / held-out"]["mean"] > 2, "it is noise"
    assert measured["copies"]["return the neighbour"] == 1.0
    assert summary(measured).count("\n") == 5


def test_captions_are_prompts_and_a_second_clip_scores_them(asked):
    config = EvaluateRDM(**asked, name="captions", judge_clip=OTHER_CLIP)
    measured = measured_in(evaluate_rdm(config))
    assert measured["judged"]["judge"] == "captions" and measured["prompts"] == {}
    assert {TEXT, OTHERS, "return the neighbour"} < set(measured["clip scores"])
    assert measured["clip scores"][TEXT]["count"] == 20
    assert "CLIP score" in summary(measured) and measured["copies"]["samples"] <= 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"extractor": "clip:rdm-shapes:random"}, "it is the encoder the run was conditioned on"),
        ({"judge_clip": "rdm-shapes:random"}, "it is the encoder the run was conditioned on"),
        ({"heldout_latents": "shapes", "heldout_neighbors": "shapes"}, "20 of its 20 images are"),
        ({"judge_clip": OTHER_CLIP, "prompts": 47}, "46 of its images have captions, 47 are asked"),
    ],
)
def test_who_may_not_judge_and_what_was_seen_is_refused_before_anything_is_drawn(
    asked, changed, told, monkeypatch
):
    for drawing in ("measures", "trial"):  # for held-out neighbors, for prompts
        monkeypatch.setattr(f"flows.judge.{drawing}.draw", lambda *_: pytest.fail("it drew"))
    with pytest.raises(ArtifactMismatch, match=told):
        evaluate_rdm(EvaluateRDM(**asked | changed, name="refused"))
