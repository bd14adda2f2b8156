"""A small preset that reads its neighbors' images and captions, trained on a GPU for the time that
is left, on entities; then it draws some that only its database shows.

The pictures are rendered, embedded and compared in memory, with `rdm_core` alone.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from os import sched_getaffinity
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_demo import AUTOENCODER_OF_CODES, draw, trained, write_picture
from benchmarks.gpu_parts import Share
from flows.config.presets import DEMO_AUTOENCODER, PRESETS
from rdm_core.config import ContextConfig

COUNTS = {"train": 8000, "database": 6000, "heldout": 256}
TINY_COUNTS = {"train": 40, "database": 600, "heldout": 8}
GROUPS = {"train": "known", "database": "all", "heldout": "held out"}
"""Set of images -> the entities in it."""
SIDES = {"references": 48, "multimodal": 40}
"""Family -> side of its images."""
STORED_NEIGHBORS = 4


def trained_on_entities(name: str, share: Share) -> None:
    """Train a preset in what is left of the time; then the share of samples that show the entity of
    their text, which training never showed, with neighbors and without; and a picture.
    """
    from rdm_core.clip import load_encoder
    from rdm_core.families import config_of
    from rdm_core.latents import load_latent_space
    from rdm_core.shapes.entities import group
    from rdm_core.shapes.entity_judge import recognise

    began = time.monotonic()
    settings = PRESETS[name]["model"]
    config = config_of(settings["family"]).of(settings)
    encoder = load_encoder("rdm-shapes", "built-in", share.device)
    space = load_latent_space(AUTOENCODER_OF_CODES if config.codebook else DEMO_AUTOENCODER)
    space = space.to(torch.device(share.device))
    images = {of: rendered(of, SIDES[settings["family"]], share.tiny) for of in GROUPS}
    data = data_of(images["train"], images["database"], encoder, space, config)
    prepared = time.monotonic()
    deadline = began + 0.75 * share.seconds  # a quarter of the time is kept for drawing
    model, steps = trained(name, config, data, space, deadline, share, encoder)
    share.tell({"steps": steps, "training_seconds": time.monotonic() - prepared})
    asked = data_of(images["heldout"], images["database"], encoder, space, config)
    k = PRESETS[name]["context"].get("k", ContextConfig().k)
    context = asked.neighbors(np.arange(len(asked)), k)
    wanted = [sample.entity for sample in images["heldout"]]
    members = list(group("held out"))
    drawn = {}
    for how, given in (("with", context), ("without", context.without_neighbors())):
        drawn[how] = draw(model, given, share)
        seen = recognise(drawn[how], members).which
        hits = [members[at] == entity for at, entity in zip(seen, wanted, strict=True)]
        share.tell({f"entities_{how}_neighbors": float(np.mean(hits))})
    truth = np.stack([sample.pixels for sample in images["heldout"]])
    rows = [drawn["with"][:48], drawn["without"][:16], truth[:16]]
    share.tell({"demo_picture": write_picture(name, rows, share)})


def rendered(of: str, side: int, tiny: bool) -> list[Any]:
    """One of the sets of images, of that side."""
    count = (TINY_COUNTS if tiny else COUNTS)[of]
    render = partial(render_one, split=of, side=side)
    if tiny:
        return [render(index) for index in range(count)]
    # spawned, as this process uses the GPU already
    with ProcessPoolExecutor(len(sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(render, range(count), chunksize=100))


def render_one(index: int, split: str, side: int) -> Any:
    """One sample of a set."""
    from rdm_core.shapes.entities import sample

    return sample(split, index, side, entities=GROUPS[split])


def data_of(images: list[Any], database: list[Any], encoder: Any, space: Any, config: Any) -> Any:
    """Training data of samples, each with the database's images of its own entity as neighbors, as
    a search by words finds them.
    """
    from rdm_core.data import NO_ROW, References, StoredLatents, Texts, TrainingData

    of_entity: dict[int, list[int]] = {}
    for row, sample in enumerate(database):
        of_entity.setdefault(sample.entity.number, []).append(row)
    rows = np.full((len(images), STORED_NEIGHBORS), NO_ROW, np.int64)
    for number, sample in enumerate(images):
        found = of_entity.get(sample.entity.number, [])
        own = np.random.default_rng(number).permutation(found)[:STORED_NEIGHBORS]
        rows[number, : len(own)] = own
    stored = "codes" if config.codebook else None
    latents, texts = {}, {}
    for name, samples in (("own", images), ("database", database)):
        raw = []
        for start in range(0, len(samples), 100):
            some = [sample.pixels for sample in samples[start : start + 100]]
            raw.append(space.encode(some, stored))
        latents[name] = StoredLatents([np.concatenate(raw)])
        texts[name] = Texts.made([[sample.caption] for sample in samples], encoder.tokens)
    vectors, norms = encoder.encode_images([sample.pixels for sample in database])
    return TrainingData(
        latents["own"], rows, np.where(rows == NO_ROW, 0, 0.5).astype(np.float32), vectors, norms,
        means=np.zeros((2, vectors.shape[1]), np.float32), texts=texts["own"],
        neighbor_texts=texts["database"],
        references=References(latents["database"], np.arange(len(database))),
    )  # fmt: skip
