"""Training an autoencoder, step by step.

    batch --encode--> latents --noise (kl) or nearest codes (vq)--> decode --> losses

Every random choice is a function of (seed, step), so what resumes is the weights, their running
mean, the optimisers' moments, the codebook's counts and the step, nothing else.  A CPU then gives
the same bits; a GPU's sums differ in their last ones from run to run.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rdm_core.autoencoders import losses
from rdm_core.autoencoders.batches import Batches, Images, generator_of
from rdm_core.autoencoders.codebook import GRACE, Codebook, k_means
from rdm_core.autoencoders.config import LEAST_SIDE, AutoencoderConfig
from rdm_core.autoencoders.networks import PatchDiscriminator, build_autoencoder
from rdm_core.codes import nearest_codes
from rdm_core.errors import RequestError
from rdm_core.images import pieces

State = dict[str, np.ndarray]

COARSE = {
    "l2": losses.squared,
    "low_frequencies": losses.low_frequencies,
    "chroma": losses.chroma,
}
FINE = {
    "l1": losses.absolute,
    "gradient": losses.gradient,
    "texture": losses.texture,
    "grain": losses.grain,
}
"""Losses of the pictures, by the names of their weights; the fine ones may begin later."""
WARM_UP = 100
"""Steps over which the learning rate rises."""
STARTING_IMAGES = 256
"""Images that k-means makes the codebook from."""
STARTING_AT_ONCE = 32
"""Of them, encoded at once; fewer of large ones."""
VECTORS_AN_ENTRY = 24
"""Vectors of them, at most, for each entry."""
REVIVE_UNTIL = 0.8
"""Share of the steps after which codes are left where they are, so that the decoder knows them."""
CLIP_NORM = 1.0
"""Gradient norm above which gradients are scaled down."""


class AutoencoderTraining:
    """One autoencoder being trained on images; `step` until `done` equals the config's steps."""

    def __init__(
        self,
        config: AutoencoderConfig,
        images: Images,
        autocast: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """Images uint8 [N, H, W, 3], which may be read when needed; autocast: bfloat16 networks.

        Raises RequestError for images that are too small for the factor, or no multiple of it, or
        too few for the codes.
        """
        refuse_small(images, config.factor)
        if config.kind == "vq":
            refuse_few(images, config)
        self.config, self.images, self.autocast = config, images, autocast
        self.device = torch.device(device)
        self.batches = Batches(config, images)
        self.done = 0
        self.told: list[dict[str, float]] = []
        """Losses of steps that no record tells of yet; part of the state."""
        self.model: Any = build_autoencoder(config).to(self.device)
        self.means = [parameter.detach().clone() for parameter in self.model.parameters()]
        trained = list(self.model.parameters())
        self.codebook = None
        if config.kind == "vq":
            self.codebook = Codebook(
                config.codes, config.latent_channels, config.codebook_decay, self.device
            )
            self.model.quantize.embedding.weight.requires_grad_(False)
            trained = [parameter for parameter in trained if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, config.learning_rate, (0.9, 0.98))
        self.discriminator = None
        if config.adversarial:
            self.discriminator = PatchDiscriminator(config.seed).to(self.device)
            parameters = self.discriminator.parameters()
            self.of_discriminator = torch.optim.AdamW(parameters, config.learning_rate, (0.5, 0.9))

    def step(self) -> dict[str, float]:
        """Take one step; returns the losses, unweighted, by the names of their weights.

        Raises FloatingPointError, with the step, where the loss is no number, and CollapsedCodes.
        """
        if self.codebook is not None and self.done == self.config.codebook_from:
            self._start_codebook()
        self._set_rates()
        x = self._batch()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            y, side = self._reconstruct(x)
        terms = self._terms(x, y)
        config = self.config
        total: torch.Tensor = sum((getattr(config, name) * term for name, term in terms.items()))  # type: ignore[assignment]  # there is at least one
        beside = sum((getattr(config, name) * term for name, term in side.items()))
        pull = torch.autograd.grad(total, y)[0]
        if self.discriminator is not None and self.done >= config.adversarial_from:
            pull = pull + self._adversarial(x, y, pull, terms)
        told = {name: float(term.detach()) for name, term in (terms | side).items()}
        self._refuse_odd(told)
        self.optimizer.zero_grad(set_to_none=True)
        both = [y, beside] if isinstance(beside, torch.Tensor) else [y]
        torch.autograd.backward(both, [pull, None][: len(both)])
        torch.nn.utils.clip_grad_norm_(self._trained(), CLIP_NORM)
        self.optimizer.step()
        self.done += 1
        self._average()
        return told

    def averaged(self) -> Any:
        """A copy of the model with the running means of its weights, in evaluation mode."""
        model = build_autoencoder(self.config)
        with torch.no_grad():
            for parameter, mean in zip(model.parameters(), self.means, strict=True):
                parameter.copy_(mean)
        return model.eval().requires_grad_(False)

    def state(self) -> State:
        """Everything needed to resume, as named arrays."""
        names = [name for name, _ in self.model.named_parameters()]
        tensors: dict[str, torch.Tensor] = {"step": torch.tensor(self.done)}
        for name, parameter in self.model.named_parameters():
            tensors[f"weights/{name}"] = parameter
        for name, mean in zip(names, self.means, strict=True):
            tensors[f"ema/{name}"] = mean
        for number, losses_of_step in enumerate(self.told):
            for name, loss in losses_of_step.items():
                tensors[f"told/{number}/{name}"] = torch.tensor(loss, dtype=torch.float64)
        tensors |= _moments("adam", self.optimizer)
        if self.codebook is not None:
            tensors |= self.codebook.state()
        if self.discriminator is not None:
            for name, parameter in self.discriminator.named_parameters():
                tensors[f"discriminator/{name}"] = parameter
            tensors |= _moments("discriminator_adam", self.of_discriminator)
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Undo `state`.  Raises KeyError naming the first array that is absent."""
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
        self.done = int(tensors["step"])
        self.told[:] = _told(tensors)
        for (name, parameter), mean in zip(self.model.named_parameters(), self.means, strict=True):
            parameter.copy_(tensors[f"weights/{name}"])
            mean.copy_(tensors[f"ema/{name}"])
        _set_moments("adam", self.optimizer, tensors)
        if self.codebook is not None:
            self.codebook.restore(tensors)
        if self.discriminator is not None:
            for name, parameter in self.discriminator.named_parameters():
                parameter.copy_(tensors[f"discriminator/{name}"])
            _set_moments("discriminator_adam", self.of_discriminator, tensors)

    def _generator(self) -> torch.Generator:
        return generator_of(self.config.seed, self.done)

    def _batch(self) -> torch.Tensor:
        """This step's images, float32 [B, 3, H, W] in -1..1."""
        return to_input(self.batches.of(self.done)).to(self.device)

    def _set_rates(self) -> None:
        rate = learning_rate(self.config, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.discriminator is not None:
            for group in self.of_discriminator.param_groups:
                group["lr"] = rate

    def _reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """x -> reconstruction, like x, and the losses of the latents."""
        decoder_alone = self.config.latent_noise > 0 and self.done >= self.config.decoder_from
        with torch.set_grad_enabled(not decoder_alone):
            encoded = self.model.quant_conv(self.model.encoder(x)).float()
        if self.codebook is None:
            mean, log_variance = encoded.chunk(2, dim=1)
            log_variance = log_variance.clamp(-30, 20)
            generator = self._generator()
            noise = torch.randn(mean.shape, generator=generator)
            latents = mean + (0.5 * log_variance).exp() * noise.to(self.device)
            if decoder_alone:
                latents, side = self._noisy(latents, generator), {}
            else:
                side = {"kl": losses.divergence(mean, log_variance)}
        elif self.done < self.config.codebook_from:
            latents, side = encoded, {}
        else:
            entries = self._round(encoded)
            latents = encoded + (entries - encoded).detach()
            side = {"commitment": losses.commitment(encoded, entries)}
        decoded: torch.Tensor = self.model.decoder(self.model.post_quant_conv(latents))
        return decoded.float(), side

    def _noisy(self, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents [B, C, h, w] with noise of up to `latent_noise` of their deviation."""
        shares = torch.rand(len(latents), 1, 1, 1, generator=generator)
        noise = shares * torch.randn(latents.shape, generator=generator)
        return latents + self.config.latent_noise * latents.std() * noise.to(self.device)

    @torch.no_grad()
    def _round(self, encoded: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, h, w] -> their entries, which take the latents in."""
        assert self.codebook is not None
        vectors = encoded.permute(0, 2, 3, 1).flatten(0, 2)
        codes = nearest_codes(vectors, self.codebook.entries)
        height, width = encoded.shape[-2:]
        chosen = self.codebook.entries[codes]
        self.codebook.update(vectors, codes)
        since = self.done - self.config.codebook_from
        if since > 0 and since % self.config.revive_steps == 0:
            if since >= GRACE:
                self.codebook.refuse_collapse(f"step {self.done + 1}")
            if self.done < REVIVE_UNTIL * self.config.steps:
                self.codebook.revive(vectors, self._generator())
        self.model.quantize.embedding.weight.copy_(self.codebook.entries)
        return chosen.view(len(encoded), height, width, -1).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _start_codebook(self) -> None:
        assert self.codebook is not None
        generator = self._generator()
        rows = torch.randperm(len(self.images), generator=generator)[:STARTING_IMAGES]
        vectors = []
        for piece in pieces((len(rows), *self.images.shape[1:]), STARTING_AT_ONCE):
            x = to_input(self.images[rows[piece].numpy()]).to(self.device)
            encoded = self.model.quant_conv(self.model.encoder(x))
            vectors.append(encoded.permute(0, 2, 3, 1).flatten(0, 2))
        every = torch.cat(vectors)
        kept = torch.randperm(len(every), generator=generator)
        kept = kept[: VECTORS_AN_ENTRY * self.config.codes]
        of_image = len(every) // len(rows)
        entries = k_means(every[kept], self.config.codes, generator)
        self.codebook.start(entries, self.config.batch * of_image)
        # Else the running mean would carry the entries on that the network was made with.
        embedding = self.model.quantize.embedding.weight
        embedding.copy_(entries)
        for parameter, mean in zip(self.model.parameters(), self.means, strict=True):
            if parameter is embedding:
                mean.copy_(entries)

    def _terms(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses of the pictures that count at this step, by the names of their weights."""
        every = dict(COARSE)
        if self.done >= self.config.details_from:
            every |= FINE
        return {name: term(x, y) for name, term in every.items() if getattr(self.config, name)}

    def _adversarial(
        self, x: torch.Tensor, y: torch.Tensor, pull: torch.Tensor, terms: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Teach the discriminator, and return what it adds to the pull on y [B, 3, H, W].

        The pull is `adversarial` times as strong as that of the other losses (as in VQGAN, arXiv
        2012.09841, equation 7, with the pictures in the place of the last layer).
        """
        assert self.discriminator is not None
        self.of_discriminator.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            made = self.discriminator(y.detach()).float()
            hinge = losses.hinge(self.discriminator(x).float(), made)
        hinge.backward()
        self.of_discriminator.step()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            fooling = losses.fooling(self.discriminator(y).float())
        towards = torch.autograd.grad(fooling, y)[0]
        terms["adversarial"] = hinge.detach()
        strength = self.config.adversarial * pull.norm() / (towards.norm() + 1e-12)
        return strength * towards

    def _trained(self) -> list[torch.Tensor]:
        parameters: list[torch.Tensor] = self.optimizer.param_groups[0]["params"]
        return parameters

    def _refuse_odd(self, told: Mapping[str, float]) -> None:
        odd = [name for name, value in told.items() if not math.isfinite(value)]
        if odd:
            what = f"the loss {odd[0]} is {told[odd[0]]}"
            raise FloatingPointError(f"step {self.done + 1}: {what}; lower the learning rate")

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.done) / (10 + self.done))
        torch._foreach_lerp_(self.means, list(self.model.parameters()), 1 - decay)


def learning_rate(config: AutoencoderConfig, step: int) -> float:
    """Rate of step 0..steps - 1: a linear rise over WARM_UP steps times half a cosine to 0."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def to_input(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in -1..1."""
    pixels = torch.from_numpy(np.array(images))  # a copy: what is mapped from a file is read-only
    return pixels.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def refuse_small(images: Images, factor: int) -> None:
    """Raise RequestError for arrays that an autoencoder of a factor cannot be trained on."""
    where, shape = "training images", images.shape
    if images.dtype != np.uint8 or images.ndim != 4 or shape[-1] != 3 or not len(images):
        what = f"they are {images.dtype} {list(shape)}, not uint8 [N, H, W, 3]"
        raise RequestError(where, what, "Give images as bytes, colour last.")
    least = LEAST_SIDE * factor
    if min(shape[1:3]) < least:
        what = f"they are {shape[2]}x{shape[1]} pixels, and factor {factor} needs {least}"
        raise RequestError(where, what, "Give larger images, or fewer widths.")
    if shape[1] % factor or shape[2] % factor:
        what = f"their sides {shape[2]}x{shape[1]} are no multiples of the factor {factor}"
        raise RequestError(where, what, f"Give images with sides that {factor} divides.")


def refuse_few(images: Images, config: AutoencoderConfig) -> None:
    """Raise RequestError for images of which k-means cannot make the codebook."""
    places = images.shape[1] * images.shape[2] // config.factor**2
    vectors = min(STARTING_IMAGES, len(images)) * places
    if vectors < config.codes:
        what = f"their latents are {vectors:,} vectors, too few for {config.codes:,} codes"
        cure = "Give more or larger images, or fewer codes."
        raise RequestError("training images", what, cure)


def _told(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, float]]:
    """The losses of each step that a state holds, in order."""
    steps: dict[int, dict[str, float]] = {}
    for name, tensor in tensors.items():
        if name.startswith("told/"):
            _, number, loss = name.split("/")
            steps.setdefault(int(number), {})[loss] = float(tensor)
    return [steps[number] for number in sorted(steps)]


def _moments(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    moments = optimizer.state_dict()["state"]
    return {f"{prefix}/{i}/{key}": value for i in moments for key, value in moments[i].items()}


def _set_moments(
    prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}/"):
            _, number, key = name.split("/")
            moments.setdefault(int(number), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
