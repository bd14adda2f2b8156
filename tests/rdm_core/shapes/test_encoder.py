"""The small CLIP: open_clip loads it, and it tells the world's factors apart."""

import gzip
import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors import safe_open

from rdm_core.shapes import encoder, train_clip, world
from rdm_core.small_clip import learn_merges, write_merges

SIDES = (32, 64)
RENDERS = 600


@pytest.fixture(scope="module")
def clip():
    """Model, transform and tokenizer, got the way any open_clip model is."""
    encoder.register()
    model, _, preprocess = open_clip.create_model_and_transforms(
        encoder.MODEL_NAME, pretrained=str(encoder.WEIGHTS)
    )
    return model.eval(), preprocess, open_clip.get_tokenizer(encoder.MODEL_NAME)


@pytest.fixture(scope="module")
def heldout(clip):
    """{side: (unit vectors [600, D], factors)} of renders that no training saw."""
    model, preprocess, _ = clip
    drawn = {
        side: [world.sample("heldout", index, side) for index in range(RENDERS)] for side in SIDES
    }
    return {
        side: (
            train_clip.embed_images(model, preprocess, [sample.pixels for sample in samples]),
            [sample.factors for sample in samples],
        )
        for side, samples in drawn.items()
    }


def captions_of(factors: list[world.Factors]) -> list[str]:
    """Captions that name style, colour and shape."""
    return [world.caption(one, ("style", "colour", "shape")) for one in factors]


def test_registering_twice_changes_nothing():
    encoder.register()
    before = open_clip.list_models()
    encoder.register()
    assert open_clip.list_models() == before
    assert before.count(encoder.MODEL_NAME) == 1


def test_the_registered_model_survives_another_registration(tmp_path):
    encoder.register()
    other = tmp_path / "some-other-model.json"
    other.write_text(encoder.CONFIG.read_text())
    open_clip.add_model_config(other)
    assert encoder.MODEL_NAME in open_clip.list_models()


def test_the_config_in_the_package_names_no_path():
    assert "tokenizer_kwargs" not in json.loads(encoder.CONFIG.read_text())["text_cfg"]


def test_the_weights_are_small_and_hold_only_tensors():
    assert encoder.WEIGHTS.stat().st_size <= 8 * 2**20
    with safe_open(encoder.WEIGHTS, framework="pt") as weights:
        assert "logit_scale" in set(weights.keys())


def test_the_tokenizer_fits_the_model_and_gives_each_known_word_one_token(clip):
    model, _, tokenizer = clip
    assert tokenizer.vocab_size == json.loads(encoder.CONFIG.read_text())["text_cfg"]["vocab_size"]
    assert tokenizer.vocab_size == model.token_embedding.num_embeddings
    for index in range(50):
        text = world.sample("heldout", index, 16).caption
        assert int((tokenizer([text]) > 0).sum()) == len(text.split()) + 2


def test_the_merges_in_the_package_are_those_the_captions_give(tmp_path):
    size = train_clip.write_tokenizer(tmp_path / "bpe.txt.gz")
    assert (tmp_path / "bpe.txt.gz").read_bytes() == encoder.MERGES.read_bytes()
    assert size == json.loads(encoder.CONFIG.read_text())["text_cfg"]["vocab_size"]


def test_the_end_of_text_is_the_largest_token_because_the_model_pools_there(clip):
    _, _, tokenizer = clip
    tokens = tokenizer(["a red circle", "An unheard-of, 7-sided Ünïcode thing!"])
    assert (tokens.max(dim=1).values == tokenizer.eot_token_id).all()
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1


def test_merges_join_the_most_frequent_pair_first():
    merges = learn_merges(["aab aab", "ab"])
    assert merges == [("a", "b</w>"), ("a", "ab</w>")]


def test_merges_that_are_there_already_stay_first():
    first = learn_merges(["red ring"])
    merges = learn_merges(["red ring with a hat"], first)
    assert merges[: len(first)] == first
    assert ("w", "i") not in first and ("h", "at</w>") in merges


def test_merges_are_written_the_same_each_time_and_read_back_by_the_tokenizer(tmp_path):
    merges = learn_merges(["red ring"])
    write_merges(merges, tmp_path / "one.gz")
    write_merges(merges, tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()).startswith(b"#version")
    tokenizer = open_clip.SimpleTokenizer(str(tmp_path / "one.gz"), context_length=8)
    assert tokenizer.vocab_size == 512 + len(merges) + 2
    assert int((tokenizer(["red ring"]) > 0).sum()) == 4


@pytest.mark.parametrize("side", SIDES)
def test_zero_shot_prompts_tell_colour_style_and_shape(clip, heldout, side):
    model, _, tokenizer = clip
    accuracy = train_clip.zero_shot(model, tokenizer, *heldout[side])
    assert accuracy["colour"] >= 0.95
    assert accuracy["style"] >= 0.95
    assert accuracy["shape"] >= 0.90


@pytest.mark.parametrize("side", SIDES)
def test_an_image_retrieves_a_caption_that_names_its_factors(clip, heldout, side):
    model, _, tokenizer = clip
    images, factors = heldout[side]
    texts = captions_of(factors[:300])
    nearest = (images[:300] @ train_clip.embed_texts(model, tokenizer, texts).T).argmax(dim=1)
    hits = [texts[row] == own for row, own in zip(nearest.tolist(), texts, strict=True)]
    assert np.mean(hits) >= 0.90


@pytest.mark.parametrize("side", SIDES)
def test_a_caption_retrieves_an_image_that_shows_its_factors(clip, heldout, side):
    model, _, tokenizer = clip
    images, factors = heldout[side]
    texts = captions_of(factors)
    nearest = (train_clip.embed_texts(model, tokenizer, texts) @ images.T).argmax(dim=1)
    assert (
        np.mean([texts[row] == own for row, own in zip(nearest.tolist(), texts, strict=True)])
        >= 0.90
    )


@pytest.mark.parametrize("side", SIDES)
def test_images_and_texts_live_apart_as_in_any_clip(clip, heldout, side):
    model, _, tokenizer = clip
    images, factors = heldout[side]
    texts = train_clip.embed_texts(model, tokenizer, [world.caption(one) for one in factors])
    assert (images.mean(dim=0) - texts.mean(dim=0)).norm() >= 0.3
    assert _probe(images, texts) >= 0.95


def _probe(images: torch.Tensor, texts: torch.Tensor) -> float:
    """Accuracy of least squares fitted on the even rows, at telling images from texts on the odd
    ones.
    """

    def rows(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.cat([images[start::2], texts[start::2]])
        labels = torch.cat([torch.ones(len(images[start::2])), -torch.ones(len(texts[start::2]))])
        return torch.cat([both, torch.ones(len(both), 1)], dim=1), labels

    inputs, labels = rows(0)
    weights = torch.linalg.lstsq(inputs, labels[:, None]).solution
    inputs, labels = rows(1)
    return float(((inputs @ weights).squeeze(1).sign() == labels).float().mean())


def test_infonce_is_zero_only_when_each_pair_beats_every_false_one():
    vectors = torch.eye(3)
    own = torch.eye(3, dtype=torch.bool)
    assert train_clip.info_nce(vectors, vectors, torch.tensor(50.0), own) < 1e-6
    assert train_clip.info_nce(vectors, vectors.roll(1, 0), torch.tensor(50.0), own) > 10


def test_infonce_does_not_punish_another_caption_that_is_also_true():
    vectors = torch.nn.functional.normalize(torch.ones(2, 4), dim=1)  # all alike
    also_true = torch.ones(2, 2, dtype=torch.bool)
    assert train_clip.info_nce(vectors, vectors, torch.tensor(50.0), also_true) == 0
    assert (
        train_clip.info_nce(vectors, vectors, torch.tensor(50.0), torch.eye(2, dtype=torch.bool))
        > 0.6
    )


def test_a_caption_matches_the_images_that_show_all_it_names():
    codes = torch.tensor([[0, 1, 2], [0, 2, 2]])
    named = torch.tensor([[0, -1, -1], [0, 1, -1], [-1, -1, -1], [1, -1, -1]])
    assert train_clip.matches(codes, named).tolist() == [
        [True, True, True, False],
        [True, False, True, False],
    ]


def test_training_images_are_resized_as_the_transform_resizes_them(clip):
    _, preprocess, _ = clip
    pixels, factors = train_clip._training_image(0)  # drawn at 32 pixels
    drawn = world.sample("clip", 0, 32)
    assert factors == drawn.factors
    expected = preprocess(train_clip.Image.fromarray(drawn.pixels))
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    actual = (torch.tensor(pixels).permute(2, 0, 1) / 255 - mean) / std
    assert torch.allclose(actual, expected, atol=1e-5)


def test_the_second_weights_tell_what_is_worn_and_the_first_ones_hardly_do(clip, heldout):
    _, _, tokenizer = clip
    told = {}
    for weights in (encoder.WEIGHTS, encoder.ACCESSORIES_WEIGHTS):
        model = open_clip.create_model(encoder.MODEL_NAME, pretrained=str(weights)).eval()
        drawn = [world.sample("heldout", index, 64) for index in range(200)]
        _, preprocess, _ = clip
        images = train_clip.embed_images(model, preprocess, [one.pixels for one in drawn])
        factors = [one.factors for one in drawn]
        told[weights] = train_clip.zero_shot(model, tokenizer, images, factors)
    assert told[encoder.WEIGHTS]["accessory"] < 0.75
    second = told[encoder.ACCESSORIES_WEIGHTS]
    assert min(second[name] for name in ("accessory", "colour", "shape", "style")) >= 0.95


def test_worn_images_are_one_object_with_each_accessory_in_turn():
    pixels, factors = train_clip.worn_images(2, 1)
    assert [one.accessory for one in factors] == 2 * list(world.ACCESSORIES)
    assert len({one.shape + one.colour + one.size for one in factors[:6]}) == 1
    assert pixels.shape == (12, train_clip.SIDE, train_clip.SIDE, 3)
    rows = train_clip._dressed(train_clip.random.Random(0), 12, 7)
    assert rows in ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11])
