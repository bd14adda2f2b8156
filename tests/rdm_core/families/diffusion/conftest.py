"""Fixtures for tests of denoisers."""

from dataclasses import replace

import pytest
import torch
from neighbor_sets import B
from tiny import EVERYTHING

from rdm_core.families.diffusion.config import DenoiserConfig

EXTRAS = {
    "neighbors alone": {},
    "set layers": {"set_layers": 2},
    "query token": {"query_token": True},
    "means removed": {"remove_means": True},
    "everything": EVERYTHING,
}


@pytest.fixture(params=list(EXTRAS))
def config(request, tiny_config) -> DenoiserConfig:
    """Each network with each of the ways to see its context."""
    return replace(tiny_config, **EXTRAS[request.param])


@pytest.fixture
def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents [B, 3, 8, 8] and network times [B]."""
    return torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(
        [10.0, 500.0, 900.0]
    )
