"""The captions that a model reads: of training images by key, of a database by row, and as the
encoder's tokenizer gives them.
"""

from collections.abc import Sequence
from pathlib import Path

from flows.data.database import captions_of
from rdm_core.clip import Encoder
from rdm_core.data import Texts
from storage.artifact import Artifact, with_fingerprint
from storage.checks import shards_of
from storage.errors import ArtifactMissing
from storage.shards import accepted, read_sidecar


def captions_by_key(shards: Artifact) -> dict[str, list[str]]:
    """Key -> captions of every image; an empty list for one without any."""
    captions: dict[str, list[str]] = {}
    for part in shards.parts:
        sidecar = accepted(read_sidecar(shards, part.name, ["key", "status", "captions"]))
        texts = sidecar["captions"].to_pylist()
        for key, of_image in zip(sidecar["key"].to_pylist(), texts, strict=True):
            captions[key] = of_image or []
    return captions


def texts_of_images(root: Path, latents: Artifact, keys: Sequence[str], encoder: Encoder) -> Texts:
    """The captions of each training image, in the order of `keys`. Raises ArtifactMissing where
    the images are not under this root.
    """
    captions = captions_by_key(images_of(root, latents))
    return Texts.made([captions[key] for key in keys], encoder.tokens)


def texts_of_database(root: Path, table: Artifact, encoder: Encoder) -> Texts:
    """The captions of each row of the database that a table was searched in. Raises ArtifactMissing
    where that is not under this root.
    """
    fingerprint = table.inputs["database"]
    database = with_fingerprint(root, "embeddings", fingerprint)
    if database is None:
        what = f"no embeddings have the fingerprint {fingerprint}, and the model reads captions"
        raise ArtifactMissing(f"neighbors/{table.name}", what, "Build the database again.")
    return Texts.made(captions_of(database), encoder.tokens)


def images_of(root: Path, latents: Artifact) -> Artifact:
    """The shards that latents were made of. Raises ArtifactMissing."""
    shards = shards_of(root, latents)
    if shards is None:
        what = "its shards are no longer under this root, and the model reads captions"
        raise ArtifactMissing(f"latents/{latents.name}", what, "Import the images again.")
    return shards
