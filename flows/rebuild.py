"""One data set from its images to all that training and sampling need: what a schedule runs."""

from flows.build_database import ensured_database
from flows.config import BuildDatabase, EncodeLatents, FindNeighbors, ImportImages, Rebuild
from flows.encode_latents import encode_latents, latents_plan
from flows.find_neighbors import find_neighbors, neighbors_plan
from flows.import_images import import_images, import_plan
from flows.stage import ensured, stage_flow
from storage.artifact import Artifact


@stage_flow("rebuild")
def rebuild(config: Rebuild) -> Artifact:
    """Bring everything under one name up to date; unchanged input is a no-op, changed input redoes the parts it touches.

    images --import--> shards --embed, index--> database --neighbors--> table
                         └-----encode--> latents
    """
    here = {"root": config.root, "name": config.name}
    ensured(import_images, import_plan, ImportImages(**here, **config.images.model_dump()))
    encoder = {"encoder": config.encoder, "weights": config.weights, "precision": config.precision}
    ensured_database(BuildDatabase(**here, shards=config.name, **encoder))
    ensured(encode_latents, latents_plan, EncodeLatents(**here, shards=config.name, autoencoder=config.autoencoder))
    searched = FindNeighbors(**here, queries=config.name, database=config.name, k=config.k)
    return ensured(find_neighbors, neighbors_plan, searched)
