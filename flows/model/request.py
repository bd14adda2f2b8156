"""What a sample is asked for, in the words of `SampleRDM`, turned into contexts: queries are looked
up here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.config.parameters import path_as_text
from flows.config.sample import SampleRDM
from flows.data.database import OpenDatabase
from flows.data.query_image import query_image
from flows.model.editing import image_to_edit
from flows.model.opening import OpenRun, facts_of, open_run
from flows.run.progress import say
from rdm_core.errors import RequestError
from rdm_core.families.family import Beside
from rdm_core.retrieve import (
    STRATEGIES,
    Queries,
    Retrieved,
    draw_pseudo_queries,
    interpolated,
    joined,
    neighbors_from_pool,
    neighbors_only,
    query_only,
    retrieval_counts,
)
from storage.artifact import open_artifact
from storage.neighbors import read_neighbors


@dataclass(frozen=True)
class Opened:
    """The artifacts that a request is answered from."""

    run: OpenRun
    database: OpenDatabase | None
    """None: the request looks nothing up."""
    style_database: OpenDatabase | None = None
    """Where the style's neighbors come from, if not from the database."""


@dataclass(frozen=True)
class Request:
    """What a model is asked for: B contexts, in words what each was looked up with, and how it
    is drawn.
    """

    queries: list[str]
    retrieved: Retrieved
    seeds: list[int]
    styled: Retrieved | None = None
    """Where the style's vectors came from."""
    beside: Beside = Beside()
    """What the model is given beside the contexts."""


def request_of(config: SampleRDM, opened: Opened) -> Request:
    """Look the queries up, `count` times each, and everything else that the images are drawn
    with.
    """
    rng = np.random.default_rng(config.seed)
    names, retrieved = _looked_up(config, opened, rng)
    images = np.arange(len(names))
    if config.between:
        # Steps between two queries share their seeds: only the context changes from one to the
        # next.
        images %= config.count
    seeds = [config.seed + image for image in images.tolist()]
    styled = _style_of(config, opened, len(names))
    return Request(names, retrieved, seeds, styled, beside_of(config, opened.run, styled))


def beside_of(config: SampleRDM, run: OpenRun, styled: Retrieved | None) -> Beside:
    """What a drawing is given beside its contexts: what to go away from, a style, an image."""
    negative = weaker = image = mask = picture = None
    if config.negative is not None:
        negative = query_only(text_queries(run, [config.negative]), None, 1).context
    if config.weaker_run is not None:
        weaker = weaker_run(config, run).model
    if config.inpaint is not None and config.mask is not None:
        image, mask = query_image(config.inpaint), query_image(config.mask)
    if config.edit is not None:
        picture = image_to_edit(config, run)
    return Beside(negative, weaker, styled.context if styled else None, image, mask, picture)


def weaker_run(config: SampleRDM, run: OpenRun) -> OpenRun:
    """The run to guide away from.

    Raises RequestError, before its weights are loaded, when it is of another family, or works in
    another latent space or with another encoder.
    """
    assert config.weaker_run is not None, "asked for"
    facts = facts_of(open_artifact(config.root, "runs", config.weaker_run))
    in_words = {"family": "family", "space": "latent space", "encoder": "encoder"}
    for fact, words in in_words.items():
        if getattr(facts, fact) != getattr(run.facts, fact):
            what = f"{config.weaker_run!r} is of another {words} than {config.run!r}"
            cure = "Give an earlier or smaller run trained like the first."
            raise RequestError("weaker_run", what, cure)
    return open_run(config.root, config.weaker_run)


def text_queries(run: OpenRun, texts: Sequence[str]) -> Queries:
    """Prompts as queries."""
    return Queries(*run.encoder.encode_texts(list(texts)), texts=True)


def image_queries(run: OpenRun, paths: Sequence[Path]) -> Queries:
    """Image files as queries. Raises RequestError for a file that is no usable image."""
    return Queries(*run.encoder.encode_images([query_image(path) for path in paths]), texts=False)


def _looked_up(
    config: SampleRDM, opened: Opened, rng: np.random.Generator
) -> tuple[list[str], Retrieved]:
    """What each of the B images is drawn for, in words, and its context."""
    database = opened.database.retrieval if opened.database else None
    if config.classes:
        assert database is not None, "classes always have a database"
        names: list[str] = []
        for name in config.classes:
            names += [name] * config.count
        queries = text_queries(opened.run, [f"An image of a {name}." for name in names])
        return names, neighbors_from_pool(queries, database, config.k, config.pool, rng)
    if config.texts or config.images:
        names, queries = _texts_or_images(config, opened.run)
        given = _images_beside_texts(config, opened.run, len(names))
        # The given images take places in the context, and the neighbors get the rest of them.
        k = config.k - (given.rows.shape[1] if given else 0)
        if k < 1:
            raise RequestError(
                "k", f"{config.k} vectors hold no more than the given images", "Use a larger k."
            )
        retrieved = STRATEGIES[config.context or "query+neighbors"](queries, database, k)
        return names, joined(retrieved, given) if given else retrieved
    assert opened.database is not None, "pseudo-queries always have a database"
    return _pseudo_queries(config, opened.run, opened.database, rng)


def _texts_or_images(config: SampleRDM, run: OpenRun) -> tuple[list[str], Queries]:
    """The queries in words and as vectors, as often as images are wanted."""
    names = list(config.texts) or [path_as_text(Path(path.name)) for path in config.images]
    queries = text_queries(run, config.texts) if config.texts else image_queries(run, config.images)
    if config.between:
        shares = np.linspace(0, 1, config.between).tolist()
        first = queries.take(np.full(config.count, 0))
        last = queries.take(np.full(config.count, 1))
        # `interpolated` gives the steps of one image together; here a step's images stand together.
        order = np.arange(config.count * config.between).reshape(config.count, -1).T.ravel()
        steps: list[str] = []
        for share in shares:
            steps += [f"{names[0]} -> {names[1]} at {share:.2f}"] * config.count
        return steps, interpolated(first, last, shares).take(order)
    repeated = np.repeat(np.arange(len(names)), config.count)
    return [names[i] for i in repeated], queries.take(repeated)


def _images_beside_texts(config: SampleRDM, run: OpenRun, count: int) -> Retrieved | None:
    """The vectors of images given beside texts, equal for every sample."""
    if not (config.texts and config.images):
        return None
    together = query_only(image_queries(run, config.images), None, 1).as_one_set()
    return together.take(np.zeros(count, dtype=np.int64))


def _pseudo_queries(
    config: SampleRDM, run: OpenRun, database: OpenDatabase, rng: np.random.Generator
) -> tuple[list[str], Retrieved]:
    """Without a query: pseudo-queries by how often the run's training set retrieved a row of this
    database.

    A database the run was not trained with has no such counts; then every row is as likely as any
    other.
    """
    own = run.facts.trained_on.get("database")
    trained_here = own is not None and own.fingerprint == database.embeddings.fingerprint
    if trained_here:
        counts = training_counts(run, database)
    else:
        say(
            "sample",
            config.name,
            "the run never searched this database: pseudo-queries are uniform, top_m is not used",
        )
        counts = np.ones(database.retrieval.rows, dtype=np.int64)
    # Rows stand for the images that would be asked for, so their vectors are the queries.
    drawn = draw_pseudo_queries(
        counts, config.top_m if trained_here else 1.0, config.count, rng, config.weighted
    )
    queries = Queries(
        database.retrieval.vectors(drawn), np.ones(len(drawn), np.float32), texts=False
    )
    keys = [credit["key"] for credit in database.credits(drawn.tolist())]
    return keys, neighbors_only(queries, database.retrieval, config.k)


def training_counts(run: OpenRun, database: OpenDatabase) -> np.ndarray:
    """How often the run's training set retrieved each row of the database it was trained with:
    int64 [N].
    """
    table = run.facts.trained_on["neighbors"]
    _, rows, _ = read_neighbors(open_artifact(database.root, "neighbors", table.reference))
    return retrieval_counts(rows[:, : run.facts.k], database.retrieval.rows)


def _style_of(config: SampleRDM, opened: Opened, count: int) -> Retrieved | None:
    """The second context: neighbors of the style text in the style's database, or the text alone
    where there is none.
    """
    if config.style_text is None:
        return None
    queries = text_queries(opened.run, [config.style_text]).take(np.zeros(count, dtype=np.int64))
    if opened.style_database is None:
        return query_only(queries, None, 1)
    return neighbors_only(queries, opened.style_database.retrieval, config.k)
