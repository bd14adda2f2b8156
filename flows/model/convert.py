"""What was released in 2022 -> what this project samples from: models, autoencoders, embedding
archives.

checkpoint --read without running code--> tensors --rename--> a run's weights, or an autoencoder
.npz archives --> embeddings --> index: a database without images, of unknown licences
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.database import BuildDatabase
from flows.config.train import ConvertOriginal
from flows.data.encoders import encoder_of
from flows.data.index_embeddings import index_embeddings
from flows.run.progress import Clock, say
from flows.run.revisions import plan_of, revision_of
from flows.run.stage import (
    building,
    kept,
    published,
    single_part,
    stage_flow,
    stage_task,
)
from rdm_core.clip import Encoder
from rdm_core.errors import RequestError
from rdm_core.families.facts import RunFacts
from rdm_core.families.family import Model
from rdm_core.latents import load_latent_space
from rdm_core.originals import (
    AUTOENCODERS,
    LAYOUTS,
    ModelLayout,
    convert_autoencoder,
    convert_model,
    model_config,
    read_checkpoint,
)
from rdm_core.weights import model_card
from storage.artifact import Artifact
from storage.atomic import sha256_file
from storage.build import Build
from storage.embeddings import write_embeddings
from storage.manifest import Part, made_from
from storage.sources.archives import archive_sidecar, read_archive

ARCHIVES = "embeddings"
"""The layout of embedding archives."""
AUTOENCODER_FOLDER = "autoencoder"
TRAINED_K = 4
"""Neighbors that every released 256-pixel model was trained with."""


@stage_flow("convert-original")
def convert_original(config: ConvertOriginal) -> Artifact | Path:
    """A released file in the layout that `config.layout` names; an autoencoder alone becomes a
    plain folder.

    Raises RequestError when a file is not there, and what reading it raises.
    """
    for path in config.files:
        if not path.is_file():
            raise RequestError(
                path, "there is no such file", "Give the path of a released file on this machine."
            )
    if config.layout in AUTOENCODERS:
        return convert_autoencoder_file(config)
    if config.layout == ARCHIVES:
        return convert_archives(config)
    return convert_weights(config, LAYOUTS[config.layout])


def convert_weights(config: ConvertOriginal, layout: ModelLayout) -> Artifact:
    """A checkpoint -> a run that can be sampled from, with the autoencoder it holds."""
    clock = Clock()
    encoder = encoder_of(
        config.encoder or layout.encoder, config.encoder_weights or layout.encoder_weights
    )
    # The file does not say which encoder made its contexts; a wrong one shows in the dimension.
    if encoder.dimension != layout.context_dimension:
        what = (
            f"{encoder.name} makes vectors of {encoder.dimension}, "
            f"{layout.name} takes {layout.context_dimension}"
        )
        raise RequestError(
            "encoder", what, f"Leave it out: {layout.encoder} with {layout.encoder_weights}."
        )
    parameters = {
        "layout": layout.name,
        "ema": config.ema,
        "sha256": sha256_file(config.files[0]),
        "encoder": encoder.identity,
    }
    with building(config.root, plan_of("runs", config.name, parameters, {})) as build:
        if build.finished:
            return kept(build)
        parts = write_converted(build, config, layout, encoder)
        return published(build, parts, clock)


@stage_task(name="convert-weights")
def write_converted(
    build: Build, config: ConvertOriginal, layout: ModelLayout, encoder: Encoder
) -> list[Part]:
    """The only part: a weights folder with the autoencoder inside."""
    state = read_checkpoint(config.files[0])

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        folder = scratch / "weights"
        autoencoder: Any = convert_autoencoder(state, AUTOENCODERS[layout.autoencoder])
        # Inside the weights folder, so that the run needs no other file.
        autoencoder.save_pretrained(folder / AUTOENCODER_FOLDER)
        space = load_latent_space(str(folder / AUTOENCODER_FOLDER))
        model = convert_model(state, layout, space, config.ema)
        facts = converted_facts(config, layout, encoder, model)
        model.save(folder, facts)
        card = model_card(config.name, facts, {"not stated": 0})
        (folder / "README.md").write_text(card, encoding="utf-8")
        return 1, {}

    return single_part(build, "weights", write)


def converted_facts(
    config: ConvertOriginal, layout: ModelLayout, encoder: Encoder, model: Model
) -> RunFacts:
    """What a run of our own would say of itself; what it was trained on was never published with
    it.
    """
    return RunFacts(
        family=model.family,
        model=asdict(model_config(layout)),
        encoder=encoder.identity,
        vectors_of="image",
        encoder_weights=config.encoder_weights or layout.encoder_weights,
        space=model.works_in.identity,
        space_path=AUTOENCODER_FOLDER,
        latent_side=layout.latent_side,
        k=TRAINED_K,
        random_k=False,
        neighbor_dropout=0.0,
        steps=0,
        parameters=model.parameter_count,
        converted_from={
            "file": config.files[0].name,
            "layout": layout.name,
            "ema": config.ema,
        },
    )


def convert_autoencoder_file(config: ConvertOriginal) -> Path:
    """An autoencoder's checkpoint -> the folder `--out`, which `--set autoencoder=...` takes."""
    if config.out is None:
        raise RequestError(
            "out",
            "an autoencoder becomes a plain folder, and none is named",
            "Give --out DIRECTORY.",
        )
    if config.out.exists():
        raise RequestError(config.out, "is there already", "Give another directory, or delete it.")
    autoencoder: Any = convert_autoencoder(
        read_checkpoint(config.files[0]), AUTOENCODERS[config.layout]
    )
    autoencoder.save_pretrained(config.out)
    say("convert", config.layout, f"written to {config.out}")
    return config.out


def convert_archives(config: ConvertOriginal) -> Artifact:
    """Embedding archives -> a database: a part a file."""
    clock = Clock()
    weights = config.encoder_weights or "openai"
    encoder = encoder_of(config.encoder or "ViT-B-32", weights)
    files = sorted(config.files, key=lambda path: path.name)
    hashes = {path.name: sha256_file(path) for path in files}
    plan = plan_of(
        "embeddings",
        config.name,
        {"encoder": encoder.identity, "of": "image", "archives": hashes},
        {},  # no shards: the images behind these vectors were never published
    )
    with building(config.root, plan) as build:
        embeddings = build.finished
        if embeddings is None:
            parts = []
            for path in files:
                parts.append(convert_archive(build, path, hashes[path.name], encoder.dimension))
            embeddings = published(build, parts, clock, weights=weights)
    index = BuildDatabase(
        root=config.root, name=config.name, shards=config.name,  # not read
        encoder=config.encoder or "ViT-B-32", weights=weights,
    )  # fmt: skip
    index_embeddings.ensured(index, embeddings)
    return embeddings


@stage_task(name="convert-archive")
def convert_archive(build: Build, path: Path, sha256: str, dimension: int) -> Part:
    """One file's vectors, made unit, with the norms they had."""
    name, parameters = path.stem, build.plan.parameters
    revision = revision_of("embeddings").values()
    origin = made_from(parameters["encoder"], parameters["of"], sha256, *revision)
    part = build.existing_part(name, origin)
    if part:
        return part
    keys, sources, vectors, norms = read_archive(path)
    if vectors.shape[1] != dimension:
        what = f"holds vectors of {vectors.shape[1]}, the encoder makes {dimension}"
        raise RequestError(
            path,
            what,
            "Name the encoder they were made with: --set encoder=... --set encoder_weights=...",
        )
    sidecar = archive_sidecar(keys, sources)

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        return write_embeddings(scratch, name, sidecar, vectors, np.asarray(norms)), {}

    return build.write_part(name, origin, write)
