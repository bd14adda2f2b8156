"""Making what `train-rdm` needs and does not find. What is there is used as it is, whatever it was
made from.
"""

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import AnyImages, ImportImages
from flows.config.train import TrainRDM
from flows.data.build_database import build_database, embed_images
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.data.index_embeddings import index_embeddings
from storage.artifact import Artifact, open_artifact
from storage.checks import shards_behind
from storage.errors import ArtifactMissing
from storage.index import index_of


def make_missing(config: TrainRDM) -> None:
    """images --> shards --> latents; shards --> database; both --> neighbors: each only if nothing
    has its name.

    Raises ArtifactMissing for images that are neither imported nor described in `config.upstream`.
    """
    if found(config, "latents", config.latents) is None:
        ensure_shards(config, config.upstream.images, config.latents)
        encode_latents(
            EncodeLatents(
                root=config.root,
                name=config.latents,
                shards=config.latents,
                **config.upstream.autoencoding(),
            )
        )
    database = found(config, "embeddings", config.database)
    if database is None:
        build_database(embedding(config, config.database, shards_of_database(config)))
    elif not has_index(config, database):
        # The embeddings are there: no shards are read, and their name is only filled in.
        index_embeddings(embedding(config, config.database, config.database), database)
    if found(config, "neighbors", config.neighbors) is None:
        # A table with more neighbors serves trainings with fewer.
        k = max(config.upstream.k, config.context.k)
        queries = ensured_queries(config)
        find_neighbors(
            FindNeighbors(
                root=config.root,
                name=config.neighbors,
                queries=queries,
                database=config.database,
                k=k,
                **config.upstream.searching(),
            )
        )


def ensured_queries(config: TrainRDM) -> str:
    """Embeddings of the training images: the database's own if it holds the same images, else made
    under the latents' name.
    """
    latents = open_artifact(config.root, "latents", config.latents)
    database = open_artifact(config.root, "embeddings", config.database)
    # The database serves as queries where both were made from the same shards.
    of_latents = shards_behind(config.root, "latents", latents.fingerprint)
    if of_latents & shards_behind(config.root, "embeddings", database.fingerprint):
        return config.database
    if found(config, "embeddings", config.latents) is None:
        ensure_shards(config, config.upstream.images, config.latents)
        embed_images(embedding(config, config.latents, config.latents))
    return config.latents


def shards_of_database(config: TrainRDM) -> str:
    """Shards of the database's name if there are any or their images are described, else the
    training images'.
    """
    images = config.upstream.database_images
    if images is None and found(config, "shards", config.database) is None:
        ensure_shards(config, config.upstream.images, config.latents)
        return config.latents
    ensure_shards(config, images, config.database)
    return config.database


def ensure_shards(config: TrainRDM, images: AnyImages | None, name: str) -> None:
    """Import those images under that name unless it has been done. Raises ArtifactMissing when
    nothing describes them.
    """
    if images is None:
        open_artifact(config.root, "shards", name)
    elif found(config, "shards", name) is None:
        import_images(ImportImages(root=config.root, name=name, **images.model_dump()))


def embedding(config: TrainRDM, name: str, shards: str) -> BuildDatabase:
    """How upstream embeddings are made."""
    encoding = config.upstream.encoding()
    return BuildDatabase(root=config.root, name=name, shards=shards, **encoding)


def found(config: TrainRDM, kind: str, reference: str) -> Artifact | None:
    """The artifact, or None when nothing has that name. Raises ArtifactMissing for a version
    (name@id) that is gone.
    """
    try:
        return open_artifact(config.root, kind, reference)
    except ArtifactMissing:
        # A version that was named cannot be made again under its id.
        if "@" in reference:
            raise
        return None


def has_index(config: TrainRDM, database: Artifact) -> bool:
    """Whether the database can be searched."""
    try:
        index_of(config.root, database)
    except ArtifactMissing:
        return False
    return True
