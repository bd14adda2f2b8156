"""Presets: a table. `rdm train --preset shapes` starts from a row, `--set key=value` changes single
entries.

The 2022 models' layouts are those of its released configurations; only the shapes rows were
measured by this project.
"""

from typing import Any

_SHAPES: dict[str, dict[str, Any]] = {
    "context": {"random_k": True, "embedding_noise": 0.6},
    "training": {
        "steps": 1800, "batch": 32, "optimizer": "muon", "learning_rate": 4e-3, "warmup_steps": 50,
        "cooldown": 0.3, "ema_decay": 0.995, "snapshot_steps": 500,
    },
    "reporting": {"checkpoint_steps": 500},
}  # fmt: skip


def _diffusion(denoiser: dict[str, Any], noise: dict[str, Any]) -> dict[str, Any]:
    return {"family": "diffusion", "denoiser": denoiser, "noise": noise}


_SHAPES_NETWORK = {
    "network": "transformer", "channels": [128], "depth": 4, "head_channels": 32, "patch": 1,
}  # fmt: skip
# kNN-Diffusion (arXiv 2204.02849): an image's own vector and its 10 nearest neighbors are given; a
# text takes the place of the own vector later. Ten were best of 1 to 1000 there; a random number up
# to ten is what makes k free when drawing.
_QUERY_AND_TEN = {"k": 10, "random_k": True, "query_dropout": 0.1}
# RA-CM3 (arXiv 2211.12561): none, one or two documents, each as often; none that is nearly the
# image itself.
_TWO_DOCUMENTS = {
    "k": 2, "random_k": True, "neighbor_dropout": 1 / 3, "score_cap": 0.9, "text_dropout": 0.1,
}  # fmt: skip
_BETAS_2022 = {"process": "epsilon", "beta_start": 0.0015, "beta_end": 0.0195}


def _references(denoiser: dict[str, Any], text_width: int) -> dict[str, Any]:
    noise = {"process": "flow"}
    return {
        "family": "references", "denoiser": denoiser, "noise": noise, "text_width": text_width,
    }  # fmt: skip


# Re-Imagen (arXiv 2209.14491): two neighbors; text and neighbors are each left out of a tenth.
_TEXT_AND_TWO = {"k": 2, "random_k": True, "text_dropout": 0.1}

# Photographs and paintings of 256 px behind an f8 autoencoder of others, by the memory of a card:
# width, depth, and pieces of a step. Memory as estimated: docs/families.md.
_CARDS = {
    "8gb": (512, 12, 8),  # 53 M parameters, 4.2 GB
    "": (768, 12, 4),  # 119 M, 11.7 GB: for 24 GB
    "80gb": (1024, 24, 4),  # 412 M, 32.9 GB
}
DATA_SETS: dict[str, dict[str, Any]] = {
    "coco": {"source": "coco", "path": "datasets/coco"},
    "openimages": {"source": "openimages", "path": "datasets/openimages"},
    "wikiart": {"source": "wikiart", "path": "datasets/wikiart"},
}
"""Data sets that have presets of their own, and where `rdm acquire` puts them."""
HUB_AUTOENCODER = "stabilityai/sd-vae-ft-mse"
"""The decoder of Stable Diffusion's f8 autoencoder trained on for the squared error; its latents
are 32x32x4 of 256 px.
"""


def _photographs(source: str, card: str) -> dict[str, dict[str, Any]]:
    """A data set's preset for a card: a transformer on latents, by flow matching."""
    width, depth, pieces = _CARDS[card]
    denoiser = {
        "network": "transformer", "channels": [width], "depth": depth, "head_channels": 64,
        "patch": 2,
    }  # fmt: skip
    return {
        "model": _diffusion(denoiser, {"process": "flow"}),
        "context": {"k": 8, "random_k": True},
        "training": {
            "batch": 256, "learning_rate": 2e-4, "warmup_steps": 1000, "precision": "bf16",
        },
        "execution": {"accumulate": pieces},
        "upstream": {
            "images": {**DATA_SETS[source], "size": 256}, "autoencoder": HUB_AUTOENCODER,
        },
    }  # fmt: skip


def _smoke(source: str) -> dict[str, dict[str, Any]]:
    """A data set's preset that shows in minutes of a CPU, and without any hub, that all of its
    stages work: 32 px as they are, the encoder of the built-in shapes, ten steps. Its pictures are
    noise.
    """
    return {
        "model": _diffusion(
            {**_SHAPES_NETWORK, "patch": 4, "depth": 2}, {"process": "flow", "predicts": "image"}
        ),
        "context": {"k": 4, "random_k": True},
        "training": {"steps": 10, "batch": 16, "warmup_steps": 2},
        "reporting": {"checkpoint_steps": 10},
        "upstream": {
            "images": {**DATA_SETS[source], "size": 32, "min_side": 16}, "autoencoder": "pixels",
            "encoder": "rdm-shapes", "weights": "built-in",
        },
    }  # fmt: skip


# Emoji of 64 px behind their own autoencoder: 16x16x8 latents, 64 tokens.
_EMOJI_NETWORK = {
    "network": "transformer", "channels": [160], "depth": 6, "head_channels": 32, "patch": 2,
}  # fmt: skip
_EMOJI: dict[str, dict[str, Any]] = {
    "training": {
        "steps": 3000, "batch": 32, "optimizer": "muon", "learning_rate": 4e-3, "warmup_steps": 50,
        "cooldown": 0.3, "ema_decay": 0.995,
    },
    "reporting": {"checkpoint_steps": 250},
    "upstream": {
        "images": {
            "source": "emoji", "path": "datasets/emoji", "style": "noto,twemoji,fluent",
            "concepts": "known", "size": 64, "encoding": "png",
        },
        "autoencoder": "rdm-emoji-kl", "encoder": "rdm-emoji", "weights": "built-in",
        "of": "document", "k": 12, "search": "words", "within": "style", "in_turns": True,
    },
}  # fmt: skip


def _of_data_sets() -> dict[str, dict[str, dict[str, Any]]]:
    """Name -> preset: `coco-256` and the like, one for each card, and one for a CPU."""
    presets = {}
    for source in DATA_SETS:
        for card in _CARDS:
            presets[f"{source}-256-{card}".rstrip("-")] = _photographs(source, card)
        presets[f"{source}-smoke"] = _smoke(source)
    return presets


# name: model, context, training, reporting; what is not named keeps its default
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "shapes": {  # 64 px, behind the built-in autoencoder: 8x8x16 latents
        "model": _diffusion({**_SHAPES_NETWORK, "remove_means": True}, {"process": "flow"}),
        **_SHAPES,
    },
    "knn-shapes": {  # the same network, given the image's own vector too
        "model": _diffusion({**_SHAPES_NETWORK, "query_token": True}, {"process": "flow"}),
        **_SHAPES,
        "context": _QUERY_AND_TEN,
    },
    # as many parameters as the transformer of shapes (1.24 M and 1.25 M), trained on the same
    "shapes-unet": {
        "model": _diffusion(
            {"network": "unet", "channels": [16, 32, 48, 56], "attention_levels": [1, 2, 3],
             "depth": 1, "head_channels": 16, "remove_means": True},
            _BETAS_2022,
        ),
        **_SHAPES,
    },
    "shapes-pixels": {  # 32 px as they are: the network answers with the image
        "model": _diffusion(
            {"network": "transformer", "channels": [128], "depth": 4, "head_channels": 32,
             "patch": 4, "detail_channels": 24, "remove_means": True},
            {"process": "flow", "predicts": "image"},
        ),
        **_SHAPES,
    },
    # 64 px with a query token, for start_from a run of the same denoiser; images kept as pixels
    "edit-shapes": {
        "model": _diffusion(
            {"network": "transformer", "channels": [128], "depth": 4, "head_channels": 32,
             "patch": 1, "query_token": True, "remove_means": True},
            {"process": "flow"},
        ) | {
            # circles that hold whole objects, and few pictures that need no change
            "editing": {"picture": True, "identity_share": 0.1, "radius_least": 0.2,
                        "radius_most": 0.7, "least_correlation": 0.1}
        },
        "context": {**_SHAPES["context"], "k": 10, "query_dropout": 0.1, "query_alone": 0.1},
        "training": _SHAPES["training"] | {"steps": 1000},
        "reporting": _SHAPES["reporting"],
    },
    "rarm-shapes": {  # 256 codes an image, of the built-in VQModel; 1.55 M parameters
        "model": {
            "family": "autoregressive", "codes": 1024,
            "transformer": {"width": 128, "depth": 4, "head_channels": 32, "remove_means": True},
        },
        **_SHAPES,
    },
    "knn-discrete-shapes": {  # 256 codes an image, of the built-in VQModel; 1.62 M parameters
        "model": {
            "family": "discrete", "codes": 1024,
            "transformer": {"width": 128, "depth": 4, "head_channels": 32, "query_token": True,
                            "remove_means": True},
        },
        **_SHAPES,
        "context": {**_QUERY_AND_TEN, "embedding_noise": 0.6},
    },
    "reimagen-shapes": {  # 48 px, behind the built-in autoencoder; 1.51 M parameters
        "model": _references(_SHAPES_NETWORK, text_width=96),
        **_SHAPES,
        "context": _TEXT_AND_TWO,
    },
    # words of the built-in CLIP and codes of the built-in VQModel, 40 px: 100 codes an image
    "cm3-shapes": {
        "model": {
            "family": "multimodal", "codes": 1024, "tokens": 676, "caption_tokens": 24,
            "transformer": {"width": 128, "depth": 4, "head_channels": 32},
        },
        **_SHAPES,
        # They are found by words, whose scores are no cosines.
        "context": _TWO_DOCUMENTS | {"score_cap": 1.0},
    },
    "rarm-2022": {  # 230.87 M parameters on 16x16 codes out of 16,384
        "model": {
            "family": "autoregressive", "codes": 16_384,
            "transformer": {
                "width": 768, "depth": 18, "head_channels": 64, "final_norm": False,
                "context_norm": "raw",
            },
        },
        "context": {"neighbor_dropout": 0.0},
        "training": {"batch": 50, "learning_rate": 5e-4},
    },
    "imagenet-2022": {  # 400.92 M parameters on 64x64x3 latents
        "model": _diffusion(
            {"network": "unet", "channels": [192, 384, 576, 960], "attention_levels": [1, 2, 3],
             "context_norm": "raw"},
            _BETAS_2022,
        ),
        "context": {"neighbor_dropout": 0.0},
        "training": {"batch": 64},
    },
    "ffhq-2022": {  # 414.71 M parameters on 64x64x3 latents
        "model": _diffusion(
            {"network": "unet", "channels": [224, 448, 672, 896], "attention_levels": [1, 2, 3],
             "context_norm": "raw"},
            _BETAS_2022,
        ),
        "context": {"neighbor_dropout": 0.0},
        "training": {"batch": 64, "warmup_steps": 10_000},
    },
    "laion-768-2022": {  # 1335.48 M parameters on 48x48x16 latents
        "model": _diffusion(
            {"network": "unet", "channels": [448, 896, 1344, 1792], "attention_levels": [0, 1, 2]},
            {"process": "epsilon", "beta_start": 0.0015, "beta_end": 0.015},
        ),
        "context": {"k": 20, "random_k": True, "from_top": 20, "neighbor_dropout": 0.0},
        "training": {"batch": 64},
    },
    "transformer-256": {  # flow matching on 32x32 latents of 256 px images
        "model": _diffusion(
            {"network": "transformer", "channels": [768], "depth": 12, "head_channels": 64,
             "patch": 2},
            {"process": "flow"},
        ),
        "context": {"k": 8, "random_k": True},
        "training": {"batch": 256, "learning_rate": 2e-4, "warmup_steps": 1000,
                     "precision": "bf16"},
    },
    "knn-64": {  # 64 px as they are, the base of the paper's cascade
        "model": _diffusion(
            {"network": "unet", "channels": [192, 384, 576, 768], "attention_levels": [1, 2, 3],
             "depth": 3, "head_channels": 64, "query_token": True},
            {"process": "flow"},
        ),
        "context": _QUERY_AND_TEN,
        "training": {"batch": 64, "warmup_steps": 1000, "precision": "bf16"},
    },
    # 32x32 codes of 256 px images, with the transformer of VQ-Diffusion
    "knn-discrete-256": {
        "model": {
            "family": "discrete", "codes": 8192,
            "transformer": {"width": 1024, "depth": 19, "head_channels": 64, "query_token": True},
        },
        "context": _QUERY_AND_TEN,
        "training": {"batch": 64, "learning_rate": 1e-4, "warmup_steps": 1000,
                     "weight_decay": 0.045, "precision": "bf16"},
    },
    # documents of 77 words (CLIP's) and 32x32 codes of 256 px images
    "ra-cm3-256": {  # as large as the paper's, 2.8 billion parameters
        "model": {
            "family": "multimodal", "codes": 8192, "tokens": 49_408, "caption_tokens": 77,
            "transformer": {"width": 2560, "depth": 24, "head_channels": 80},
        },
        "context": _TWO_DOCUMENTS,
        "training": {"batch": 64, "learning_rate": 1e-4, "warmup_steps": 1500, "precision": "bf16"},
    },
    "ra-cm3-small-256": {  # 423 M parameters
        "model": {
            "family": "multimodal", "codes": 8192, "tokens": 49_408, "caption_tokens": 77,
            "transformer": {"width": 1024, "depth": 18, "head_channels": 64},
        },
        "context": _TWO_DOCUMENTS,
        "training": {"batch": 64, "learning_rate": 3e-4, "warmup_steps": 1500, "precision": "bf16"},
    },
    "reimagen-64": {  # 64 px as they are, the base of the paper's cascade; the text of ViT-B/32
        "model": _references(
            {"network": "unet", "channels": [192, 384, 576, 768], "attention_levels": [1, 2, 3],
             "depth": 3, "head_channels": 64},
            text_width=512,
        ),
        "context": _TEXT_AND_TWO,
        "training": {"batch": 64, "warmup_steps": 1000, "precision": "bf16"},
    },
    "reimagen-256": {  # 32x32 latents of 256 px images, in place of the paper's cascade
        "model": _references(
            {"network": "transformer", "channels": [1024], "depth": 24, "head_channels": 64,
             "patch": 2},
            text_width=512,
        ),
        "context": _TEXT_AND_TWO,
        "training": {"batch": 64, "warmup_steps": 1000, "precision": "bf16"},
    },
    "knn-256": {  # 32x32 latents of 256 px images, in place of the paper's cascade
        "model": _diffusion(
            {"network": "transformer", "channels": [1024], "depth": 24, "head_channels": 64,
             "patch": 2, "query_token": True},
            {"process": "flow"},
        ),
        "context": _QUERY_AND_TEN,
        "training": {"batch": 64, "warmup_steps": 1000, "precision": "bf16"},
    },
    "emoji": {  # what the run emoji of this package was trained with
        "model": _references(_EMOJI_NETWORK, text_width=128),
        **_EMOJI,
        "context": {"k": 2, "text_dropout": 0.1},
    },
    "knn-emoji": {  # the same network, given vectors alone
        "model": _diffusion(
            {**_EMOJI_NETWORK, "query_token": True, "remove_means": True}, {"process": "flow"}
        ),
        **_EMOJI,
        "upstream": {**_EMOJI["upstream"], "of": "image"},
        "context": {"k": 4, "random_k": True, "query_dropout": 0.1},
    },
    **_of_data_sets(),
}  # fmt: skip

DEMO_AUTOENCODER = "rdm-shapes-kl"
DEMO_WORLD: dict[str, Any] = {
    "size": 64,
    "positions": ["centre"],
    "sizes": ["large"],
    "accessories": ["none"],
}
"""The part of the shapes world that a network learns in minutes on two cores; all shapes, colours,
styles and backgrounds. And its size: what DEMO_AUTOENCODER was trained on.
"""
DEMO_SOURCES: dict[str, dict[str, Any]] = {
    "shapes-train": {"count": 5000, "split": "train"},
    "shapes-database": {"count": 5000, "split": "database"},
    "shapes-heldout": {"count": 500, "split": "heldout"},
    "shapes-photographs": {"count": 1000, "split": "photographs", "styles": ["photograph"]},
    "shapes-sketches": {"count": 1000, "split": "sketches", "styles": ["sketch"]},
}
"""The demo's sets of images: disjoint draws of that part."""
