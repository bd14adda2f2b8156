"""One data set from its images to all that training and sampling need: what a schedule runs."""

from flows.config.acquire import AcquireEmoji
from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors, Rebuild
from flows.config.images import ImportImages
from flows.data.acquire import acquire
from flows.data.build_database import ensured_database
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.data.space_needed import check_rebuild, weights_of
from flows.run.progress import say
from flows.run.stage import NETWORK_RETRIES, stage_flow, stage_task
from storage.artifact import Artifact


@stage_task(name="weights", retries=NETWORK_RETRIES)
def look_for_weights(config: Rebuild) -> None:
    """Fetch the weights, before images are fetched that nothing could be made of."""
    weights_of(config)


@stage_task(name="preflight", retries=NETWORK_RETRIES)
def look_ahead(config: Rebuild) -> None:
    """Fetch the weights and look whether there is room, before anything is started; refuses what
    cannot be done here.
    """
    say("rebuild", config.name, check_rebuild(config))


@stage_flow("rebuild")
def rebuild(config: Rebuild) -> Artifact:
    """Bring everything under one name up to date; unchanged input is a no-op, changed input redoes
    the parts it touches.

    [where they live --acquire-->] images --import--> shards --embed, index--> database
    database --neighbors--> table      shards --encode--> latents
    """
    if config.acquire is not None:
        look_for_weights(config)
        fetched = config.acquire
        if isinstance(fetched, AcquireEmoji):
            # Of what is fetched here, the rebuild itself makes the database, in its own root.
            fetched = fetched.model_copy(update={"databases": False})
        acquire(fetched)
    look_ahead(config)
    here = {"root": config.root, "name": config.name}
    import_images.ensured(ImportImages(**here, **config.images.model_dump()))
    ensured_database(BuildDatabase(**here, shards=config.name, **config.encoding()))
    encode_latents.ensured(
        EncodeLatents(**here, shards=config.name, **config.autoencoding()),
    )
    sides = {"queries": config.name, "database": config.name}
    searched = FindNeighbors(**here, **sides, k=config.k, where=config.where)
    return find_neighbors.ensured(searched)
