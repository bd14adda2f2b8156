"""A small preset, trained on a GPU for the time that is left, then judged and drawn: the demo's is
the last part of `benchmarks.on_gpu`, other families' follow their large ones.

The pictures are rendered, embedded and compared in memory, with `rdm_core` alone.
"""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from os import sched_getaffinity
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_parts import Share, how_drawn
from flows.config.presets import DEMO_AUTOENCODER, DEMO_SOURCES, DEMO_WORLD, PRESETS
from rdm_core.config import ContextConfig

SIDE = DEMO_WORLD["size"]
STORED_NEIGHBORS = 20
AUTOENCODER_OF_CODES = "rdm-shapes-vq"
DRAW_STEPS = 30
ENCODED = 100
"""Images that are encoded at once."""


def demo(share: Share) -> None:
    """The demo's own preset."""
    trained_preset("shapes", share)


def trained_preset(name: str, share: Share) -> None:
    """Train a preset in what is left of the time; then share of samples that show the shape and
    colour of their prompt, and the style of another database; and a picture.
    """
    from rdm_core.clip import load_encoder
    from rdm_core.families import config_of
    from rdm_core.latents import load_latent_space
    from rdm_core.shapes.encoder import register
    from rdm_core.shapes.oracle import load_oracle

    began = time.monotonic()
    register()
    encoder = load_encoder("rdm-shapes", "built-in", share.device)
    images = {source: rendered(source, share.tiny) for source in DEMO_SOURCES}
    vectors = {source: encoder.encode_images(list(pixels)) for source, pixels in images.items()}
    settings = PRESETS[name]["model"]
    config = config_of(settings["family"]).of(settings)
    autoencoder = AUTOENCODER_OF_CODES if config.codebook else DEMO_AUTOENCODER
    space = load_latent_space(autoencoder).to(torch.device(share.device))
    data = training_data(images["shapes-train"], vectors, share.device, space, config)
    k = PRESETS[name]["context"].get("k", ContextConfig().k)
    prepared = time.monotonic()
    # a quarter of the time is kept for judging and drawing
    model, steps = trained(name, config, data, space, began + 0.75 * share.seconds, share)
    ended = time.monotonic()
    oracle = load_oracle()
    share.tell({"steps": steps, "training_seconds": ended - prepared})
    texts = prompts(8 if share.tiny else 256)
    context = text_context(encoder, texts, vectors["shapes-database"], share.device, k)
    drawn = draw(model, context, share)
    rows = [drawn[:48]]
    shown = oracle.predict(drawn)
    for number, factor in enumerate(("colour", "shape")):
        wanted = np.array([text.split()[1 + number] for text in texts])
        share.tell({f"{factor}_by_text": float((shown[factor] == wanted).mean())})
    for source, style in (("shapes-photographs", "photograph"), ("shapes-sketches", "sketch")):
        context = text_context(encoder, texts, vectors[source], share.device, k, own=False)
        swapped = draw(model, context, share)
        hits = oracle.predict(swapped)["style"] == style
        share.tell({f"{style}_by_database": float(hits.mean())})
        rows.append(swapped[:16])
    sheet = [*rows, images["shapes-heldout"][:16]]
    share.tell({"demo_picture": write_picture(name, sheet, share)})


def rendered(name: str, tiny: bool, side: int = SIDE) -> np.ndarray:
    """One of the demo's sets of images, uint8 [N, side, side, 3]."""
    source = DEMO_WORLD | DEMO_SOURCES[name]
    count, split, _ = source.pop("count"), source.pop("split"), source.pop("size")
    render = partial(render_one, split=split, side=side, restrictions=source)
    if tiny:
        return np.stack([render(index) for index in range(40)])
    # spawned, as this process uses the GPU already
    with ProcessPoolExecutor(len(sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        return np.stack(list(pool.map(render, range(count), chunksize=100)))


def render_one(index: int, split: str, side: int, restrictions: dict[str, Any]) -> np.ndarray:
    """One picture uint8 [side, side, 3]."""
    from rdm_core.shapes.world import sample

    return sample(split, index, side, **restrictions).pixels


def training_data(
    pixels: np.ndarray, vectors: dict[str, Any], device: str, space: Any, config: Any
) -> Any:
    """The demo's training data: raw latents [N, C, h, w], or codes [N, h, w], of images uint8 [N,
    S, S, 3], each with its nearest of the database; and its own vector, if the model reads it.
    """
    from rdm_core.data import StoredLatents, TrainingData

    queries, _ = vectors["shapes-train"]
    database, norms = vectors["shapes-database"]
    rows, scores = nearest(queries, database, min(STORED_NEIGHBORS, len(database)), device)
    stored = "codes" if config.codebook else None
    raw = []
    for start in range(0, len(pixels), ENCODED):
        raw.append(space.encode(list(pixels[start : start + ENCODED]), stored))
    latents = StoredLatents([np.concatenate(raw)])
    means = np.stack([queries.mean(axis=0), queries.mean(axis=0)])
    own = {}
    if config.reads.query:
        own = {"query_vectors": queries, "query_norms": np.ones(len(queries), np.float32)}
    return TrainingData(latents, rows, scores, database, norms, means=means, **own)


def nearest(
    queries: np.ndarray, vectors: np.ndarray, k: int, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 [Q, k] and scores float32 [Q, k] of the nearest, by one product."""
    products = torch.from_numpy(queries).to(device) @ torch.from_numpy(vectors).to(device).T
    scores, rows = products.topk(k, dim=1)
    return rows.cpu().numpy(), scores.cpu().numpy()


def trained(
    name: str, settings: Any, data: Any, space: Any, deadline: float, share: Share,
    encoder: Any = None,
) -> tuple[Any, int]:  # fmt: skip
    """The preset's model, of the family's configuration `settings`, after as many steps as fit, and
    how many these were: a first short training measures the rate. One that reads texts reads them
    with the encoder.
    """
    from rdm_core.config import ReportingConfig, TrainingConfig
    from rdm_core.families import family_of
    from rdm_core.families.facts import Shape
    from rdm_core.train import Hooks, train

    preset = PRESETS[name]
    config = TrainingConfig(**preset["training"])
    if share.device == "cuda":  # a card is hardly busy with 32 samples
        config = replace(config, batch=256, precision="bf16")
    hooks = Hooks(lambda record, speed: None, lambda step, state: None)
    reporting = ReportingConfig(log_steps=50, checkpoint_steps=10**9)
    context = ContextConfig(**preset["context"])
    shape = Shape(space.channels, data.side, data.dimension)

    def train_for(steps: int) -> Any:
        model = family_of(settings.family).build(settings, shape, space, seed=config.seed)
        model.set_means(data.means)
        if model.reads.captions:
            model.set_encoder(encoder)
        chosen = replace(config, steps=steps)
        return train(model, data, chosen, hooks, context=context, reporting=reporting)

    began = time.monotonic()
    trial = 2 if share.tiny else 100
    train_for(trial)
    rate = trial / (time.monotonic() - began)
    steps = 4 if share.tiny else max(trial, int((deadline - time.monotonic()) * rate))
    return train_for(steps), steps


def prompts(count: int) -> list[str]:
    """Prompts "a COLOUR SHAPE", every pair once before any comes twice."""
    from rdm_core.shapes.world import COLOURS, SHAPES

    texts = []
    for shape in SHAPES:
        for colour in COLOURS:
            texts.append(f"a {colour} {shape}")
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[order[number % len(texts)]] for number in range(count)]


def text_context(
    encoder: Any, texts: list[str], database: Any, device: str, k: int, own: bool = True
) -> Any:
    """Contexts of prompts: the text's own vector, unless `own` is False, and its nearest rows, k
    vectors in all.
    """
    from rdm_core.context import NEIGHBOR, TEXT, Context

    vectors, norms = encoder.encode_texts(texts)
    rows, scores = nearest(vectors, database[0], k - own, device)
    near, near_norms = database[0][rows], database[1][rows]
    slots = np.full(rows.shape, NEIGHBOR)
    if own:
        near = np.concatenate([vectors[:, None], near], axis=1)
        near_norms = np.concatenate([norms[:, None], near_norms], axis=1)
        scores = np.concatenate([np.ones((len(texts), 1), np.float32), scores], axis=1)
        slots = np.concatenate([np.full((len(texts), 1), TEXT), slots], axis=1)
    return Context.of(near, near_norms, scores, slots)


def draw(model: Any, context: Any, share: Share) -> np.ndarray:
    """One image a context, uint8 [B, SIDE, SIDE, 3]."""
    how = how_drawn(model.family, 2 if share.tiny else DRAW_STEPS)
    seeds = list(range(len(context.vectors)))
    images: np.ndarray = model.draw(context, seeds, how)
    return images


def write_picture(name: str, rows: list[np.ndarray], share: Share) -> str:
    """A PNG of images uint8 [N, SIDE, SIDE, 3], 16 a row: three rows by prompts, one from a
    database of photographs, one of sketches, and one of held-out images. Answers with its name.
    """
    from PIL import Image

    from rdm_core.images import grid

    sheet = Image.fromarray(grid(list(np.concatenate(rows)), columns=16))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(
        share.folder / f"{name}.png"
    )
    return f"{name}.png"
