"""A run, its evaluation and its samples, small and made by hand: what a report is written of."""

import json

import numpy as np
import pyarrow as pa

from flows.config.judge import WriteReport
from flows.judge import report
from rdm_core.images import encode
from storage.artifact import Artifact
from storage.build import begin
from storage.embeddings import write_embeddings
from storage.manifest import Plan
from storage.runs import append_metrics
from storage.samples import write_samples
from storage.shards import SIDECAR, EncodedSample, SampleRecord, write_shard

HOSTILE = "<script>alert(1)</script>"
ENCODER = {"model": "rdm-shapes", "weights_sha256": "ab" * 32, "dimension": 4, "preprocessing": {}}
LICENCES = ("CC-BY-4.0", None, "CC0-1.0")
KEYS = [f"db-{i}" for i in range(6)]


def around(mean, half=0.01):
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": 64}


def both(colour, shape):
    return {"colour": around(colour), "shape": around(shape)}


def styles(photograph, oil_painting, sketch):
    return {
        "photograph": around(photograph),
        "oil painting": around(oil_painting),
        "sketch": around(sketch),
    }


QUALITY = dict.fromkeys(
    ("fd", "kid", "precision", "recall", "density", "coverage", "copy_rate"), around(0.5)
)


def sharp(grain, edges):
    """A row of grain and edges, beside held-out images with grain 2.0 and edges 10.0."""
    row = {"grain": around(grain), "edges": around(edges)}
    row |= {"grain / held-out": around(grain / 2), "edges / held-out": around(edges / 10)}
    return row | {"grain / database": around(grain / 4), "edges / database": around(edges / 20)}


EVALUATION = {
    "judged": {
        "run": "shapes@1", "baseline": "without@1", "database": "db@1", "held-out images": "h@1",
        "judge": "shapes", "extractor": "oracle", "judge_clip": None, "seeds": 2, "prompts": 64,
        "images": 128,
    },
    "left out": {"clip scores": "no judge_clip is named"},
    "not checked": [],
    "loss": {
        "means": {
            "right neighbors": around(0.20), "shuffled neighbors": around(0.29),
            "learned null": around(0.26), "trained without neighbors": around(0.25),
        },
        "relative to trained without neighbors": {
            "right neighbors": around(-0.2), "shuffled neighbors": around(0.16),
            "learned null": around(0.04),
        },
        "share of the gain lost when shuffled": 0.9,
    },
    "prompts": {
        "text, context query": both(0.8, 0.7), "text, context query+neighbors": both(0.9, 0.8),
        "text, context neighbors": both(0.85, 0.75), "another prompt's context": both(0.1, 0.1),
        "learned null": both(0.125, 0.12), "trained without neighbors": both(0.13, 0.12),
        "return the neighbour": both(0.99, 0.98),
        "chance": {"colour": around(0.125, 0), "shape": around(0.125, 0)},
    },
    "swaps": {
        "photograph": {"styles": styles(0.97, 0.02, 0.01)} | both(0.9, 0.8),
        "sketch": {"styles": styles(0.03, 0.01, 0.96)} | both(0.7, 0.8),
    },
    "quality": {
        "held-out neighbors": QUALITY, "learned null": QUALITY, "return the neighbour": QUALITY,
    },
    "clean and sharp": {
        "held-out images": sharp(2.0, 10.0), "held-out neighbors": sharp(9.0, 8.0),
        "random database images": sharp(4.0, 20.0),
    },
    "copies": {
        "samples": 0.02, "return the neighbour": 1.0, "held-out images, by definition": 0.01,
    },
}  # fmt: skip


def picture(seed, side=16):
    return encode(
        np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8), "png"
    )


def publish(root, kind, name, write, parameters=None, inputs=None, **measured) -> Artifact:
    with begin(root, Plan(kind, name, {"made": name} | (parameters or {}), inputs or {})) as build:
        return build.commit([build.write_part("00000", "", write)], {"seconds": 1.5, **measured})


def publish_database(root, name="db", side=16, captions=HOSTILE):
    records = [
        SampleRecord(
            key,
            key,
            width=side,
            height=side,
            sha256="0",
            captions=(captions,),
            author=HOSTILE,
            licence="CC-BY-4.0",
        )
        for key in KEYS
    ]
    rejected = SampleRecord("db-x", "db-x", status="rejected", reason="truncated")
    encoded = [EncodedSample(record, picture(i, side)) for i, record in enumerate(records)] + [
        EncodedSample(rejected)
    ]
    shards = publish(root, "shards", name, lambda scratch: write_shard(scratch, "00000", encoded))
    sidecar = pa.Table.from_pylist([record.__dict__ for record in records], schema=SIDECAR)
    vectors = np.eye(4, dtype=np.float32)[np.arange(len(KEYS)) % 4]
    norms = np.ones(len(KEYS), np.float32)
    database = publish(
        root,
        "embeddings",
        name,
        lambda scratch: (write_embeddings(scratch, "00000", sidecar, vectors, norms), {}),
        {"encoder": ENCODER},
        {"shards": shards.fingerprint},
        weights="built-in",
    )
    publish(
        root,
        "index",
        name,
        lambda scratch: ((scratch / "vectors.npy").write_bytes(b"x"), {}),
        {"recipe": "exact"},
        {"embeddings": database.fingerprint},
        recall_at_k=1.0,
        k=20,
        recall_queries=6,
        milliseconds_per_query=0.05,
    )
    return database


def publish_run(root, name, database, metrics=True):
    def write(scratch):
        (scratch / "weights").mkdir()
        (scratch / "weights" / "model.safetensors").write_bytes(name.encode())
        (scratch / "metrics.jsonl").touch()
        for step in range(25, 1525, 25) if metrics else ():
            append_metrics(scratch, {"step": step, "loss": 1 / step + 0.1, "gradient_norm": 0.5})
        return 1, {}

    return publish(
        root,
        "runs",
        name,
        write,
        {"encoder": ENCODER, "training": {"k": 4}},
        {"database": database.fingerprint} if database else {},
    )


def sample_record(number, database, neighbors):
    """The row of one sample, with as many neighbors."""
    record = {
        "file": f"{number:05d}.png", "query": f"a red circle {HOSTILE}", "seed": number,
        "guidance_scale": 2.0, "weights": "w",
        "database": database.fingerprint if database else None,
        "neighbor_keys": (KEYS * 5)[:neighbors],
        "neighbor_scores": [], "licences": [], "authors": [], "source_urls": [],
        "style_database": None, "given_images": [], "attributions": None,
    }  # fmt: skip
    for place in range(neighbors):
        record["neighbor_scores"].append(0.9 - place / 100)
        record["licences"].append(LICENCES[place % 3])
        record["authors"].append(HOSTILE if place == 0 else f"author {place}")
        record["source_urls"].append(f"https://example.org/{place}.jpg")
    return record


def publish_samples(root, name, database, side=16, count=2, neighbors=3):
    records = [sample_record(number, database, neighbors) for number in range(count)]
    asked = {"texts": ["a red circle"], "k": 4, "context": None}
    asked |= {"draw": {"guidance_scale": 2.0, "steps": 30}}
    images = [picture(100 + i, side) for i in range(count)]
    return publish(
        root,
        "samples",
        name,
        lambda scratch: (write_samples(scratch, images, records, picture(0)), {}),
        asked,
        {"database": database.fingerprint} if database else {},
    )


def publish_evaluation(root, measured=EVALUATION, database=None):
    def write(scratch):
        (scratch / "evaluation.json").write_text(json.dumps(measured, sort_keys=True))
        return 1, {}

    inputs = {"database": database.fingerprint} if database else {}
    asked = {"measured": json.dumps(measured, sort_keys=True)}
    return publish(root, "evaluations", "shapes", write, asked, inputs)


def publish_all(root, evaluation=EVALUATION, **database):
    opened = publish_database(root, **database)
    for name in ("shapes", "without"):
        publish_run(root, name, opened)
    publish_evaluation(root, evaluation)
    return opened


def config(root, samples=(), artifacts=("shards/db", "embeddings/db", "index/db")):
    return WriteReport(
        root=root,
        name="demo",
        run="shapes",
        baseline="without",
        evaluation="shapes",
        samples=samples,
        artifacts=artifacts,
    )


def page_text(root, **changes):
    return str(report.page_of(report.open_subject(config(root, **changes))))
