"""Where encoders come from: a tag, a file, a directory, a repository; what says too little is
refused.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from PIL import Image

from rdm_core.clip import ACCESSORIES, BUILT_IN, RANDOM, is_local, load_encoder
from rdm_core.errors import EncoderError
from rdm_core.shapes import encoder as shapes

SMALL = shapes.MODEL_NAME


@pytest.mark.parametrize(
    ("tag", "layout"),
    [
        ("openai", "ViT-B-32-quickgelu"),
        ("laion400m_e32", "ViT-B-32-quickgelu"),
        ("laion2b_e16", "ViT-B-32"),
    ],
)
def test_a_tag_is_loaded_into_the_layout_it_was_trained_with(tag, layout, monkeypatch):
    asked = []

    def create(name, pretrained, **options):
        asked.append((name, pretrained))
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


def test_a_directory_gives_weights_and_preprocessing_and_its_path_is_not_in_the_identity(
    tmp_path, small, pictures
):
    loaded = load_encoder(
        SMALL,
        str(as_the_hub_gives_it(tmp_path, mean=[0, 0, 0], std=[1, 1, 1], resize_mode="squash")),
    )
    assert loaded.name == SMALL and str(tmp_path) not in json.dumps(loaded.identity)
    assert loaded.weights_sha256 == small.weights_sha256
    assert (loaded.identity["preprocessing"]["resize_mode"], loaded.preparation.squash) == (
        "squash",
        True,
    )
    np.testing.assert_array_equal(
        loaded.encode_texts(["a red ring"])[0], small.encode_texts(["a red ring"])[0]
    )
    assert not np.allclose(
        loaded.encode_images(pictures)[0], small.encode_images(pictures)[0], atol=1e-3
    )


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
    message = {
        "another model": "its embed_dim differ from those",
        "no weights": "pretrained weights",
    }.get(broken, "says no model")
    with pytest.raises(EncoderError, match=message):
        load_encoder(SMALL, str(tmp_path))


def test_a_file_is_used_as_the_models_tags_are_or_as_the_tag_before_it_or_else_refused(
    tmp_path, monkeypatch
):
    asked = []

    def create(name, pretrained, **options):
        asked.append(
            (name, {key: value for key, value in options.items() if key.startswith("image_")})
        )
        raise RuntimeError("no network in tests")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    tagged = f"laion2b_s32b_b82k@{file}"
    for name, weights in [
        ("ViT-B-16-SigLIP2", file),
        ("MobileCLIP2-S0", file),
        ("ViT-L-14-336", file),
        ("ViT-L-14", tagged),
        (SMALL, file),
    ]:
        with pytest.raises(EncoderError, match="no network in tests"):
            load_encoder(name, str(weights))
    clip = {"image_mean": open_clip.OPENAI_DATASET_MEAN, "image_std": open_clip.OPENAI_DATASET_STD}
    half, none, one = (0.5, 0.5, 0.5), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    bicubic = {"image_interpolation": "bicubic", "image_resize_mode": "shortest"}
    assert asked == [
        (
            "ViT-B-16-SigLIP2",
            {"image_mean": half, "image_std": half} | bicubic | {"image_resize_mode": "squash"},
        ),
        (
            "MobileCLIP2-S0",
            {"image_mean": none, "image_std": one} | bicubic | {"image_interpolation": "bilinear"},
        ),
        ("ViT-L-14-336-quickgelu", clip | bicubic),
        ("ViT-L-14", {"image_mean": half, "image_std": half} | bicubic),
        (SMALL, {}),
    ]
    for name in ("ViT-L-14", "ViT-B-32"):  # the mean; the activation alone
        with pytest.raises(
            EncoderError,
            match=r"tags differ in quick_gelu, .* \(openai, .* \.\.\.: "
            r".*weights=TAG@.*open_clip_config",
        ):
            load_encoder(name, str(file))
    with pytest.raises(
        EncoderError, match="used, and the model has no tags. Instead give a directory"
    ):
        load_encoder("ViT-L-14-280", str(file))
    with pytest.raises(EncoderError, match="neither a tag nor a file"):
        load_encoder("ViT-B-32", f"openai@{tmp_path / 'absent'}")


def test_weights_that_need_no_network_are_known(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"")
    for weights in (RANDOM, BUILT_IN, ACCESSORIES, str(file), str(tmp_path), f"openai@{file}"):
        assert is_local(weights), weights
    for weights in ("", "openai", f"openai@{tmp_path / 'absent'}"):
        assert not is_local(weights), weights


def test_a_directory_with_another_text_tower_is_refused_and_one_with_a_longer_vocabulary_told(
    tmp_path,
):
    where = as_the_hub_gives_it(tmp_path) / "open_clip_config.json"
    whole = where.read_text()
    where.write_text(whole.replace('"text_cfg": {', '"text_cfg": {"no_causal_mask": true, '))
    with pytest.raises(EncoderError, match="its text_cfg differ from those of 'rdm-shapes'"):
        load_encoder(SMALL, str(tmp_path))
    # open_clip's own merges
    where.write_text(whole.replace(json.dumps(str(shapes.MERGES)), "null"))
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(SMALL, str(tmp_path))


def test_a_directory_cannot_have_code_run(tmp_path, monkeypatch):
    where = as_the_hub_gives_it(tmp_path) / "open_clip_config.json"
    told = json.loads(where.read_text())
    told["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": "org/repo",
        "tokenizer_kwargs": {"trust_remote_code": True},
    }
    where.write_text(json.dumps(told))
    given = []

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(name, **options):
            given.append(options["trust_remote_code"])
            raise RuntimeError("far enough")

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=AutoTokenizer))
    with pytest.raises(EncoderError, match="far enough"):
        load_encoder(f"local-dir:{tmp_path}", "")
    assert given == [False]


def test_a_tokenizer_that_needs_more_than_is_installed_says_what(tmp_path, monkeypatch):
    where = as_the_hub_gives_it(tmp_path) / "open_clip_config.json"
    where.write_text(
        where.read_text().replace('"text_cfg": {', '"text_cfg": {"hf_tokenizer_name": "org/repo", ')
    )
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(EncoderError, match=r"pip install 'rdm\[transformers\]'"):
        load_encoder(f"local-dir:{tmp_path}", "")


def test_siglip_with_its_own_tokenizer_embeds_images_and_texts(tmp_path, pictures):
    missing = (
        "its tokenizer is transformers', which makes every import of diffusers two seconds slower: "
        "make test-long has it"
    )
    transformers = pytest.importorskip("transformers", reason=missing)
    tokenizers = pytest.importorskip("tokenizers", reason=missing)
    words = {"<pad>": 0, "<unk>": 1, "a": 2, "red": 3, "ring": 4}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(tmp_path)
    config = dict(open_clip.get_model_config("ViT-B-32-SigLIP2-256"), embed_dim=192)
    config["vision_cfg"] |= {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
    config["text_cfg"] |= {"vocab_size": len(words), "width": 192, "heads": 3, "layers": 1}
    half = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": half})
    )
    model = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    (tmp_path / "open_clip_model.safetensors").write_bytes(
        safetensors.torch.save(model.state_dict())
    )
    encoder = load_encoder(f"local-dir:{tmp_path}", "")
    texts, _ = encoder.encode_texts(["a red ring", "a ring", "a blue ring"])
    assert texts.shape == (3, 192) and len(np.unique(texts.round(5), axis=0)) == 3
    ready = torch.stack([encoder.transform(Image.fromarray(picture)) for picture in pictures])
    with torch.no_grad():
        own = torch.nn.functional.normalize(encoder.model.encode_image(ready), dim=1).numpy()
    assert encoder.preparation.squash
    assert (encoder.encode_images(pictures)[0] * own).sum(axis=1).min() > 0.999
