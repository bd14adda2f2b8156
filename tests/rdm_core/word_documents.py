"""What the tests of documents share: the smallest model, and contexts with documents."""

import torch

from rdm_core.context import ABSENT, NEIGHBOR, NO_TOKEN, Context
from rdm_core.families import family_of
from rdm_core.families.facts import Shape
from rdm_core.families.multimodal.config import Config, MaskingConfig, TransformerConfig

CODES, WORDS, FILLER, LENGTH, SIDE, D = 12, 9, 0, 5, 3, 8
SHAPE = Shape(channels=4, side=SIDE, dimension=D)
TRANSFORMER = TransformerConfig(width=32, depth=2, head_channels=16, most_documents=3)
SMALL = Config(
    codes=CODES, tokens=WORDS, filler=FILLER, caption_tokens=LENGTH, transformer=TRANSFORMER,
    masking=MaskingConfig(caption=0.3, words=0.2, box=0.2),
)  # fmt: skip


def made(config=SMALL, seed=0):
    model = family_of("multimodal").build(config, SHAPE, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():  # so that everything matters
            parameter.mul_(2)
    return model


def texts(*shape, seed=0):
    """Texts int64 [*shape, LENGTH + 2] of 1 to LENGTH words, then the filler."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, WORDS, (*shape, LENGTH + 2), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (*shape, 1), generator=generator)
    return torch.where(torch.arange(LENGTH + 2) < lengths, words, FILLER)


def contexts(there, seed=0, k=None):
    """Contexts of samples with so many documents each, the absent ones anywhere among k slots."""
    generator = torch.Generator().manual_seed(seed + 100)
    count, k = len(there), k or max([*there, 1])
    slots = torch.full((count, k), ABSENT, dtype=torch.int8)
    for row, number in enumerate(there):
        slots[row, torch.randperm(k, generator=generator)[:number]] = NEIGHBOR
    captions = texts(count, k, seed=seed + 1)
    captions[slots == ABSENT] = NO_TOKEN
    codes = torch.randint(CODES, (count, k, SIDE, SIDE), generator=generator)
    codes[slots == ABSENT] = 60_000
    ones = torch.ones(count, k)
    vectors = torch.randn(count, k, D, generator=generator)
    return Context(vectors, ones, ones, slots, codes, texts(count, seed=seed + 2), captions)


def some_codes(count, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CODES, (count, SIDE, SIDE), generator=generator)
