"""Sets of neighbors that a denoiser is given in tests."""

from dataclasses import replace

import torch
from torch.nn.functional import normalize

from rdm_core.context import NEIGHBOR, Context

B, K, D = 3, 5, 8


def sets(count: int = K, seed: int = 1) -> Context:
    """B sets of neighbors, all there."""
    generator = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(B, count, D, generator=generator), dim=-1)
    norms = 8 + torch.rand(B, count, generator=generator)
    scores = -0.5 + torch.rand(B, count, generator=generator)
    return Context(vectors, norms, scores, torch.full((B, count), NEIGHBOR, dtype=torch.int8))


def with_slots(context: Context, *slots: list[int]) -> Context:
    """The sets with other kinds of slots: one list for all, or one for each."""
    kinds = torch.tensor(slots if len(slots) > 1 else slots * B, dtype=torch.int8)
    return replace(context, slots=kinds)


def shuffled(context: Context, at: int | slice = slice(None)) -> Context:
    """The sets with the vectors, norms and scores of some slots those of another set."""
    changed = {name: getattr(context, name).clone() for name in ("vectors", "norms", "scores")}
    for tensor in changed.values():
        tensor[:, at] = tensor[:, at].roll(1, dims=0)
    return replace(context, **changed)


def first_slots(context: Context, count: int) -> Context:
    """The sets without their last slots."""
    parts = (context.vectors, context.norms, context.scores, context.slots)
    return Context(*(tensor[:, :count] for tensor in parts))
