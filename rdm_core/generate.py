"""Generation: contexts -> images, with guidance, seeded per image so that a batch's make-up changes nothing."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rdm_core.denoiser import Denoiser
from rdm_core.latents import LatentSpace
from rdm_core.noise import Process
from rdm_core.retrieve import Context
from rdm_core.samplers import sample


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    process: Process,
    space: LatentSpace,
    context: Context | None,
    seeds: Sequence[int],
    *,
    side: int,
    steps: int,
    guidance_scale: float,
    batch: int = 64,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draw one image a seed: uint8 [B, H, W, 3].

    `context` holds B contexts, or is None for the learned null alone; `side` is the latent's. Guidance is
    null + s (context - null) (arXiv 2207.12598); s = 1 costs one evaluation a step, any other two.
    """
    images = []
    for start in range(0, len(seeds), batch):
        part = slice(start, start + batch)
        predict = _guided(denoiser, process, context, part, len(seeds[part]), guidance_scale)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        shape = (space.channels, side, side)

        def fresh(generators: list[torch.Generator] = generators, shape: tuple[int, ...] = shape) -> torch.Tensor:
            return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(denoiser.null.device)

        images.append(space.decode(sample(process, predict, fresh(), steps, fresh)))
        progress(min(start + batch, len(seeds)))
    return np.concatenate(images)


def _guided(
    denoiser: Denoiser, process: Process, context: Context | None, part: slice, count: int, scale: float
) -> Callable[[torch.Tensor, float], torch.Tensor]:
    device = denoiser.null.device
    if context is None:
        vectors, mask, scale = torch.zeros(count, 1, denoiser.dimension), torch.ones(count, 1, dtype=torch.bool), 0.0
    else:
        vectors = denoiser.context(torch.from_numpy(context.vectors[part]), torch.from_numpy(context.norms[part]))
        mask = torch.from_numpy(context.mask[part])
    vectors, mask = vectors.to(device), mask.to(device)

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        def once(dropped: bool) -> torch.Tensor:
            time = process.network_time(torch.full((count,), t, device=device))
            return denoiser(x, time, vectors, mask, torch.full((count,), dropped, device=device) | ~mask.any(dim=1))

        if scale in (0.0, 1.0):
            return once(dropped=scale == 0.0)
        null = once(dropped=True)
        return null + scale * (once(dropped=False) - null)

    return predict
