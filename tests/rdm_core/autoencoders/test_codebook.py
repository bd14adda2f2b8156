"""The codebook: it starts where the vectors are, follows them, and says when it has collapsed."""

import pytest
import torch

from rdm_core.autoencoders.codebook import (
    Codebook,
    CollapsedCodes,
    k_means,
    perplexity,
    share_in_use,
)
from rdm_core.codes import nearest_codes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(each: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Four far corners [4, 2], and vectors [4 * each, 2] close to them."""
    corners = torch.tensor([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
    noise = 0.1 * torch.randn(4 * each, 2, generator=generator())
    return corners, corners.repeat_interleave(each, 0) + noise


def test_k_means_finds_the_clusters():
    corners, vectors = clusters()
    means = k_means(vectors, 16, generator())
    assert (torch.cdist(corners, means).min(dim=1).values < 0.3).all()
    assert means.isfinite().all()


def test_too_few_vectors_make_no_codebook():
    with pytest.raises(ValueError, match="3 vectors cannot make 4 entries"):
        k_means(torch.zeros(3, 2), 4, generator())


def test_entries_follow_the_vectors_that_fall_to_them():
    corners, vectors = clusters()
    codebook = Codebook(4, 2, decay=0.9)
    codebook.start(corners + 1, len(vectors))
    assert torch.allclose(codebook.entries, corners + 1)
    for _ in range(100):
        codebook.update(vectors, nearest_codes(vectors, codebook.entries))
    assert torch.allclose(codebook.entries, corners, atol=0.1)


def test_dead_codes_are_revived_at_vectors_and_live():
    corners, vectors = clusters()
    codebook = Codebook(8, 2, decay=0.5)
    codebook.start(torch.cat([corners, corners + 100]), len(vectors))
    for _ in range(20):
        codebook.update(vectors, nearest_codes(vectors, codebook.entries))
    assert codebook.alive.tolist() == [True] * 4 + [False] * 4
    assert codebook.revive(vectors, generator()) == 4
    assert codebook.alive.all()
    assert (torch.cdist(codebook.entries[4:], vectors).min(dim=1).values < 0.01).all()


def test_collapsed_codes_are_refused_with_the_share_that_is_used():
    codebook = Codebook(100, 2, decay=0.5)
    codebook.start(torch.zeros(100, 2), 100)
    codebook.refuse_collapse("step 0")
    for _ in range(30):
        codebook.update(torch.ones(10, 2), torch.zeros(10, dtype=torch.int64))
    with pytest.raises(CollapsedCodes, match=r"step 9: 1\.0% of the codes are used.*10%"):
        codebook.refuse_collapse("step 9")


def test_the_use_of_codes_is_counted():
    codes = torch.tensor([[0, 0], [1, 1]])
    assert share_in_use(codes, 8) == 0.25
    assert perplexity(codes, 8) == pytest.approx(2)
    assert perplexity(torch.zeros(5, dtype=torch.int64), 8) == pytest.approx(1)
    assert perplexity(torch.arange(8), 8) == pytest.approx(8)
