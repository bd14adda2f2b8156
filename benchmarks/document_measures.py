"""What a model of documents makes of entities: T13's figures.

Bits a code with 0, 1 and 2 documents; entities drawn from texts; captions of images; parts of
either filled in; and images classified by examples with made-up labels (RA-CM3, arXiv 2211.12561,
sections 4 and 5).
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from flows.data.database import OpenDatabase
from flows.model.given import given
from flows.model.opening import OpenRun
from rdm_core.context import NEIGHBOR, Context
from rdm_core.data import TrainingData
from rdm_core.families.multimodal.config import Draw
from rdm_core.families.multimodal.draw import captions, infilled
from rdm_core.families.multimodal.model import Multimodal
from rdm_core.families.multimodal.score import caption_scores
from rdm_core.latents import CODES
from rdm_core.retrieve import Queries, neighbors_only
from rdm_core.shapes import entities as world
from rdm_core.shapes.entity_judge import recognise

BITS = 1 / np.log(2)
"""Bits in a nat."""
LABELS = ("dax", "wug")
"""Made-up labels that no caption of the training has."""
AT_ONCE = 100
"""Images whose losses are computed together."""
GREEDY = Draw(guidance_scale=1.0, top_k=1)
"""Captions are the likeliest words, one after the other."""


def model_of(run: OpenRun) -> Multimodal:
    """The run's model of documents."""
    assert isinstance(run.model, Multimodal), "of this family"
    return run.model


def bits(run: OpenRun, data: TrainingData, documents: int, shuffled: bool = False) -> float:
    """Bits a code of held-out images given their captions and so many documents, their own or those
    of other images.
    """
    model, losses = model_of(run), []
    for start in range(0, len(data), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(data)))
        context = data.neighbors(rows, max(1, documents))
        if shuffled:
            other = torch.arange(len(rows)).roll(len(rows) // 2)
            context = replace(context.rows(other), text=context.text)
        inputs = model.inputs(data, rows, slice(None), context, torch.Generator().manual_seed(0))
        inputs = inputs.to(model.device)
        with torch.no_grad():
            losses.append(model.code_losses(inputs, documents).cpu())
    return float(torch.cat(losses).mean()) * BITS


def codes_of(run: OpenRun, images: np.ndarray) -> torch.Tensor:
    """The codes int64 [N, h, w] of images uint8 [N, H, W, 3]."""
    codes = run.model.works_in.encode(list(images), CODES)
    return torch.from_numpy(codes.astype(np.int64))


def documents_of(run: OpenRun, database: OpenDatabase, images: np.ndarray, k: int) -> Context:
    """The k documents whose images are nearest to images uint8 [N, H, W, 3], and no text."""
    queries = Queries(*run.encoder.encode_images(list(images)), texts=False)
    return given(run, neighbors_only(queries, database.retrieval, k), database)


def captioned(
    run: OpenRun, context: Context, samples: Sequence[world.EntitySample]
) -> dict[str, float]:
    """How many of the captions written for samples name the entity, the place and the background:
    shares.
    """
    codes = codes_of(run, np.stack([sample.pixels for sample in samples]))
    tokens = captions(model_of(run), context, codes, range(len(samples)), GREEDY)
    right: dict[str, list[bool]] = {"entity": [], "place": [], "background": [], "all": []}
    for written, sample in zip(words_of(run, tokens), samples, strict=True):
        told = {
            "entity": re.search(rf"\b{sample.entity.name}\b", written) is not None,
            "place": sample.position.replace("centre", "in the centre") in written,
            "background": f"a {sample.background} background" in written,
        }
        for name, value in (told | {"all": all(told.values())}).items():
            right[name].append(value)
    return {name: float(np.mean(values)) for name, values in right.items()}


def words_of(run: OpenRun, tokens: torch.Tensor) -> list[str]:
    """Texts int64 [N, L] in words."""
    texts = []
    for row in tokens.tolist():
        words = run.encoder.tokenizer.decode([token for token in row if token])
        texts.append(re.sub(r"<[^>]*>", " ", words).strip())
    return texts


def filled_in(
    run: OpenRun, context: Context, samples: Sequence[world.EntitySample], how: Draw
) -> dict[str, float]:
    """How often the right entity is seen where the lower half of an image was drawn anew, from the
    rest of it and documents: a share; and of names filled into captions.
    """
    model = model_of(run)
    codes = codes_of(run, np.stack([sample.pixels for sample in samples]))
    known = torch.zeros_like(codes, dtype=torch.bool)
    known[:, : known.shape[1] // 2] = True
    drawn = infilled(model, context, codes, known, range(len(samples)), how)
    images = model.works_in.decode_codes(drawn.numpy().astype(np.uint16))
    numbers = np.array([sample.entity.number for sample in samples])
    group = world.group("held out" if numbers.min() >= world.COUNT - world.HELD_OUT else "known")
    seen = recognise(images, group).which + group[0].number
    # A caption whose name is open: the words before and behind it are known.
    text = run.encoder.tokenizer([sample.caption for sample in samples])
    is_name = torch.zeros_like(text, dtype=torch.bool)
    for row, sample in enumerate(samples):
        before = run.encoder.tokenizer([sample.caption.split(sample.entity.name)[0].strip()])[0]
        first = int((before != 0).sum()) - 1  # without its end
        whole = run.encoder.tokenizer([sample.entity.name])[0]
        is_name[row, first : first + int((whole != 0).sum()) - 2] = True
    asked = replace(context, text=text)
    stay = ~is_name[:, : model.layout.length]
    written = captions(model, asked, codes, range(len(samples)), GREEDY, known=stay)
    named = [
        re.search(rf"\b{sample.entity.name}\b", words) is not None
        for words, sample in zip(words_of(run, written), samples, strict=True)
    ]
    return {"image": float((seen == numbers).mean()), "name": float(np.mean(named))}


def classified(run: OpenRun, shots: int, trials: int, side: int) -> float:
    """How often an image of one of two held-out entities is given the label of its own examples:
    `shots` documents in all, half of each, labelled with words that no training had.
    """
    rng = np.random.default_rng(0)
    group = world.group("held out")
    tokens = run.encoder.tokenizer([world.caption(label) for label in LABELS])
    examples: list[np.ndarray] = []
    asked: list[np.ndarray] = []
    labels, answers = [], []
    for trial in range(trials):
        pair = rng.choice(len(group), 2, replace=False)
        order = rng.permutation(np.repeat([0, 1], shots // 2))
        answer = trial % 2
        for place, which in enumerate([*order.tolist(), answer]):
            position = world.POSITIONS[int(rng.integers(len(world.POSITIONS)))]
            background = world.BACKGROUNDS[int(rng.integers(len(world.BACKGROUNDS)))]
            seed = 1000 * trial + place
            image = world.render(group[pair[which]], position, background, side, seed)
            (examples if place < shots else asked).append(image)
        labels.append(order)
        answers.append(answer)
    codes = codes_of(run, np.stack(examples)).unflatten(0, (trials, shots))
    ones = torch.ones(trials, shots)
    context = Context(
        torch.zeros(trials, shots, run.model.shape.dimension), ones, ones,
        torch.full((trials, shots), NEIGHBOR, dtype=torch.int8), codes,
        None, tokens[torch.from_numpy(np.stack(labels))],
    )  # fmt: skip
    queries = codes_of(run, np.stack(asked))
    scores = caption_scores(model_of(run), context, queries, tokens[None].expand(trials, -1, -1))
    return float((scores.argmax(dim=1).numpy() == np.array(answers)).mean())
