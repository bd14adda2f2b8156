"""Codes: which entry of a codebook is nearest to each vector."""

import torch

DISTANCES_AT_ONCE = 2**24
"""Between a vector and an entry: 128 MiB of them."""


def nearest_codes(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Vectors float32 [M, C], codebook [K, C] -> positions int64 [M] of the nearest entries.

    argmin_k |v - e_k|^2 = argmin_k |e_k|^2 / 2 - v.e_k, in float64: of large float32 numbers the
    difference would keep too few digits to tell near entries apart.
    """
    entries = codebook.double()
    half_squares = entries.square().sum(dim=1) / 2
    rows = max(1, DISTANCES_AT_ONCE // len(entries))
    pieces = [
        torch.argmin(half_squares - piece.double() @ entries.T, dim=1)
        for piece in vectors.split(rows)
    ]
    return torch.cat(pieces)
