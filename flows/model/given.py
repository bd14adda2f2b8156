"""What a model that reads more than vectors is given beside them: the text of each image, and the
captions and the latents of its neighbors, of any database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flows.data.database import OpenDatabase
from flows.model.opening import OpenRun
from flows.run.progress import say
from rdm_core.clip import Encoder
from rdm_core.context import Context
from rdm_core.data import NO_ROW, References, StoredLatents, Texts
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from rdm_core.images import centre_square
from rdm_core.latents import ENCODED_TOGETHER
from rdm_core.retrieve import Retrieved
from storage.checks import images_missing
from storage.errors import ArtifactMissing


@dataclass(frozen=True)
class Neighbors:
    """The captions and latents of some rows of a database, each row once."""

    rows: np.ndarray
    """Database rows int64 [U], rising."""
    texts: Texts | None
    references: References | None

    def beside(self, context: Context, rows: np.ndarray) -> Context:
        """Contexts [B, K, D] with what is known of their rows int64 [B, K]."""
        places = np.searchsorted(self.rows, rows)
        places = np.where(rows == NO_ROW, NO_ROW, places)
        if self.references is not None:
            context = replace(context, references=self.references.of(places))
        if self.texts is not None:
            first = self.texts.of(places, np.zeros(places.shape))
            context = replace(context, neighbor_texts=first)
        return context.with_texts_of_neighbors_alone()


def given(
    run: OpenRun,
    retrieved: Retrieved,
    database: OpenDatabase | None,
    texts: Sequence[str | None] | None = None,
) -> Context:
    """The contexts [B, K, D] of B images, with what the run's model reads beside the vectors: the
    text of each, if it has one, and of each neighbor the first caption and the latents.

    Each neighbor's image is encoded once. Raises RequestError for a text that is longer than the
    encoder reads, and ArtifactMissing where the images of the database are not under its root.
    """
    reads, context = run.model.reads, retrieved.context
    if reads.captions:
        count = len(retrieved)
        own = own_texts(run.encoder, texts or [None] * count)
        context = replace(context, text=own.of(np.arange(count), np.zeros(count)))
    if not reads.references:
        return context
    rows = np.unique(retrieved.rows[retrieved.rows != NO_ROW])
    if not len(rows) or database is None:
        return context
    return neighbors_of(run, database, rows).beside(context, retrieved.rows)


def without_neighbors(run: OpenRun, context: Context) -> Context:
    """Contexts of as many samples as these [B, K, D] without neighbors: the null of the run's
    model; for one that reads more than vectors the same contexts, with their texts, without any.
    """
    reads = run.model.reads
    if reads.captions or reads.references:
        return context.without_neighbors()
    return run.model.null(len(context.vectors))


def own_texts(encoder: Encoder, texts: Sequence[str | None]) -> Texts:
    """The texts of B images, as the encoder's tokenizer gives them.

    Raises RequestError for a text that is longer than the encoder reads.
    """
    distinct = sorted({text for text in texts if text is not None})
    for text, is_cut in zip(distinct, encoder.too_long(distinct), strict=True):
        if is_cut:
            what = f"{text[:60]!r} has more than the {encoder.context_length} tokens that the "
            what += f"text tower of {encoder.name} reads"
            raise RequestError("texts", what, "Shorten it.")
    return Texts.made([[] if text is None else [text] for text in texts], encoder.tokens)


def neighbors_of(run: OpenRun, database: OpenDatabase, rows: np.ndarray) -> Neighbors:
    """What the run's model reads of some rows int64 [U] of a database. Raises ArtifactMissing."""
    credits, texts = database.credits(rows.tolist()), None
    if run.model.reads.captions:
        captions = [credit["captions"] or [] for credit in credits]
        texts = Texts.made(captions, run.encoder.tokens)
        cut = run.encoder.too_long([text for of_row in captions for text in of_row[:1]])
        if cut.any():
            what = f"{int(cut.sum()):,} captions of neighbors are longer than the "
            what += f"{run.encoder.context_length} tokens that the encoder reads: they are cut"
            say("sample", database.embeddings.name, f"{what}; shorten them and import again")
    images = images_of(database, [credit["key"] for credit in credits], run)
    return Neighbors(rows, texts, encoded(run, images))


def images_of(database: OpenDatabase, keys: Sequence[str], run: OpenRun) -> list[np.ndarray]:
    """The images of some keys, uint8 [S, S, 3] of the side S that the run draws. Raises
    ArtifactMissing where one is not under the database's root.
    """
    side, files = run.facts.latent_side * run.model.works_in.factor, database.images(list(keys))
    absent = [key for key in keys if key not in files]
    if absent:
        what, cure = images_missing(database.embeddings)
        what = f"the image of {absent[0]!r} is not there, and the model reads it ({what})"
        raise ArtifactMissing(f"embeddings/{database.embeddings.name}", what, cure)
    return [centre_square(decode(files[key]), side) for key in keys]


def encoded(run: OpenRun, images: Sequence[np.ndarray]) -> References:
    """The latents of U images uint8 [S, S, 3], of a kind that the run's model is trained on."""
    space, stored = run.model.works_in, run.model.reads.stored
    kind = space.stored_by_default if space.stored_by_default in stored else stored[0]
    parts = []
    for start in range(0, len(images), ENCODED_TOGETHER):
        parts.append(space.encode(images[start : start + ENCODED_TOGETHER], kind))
    return References(StoredLatents(parts), np.arange(len(images)))
