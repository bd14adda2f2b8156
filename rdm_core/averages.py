"""Running means of any length, chosen after training (post-hoc EMA, Karras et al., arXiv
2312.02696, section 3).

Training keeps two means whose weight of step t grows as t^gamma, and stores snapshots of both. The
mean of another length is a mixture of snapshots: the one whose weights over the steps (its profile)
are nearest, by least squares, to the wanted profile. A length is the standard deviation of a
profile as a share of the training so far.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

LENGTHS = (0.05, 0.10)
"""Lengths of the two means that are kept, as in the paper."""
LONGEST = 0.288
"""Just below 1 / sqrt(12), the length of the plain mean over all steps."""
FAR = 0.1
"""A mixture whose profile is farther than this from the wanted one is not the wanted mean."""
DECAY = 1e-7
"""Weight decay of the least squares. Without it, a mean far from the kept ones would be a
difference of huge multiples of rounded weights.
"""


def exponent(length: float) -> float:
    """The gamma of a length (arXiv 2312.02696, eq. 126 and algorithm 2).

    It solves length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), eq. 123 there. Raises ValueError
    outside 0..LONGEST.
    """
    if not 0 < length <= LONGEST:
        raise ValueError(
            f"length: is {length}, must be above 0 and at most {LONGEST}, "
            "which is nearly the mean over all steps"
        )
    # The equation above as a polynomial in gamma; the largest real root is the one that is wanted.
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return float(roots.real.max())


class PowerMeans:
    """Two means of a network's parameters [*] while it is trained, one for each of LENGTHS."""

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        """The network's parameters by name, any shapes [*], floats."""
        self._parameters = dict(parameters)
        self._means: dict[float, list[torch.Tensor]] = {}
        for length in LENGTHS:
            self._means[length] = [p.detach().clone() for p in self._parameters.values()]

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Add the parameters as they are after `done` >= 1 steps (arXiv 2312.02696, eq. 127):

        mean += (1 - beta) (parameters - mean) with beta = (1 - 1 / done)^(gamma + 1).
        """
        now = [parameter.detach() for parameter in self._parameters.values()]
        for length, means in self._means.items():
            beta = (1 - 1 / done) ** (exponent(length) + 1)
            torch._foreach_lerp_(means, now, 1 - beta)  # all tensors in one call

    def state(self) -> dict[str, torch.Tensor]:
        """Every mean [*], named power/<length>/<parameter>."""
        state = {}
        for length, means in self._means.items():
            for name, mean in zip(self._parameters, means, strict=True):
                state[f"power/{length}/{name}"] = mean
        return state

    @torch.no_grad()
    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take the means [*] from what `state` gave. Raises KeyError with the first absent name."""
        for name, mean in self.state().items():
            mean.copy_(torch.from_numpy(state[name]))


def mixture(
    lengths: Sequence[float], steps: Sequence[int], length: float, at_step: int
) -> tuple[np.ndarray, float]:
    """How to mix S snapshots: weights float64 [S] that give the mean of `length` at `at_step`.

    The snapshots are means of `lengths` [S], taken after `steps` [S]. The weights add up to 1. Also
    returns how far their profile is from the wanted one, as a share of its size: 0 is exact, above
    FAR it is another mean. It is a problem of least squares (arXiv 2312.02696, appendix C), here
    with a little weight decay, because snapshots are rounded to float16.
    """
    exponents = np.asarray([exponent(kept) for kept in lengths])
    ends = np.asarray(steps, float) / at_step
    wanted = exponent(length)

    # Inner products of the profiles: among the snapshots, with the wanted one, of it with itself.
    among = _inner(exponents[:, None], ends[:, None], exponents[None], ends[None])
    with_wanted = _inner(exponents, ends, np.float64(wanted), np.float64(1))
    size = float(_inner(np.float64(wanted), np.float64(1), np.float64(wanted), np.float64(1)))

    # The normal equations; a last row and column make the weights add up to 1 (Lagrange).
    ones = np.ones((len(exponents), 1))
    equations = np.block(
        [[among + DECAY * size * np.eye(len(exponents)), ones], [ones.T, np.zeros((1, 1))]]
    )
    weights = np.linalg.lstsq(equations, np.append(with_wanted, 1.0), rcond=None)[0][:-1]
    # |sum of the weighted profiles - wanted profile|^2
    distance = size - 2 * float(weights @ with_wanted) + float(weights @ among @ weights)
    return weights, float(np.sqrt(max(0.0, distance) / size))


def _inner(a: Any, ends_a: Any, b: Any, ends_b: Any) -> Any:
    """Inner products, float64, of profiles with exponents a on 0..A and b on 0..B.

    The arguments have shapes that broadcast: [S, 1] and [1, S], or [S] and []. This is eq. 151 of
    arXiv 2312.02696 in another form: of (a + 1) t^a / A^(a + 1) and (b + 1) t^b / B^(b + 1) it is
    (a + 1) (b + 1) m^(a + b + 1) / ((a + b + 1) A^(a + 1) B^(b + 1)) with m = min(A, B).
    """
    # In logarithms, as the powers overflow.
    least = np.log(np.minimum(ends_a, ends_b))
    powers = (a + b + 1) * least - (a + 1) * np.log(ends_a) - (b + 1) * np.log(ends_b)
    return (a + 1) * (b + 1) / (a + b + 1) * np.exp(powers)


def mixed(
    snapshots: Iterable[dict[str, np.ndarray]], weights: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The mixture of S snapshots' parameters `names`, float32 [*] each.

    `weights` float64 [S, LENGTHS]. Holds one snapshot at a time, and sums in float64.
    """
    total: dict[str, np.ndarray] = {}
    for snapshot, shares in zip(snapshots, weights, strict=True):
        for length, share in zip(LENGTHS, shares, strict=True):
            for name in names:
                part = share * snapshot[f"power/{length}/{name}"].astype(np.float64)
                total[name] = total[name] + part if name in total else part
    return {name: values.astype(np.float32) for name, values in total.items()}
