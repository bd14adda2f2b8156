"""One data set from its images to all that training and sampling need: what a schedule runs."""

from flows.build_database import build_database
from flows.config import BuildDatabase, EncodeLatents, FindNeighbors, ImportImages, Rebuild
from flows.encode_latents import encode_latents
from flows.find_neighbors import find_neighbors
from flows.import_images import import_images
from flows.stage import stage_flow
from storage.artifact import Artifact


@stage_flow("rebuild")
def rebuild(config: Rebuild) -> Artifact:
    """Bring everything under one name up to date; unchanged input is a no-op, changed input redoes the parts it touches.

    images --import--> shards --embed, index--> database --neighbors--> table
                         └-----encode--> latents
    """
    here = {"root": config.root, "name": config.name}
    shards = import_images(ImportImages(**here, **config.images.model_dump()))
    build_database(BuildDatabase(**here, shards=shards.name, encoder=config.encoder, weights=config.weights))
    encode_latents(EncodeLatents(**here, shards=shards.name, autoencoder=config.autoencoder))
    return find_neighbors(FindNeighbors(**here, queries=config.name, database=config.name, k=config.k))
