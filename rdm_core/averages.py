"""Running means of any length, chosen after training (post-hoc EMA, Karras et al., arXiv
2312.02696, section 3).

Training keeps two means whose weight of step t grows as t^gamma, and a snapshot of both now and
then. The mean of another length is then the mixture of the snapshots whose profile over the steps
is nearest, by least squares, to the wanted one. A length is the standard deviation of a profile as
a share of the training so far.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

LENGTHS = (0.05, 0.10)
"""Of the two means that are kept, as in the paper."""
LONGEST = 0.288
"""Just below 1 / sqrt(12), the length of the plain mean over all steps."""
FAR = 0.1
"""Distance of a profile from which on a mixture is not the mean that was asked for."""
DECAY = 1e-7
"""Of the least squares: without it, lengths far from the kept ones are differences of huge
multiples of rounded weights.
"""


def exponent(length: float) -> float:
    """The gamma of a length: length^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)). Raises
    ValueError outside 0..LONGEST.
    """
    if not 0 < length <= LONGEST:
        raise ValueError(
            f"length: is {length}, must be above 0 and at most {LONGEST}, "
            "which is nearly the mean over all steps"
        )
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return float(roots.real.max())


class PowerMeans:
    """The means of a network's parameters while it is trained, one of each of LENGTHS."""

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._parameters = dict(parameters)
        self._means = {
            length: [p.detach().clone() for p in self._parameters.values()] for length in LENGTHS
        }

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Take the parameters after `done` >= 1 steps in: mean += (1 - (1 - 1 / done)^(gamma + 1))
        (parameters - mean).
        """
        now = [parameter.detach() for parameter in self._parameters.values()]
        for length, means in self._means.items():
            torch._foreach_lerp_(means, now, 1 - (1 - 1 / done) ** (exponent(length) + 1))

    def state(self) -> dict[str, torch.Tensor]:
        """Every mean as power/<length>/<parameter>."""
        return {
            f"power/{length}/{name}": mean
            for length, means in self._means.items()
            for name, mean in zip(self._parameters, means, strict=True)
        }

    @torch.no_grad()
    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Undo `state`. Raises KeyError naming the first tensor that is absent."""
        for name, mean in self.state().items():
            mean.copy_(torch.from_numpy(state[name]))


def mixture(
    lengths: Sequence[float], steps: Sequence[int], length: float, at_step: int
) -> tuple[np.ndarray, float]:
    """Weights [S] of snapshots of some lengths, taken after so many steps, that give the mean of
    `length` at `at_step`.

    The weights add up to 1. Also returns how far their profile is from the wanted one, as a share
    of its size: 0 is exact, above FAR it is another mean. Least squares, with a little weight
    decay, as snapshots are rounded to float16; the inner product of two profiles (a + 1) t^a / T^(a
    + 1) on 0..T and (b + 1) t^b / U^(b + 1) on 0..U is (a + 1)(b + 1) m^(a + b + 1) / ((a + b + 1)
    T^(a + 1) U^(b + 1)) with m = min(T, U).
    """
    exponents, ends = (
        np.asarray([exponent(given) for given in lengths]),
        np.asarray(steps, float) / at_step,
    )
    wanted = exponent(length)
    among = _inner(exponents[:, None], ends[:, None], exponents[None], ends[None])
    with_wanted = _inner(exponents, ends, np.float64(wanted), np.float64(1))
    size = float(_inner(np.float64(wanted), np.float64(1), np.float64(wanted), np.float64(1)))
    one = np.ones((len(exponents), 1))
    equations = np.block(
        [[among + DECAY * size * np.eye(len(exponents)), one], [one.T, np.zeros((1, 1))]]
    )
    weights = np.linalg.lstsq(equations, np.append(with_wanted, 1.0), rcond=None)[0][:-1]
    distance = size - 2 * float(weights @ with_wanted) + float(weights @ among @ weights)
    return weights, float(np.sqrt(max(0.0, distance) / size))


def _inner(a: Any, ends_a: Any, b: Any, ends_b: Any) -> Any:
    """In logarithms: the powers overflow."""
    least = np.log(np.minimum(ends_a, ends_b))
    powers = (a + b + 1) * least - (a + 1) * np.log(ends_a) - (b + 1) * np.log(ends_b)
    return (a + 1) * (b + 1) / (a + b + 1) * np.exp(powers)


def mixed(
    snapshots: Iterable[dict[str, np.ndarray]], weights: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The mixture of snapshots' parameters, float32; `weights` [snapshots, LENGTHS]. Holds one
    snapshot at a time.
    """
    total: dict[str, np.ndarray] = {}
    for snapshot, shares in zip(snapshots, weights, strict=True):
        for length, share in zip(LENGTHS, shares, strict=True):
            for name in names:
                part = share * snapshot[f"power/{length}/{name}"].astype(np.float64)
                total[name] = total[name] + part if name in total else part
    return {name: values.astype(np.float32) for name, values in total.items()}
