"""CLIP: reference preprocessing, unit vectors, and weights that are what they are said to be."""

import json
import pickle
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rdm_core.clip import BUILT_IN, RANDOM, Encoder, batches_of, even_batches, joined, load_encoder
from rdm_core.decode import decode
from rdm_core.errors import EncoderError, RequestError
from rdm_core.shapes import encoder as shapes

SMALL = shapes.MODEL_NAME


@pytest.fixture(scope="module")
def vit() -> Encoder:
    """The architecture of the 2022 model with weights of no meaning."""
    return load_encoder("ViT-B-32", RANDOM)


def test_preprocessing_agrees_with_reference_tensors(vit, real_data):
    folder = real_data / "queries/clip_reference"
    names = (folder / "names.txt").read_text().split()
    images = [decode((folder / "images" / f"{name}.jpg").read_bytes()) for name in names]
    reference = np.load(folder / "image_tensors_fp32.npy")
    differences = np.abs(vit.preprocess(images).numpy() - reference)
    assert differences.max() < 1.01 / 255 / 0.26, "a level of 255 at most"
    assert (differences > 1e-5).mean() < 0.01, "in one number of a hundred"


def test_vectors_are_unit_and_norms_are_those_of_the_raw_output(small, pictures):
    with torch.no_grad():
        raw = {
            "images": small.model.encode_image(small.preprocess(pictures)).numpy(),
            "texts": small.model.encode_text(small.tokenizer(["a red circle", "a sketch"])).numpy(),
        }
    found = {
        "images": small.encode_images(pictures),
        "texts": small.encode_texts(["a red circle", "a sketch"]),
    }
    for kind, (vectors, norms) in found.items():
        assert vectors.dtype == norms.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(norms, np.linalg.norm(raw[kind], axis=1), rtol=1e-5)
        np.testing.assert_allclose(vectors * norms[:, None], raw[kind], atol=1e-5)


def test_the_batch_size_does_not_change_vectors(small, pictures):
    texts = [f"a red circle number {i}" for i in range(5)]
    for encode, values in ((small.encode_images, pictures), (small.encode_texts, texts)):
        vectors, norms = encode(values, batch=5)
        for batch in (1, 2):
            again, norms_again = encode(values, batch=batch)
            np.testing.assert_allclose(again, vectors, atol=1e-5)
            np.testing.assert_allclose(norms_again, norms, rtol=1e-5)


def test_a_stream_gives_the_same_vectors_batch_after_batch(small, pictures):
    vectors, norms = small.encode_images(pictures)
    batches = [list(enumerate(pictures))[start : start + 2] for start in (0, 2, 4)]
    stream = list(small.encode_stream(batches, decode=lambda pair: pair[1]))
    assert [len(lengths) for _, lengths in stream] == [2, 2, 1]
    np.testing.assert_allclose(joined(stream, small.dimension)[0], vectors, atol=1e-5)
    np.testing.assert_allclose(joined(stream, small.dimension)[1], norms, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_even_batches_hold_everything_in_order_and_none_runs_half_empty(count):
    batches = list(even_batches(iter(range(count)), count))
    assert list(chain(*batches)) == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == batches_of(count) == -(-count // 64) and (
        not sizes or max(sizes) <= 64 and max(sizes) - min(sizes) <= 1
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("name", "weights"),
    [(SMALL, BUILT_IN), pytest.param("ViT-B-32", RANDOM, marks=pytest.mark.long)],
)
def test_a_reduced_precision_gives_nearly_the_same_vectors_under_the_same_identity(
    precision, name, weights
):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    full, reduced = load_encoder(name, weights), load_encoder(name, weights, precision=precision)
    cosines = (reduced.encode_images(images)[0] * full.encode_images(images)[0]).sum(axis=1)
    assert cosines.min() > 0.999 and reduced.identity == full.identity
    np.testing.assert_array_equal(
        reduced.encode_texts(["a ring"])[0], full.encode_texts(["a ring"])[0]
    )


def test_an_ensemble_of_prompts_is_the_unit_mean_over_templates(small):
    sentences = [
        "a sketch of a ring",
        "a photograph of a ring",
        "a sketch of a star",
        "a photograph of a star",
    ]
    each = small.encode_texts(sentences)[0].reshape(2, 2, -1).mean(axis=1)
    found = small.encode_prompts(["ring", "star"], ["a sketch of a {}", "a photograph of a {}"])
    np.testing.assert_allclose(found, each / np.linalg.norm(each, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(
        small.encode_prompts(["{}"]), small.encode_texts(["{}"])[0], atol=1e-6
    )
    assert small.encode_prompts([]).shape == (0, small.dimension)
    with pytest.raises(RequestError, match="'a ring' has not exactly one {}"):
        small.encode_prompts(["ring"], ["a ring"])


def test_nothing_to_embed_gives_no_vectors(small):
    for encode in (small.encode_images, small.encode_texts):
        vectors, norms = encode([])
        assert vectors.shape == (0, small.dimension)
        assert norms.shape == (0,)


def test_the_dimension_is_that_of_the_vectors(vit, small, pictures):
    assert vit.dimension == 512
    assert small.encode_images(pictures[:1])[0].shape == (1, small.dimension)
    assert small.encode_texts(["a red circle"])[0].shape == (1, small.dimension)


def test_an_encoder_is_frozen_and_in_evaluation_mode(small):
    assert not small.model.training
    assert not any(parameter.requires_grad for parameter in small.model.parameters())


def test_random_weights_are_the_same_on_every_load_and_leave_the_callers_randomness_alone(small):
    torch.manual_seed(1)
    first = load_encoder(SMALL, RANDOM)
    drawn = torch.rand(3)
    torch.manual_seed(2)
    second = load_encoder(SMALL, RANDOM)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    assert first.weights_sha256 == second.weights_sha256
    np.testing.assert_array_equal(
        first.encode_texts(["a star"])[0], second.encode_texts(["a star"])[0]
    )
    assert first.weights_sha256 != small.weights_sha256


def test_the_hash_names_the_weights_and_not_the_file(small, tmp_path):
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(shapes.WEIGHTS.read_bytes())
    assert load_encoder(SMALL, str(copy)).identity == small.identity
    state = small.model.state_dict()
    changed = {key: tensor.clone() for key, tensor in state.items()}
    changed["logit_scale"] += 1e-3
    torch.save(changed, tmp_path / "changed.pt")
    other = load_encoder(SMALL, str(tmp_path / "changed.pt"))
    assert other.weights_sha256 != small.weights_sha256


def test_an_identity_survives_json(vit):
    assert json.loads(json.dumps(vit.identity)) == vit.identity
    assert vit.identity["preprocessing"]["size"] == [224, 224]
    assert vit.identity["preprocessing"]["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("ViT-B-23", RANDOM, r"ViT-B-23.*no model of that name.*ViT-B-32"),
        ("ViT-B-32", "openia", r"ViT-B-32.*'openia' are neither a tag nor a file.*openai"),
        ("ViT-B-32", "", r"ViT-B-32.*'' are neither a tag nor a file.*'random'"),
        (
            "ViT-B-32",
            "/no/such/file.safetensors",
            r"file.safetensors' are neither a tag nor a file",
        ),
        ("ViT-B-32", BUILT_IN, r"ViT-B-32.*holds no such weights of it.*rdm-shapes"),
        (
            "ViT-B-16-plus-240",
            str(shapes.WEIGHTS),
            r"ViT-B-16-plus-240.*clip.safetensors' cannot be loaded.*local file or directory of it",
        ),
        ("hf-hub:org/repo", "openai", r"hf-hub:org/repo.*'openai' cannot be put.*empty weights"),
        ("hf-hub:org/repo", RANDOM, r"hf-hub:org/repo.*'random' cannot be put.*empty weights"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_where_what_and_cure(name, weights, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(name, weights)


@pytest.mark.parametrize(
    "name", ["notes.txt", "notes.pt", "notes.safetensors", "empty.pt", "partial.pt"]
)
def test_a_file_that_is_not_these_weights_is_refused(name, tmp_path, small):
    file = tmp_path / name
    file.write_text("" if name == "empty.pt" else "These are notes.\n")
    if name == "partial.pt":
        torch.save({"logit_scale": torch.ones(())}, file)
    with pytest.raises(EncoderError, match=rf"{name}' cannot be loaded \(.+\)"):
        load_encoder(SMALL, str(file))


def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path):
    trace = tmp_path / "it ran"

    class Malicious:
        def __reduce__(self):
            return Path.write_text, (trace, "!")

    torch.save({"state_dict": Malicious()}, tmp_path / "weights.pt")
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(Malicious()))
    for file in ("weights.pt", "weights.pkl"):
        with pytest.raises(EncoderError, match=f"{file}' cannot be loaded"):
            load_encoder(SMALL, str(tmp_path / file))
    assert not trace.exists()


def test_an_encoder_error_keeps_its_parts_across_a_process_border():
    error = pickle.loads(pickle.dumps(EncoderError("here", "this", "do that")))
    assert (error.where, error.what, error.cure, str(error)) == (
        "here",
        "this",
        "do that",
        "here: this. do that",
    )


def test_images_are_taken_as_rgb(vit):
    red = np.zeros((224, 224, 3), np.uint8)
    red[..., 0] = 255
    mean = np.array(vit.identity["preprocessing"]["mean"])[:, None, None]
    std = np.array(vit.identity["preprocessing"]["std"])[:, None, None]
    expected = (red.transpose(2, 0, 1) / 255 - mean) / std
    np.testing.assert_allclose(vit.preprocess([red])[0].numpy(), expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["MobileCLIP2-S0", "ViT-B-16-quickgelu", "ViT-L-14", "coca_ViT-B-32"]
)
def test_other_families_of_clip_embed_as_open_clip_would(name, pictures):
    encoder = load_encoder(name, RANDOM)
    ready = torch.stack([encoder.transform(Image.fromarray(picture)) for picture in pictures[:2]])
    with torch.no_grad():
        own = torch.nn.functional.normalize(encoder.model.encode_image(ready), dim=1).numpy()
    found, norms = encoder.encode_images(pictures[:2])
    assert np.abs(norms - 1).min() > 1e-3, "CoCa would give unit vectors unless told not to"
    assert found.shape == (2, encoder.dimension) and (found * own).sum(axis=1).min() > 0.999
    assert encoder.encode_texts(["a ring"])[0].shape == (1, encoder.dimension)


@pytest.mark.parametrize("words, is_cut", [(29, False), (30, False), (31, True), (200, True)])
def test_a_text_longer_than_the_text_tower_reads_is_known(small, words, is_cut):
    """32 tokens: a start, an end, and 30 words."""
    texts = ["ring", " ".join(["ring"] * words), "a red circle"]
    assert small.context_length == 32
    assert small.too_long(texts).tolist() == [False, is_cut, False]
    assert small.tokens(texts).shape == (3, 32)
    assert small.tokens(texts).dtype == np.int64


@pytest.mark.parametrize("words", [1, 3])
@pytest.mark.parametrize("before, behind", [("a", "at the top"), ("", "circle"), ("a red ", "")])
def test_a_gap_is_so_many_tokens_between_what_stays(small, before, behind, words):
    tokens, is_gap = small.with_gap(before, behind, words)
    assert is_gap.sum() == words and tokens.shape == is_gap.shape == (32,)
    assert small.texts(tokens[None, ~is_gap]) == [f"{before} {behind}".strip()]
    assert np.flatnonzero(is_gap)[0] == len(small.tokens([before])[0].nonzero()[0]) - 1


def test_a_gap_that_makes_a_text_too_long_is_refused(small):
    small.with_gap("ring " * 14, "ring " * 14, 2)
    with pytest.raises(RequestError, match="template: .* has more than 32 tokens.*Shorten"):
        small.with_gap("ring " * 14, "ring " * 14, 3)


def test_no_text_is_too_long_where_there_is_none(small):
    assert small.too_long([]).shape == (0,)
    assert small.too_long([""]).tolist() == [False]


def test_tokens_become_the_words_they_were(small):
    texts = ["a photograph of a vorta at the top left", "a red circle", ""]
    assert small.texts(small.tokens(texts)) == texts
    cut = small.tokens(texts)[:, 1:4]  # neither a beginning nor an end
    assert small.texts(cut)[1:] == ["a red circle", ""]
