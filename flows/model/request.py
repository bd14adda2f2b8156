"""What a sample is asked for, in the words of `SampleRDM`, turned into contexts: queries are looked
up here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from flows.config.database import Search
from flows.config.parameters import path_as_text
from flows.config.sample import SampleRDM
from flows.data.database import OpenDatabase
from flows.data.query_image import query_image
from flows.model.editing import as_the_run_draws
from flows.model.given import given
from flows.model.opening import OpenRun, facts_of, open_run
from flows.run.progress import say
from rdm_core.context import Context
from rdm_core.errors import RequestError
from rdm_core.families import config_of
from rdm_core.families.facts import RunFacts
from rdm_core.families.family import Beside
from rdm_core.retrieve import (
    STRATEGIES,
    Database,
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
from rdm_core.words import prompt_of
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
    """What was found, with the rows that it is made of."""
    context: Context
    """The same as the model is given it, with what else the model reads."""
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
    search, k = search_of(config, opened.run), vectors_in(config, opened.run.facts)
    found = _looked_up(config, opened, search, k, rng)
    images = np.arange(len(found.names))
    if config.between:
        # Steps between two queries share their seeds: only the context changes from one to the
        # next.
        images %= config.count
    seeds = [config.seed + image for image in images.tolist()]
    styled = _style_of(config, opened, search, k, len(images))
    context = given(opened.run, found.retrieved, opened.database, found.texts)
    beside = beside_of(config, opened, styled)
    return Request(found.names, found.retrieved, context, seeds, styled, beside)


def search_of(config: SampleRDM, run: OpenRun) -> Search:
    """How neighbors are looked up: as asked, else as those of the run's training were, where there
    are words to look up.

    Raises RequestError where words are asked for, and there are none.
    """
    search = searched_by(config, run.facts)
    if search == "vectors" and config.search == "words":
        asked = "images have none" if config.images else "nothing is asked for in words"
        what = "between two texts there are none" if config.texts else asked
        cure = "Give texts, or use --set search=vectors."
        raise RequestError("search", f"words are looked up, and {what}", cure)
    return search


def searched_by(config: SampleRDM, facts: RunFacts) -> Search:
    """How a request's neighbors are looked up: by words only where words are asked with."""
    if not (config.texts or config.classes) or config.between:
        return "vectors"
    trained_so: Search = "words" if facts.search == "words" else "vectors"
    return config.search or trained_so


def vectors_in(config: SampleRDM, facts: RunFacts) -> int:
    """How many vectors a context has: as many as asked for, else as many as in the run's training,
    its own query among them.
    """
    if config.k is not None:
        return config.k
    return facts.k + (1 if config_of(facts.family).of(facts.model).reads.query else 0)


def beside_of(config: SampleRDM, opened: Opened, styled: Retrieved | None) -> Beside:
    """What a drawing is given beside its contexts: what to go away from, a style, an image."""
    run = opened.run
    negative = style = weaker = image = mask = picture = None
    if config.negative is not None:
        alone = query_only(text_queries(run, [config.negative]), None, 1)
        negative = given(run, alone, None, [config.negative])
    if styled is not None:
        style = given(run, styled, opened.style_database, [config.style_text] * len(styled))
    if config.weaker_run is not None:
        weaker = weaker_run(config, run).model
    if config.inpaint is not None and config.mask is not None:
        image, mask = query_image(config.inpaint), query_image(config.mask)
    if config.edit is not None:
        picture = as_the_run_draws(config.edit, config, run)
    return Beside(negative, weaker, style, image, mask, picture)


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


def text_queries(run: OpenRun, texts: Sequence[str], search: Search = "vectors") -> Queries:
    """Prompts as queries, whose neighbors are looked up by vectors or by words."""
    words = [prompt_of(text) for text in texts] if search == "words" else None
    return Queries(*run.encoder.encode_texts(list(texts)), texts=True, words=words)


def image_queries(run: OpenRun, paths: Sequence[Path]) -> Queries:
    """Image files as queries. Raises RequestError for a file that is no usable image."""
    return Queries(*run.encoder.encode_images([query_image(path) for path in paths]), texts=False)


@dataclass(frozen=True)
class _Found:
    """What each of the B images is drawn for, and its context."""

    names: list[str]
    """In words, as the record holds it."""
    texts: list[str | None]
    """What a model that reads texts is given; None where it was asked by anything else."""
    retrieved: Retrieved


def _looked_up(
    config: SampleRDM, opened: Opened, search: Search, k: int, rng: np.random.Generator
) -> _Found:
    """What each of the B images is drawn for, and its context of k vectors."""
    database = _searched(config, opened.database, search) if opened.database else None
    if config.classes:
        assert database is not None, "classes always have a database"
        names: list[str] = []
        for name in config.classes:
            names += [name] * config.count
        texts = [f"An image of a {name}." for name in names]
        queries = text_queries(opened.run, texts, search)
        _say_unknown(config, queries, database)
        pooled = neighbors_from_pool(queries, database, k, config.pool, rng)
        return _Found(names, list(texts), pooled)
    if config.texts or config.images:
        names, queries = _texts_or_images(config, opened.run, search)
        beside = _images_beside_texts(config, opened.run, len(names))
        # The given images take places in the context, and the neighbors get the rest of them.
        found = k - (beside.rows.shape[1] if beside else 0)
        if found < 1:
            raise RequestError(
                "k", f"{k} vectors hold no more than the given images", "Use a larger k."
            )
        _say_unknown(config, queries, database)
        strategy = STRATEGIES[config.context or usual_context(opened.run)]
        retrieved = strategy(queries, database, found)
        asked: list[str | None] = [name if config.texts else None for name in names]
        return _Found(names, asked, joined(retrieved, beside) if beside else retrieved)
    assert opened.database is not None, "pseudo-queries always have a database"
    assert database is not None, "which is searched by vectors"
    drawn = _pseudo_queries(config, opened.run, opened.database, rng)
    # Rows stand for the images that would be asked for, so their vectors are the queries.
    queries = Queries(database.vectors(drawn), np.ones(len(drawn), np.float32), texts=False)
    keys = [credit["key"] for credit in opened.database.credits(drawn.tolist())]
    return _Found(keys, [None] * len(keys), neighbors_only(queries, database, k))


def _searched(config: SampleRDM, database: OpenDatabase, search: Search) -> Database:
    """What a request's neighbors are taken from."""
    searched = database.retrieval if search == "vectors" else database.by_words
    return replace(searched, most_alike=config.most_alike)


def _say_unknown(config: SampleRDM, queries: Queries, database: Database | None) -> None:
    """Say which texts share no word with any caption, where words are looked up: they have no
    neighbors.
    """
    if queries.words is None or database is None or database.words is None:
        return
    known = database.words.knows(queries.words)
    unknown = sorted({" ".join(of_text) for of_text in compress(queries.words, ~known)})
    if unknown:
        what = f"no caption of the database has a word of {', '.join(map(repr, unknown))}"
        say("sample", config.name, f"{what}: drawn without neighbors; or --set search=vectors")


def usual_context(run: OpenRun) -> str:
    """What a model is given for a text or an image unless something else is asked for: neighbors
    alone, if it reads them whole and the text by itself.
    """
    return "neighbors" if run.model.reads.captions else "query+neighbors"


def _texts_or_images(config: SampleRDM, run: OpenRun, search: Search) -> tuple[list[str], Queries]:
    """The queries in words and as vectors, as often as images are wanted."""
    names = list(config.texts) or [path_as_text(Path(path.name)) for path in config.images]
    if config.texts:
        queries = text_queries(run, config.texts, search)
    else:
        queries = image_queries(run, config.images)
    if config.between:
        if config.texts and run.model.reads.captions:
            what = "the model reads texts, and between two texts there is none"
            raise RequestError("between", what, "Give two images, or texts one by one.")
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
) -> np.ndarray:
    """Without a query: rows int64 [B] as pseudo-queries, by how often the run's training set
    retrieved a row of this database.

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
    if database.retrieval.allowed is not None:
        counts = np.where(database.retrieval.allowed, counts, 0)
    top_m = config.top_m if trained_here else 1.0
    return draw_pseudo_queries(counts, top_m, config.count, rng, config.weighted)


def training_counts(run: OpenRun, database: OpenDatabase) -> np.ndarray:
    """How often the run's training set retrieved each row of the database it was trained with:
    int64 [N].
    """
    table = run.facts.trained_on["neighbors"]
    _, rows, _ = read_neighbors(open_artifact(database.root, "neighbors", table.reference))
    return retrieval_counts(rows[:, : run.facts.k], database.retrieval.rows)


def _style_of(
    config: SampleRDM, opened: Opened, search: Search, k: int, count: int
) -> Retrieved | None:
    """The second context: k neighbors of the style text in the style's database, or the text alone
    where there is none.
    """
    if config.style_text is None:
        return None
    queries = text_queries(opened.run, [config.style_text], search)
    queries = queries.take(np.zeros(count, dtype=np.int64))
    if opened.style_database is None:
        return query_only(queries, None, 1)
    return neighbors_only(queries, _searched(config, opened.style_database, search), k)
