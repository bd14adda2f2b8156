"""CLIP: reference preprocessing, unit vectors, and weights that are what they are said to be."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from rdm_core.clip import BUILT_IN, RANDOM, Encoder, batches_of, even_batches, joined, load_encoder
from rdm_core.errors import EncoderError, RequestError
from rdm_core.images import decode
from rdm_core.shapes import encoder as shapes

SMALL = shapes.MODEL_NAME


@pytest.fixture(scope="module")
def vit() -> Encoder:
    """The architecture of the 2022 model with weights of no meaning."""
    return load_encoder("ViT-B-32", RANDOM)


@pytest.fixture(scope="module")
def small() -> Encoder:
    """The built-in encoder."""
    return load_encoder(SMALL, BUILT_IN)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Noise of different sizes, taller and wider than high, smaller and larger than the tower's input."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(64, 64), (40, 90), (200, 70), (65, 64), (9, 9)]]


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
    found = {"images": small.encode_images(pictures), "texts": small.encode_texts(["a red circle", "a sketch"])}
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
    assert [value for batch in batches for value in batch] == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == batches_of(count) == -(-count // 64) and (
        not sizes or max(sizes) <= 64 and max(sizes) - min(sizes) <= 1
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_reduced_precision_gives_nearly_the_same_vectors_under_the_same_identity(precision, small, vit):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    for full in (small, vit):
        reduced = load_encoder(full.name, BUILT_IN if full is small else RANDOM, precision=precision)
        cosines = (reduced.encode_images(images)[0] * full.encode_images(images)[0]).sum(axis=1)
        assert cosines.min() > 0.999 and reduced.identity == full.identity
        np.testing.assert_array_equal(reduced.encode_texts(["a ring"])[0], full.encode_texts(["a ring"])[0])


def test_an_ensemble_of_prompts_is_the_unit_mean_over_templates(small):
    sentences = ["a sketch of a ring", "a photograph of a ring", "a sketch of a star", "a photograph of a star"]
    each = small.encode_texts(sentences)[0].reshape(2, 2, -1).mean(axis=1)
    found = small.encode_prompts(["ring", "star"], ["a sketch of a {}", "a photograph of a {}"])
    np.testing.assert_allclose(found, each / np.linalg.norm(each, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(small.encode_prompts(["{}"]), small.encode_texts(["{}"])[0], atol=1e-6)
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
    np.testing.assert_array_equal(first.encode_texts(["a star"])[0], second.encode_texts(["a star"])[0])
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
        ("ViT-B-32", "/no/such/file.safetensors", r"file.safetensors' are neither a tag nor a file"),
        ("ViT-B-32", BUILT_IN, r"ViT-B-32.*holds no weights of it.*rdm-shapes"),
        ("ViT-B-32", str(shapes.WEIGHTS), r"ViT-B-32.*clip.safetensors' cannot be loaded.*local file or directory of it"),
        ("hf-hub:org/repo", "openai", r"hf-hub:org/repo.*'openai' cannot be put.*empty weights"),
        ("hf-hub:org/repo", RANDOM, r"hf-hub:org/repo.*'random' cannot be put.*empty weights"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_where_what_and_cure(name, weights, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(name, weights)


@pytest.mark.parametrize("name", ["notes.txt", "notes.pt", "notes.safetensors", "empty.pt", "partial.pt"])
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


@pytest.mark.parametrize(
    ("tag", "layout"), [("openai", "ViT-B-32-quickgelu"), ("laion400m_e32", "ViT-B-32-quickgelu"), ("laion2b_e16", "ViT-B-32")]
)
def test_a_tag_is_loaded_into_the_layout_it_was_trained_with(tag, layout, monkeypatch):
    asked = []

    def create(name, **options):
        asked.append((name, options["pretrained"]))
        raise RuntimeError("no network in tests")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(EncoderError, match="no network in tests"):
        load_encoder("ViT-B-32", tag)
    assert asked == [(layout, tag)]


def test_a_repository_brings_its_own_weights_and_one_without_weights_is_refused(tmp_path, small):
    config = json.loads(shapes.CONFIG.read_text())
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": str(shapes.MERGES)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(EncoderError, match="pretrained weights"):
        load_encoder(f"local-dir:{tmp_path}", "")
    (tmp_path / "open_clip_model.safetensors").write_bytes(shapes.WEIGHTS.read_bytes())
    assert load_encoder(f"local-dir:{tmp_path}", "").weights_sha256 == small.weights_sha256


def as_the_hub_gives_it(directory: Path, **preprocessing) -> Path:
    """The built-in encoder as a directory."""
    config = json.loads(shapes.CONFIG.read_text())
    config["text_cfg"]["tokenizer_kwargs"] = {"bpe_path": str(shapes.MERGES)}
    told = {"model_cfg": config, "preprocess_cfg": preprocessing}
    (directory / "open_clip_config.json").write_text(json.dumps(told))
    (directory / "open_clip_model.safetensors").write_bytes(shapes.WEIGHTS.read_bytes())
    return directory


def test_a_directory_gives_weights_and_preprocessing_and_its_path_is_not_in_the_identity(tmp_path, small, pictures):
    loaded = load_encoder(SMALL, str(as_the_hub_gives_it(tmp_path, mean=[0, 0, 0], std=[1, 1, 1], resize_mode="squash")))
    assert loaded.name == SMALL and str(tmp_path) not in json.dumps(loaded.identity)
    assert loaded.weights_sha256 == small.weights_sha256
    assert (loaded.identity["preprocessing"]["resize_mode"], loaded.preparation.squash) == ("squash", True)
    np.testing.assert_array_equal(loaded.encode_texts(["a red ring"])[0], small.encode_texts(["a red ring"])[0])
    assert not np.allclose(loaded.encode_images(pictures)[0], small.encode_images(pictures)[0], atol=1e-3)


@pytest.mark.parametrize("broken", ["nothing", "no model", "another model", "no weights"])
def test_a_directory_that_is_not_that_model_is_refused(broken, tmp_path):
    where = as_the_hub_gives_it(tmp_path) / "open_clip_config.json"
    if broken == "nothing":
        where.unlink()
    elif broken == "no model":
        where.write_text("{}")
    elif broken == "another model":
        where.write_text(where.read_text().replace('"embed_dim": ', '"embed_dim": 1'))
    else:
        (tmp_path / "open_clip_model.safetensors").unlink()
    message = {"another model": "its embed_dim differ from those", "no weights": "pretrained weights"}.get(
        broken, "says no model"
    )
    with pytest.raises(EncoderError, match=message):
        load_encoder(SMALL, str(tmp_path))


def test_a_file_is_prepared_for_as_the_models_tags_are_and_refused_where_they_differ(tmp_path, monkeypatch):
    asked = []

    def create(name, **options):
        asked.append({key: value for key, value in options.items() if key.startswith("image_")})
        raise RuntimeError("no network in tests")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    for name in ("ViT-B-16-SigLIP2", "MobileCLIP2-S0", SMALL):
        with pytest.raises(EncoderError, match="no network in tests"):
            load_encoder(name, str(file))
    half, none, one = (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    assert asked == [
        {"image_mean": half, "image_std": half, "image_interpolation": "bicubic", "image_resize_mode": "squash"},
        {"image_mean": none, "image_std": one, "image_interpolation": "bilinear", "image_resize_mode": "shortest"},
        {},
    ]
    with pytest.raises(
        EncoderError, match=r"tags differ in .* \(openai, .* \.\.\.: .*; laion2b_s32b_b82k: .*open_clip_config.json"
    ):
        load_encoder("ViT-L-14", str(file))


def test_a_tokenizer_that_needs_more_than_is_installed_says_what(tmp_path, monkeypatch):
    where = as_the_hub_gives_it(tmp_path) / "open_clip_config.json"
    where.write_text(where.read_text().replace('"text_cfg": {', '"text_cfg": {"hf_tokenizer_name": "org/repo", '))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EncoderError, match=r"pip install 'rdm\[transformers\]'"):
        load_encoder(SMALL, str(tmp_path))


def test_siglip_with_its_own_tokenizer_embeds_images_and_texts(tmp_path, pictures):
    missing = "run it after pip install '.[transformers]', which makes every import of diffusers two seconds slower"
    transformers = pytest.importorskip("transformers", reason=missing)
    tokenizers = pytest.importorskip("tokenizers", reason=missing)
    words = {"<pad>": 0, "<unk>": 1, "a": 2, "red": 3, "ring": 4}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path)
    config = dict(open_clip.get_model_config("ViT-B-32-SigLIP2-256"), embed_dim=192)
    config["vision_cfg"] |= {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
    config["text_cfg"] |= {"vocab_size": len(words), "width": 192, "heads": 3, "layers": 1}
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": half}))
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    (tmp_path / "open_clip_model.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))
    encoder = load_encoder(f"local-dir:{tmp_path}", "")
    texts, _ = encoder.encode_texts(["a red ring", "a ring", "a blue ring"])
    assert texts.shape == (3, 192) and len(np.unique(texts.round(5), axis=0)) == 3
    ready = torch.stack([encoder.transform(Image.fromarray(picture)) for picture in pictures])
    with torch.no_grad():
        own = torch.nn.functional.normalize(encoder.model.encode_image(ready), dim=1).numpy()
    assert encoder.preparation.squash
    assert (encoder.encode_images(pictures)[0] * own).sum(axis=1).min() > 0.999


def test_an_encoder_error_keeps_its_parts_across_a_process_border():
    error = pickle.loads(pickle.dumps(EncoderError("here", "this", "do that")))
    assert (error.where, error.what, error.cure, str(error)) == ("here", "this", "do that", "here: this. do that")


def test_images_are_taken_as_rgb(vit):
    red = np.zeros((224, 224, 3), np.uint8)
    red[..., 0] = 255
    mean, std = (np.array(vit.identity["preprocessing"][key])[:, None, None] for key in ("mean", "std"))
    expected = (red.transpose(2, 0, 1) / 255 - mean) / std
    np.testing.assert_allclose(vit.preprocess([red])[0].numpy(), expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["MobileCLIP2-S0", "ViT-B-16-quickgelu", "ViT-L-14"])
def test_other_families_of_clip_embed_as_open_clip_would(name, pictures):
    encoder = load_encoder(name, RANDOM)
    ready = torch.stack([encoder.transform(Image.fromarray(picture)) for picture in pictures[:2]])
    with torch.no_grad():
        own = torch.nn.functional.normalize(encoder.model.encode_image(ready), dim=1).numpy()
    found, _ = encoder.encode_images(pictures[:2])
    assert found.shape == (2, encoder.dimension) and (found * own).sum(axis=1).min() > 0.999
    assert encoder.encode_texts(["a ring"])[0].shape == (1, encoder.dimension)
