"""Would a "retrieval loss" help? A summary of the RDM paper (arXiv 2204.11824) tells of a second
loss between neighbors and what is generated. The method has none: its only loss is that of
denoising. Here such a term is tried once, on the built-in world:

    |prediction - target|^2 + weight (1 - cos(CLIP(decoded image), mean of the neighbors' vectors))

where the decoded image is what the network takes the clean one to be, at times below a half (above,
it is a blur). The networks differ in nothing but the weight.

    python -m benchmarks.retrieval_loss --root data --set steps=500
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from pydantic import Field

from benchmarks.family_study import rightness
from flows.config.arguments import configured, root_argument
from flows.config.judge import BuiltInWorld
from flows.config.parameters import Count
from flows.config.presets import DEMO_AUTOENCODER, DEMO_SOURCES, PRESETS
from flows.judge.demo import prepare_data, prepare_images
from flows.judge.inputs import version_of
from flows.model.training_data import open_training_data
from rdm_core.clip import Encoder, load_encoder
from rdm_core.config import ContextConfig, TrainingConfig
from rdm_core.context import TEXT, Context, nothing
from rdm_core.data import TrainingData
from rdm_core.device import best_device
from rdm_core.families.diffusion.config import Config, Draw
from rdm_core.families.diffusion.denoiser import build_denoiser
from rdm_core.families.diffusion.model import Diffusion, DiffusionInputs
from rdm_core.families.diffusion.noise import process_of
from rdm_core.families.facts import Shape
from rdm_core.families.family import Inputs
from rdm_core.judge.distances import quality
from rdm_core.judge.judges import ShapesJudge
from rdm_core.judge.losses import held_out_losses
from rdm_core.latents import LatentSpace, load_latent_space
from rdm_core.shapes import world
from rdm_core.train import Hooks, train
from storage.artifact import open_artifact

EARLIEST = 0.5
"""The term is computed at times below it."""
IMAGES = ("shapes-train", "shapes-database", "shapes-heldout")


class RetrievalLoss(BuiltInWorld):
    """Networks that differ in the weight of the term alone."""

    steps: Count = 500
    """Training steps of each network."""
    weights: tuple[float, ...] = Field((0.0, 0.1, 1.0), min_length=1)
    """Weights of the term; 0 is the method as it is."""


class Consistent(Diffusion):
    """A diffusion model whose loss also asks that its images lie near their neighbors."""

    weight = 0.0
    encoder: Encoder

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The loss of each sample, float32 [B]."""
        assert isinstance(inputs, DiffusionInputs), "what `inputs` gave"
        noisy, target = self.process.corrupt(inputs.clean, inputs.noise, inputs.times)
        time_of_network = self.process.network_time(inputs.times)
        output = self.denoiser(noisy, time_of_network, inputs.context).float()
        loss = (output - target).square().mean(dim=(1, 2, 3))
        late = (inputs.times < EARLIEST) & inputs.context.mask.any(dim=1)
        if not self.weight or not late.any():
            return loss
        clean, _ = self.process.clean(noisy[late], output[late], inputs.times[late])
        own = vectors_of(clean, self.works_in, self.encoder)
        context = inputs.context.rows(late)
        means = (context.vectors * context.mask[..., None]).sum(dim=1)
        cosines = torch.nn.functional.cosine_similarity(own, means, dim=1)
        term = torch.zeros_like(loss).index_put((late.nonzero()[:, 0],), 1 - cosines)
        return loss + self.weight * term


def vectors_of(final: torch.Tensor, space: LatentSpace, encoder: Encoder) -> torch.Tensor:
    """Final latents [B, C, h, w] -> unit vectors float [B, D] of the images they decode to, with
    gradients.
    """
    latents = final / space.autoencoder.config.scaling_factor
    images = space.autoencoder.decode(latents).sample.clamp(-1, 1) / 2 + 0.5
    visual = encoder.model.visual.preprocess_cfg
    mean, std = (
        torch.tensor(visual[name], device=final.device).view(3, 1, 1) for name in ("mean", "std")
    )
    vectors: torch.Tensor = encoder.model.encode_image((images - mean) / std, normalize=True)
    return vectors


def trained(config: RetrievalLoss, data: TrainingData, weight: float) -> tuple[Diffusion, float]:
    """A network, and the seconds that a step took."""
    preset = PRESETS["shapes"]
    model_config = Config.of({**preset["model"]})
    device = best_device()
    space = load_latent_space(DEMO_AUTOENCODER).to(device)
    space.autoencoder.requires_grad_(False)
    shape = Shape(space.channels, data.side, data.dimension)
    denoiser = build_denoiser(
        model_config.denoiser, shape.channels, shape.side, shape.dimension, config.seed
    )
    model = Consistent(denoiser, process_of(model_config.noise), shape, space)
    model.weight, model.encoder = weight, load_encoder("rdm-shapes", "built-in", device)
    assert data.means is not None, "the preset removes them"
    model.set_means(data.means)
    settings = TrainingConfig.of(preset["training"] | {"steps": config.steps, "seed": config.seed})
    nothing_kept = Hooks(lambda record, speed: None, lambda step, state: None)
    started = time.monotonic()
    train(model, data, settings, nothing_kept, context=ContextConfig.of(preset["context"]))
    return model.eval(), (time.monotonic() - started) / config.steps


def measured(model: Diffusion, held_out: TrainingData, encoder: Encoder) -> dict[str, float]:
    """The held-out loss of the method; of images drawn for held-out neighbors the Fréchet distance
    and the cosine with their neighbors' mean; how many drawn for texts are right.
    """
    assert isinstance(model, Consistent), "what was trained"
    model.weight = 0.0  # the term is no part of what is compared
    rows = np.arange(len(held_out))
    context = held_out.neighbors(rows, 4)
    how = Draw(steps=12, sampler="dpm++", guidance_scale=1.5)
    images = model.draw(context, range(len(rows)), how)
    means = context.vectors.sum(dim=1).numpy()
    cosines = (encoder.encode_images(images)[0] * means).sum(1) / np.linalg.norm(means, axis=1)
    features = ShapesJudge().features
    real = features(model.works_in.decode(model.works_in.final(held_out.raw(rows))))
    figures = {
        "held-out loss": float(held_out_losses(model, held_out, 4).mean()),
        "Fréchet distance": quality(features(images), real, None)["fd"],
        "cosine with neighbors": float(cosines.mean()),
    }
    wanted = []
    for shape in world.SHAPES:
        for colour in world.COLOURS:
            for style in world.STYLES:
                wanted.append(world.Factors(shape, colour, style, "light", "centre", "large"))
    texts = [world.caption(each, ("style", "colour", "shape")) for each in wanted]
    vectors, norms = (torch.from_numpy(part) for part in encoder.encode_texts(texts))
    empty = nothing(len(texts), vectors.shape[1])
    slots = torch.full_like(empty.slots, TEXT)
    asked = Context(vectors[:, None], norms[:, None], torch.ones(len(texts), 1), slots)
    images = model.draw(asked, range(len(texts)), how)
    return figures | {"texts, all right": float(rightness(images, wanted)["all"].mean())}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="a retrieval loss, tried once")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    config = configured(parser.parse_args(), RetrievalLoss)
    torch.set_num_threads(1)
    for name in IMAGES:
        prepare_images(config, name, DEMO_SOURCES[name])
    index = version_of(open_artifact(config.root, "index", "shapes-database"))
    opened: dict[str, Any] = {}
    for name in ("shapes-train", "shapes-heldout"):
        prepare_data(config, name)
        inputs = {"latents": name, "neighbors": name, "index": index}
        opened[name] = open_training_data(config.root, inputs)
    encoder = load_encoder("rdm-shapes", "built-in")
    for weight in config.weights:
        model, seconds = trained(config, opened["shapes-train"], weight)
        figures = measured(model, opened["shapes-heldout"], encoder)
        told = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"weight {weight:g}: {seconds:.2f} s a step, {told}", flush=True)


if __name__ == "__main__":
    main()
