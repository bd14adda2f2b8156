"""The pictures of emoji -> a database of each style, and the run that draws from them."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any

from flows.config.acquire import EMOJI_RUN, AcquireEmoji
from flows.config.database import BuildDatabase
from flows.config.images import ImportImages
from flows.data.build_database import ensured_database
from flows.data.import_images import import_images
from flows.run.progress import Clock, say
from flows.run.revisions import plan_of
from flows.run.stage import building, published, single_part, stage_task
from rdm_core import emoji
from storage.artifact import Artifact, open_artifact
from storage.atomic import sha256_file
from storage.build import Build
from storage.errors import ArtifactMissing
from storage.manifest import Part

SIDE_PIXELS = 64
"""Of the crops: what the autoencoder and the run of this package were trained on."""
VECTORS: dict[str, Any] = {
    "encoder": "rdm-emoji", "weights": "built-in", "of": "document", "precision": "float32",
}  # fmt: skip
"""How a picture gets its vector: of the picture together with its name and keywords."""


def build_emoji(config: AcquireEmoji) -> dict[str, str]:
    """What `rdm sample --run emoji --database STYLE` needs, under a root; name -> version.

    pictures --import--> shards --embed, index--> a database of each style, held-out concepts too
    this package --copy--> run
    """
    made = build_databases(config.root, config.path, config.styles)
    run = install_run(config.root)
    return made if run is None else made | {EMOJI_RUN: run.id}


def build_databases(root: Path, path: Path, styles: Sequence[str]) -> dict[str, str]:
    """A database of each style of the pictures in a folder, named as the style -> its version."""
    made = {}
    for style in styles:
        import_images.ensured(
            ImportImages(
                root=root, name=style, source="emoji", path=path, style=style, size=SIDE_PIXELS,
                encoding="png",
            )
        )  # fmt: skip
        embeddings, _ = ensured_database(
            BuildDatabase(root=root, name=style, shards=style, **VECTORS)
        )
        made[style] = embeddings.id
    return made


def install_run(root: Path) -> Artifact | None:
    """The run that is part of this package, under a root and the name EMOJI_RUN. Where a run of
    that name was trained there, it stays what the name means: None.
    """
    with suppress(ArtifactMissing):
        if "part_of" not in open_artifact(root, "runs", EMOJI_RUN).parameters:
            say("acquire", EMOJI_RUN, "a run of that name was trained here, and stays")
            return None
    clock = Clock()
    hashes = {}
    for file in sorted(emoji.RUN.rglob("*")):
        if file.is_file():
            hashes[file.relative_to(emoji.RUN).as_posix()] = sha256_file(file)
    plan = plan_of("runs", EMOJI_RUN, {"part_of": "rdm", "files": hashes}, {})
    with building(root, plan) as build:
        return build.finished or published(build, copy_run(build), clock)


@stage_task(name="copy-run")
def copy_run(build: Build) -> list[Part]:
    """The only part: the weights folder."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        copytree(emoji.RUN, scratch / "weights")
        return 1, {}

    return single_part(build, "weights", write)
