"""The maths of mask-and-replace (VQ-Diffusion, arXiv 2111.14822, section 4.1): how codes are lost,
and what a guess of the image says of the codes a step before.

Time 0 is the image, time T has (almost) masks alone. From time s to a later time t, a code stays
with probability a and is masked with c; else it becomes any of the K codes, each with b = (1 - a -
c) / K. A mask stays a mask. From time 0 these are A_t, B_t, C_t. So no matrix [K, K] is needed.

B samples, N codes an image, K codes of the codebook; the mask is K. Times are int64 [B].
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from rdm_core.families.discrete.config import TransitionsConfig

LOG_OF_NOTHING = -1000.0
"""Stands for log 0: it makes no infinities, and its exponential is 0."""
SMALLEST = 1e-30
"""Keeps logarithms finite where their sum counts for nothing."""


class Transitions(nn.Module):
    """The forward process over K codes, and its way back."""

    kept: torch.Tensor
    """A, float64 [T + 1]: probability that a code is still there."""
    masked: torch.Tensor
    """C, float64 [T + 1]: probability that it is masked."""

    def __init__(self, codes: int, config: TransitionsConfig) -> None:
        super().__init__()
        self.codes = codes
        self.config = config
        self.times = config.times
        of_config = {"kept": (1.0, *config.kept), "masked": (0.0, *config.masked)}
        for name, (start, first, last) in of_config.items():
            shares = torch.linspace(first, last, config.times, dtype=torch.float64)
            shares = torch.cat([torch.tensor([start], dtype=torch.float64), shares])
            # They follow from the configuration, so they are no part of what is learned.
            self.register_buffer(name, shares, persistent=False)

    def between(
        self, earlier: torch.Tensor, later: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """a, b, c, float64 [B] each, of the way from an earlier to a later time int64 [B]."""
        stays = self.kept[later] / self.kept[earlier]
        unmasked = (1 - self.masked[later]) / (1 - self.masked[earlier])
        # Rounding may leave a little less than nothing where all codes are masked or stay.
        replaced = (unmasked - stays).clamp(min=0) / self.codes
        return stays, replaced, 1 - unmasked

    def corrupted(
        self, codes: torch.Tensor, times: torch.Tensor, uniform: torch.Tensor, others: torch.Tensor
    ) -> torch.Tensor:
        """x_t int64 [B, N], drawn from q(x_t | x_0) of codes x_0 int64 [B, N].

        `uniform` float64 [B, N] in 0..1 chooses what becomes of a code; `others` int64 [B, N] has
        any codes to replace it with.
        """
        kept, masked = self.kept[times][:, None], self.masked[times][:, None]
        noisy = torch.where(uniform < masked + kept, codes, others)
        return noisy.masked_fill(uniform < masked, self.codes)

    def with_likelihood(
        self, logits: torch.Tensor, noisy: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Logits float32 [B, N, K] of x_0 from those that do not know x_t int64 [B, N] at its own
        position: log q(x_t | x_0) is added, but for a constant. A mask says nothing of x_0.

        Codes are noised one by one, so p(x_0 | all x_t) is q(x_t | x_0) p(x_0 | all other x_t).
        """
        way = self._way(noisy, times, times)
        return logits.scatter_add(2, way.seen, -way.same_less)

    def log_posterior(
        self,
        log_image: torch.Tensor,
        noisy: torch.Tensor,
        earlier: torch.Tensor,
        later: torch.Tensor,
    ) -> torch.Tensor:
        """log p(x_s | x_t) float32 [B, N, K + 1], the mask last, of an earlier time s.

        log p(x_0 | x_t) float32 [B, N, K] is a guess of the image, `noisy` x_t int64 [B, N]:
        p(x_s | x_t) = sum_i q(x_s | x_t, x_0 = i) p(x_0 = i | x_t) (arXiv 2111.14822, eq. 11).
        """
        way = self._way(noisy, earlier, later)
        mixed = _mixed(log_image, way) + way.offset + way.step_other
        mixed = mixed.scatter_add(2, way.seen, way.step_same - way.step_other)
        # A mask may have been one before; a code was none.
        is_mask = (noisy == self.codes)[..., None]
        mask = torch.where(is_mask, way.mask_stays, torch.full_like(way.mask_stays, -torch.inf))
        return torch.cat([mixed, mask], dim=2)

    def divergence(
        self,
        log_image: torch.Tensor,
        codes: torch.Tensor,
        noisy: torch.Tensor,
        earlier: torch.Tensor,
        later: torch.Tensor,
    ) -> torch.Tensor:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats, float32 [B, N], of codes x_0 int64 [B, N],
        their x_t and a guess as in `log_posterior`. With s = 0 it is -log p(x_0 | x_t).

        q(x_s = j | x_t, x_0) = q(x_t | x_s = j) q(x_s = j | x_0) / q(x_t | x_0). The first factor
        is in p too; all three are the same for all j but x_0 and x_t. So the sum over j is one of
        log p alone, and those two are counted again as what they are.
        """
        way = self._way(noisy, earlier, later)
        total, everywhere = _summed(log_image, way)
        image = codes[..., None]
        is_mask, is_image = (noisy == self.codes)[..., None], noisy[..., None] == image
        reached = torch.where(is_image, way.from_same, way.from_other)  # log q(x_t | x_0)
        step = torch.where(is_image, way.step_same, way.step_other)
        # log q(x_s = j | x_t, x_0) - log p(x_s = j | x_t) of j = x_0, of x_t, and of all others
        rest = -reached - way.offset
        of_image = log_image.gather(2, image) + torch.where(is_image, way.same_less, 0.0)
        gap_image = way.same_before + rest - torch.logaddexp(of_image, total + way.any_before)
        of_seen = log_image.gather(2, way.seen) + way.same_less
        gap_seen = way.other_before + rest - torch.logaddexp(of_seen, total + way.any_before)
        gap_others = way.other_before + rest
        others = log_image.shape[2] * gap_others - everywhere
        at_image = (step + way.same_before - reached).exp()
        other = (way.step_other + way.other_before - reached).exp()
        at_seen = (way.step_same + way.other_before - reached).exp() - other
        at_seen = at_seen.masked_fill(is_mask | is_image, 0.0)
        gap_other_at_image = gap_image - way.same_before + way.other_before
        summed = at_image * gap_image + other * (others - gap_other_at_image) + at_seen * gap_seen
        return summed[..., 0]

    def last_divergence(self) -> float:
        """KL(q(x_T | x_0) || p(x_T)) in nats of one code: what the drawing's start does not know of
        an image. p(x_T) is a mask with C_T, or any code.
        """
        kept, any_code = self.config.kept[1], 1 - self.config.masked[1]
        other = (any_code - kept) / self.codes
        gap = math.log(self.codes / any_code)
        of_others = (self.codes - 1) * other * (math.log(other) + gap)
        return (kept + other) * (math.log(kept + other) + gap) + of_others

    def _way(self, noisy: torch.Tensor, earlier: torch.Tensor, later: torch.Tensor) -> "_Way":
        """The logarithms for x_t int64 [B, N] and times int64 [B]."""
        is_mask = (noisy == self.codes)[..., None]

        def log(share: torch.Tensor) -> torch.Tensor:
            return share.log().clamp(min=LOG_OF_NOTHING).float()[:, None, None]

        stays, replaced, to_mask = self.between(earlier, later)
        kept = [self.kept[time] for time in (earlier, later)]
        masked = [self.masked[time] for time in (earlier, later)]
        others = [(1 - kept[i] - masked[i]).clamp(min=0) / self.codes for i in (0, 1)]
        from_other = torch.where(is_mask, log(masked[1]), log(others[1]))
        return _Way(
            seen=noisy.clamp(max=self.codes - 1)[..., None],
            other_before=log(others[0]),
            same_before=log(kept[0] + others[0]),
            from_other=from_other,
            from_same=torch.where(is_mask, log(masked[1]), log(kept[1] + others[1])),
            step_other=torch.where(is_mask, log(to_mask), log(replaced)),
            step_same=torch.where(is_mask, log(to_mask), log(stays + replaced)),
            any_before=log(others[0]) - log(kept[0]),
            same_less=torch.where(is_mask, 0.0, log(others[1]) - log(kept[1] + others[1])),
            mask_stays=(log(masked[0]) - log(masked[1])).expand(*noisy.shape, 1),
            offset=log(kept[0]) - from_other,
        )


@dataclass(frozen=True)
class _Way:
    """Logarithms of the probabilities of a way from time s to t, float32 [B, N or 1, 1]. `same`
    and `other` say whether the code that it begins with is x_t; where x_t is a mask none is.
    """

    seen: torch.Tensor
    """x_t int64 [B, N, 1], and any code where it is a mask."""
    other_before: torch.Tensor
    """B_s = q(x_s = j | x_0), j another code than x_0."""
    same_before: torch.Tensor
    """A_s + B_s."""
    from_other: torch.Tensor
    """q(x_t | x_0) of another code: B_t, or C_t for a mask."""
    from_same: torch.Tensor
    """A_t + B_t, or C_t for a mask."""
    step_other: torch.Tensor
    """q(x_t | x_s) of another code: b, or c for a mask."""
    step_same: torch.Tensor
    """a + b, or c for a mask."""
    any_before: torch.Tensor
    """B_s / A_s."""
    same_less: torch.Tensor
    """How much less x_t says for another code than for itself: B_t / (A_t + B_t), or 1 for a mask.
    """
    mask_stays: torch.Tensor
    """C_s / C_t: that a mask was one at time s."""
    offset: torch.Tensor
    """What `_mixed` leaves out: A_s / q(x_t | x_0) of another code."""


def _mixed(log_image: torch.Tensor, way: _Way) -> torch.Tensor:
    """log sum_i q(x_s = j | x_0 = i) p(x_0 = i) / q(x_t | x_0 = i) for every j, float32 [B, N, K],
    but for `way.offset`.

    With r_i = p_i / q(x_t | i) that is log(B_s sum_i r_i + A_s r_j).
    """
    shares = log_image.scatter_add(2, way.seen, way.same_less)
    total = shares.logsumexp(dim=2, keepdim=True)
    return torch.logaddexp(shares, total + way.any_before)


def _summed(log_image: torch.Tensor, way: _Way) -> tuple[torch.Tensor, torch.Tensor]:
    """The log of sum_i r_i, and the sum over all j of `_mixed`, float32 [B, N, 1] each.

    No logarithms of sums [B, N, K] are taken, which would be half of a training step's time. Where
    a share is too small for that, at s = 0, nobody needs the sum over all j.
    """
    shares = log_image.exp()
    shares = shares.scatter(2, way.seen, shares.gather(2, way.seen) * way.same_less.exp())
    total = shares.sum(dim=2, keepdim=True)
    floor = (total * way.any_before.exp()).clamp(min=SMALLEST)
    return total.log(), (shares + floor).log().sum(dim=2, keepdim=True)
