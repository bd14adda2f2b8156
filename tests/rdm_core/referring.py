"""What the tests of the family references share: a model, contexts with texts and references."""

from dataclasses import replace

import torch
from tiny import DIMENSION, TINY

from rdm_core.clip import Encoder
from rdm_core.context import ABSENT, NEIGHBOR, Context
from rdm_core.families.diffusion.config import NoiseConfig
from rdm_core.families.facts import Shape
from rdm_core.families.references import model as family
from rdm_core.families.references.config import Config
from rdm_core.latents import PIXELS, load_latent_space

SHAPE = Shape(3, 8, DIMENSION)
NETWORKS = {
    "transformer": replace(TINY["transformer"], depth=3),
    "unet": TINY["unet"],
}
FLOW = NoiseConfig(process="flow")


def made(
    encoder: Encoder, network: str = "transformer", seed: int = 0, **config
) -> family.References:
    """A model in pixel space, whose every parameter is away from zero."""
    chosen = Config(denoiser=NETWORKS[network], noise=FLOW, text_width=96, **config)
    new = family.build(chosen, SHAPE, load_latent_space(PIXELS), seed)
    new.set_encoder(encoder)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return new.eval()


def given(encoder: Encoder, count: int = 3, k: int = 2) -> Context:
    """Contexts with a text and k references each."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(count, k, DIMENSION, generator=generator)
    ones = torch.ones(count, k)
    texts = encoder.tokenizer(["a red circle", "a vorta", "a blue star"] * count)
    of_neighbors = encoder.tokenizer(["a zupu", "a green ring", "a cross"] * count * k)
    return Context(
        vectors, ones, ones, torch.full((count, k), NEIGHBOR, dtype=torch.int8),
        torch.randn(count, k, 3, 8, 8, generator=generator),
        texts[:count], of_neighbors[: count * k].unflatten(0, (count, k)),
    )  # fmt: skip


def predict(model: family.References, context: Context) -> torch.Tensor:
    """The prediction for some noisy latents."""
    x = torch.randn(len(context.slots), 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model.denoiser(x, torch.full((len(x),), 400.0), context)


def without_neighbors(context: Context) -> Context:
    """The same text, alone."""
    return replace(context, slots=torch.full_like(context.slots, ABSENT))
