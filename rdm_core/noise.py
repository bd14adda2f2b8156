"""Forward processes: clean final latents -> noisy ones, and what the network is asked to predict.

Two classes with the same three methods. Times are float [B] in 0..1, 1 = pure noise; `network_time` is what the
network's time embedding sees. Letters: x0 clean [B, C, h, w], n noise ~ N(0, I), t time.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from rdm_core.config import NoiseConfig

NETWORK_TIMES = 1000


def _over(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.to(like).view(-1, *([1] * (like.ndim - 1)))


@dataclass(frozen=True)
class FlowMatching:
    """Straight paths x_t = (1 - t) x0 + t n with target n - x0 (rectified flow, arXiv 2209.03003).

    Times are logit-normal, sigmoid(N(time_mean, 1)) (arXiv 2403.03206, eq. 19): a larger mean trains more where an image
    is decided, a smaller one where it is finished.
    """

    time_mean: float = 0.0

    def draw_times(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Times [count] in (0, 1)."""
        return torch.sigmoid(self.time_mean + torch.randn(count, generator=generator))

    def corrupt(self, x0: torch.Tensor, n: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(x_t, target), each [B, C, h, w]."""
        return x0 + _over(t, x0) * (n - x0), n - x0

    def network_time(self, t: torch.Tensor) -> torch.Tensor:
        """0..1 -> 0..1000 float."""
        return t * NETWORK_TIMES


@dataclass(frozen=True)
class Epsilon:
    """x_t = sqrt(a_t) x0 + sqrt(1 - a_t) n with target n (DDPM, arXiv 2006.11239, eq. 4 and 14).

    1000 steps of scaled-linear betas, uniform times: the 2022 model.
    """

    beta_start: float = 0.0015
    beta_end: float = 0.0195

    @cached_property
    def alphas(self) -> torch.Tensor:
        """Cumulative products a_0..a_999, float32 [1000]."""
        roots = torch.linspace(self.beta_start**0.5, self.beta_end**0.5, NETWORK_TIMES, dtype=torch.float64)
        return torch.cumprod(1 - roots**2, dim=0).float()

    def draw_times(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Times [count] = step / 1000, steps uniform over 0..999."""
        return torch.randint(0, NETWORK_TIMES, (count,), generator=generator) / NETWORK_TIMES

    def corrupt(self, x0: torch.Tensor, n: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(x_t, target), each [B, C, h, w]."""
        a = _over(self.alphas[self.network_time(t).cpu().long()], x0)
        return a.sqrt() * x0 + (1 - a).sqrt() * n, n

    def network_time(self, t: torch.Tensor) -> torch.Tensor:
        """Times -> steps 0..999, float."""
        return (t * NETWORK_TIMES).round().clamp(0, NETWORK_TIMES - 1)


Process = FlowMatching | Epsilon


def process_of(config: NoiseConfig) -> Process:
    """The forward process a configuration names."""
    return FlowMatching(config.time_mean) if config.process == "flow" else Epsilon(config.beta_start, config.beta_end)
