"""The stages that the crash test kills, with parameters that are small."""

from typing import Any

FLOWS = {
    "import": ("flows.data.import_images", "import_images", "ImportShapes"),
    "autoencoder": (
        "flows.model.train_autoencoder",
        "train_autoencoder",
        "TrainAutoencoder",
    ),
    "embed": ("flows.data.build_database", "embed_images", "BuildDatabase"),
    "index": ("flows.data.build_database", "index_embeddings", "BuildDatabase"),
    "neighbors": ("flows.data.find_neighbors", "find_neighbors", "FindNeighbors"),
    "encode": ("flows.data.encode_latents", "encode_latents", "EncodeLatents"),
    "train": ("flows.model.train_rdm", "train_rdm", "TrainRDM"),
    "sample": ("flows.model.sample", "sample_rdm", "SampleRDM"),
    "evaluate": ("flows.judge.evaluate", "evaluate_rdm", "EvaluateRDM"),
    "report": ("flows.judge.report", "write_report", "WriteReport"),
    "demo": ("flows.judge.demo", "demo", "Demo"),
}
"""Stage -> module, flow, parameters."""
_BUILD = {"name": "shapes", "shards": "shapes", "encoder": "rdm-shapes", "weights": "built-in"}
NETWORK = {"network": "transformer", "channels": [32], "depth": 1, "head_channels": 16, "patch": 4}
_LEARNED = {
    "model": {"denoiser": NETWORK, "noise": {"process": "flow"}},
    "context": {"random_k": True, "k": 3},
    "training": {"steps": 150, "batch": 8},
    "reporting": {"checkpoint_steps": 10, "log_steps": 5},
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "import": {
        "name": "shapes",
        "source": "shapes",
        "size": 32,
        "encoding": "png",
        "count": 320,
        "images_per_part": 20,
    },
    "autoencoder": {
        "name": "shapes",
        "shards": "shapes",
        "autoencoder": {
            "kind": "vq",
            "widths": [8, 16],
            "codes": 32,
            "codebook_from": 20,
            "revive_steps": 5,
            "steps": 60,
            "batch": 4,
        },
        "reporting": {"checkpoint_steps": 10, "log_steps": 5},
        "device": "cpu",
    },
    "embed": _BUILD,
    "index": _BUILD | {"recipe": "autofaiss"},
    "neighbors": {"name": "shapes", "queries": "shapes", "database": "shapes", "k": 10},
    "encode": {"name": "shapes", "shards": "shapes"},
    "train": {
        "name": "shapes",
        "latents": "shapes",
        "neighbors": "shapes",
        "database": "shapes",
        **_LEARNED,
        "device": "cpu",
        "threads": 1,
    },
    "sample": {
        "name": "crash",
        "run": "shapes",
        "texts": ["a red circle", "a blue star"],
        "count": 4,
        "draw": {"steps": 40},
    },
    "evaluate": {
        "name": "crash",
        "run": "shapes",
        "heldout_latents": "shapes-heldout",
        "heldout_neighbors": "shapes-heldout",
        "swaps": {"sketch": "shapes-sketches"},
        "prompts": 8,
        "seeds": 1,
        "draw": {"steps": 5},
    },
    "report": {
        "name": "crash",
        "run": "shapes",
        "evaluation": "shapes",
        "samples": ["demo-text", "demo-class"],
        "artifacts": ["shards/shapes-train", "embeddings/shapes-train", "index/shapes-database"],
    },
    "demo": {"scale": 0.02, "steps": 12},
}
"""Small, but several parts or checkpoints each, so that a kill has something to land in."""
CHAIN = ("import", "autoencoder", "embed", "index", "neighbors", "encode", "train")
"""Stages of which each works on what the one before it made."""
ON_THE_DEMO = ("sample", "evaluate", "report")
"""Stages that work on what the demo made."""
STAGES = (*CHAIN, *ON_THE_DEMO, "demo")
