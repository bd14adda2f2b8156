"""The whole path in one flow, on the built-in world: images -> database -> training -> samples ->
report.
"""

from os import sched_getaffinity
from typing import Any

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import AnyImport, ImportImages
from flows.config.judge import BuiltInWorld, Demo, EvaluateRDM, WriteReport
from flows.config.presets import DEMO_AUTOENCODER, DEMO_SOURCES, DEMO_WORLD, PRESETS
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.build_database import ensured_database
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.judge.evaluate import evaluate_rdm
from flows.judge.report import write_report
from flows.model.sample import sample_rdm
from flows.model.train_rdm import train_rdm
from flows.run.stage import stage_flow
from storage.artifact import Artifact

DATABASE = "shapes-database"
SWAPS = {"photograph": "shapes-photographs", "sketch": "shapes-sketches"}


@stage_flow("demo")
def demo(config: Demo) -> tuple[Artifact, Artifact]:
    """Everything once, ending with a report that shows whether the model uses its neighbors.

    shapes --import--> shards --embed, index--> databases --neighbors, encode--> tables, latents
    --train--> run --sample, evaluate--> report
    """
    prepare_world(config)
    # On two cores two processes train faster than one with two threads: docs/results.md.
    processes = min(2, len(sched_getaffinity(0)))
    train_rdm.ensured(training(config, "shapes").model_copy(update={"processes": processes}))
    samples = [sample_rdm.ensured(request) for request in requests(config)]
    evaluation = evaluate_rdm.ensured(evaluation_of(config))
    return evaluation, write_report.ensured(report_of(config, samples))


def prepare_world(config: BuiltInWorld) -> None:
    """Shards and databases of every set of images, and what training and evaluation read of two of
    them.
    """
    for name, source in DEMO_SOURCES.items():
        prepare_images(config, name, source)
    for name in ("shapes-train", "shapes-heldout"):
        prepare_data(config, name)


def prepare_images(
    config: BuiltInWorld, name: str, source: dict[str, Any], weights: str = "built-in"
) -> None:
    """The shards of a set of images, their embeddings and the index of those."""
    import_images.ensured(shapes_source(config, name, source))
    ensured_database(
        BuildDatabase(
            root=config.root,
            name=name,
            shards=name,
            encoder="rdm-shapes",
            weights=weights,
            precision="float32",  # which is faster here is told by chance
        )
    )


def prepare_data(config: BuiltInWorld, name: str) -> None:
    """What training or evaluation read of a set of images: its latents, and its neighbors in the
    database.
    """
    find_neighbors.ensured(
        FindNeighbors(root=config.root, name=name, queries=name, database=DATABASE),
    )
    encode_latents.ensured(
        EncodeLatents(root=config.root, name=name, shards=name, autoencoder=DEMO_AUTOENCODER)
    )


def shapes_source(config: BuiltInWorld, name: str, source: dict[str, Any]) -> AnyImport:
    """One set of images, smaller when the demo is asked to be."""
    # At least 64: a smaller database has too few neighbors to tell.
    drawn = DEMO_WORLD | source | {"count": max(64, int(source["count"] * config.scale))}
    return ImportImages(
        root=config.root,
        name=name,
        source="shapes",
        encoding="png",
        seed=config.seed,
        **drawn,
    )


def training(
    config: BuiltInWorld,
    name: str,
    preset_name: str = "shapes",
    images: str = "shapes-train",
    **changes: Any,
) -> TrainRDM:
    """One of the presets for the built-in world on a set of images, with changes to its
    training.
    """
    preset = PRESETS[preset_name]
    settings = preset["training"] | {"steps": config.steps, "seed": config.seed} | changes
    inputs = {"latents": images, "neighbors": images, "database": DATABASE}
    return TrainRDM(root=config.root, name=name, **inputs, **preset | {"training": settings})


def requests(config: Demo) -> list[SampleRDM]:
    """What the report shows: text, a swapped database, a class, and nothing at all."""
    texts = ("a red circle", "a blue star", "a green heart", "a yellow cross")
    common: dict[str, Any] = {
        "root": config.root,
        "run": "shapes",
        "draw": {"guidance_scale": 2.0, "steps": 30},
        "seed": config.seed,
    }
    return [
        SampleRDM(name="demo-text", texts=texts, count=2, **common),
        SampleRDM(
            name="demo-photographs",
            texts=texts,
            count=2,
            context="neighbors",
            database=SWAPS["photograph"],
            **common,
        ),
        SampleRDM(
            name="demo-sketches",
            texts=texts,
            count=2,
            context="neighbors",
            database=SWAPS["sketch"],
            **common,
        ),
        SampleRDM(name="demo-class", classes=("ring", "crescent"), count=3, **common),
        SampleRDM(name="demo-unconditional", count=6, **common),
    ]


def evaluation_of(config: Demo) -> EvaluateRDM:
    """What the report's figures are measured on."""
    return EvaluateRDM(
        root=config.root,
        name="shapes",
        run="shapes",
        heldout_latents="shapes-heldout",
        heldout_neighbors="shapes-heldout",
        swaps=SWAPS,
        prompts=max(8, int(256 * min(1.0, config.scale))),
        seeds=2,
        draw={"steps": 12, "sampler": "dpm++"},
        quality_images=max(11, int(200 * min(1.0, config.scale))),
    )


def report_of(config: Demo, samples: list[Artifact]) -> WriteReport:
    """The page over everything above."""
    artifacts: list[str] = []
    for name in DEMO_SOURCES:
        artifacts += (f"shards/{name}", f"embeddings/{name}", f"index/{name}")
    for name in ("shapes-train", "shapes-heldout"):
        artifacts += (f"neighbors/{name}", f"latents/{name}")
    return WriteReport(
        root=config.root,
        name="demo",
        run="shapes",
        evaluation="shapes",
        samples=tuple(artifact.name for artifact in samples),
        artifacts=tuple(artifacts),
    )
