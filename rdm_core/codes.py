"""Codes: the position of the entry of a codebook that is nearest to each vector."""

import torch

DISTANCES_AT_ONCE = 2**24
"""Distances between vectors and entries that are in memory at once: 128 MiB."""


def nearest_codes(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Vectors float32 [M, C], codebook float32 [K, C] -> nearest entries int64 [M].

    argmin_k |v - e_k|^2 = argmin_k |e_k|^2 / 2 - v.e_k (VQ-VAE, arXiv 1711.00937, eq. 1).
    """
    # In float64: the difference of large float32 numbers has too few digits to tell near entries
    # apart.
    entries = codebook.double()
    half_squares = entries.square().sum(dim=1) / 2
    rows = max(1, DISTANCES_AT_ONCE // len(entries))
    codes = []
    for part in vectors.split(rows):
        codes.append(torch.argmin(half_squares - part.double() @ entries.T, dim=1))
    return torch.cat(codes)
