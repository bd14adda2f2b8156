"""A database that can be searched, and asked who made its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.config.database import Search
from flows.run.progress import say
from rdm_core.errors import RequestError
from rdm_core.retrieve import Database
from rdm_core.search import Searcher
from rdm_core.selection import SelectiveSearcher
from rdm_core.words import WordIndex
from storage.artifact import Artifact
from storage.checks import shards_of
from storage.conditions import satisfying
from storage.embeddings import read_columns_of, read_rows
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.index import faiss_file, index_of, open_index_of, open_norms, open_vectors
from storage.manifest import Manifest, Plan
from storage.shards import CREDIT_COLUMNS, read_some_images

if TYPE_CHECKING:
    from rdm_core.clip import Encoder


@dataclass(frozen=True)
class OpenDatabase:
    """A database, ready to be searched and asked who made its images."""

    embeddings: Artifact
    retrieval: Database
    root: Path
    index: Artifact
    condition: str | None = None
    """What a row has to satisfy to be found."""

    def only_where(self, condition: str | None, k: int = 20) -> OpenDatabase:
        """The same database, of which only rows that satisfy a condition are ever found: the k
        nearest of them. None: all of them.

        How many they are is told, and what an approximate index finds of the nearest k; where that
        is less than the index was built to find, every row is compared. Raises ConditionError.
        """
        if condition is None:
            return self
        searcher = SelectiveSearcher(
            self.retrieval.searcher, satisfying(self.embeddings, condition)
        )
        told = f"{searcher.candidates:,} of {self.embeddings.rows:,} rows satisfy the condition"
        if searcher.index is not None:
            recall = searcher.recall(k)
            told += f", of whose nearest {k} the index finds {100 * recall:.0f} %"
            if recall < self.index.parameters.get("recall_target", 0):
                searcher = searcher.without_index()
                told += ": every one is compared"
        say("where", self.embeddings.name, told)
        return replace(self, retrieval=self.retrieval.only(searcher), condition=condition)

    @property
    def encoder(self) -> Encoder:
        """The encoder that embedded it; raises what `the_encoder` raises."""
        # Loading it takes half of the time that a search needs to start; not every search needs it.
        from flows.data.encoders import the_encoder

        made, weights = self.embeddings, self.embeddings.measured["weights"]
        return the_encoder(
            made.parameters["encoder"],
            weights,
            f"embeddings/{made.name}",
            "build the database again",
        )

    @property
    def by_words(self) -> Database:
        """For queries that are looked up by words. Raises what `word_index` raises."""
        return replace(self.retrieval, words=word_index(self.embeddings))

    def credits(self, rows: list[int]) -> list[dict[str, Any]]:
        """key, source_key, captions, labels, style, author, licence and source url of some rows.

        Only the parts that hold them are read.
        """
        columns = ["key", "source_key", *CREDIT_COLUMNS]
        return read_rows(self.embeddings, rows, columns).to_pylist()

    def images(self, keys: list[str]) -> dict[str, bytes]:
        """Encoded images by key; none when the shards are not under this root."""
        shards = shards_of(self.root, self.embeddings)
        return read_some_images(shards, keys) if shards else {}


def searchable(root: Path, embeddings: Artifact) -> OpenDatabase:
    """Open the index over some embeddings. Raises what `open_index_of` raises."""
    index = open_index_of(root, embeddings)
    searcher = Searcher(open_vectors(index), faiss_file(index))
    return OpenDatabase(embeddings, Database(searcher, np.asarray(open_norms(index))), root, index)


def index_in_plan(root: Path, role: str, embeddings: Artifact | None) -> dict[str, str]:
    """The index that `searchable` opens over some embeddings, by its fingerprint, as an input of
    what is made by searching: an approximate one may find other neighbors than the next.

    Nothing where there is none: then searching is refused.
    """
    if embeddings is None:
        return {}
    try:
        return {role: index_of(root, embeddings).fingerprint}
    except ArtifactMissing:
        return {}


def searched_by(table: Manifest | Plan) -> Search:
    """How the neighbors of a table are found."""
    return "words" if table.parameters.get("search") == "words" else "vectors"


def captions_of(embeddings: Artifact) -> list[list[str]]:
    """The captions of every row, in row order; an empty list for a row without any."""
    return _captions_in(embeddings.files(".parquet"))


def _captions_in(paths: Sequence[Path]) -> list[list[str]]:
    captions = read_columns_of(paths, ["captions"])["captions"].to_pylist()
    return [of_row or [] for of_row in captions]


def word_index(embeddings: Artifact) -> WordIndex:
    """The words of a database's captions, kept while a process searches them. Raises
    ArtifactMismatch where it has none.
    """
    try:
        return _words_in(tuple(embeddings.files(".parquet")))
    except RequestError as error:
        where = f"embeddings/{embeddings.name}"
        raise ArtifactMismatch(where, error.what, error.cure) from error


@lru_cache(maxsize=2)  # a database, and that of a style
def _words_in(paths: tuple[Path, ...]) -> WordIndex:
    return WordIndex(_captions_in(paths))


def keys_of(embeddings: Artifact, groups: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Keys [N] of every row and its values in some columns [N, G], read once a process while they
    are used.
    """
    return _keys_in(tuple(embeddings.files(".parquet")), groups)


# Four: the queries and the database that they are searched in, each by two sorts of columns.
@lru_cache(maxsize=4)
def _keys_in(paths: tuple[Path, ...], groups: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    columns = read_columns_of(paths, ["key", *groups])
    keys = np.asarray(columns["key"].to_pylist(), dtype=object)
    values = [np.asarray(columns[name].to_pylist(), dtype=object) for name in groups]
    return keys, np.stack(values, axis=1)
