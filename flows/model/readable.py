"""What keeps captions from being read by a model that wants them."""

from collections.abc import Mapping, Sequence

from flows.config.train import TrainRDM
from flows.data.database import captions_of
from flows.data.encoders import encoder_for, the_encoder
from flows.data.upstream import embedding, found
from flows.model.captions import captions_by_key, images_of
from flows.run.progress import say
from rdm_core.clip import Encoder
from storage.artifact import Artifact
from storage.embeddings import read_columns
from storage.errors import ArtifactMismatch


def check_captions(config: TrainRDM) -> None:
    """Refuse images without captions, and captions that the encoder's text tower cannot read, where
    the model reads them; what is not there yet is not looked at.

    Raises ArtifactMismatch, and what opening the encoder raises.
    """
    reads = config.model.reads
    if not reads.captions:
        return
    latents = found(config, "latents", config.latents)
    database = found(config, "embeddings", config.database)
    shards = found(config, "shards", config.latents)
    if latents is not None:
        shards = images_of(config.root, latents)
    if database is None:
        encoder = encoder_for(embedding(config, config.database, config.latents))
    else:
        encoder = encoder_of_database(database)
    config.model.check_encoder(encoder)
    longest = config.model.longest_caption
    if shards is not None:
        without = refuse_captions(shards, captions_by_key(shards), encoder, longest)
        if without:
            what = f"{without:,} of {shards.rows:,} images have no caption"
            say("train", config.name, f"{what}: the model sees them without text")
    if database is not None and reads.references:
        keys = read_columns(database, ["key"])["key"].to_pylist()
        captions = dict(zip(keys, captions_of(database), strict=True))
        refuse_captions(database, captions, encoder, longest)


def encoder_of_database(database: Artifact) -> Encoder:
    """The encoder that embedded a database; raises what `the_encoder` raises."""
    weights, where = database.measured["weights"], f"embeddings/{database.name}"
    return the_encoder(database.parameters["encoder"], weights, where, "build the database again")


def refuse_captions(
    artifact: Artifact,
    captions: Mapping[str, Sequence[str]],
    encoder: Encoder,
    longest: int | None = None,
) -> int:
    """How many of some images have no caption, by key. Raises ArtifactMismatch where none has one,
    or one is longer than the encoder's text tower reads, or the `longest` that the model reads.
    """
    where = f"{artifact.kind}/{artifact.name}"
    without = sum(not texts for texts in captions.values())
    if without == len(captions):
        what = f"none of its {without:,} images has a caption, and the model reads captions"
        cure = "Import them with captions, or train a model that reads none."
        raise ArtifactMismatch(where, what, cure)
    keys = [key for key, texts in captions.items() for _ in texts]
    flat = [text for texts in captions.values() for text in texts]
    too_long = encoder.too_long(flat).nonzero()[0]
    if len(too_long):
        what = f"{len(too_long):,} of its {len(flat):,} captions are longer than the "
        what += f"{encoder.context_length} tokens that the text tower of {encoder.name} reads, "
        what += f"the first is of {keys[too_long[0]]!r}"
        cure = "Shorten them and import again, or embed with an encoder that reads longer texts."
        raise ArtifactMismatch(where, what, cure)
    if longest is not None and len(too_long := encoder.too_long(flat, longest).nonzero()[0]):
        what = f"{len(too_long):,} of its {len(flat):,} captions are longer than the {longest} "
        what += f"tokens that the model reads, the first is of {keys[too_long[0]]!r}"
        cure = "Train a model that reads longer ones, or shorten them and import again."
        raise ArtifactMismatch(where, what, cure)
    return without
