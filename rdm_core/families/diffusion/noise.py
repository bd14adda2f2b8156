"""Forward processes: clean final latents -> noisy ones, and the target that the network predicts.

Both processes are x_t = alpha_t x0 + sigma_t n, and have the same methods. x0 are clean latents
float32 [B, C, h, w] of order 1, n noise ~ N(0, I) [B, C, h, w], t times float [B] in 0..1, 1 = most
noise. `network_time` is the time as the network's embedding sees it.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from rdm_core.families.diffusion.config import NoiseConfig

NETWORK_TIMES = 1000
"""Steps of a diffusion, and the time of the network at t = 1."""
LEAST_DIVISOR = 0.05
"""A time is at least this where a difference is divided by it, to make a velocity of an image."""


def _over(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One value for each sample, [B], in the shape [B, 1, 1, 1] that multiplies latents."""
    return values.to(like).view(-1, *([1] * (like.ndim - 1)))


@dataclass(frozen=True)
class FlowMatching:
    """Straight paths, alpha = 1 - t and sigma = t, with target n - x0 (rectified flow, arXiv
    2209.03003, eq. 1).

    Times are logit-normal, sigmoid(N(time_mean, 1)) (arXiv 2403.03206, eq. 19). A larger mean
    trains more at noisy times, which decide what an image shows; a smaller one trains more at times
    that add its details.
    """

    time_mean: float = 0.0
    predicts_image: bool = False
    """Whether the network answers with x0; it is compared as a velocity all the same."""

    def draw_times(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Times float32 [count] in (0, 1)."""
        return torch.sigmoid(self.time_mean + torch.randn(count, generator=generator))

    def scales(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Times [B] -> (alpha_t, sigma_t), each float [B] in 0..1."""
        return 1 - t, t

    def corrupt(
        self, x0: torch.Tensor, n: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x_t, target), each float32 [B, C, h, w], of clean latents, noise and times [B]."""
        return x0 + _over(t, x0) * (n - x0), n - x0

    def prediction(self, output: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The velocity that a network's output at x_t [B, C, h, w] stands for: itself, or of an
        image (x_t - x0) / max(t, 0.05) (arXiv 2511.13720, sec. 3: x-prediction, v-loss).
        """
        if not self.predicts_image:
            return output
        return (x - output) / _over(t, x).clamp(min=LEAST_DIVISOR)

    def network_time(self, t: torch.Tensor) -> torch.Tensor:
        """Times [B] in 0..1 -> times of the network, float [B] in 0..1000."""
        return t * NETWORK_TIMES

    def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
        """Ones float [B]: the distribution of the times weighs them."""
        return torch.ones_like(t)

    def clean(
        self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x0, n), each [B, C, h, w], that a prediction [B, C, h, w] at x_t and times [B] means."""
        return x - _over(t, x) * prediction, x + _over(1 - t, x) * prediction

    def prediction_of(self, x: torch.Tensor, x0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The prediction [B, C, h, w] at x_t, times [B] above 0, that means x0; undoes `clean`."""
        return (x - x0) / _over(t, x)


@dataclass(frozen=True)
class Diffusion:
    """alpha_t^2 = a_t, sigma_t^2 = 1 - a_t over 1000 steps of scaled-linear betas, with uniform
    times: the process of the 2022 model (RDM, arXiv 2204.11824).

    The target is the noise (DDPM, arXiv 2006.11239, eq. 4 and 14) or the velocity alpha n - sigma
    x0 (arXiv 2202.00512, app. D).
    """

    beta_start: float = 0.0015
    beta_end: float = 0.0195
    velocity: bool = False
    min_snr_gamma: float = 0.0
    """Loss weights min(snr, gamma) / snr for noise, / (snr + 1) for velocity (arXiv 2303.09556,
    sec. 3.4); 0: all 1.
    """
    zero_terminal_snr: bool = False
    """Betas rescaled so that the last step is pure noise (arXiv 2305.08891, alg. 1)."""

    @cached_property
    def alphas(self) -> torch.Tensor:
        """Cumulative products a_0..a_999 of 1 - beta, float32 [1000] in 0..1."""
        # "Scaled-linear": the square roots of the betas rise linearly.
        roots = torch.linspace(
            self.beta_start**0.5, self.beta_end**0.5, NETWORK_TIMES, dtype=torch.float64
        )
        alphas = torch.cumprod(1 - roots**2, dim=0).sqrt()
        if self.zero_terminal_snr:
            # Shift the last to 0, and scale so that the first stays as it is.
            alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
        return alphas.square().float()

    def draw_times(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Times float32 [count] = step / 1000, with steps uniform over 0..999."""
        return torch.randint(0, NETWORK_TIMES, (count,), generator=generator) / NETWORK_TIMES

    def scales(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Times [B] -> (alpha_t, sigma_t), each float [B] in 0..1."""
        a = self.alphas[self.network_time(t).cpu().long()].to(t)
        return a.sqrt(), (1 - a).sqrt()

    def corrupt(
        self, x0: torch.Tensor, n: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x_t, target), each float32 [B, C, h, w], of clean latents, noise and times [B]."""
        alpha, sigma = self._scales_over(x0, t)
        return alpha * x0 + sigma * n, alpha * n - sigma * x0 if self.velocity else n

    def prediction(self, output: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """A network's output at x_t [B, C, h, w] as it is: the noise, or the velocity."""
        return output

    def network_time(self, t: torch.Tensor) -> torch.Tensor:
        """Times [B] in 0..1 -> steps, whole numbers float [B] in 0..999."""
        return (t * NETWORK_TIMES).round().clamp(0, NETWORK_TIMES - 1)

    def loss_weights(self, t: torch.Tensor) -> torch.Tensor:
        """The weight of each sample's squared error, float [B] (arXiv 2303.09556, sec. 3.4)."""
        if not self.min_snr_gamma:
            return torch.ones_like(t)
        alpha, sigma = self.scales(t)
        snr = (alpha / sigma).square()
        kept = snr.clamp(max=self.min_snr_gamma)
        return kept / (snr + 1) if self.velocity else kept / snr

    def clean(
        self, x: torch.Tensor, prediction: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x0, n), each [B, C, h, w], that a prediction [B, C, h, w] at x_t and times [B] means."""
        alpha, sigma = self._scales_over(x, t)
        if self.velocity:
            return alpha * x - sigma * prediction, sigma * x + alpha * prediction
        return (x - sigma * prediction) / alpha, prediction

    def prediction_of(self, x: torch.Tensor, x0: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The prediction [B, C, h, w] at x_t and times [B] that means x0; undoes `clean`."""
        alpha, sigma = self._scales_over(x, t)
        n = (x - alpha * x0) / sigma
        return alpha * n - sigma * x0 if self.velocity else n

    def _scales_over(
        self, latents: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(alpha_t, sigma_t) of times [B], each [B, 1, 1, 1], to multiply latents [B, C, h, w]."""
        alpha, sigma = self.scales(t)
        return _over(alpha, latents), _over(sigma, latents)


Process = FlowMatching | Diffusion


def process_of(config: NoiseConfig) -> Process:
    """The forward process a configuration names."""
    if config.process == "flow":
        return FlowMatching(config.time_mean, config.predicts == "image")
    velocity = config.process == "velocity"
    return Diffusion(
        config.beta_start, config.beta_end, velocity, config.min_snr_gamma, config.zero_terminal_snr
    )
