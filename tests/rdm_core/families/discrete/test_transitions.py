"""The maths of mask-and-replace, beside matrices written out and beside diffusers' scheduler."""

import math

import pytest
import torch
from diffusers import VQDiffusionScheduler

from rdm_core.families.discrete.config import TransitionsConfig
from rdm_core.families.discrete.transitions import Transitions

K, T, N = 5, 4, 400
REPLACING = TransitionsConfig(times=T, kept=(0.8, 0.05), masked=(0.1, 0.7))
"""Many codes are replaced."""
PROCESSES = {
    "the usual": TransitionsConfig(times=T),
    "replacing": REPLACING,
    "hundred times": TransitionsConfig(),
}


@pytest.fixture(params=list(PROCESSES))
def process(request):
    return Transitions(K, PROCESSES[request.param])


def whole(process, time):
    """Q from time 0, float64 [K + 1, K + 1]: column j has what becomes of class j."""
    kept, masked = process.kept[time], process.masked[time]
    matrix = torch.full((K + 1, K + 1), ((1 - kept - masked) / K).item(), dtype=torch.float64)
    matrix += kept * torch.eye(K + 1, dtype=torch.float64)
    matrix[K], matrix[:, K] = masked, 0.0
    matrix[K, K] = 1.0
    return matrix


def step(process, earlier, later):
    """Q from an earlier time to a later one, float64 [K + 1, K + 1], as `between` says."""
    a, b, c = (each[0] for each in process.between(at(earlier, 1), at(later, 1)))
    matrix = b.expand(K + 1, K + 1) + a * torch.eye(K + 1, dtype=torch.float64)
    matrix[K], matrix[:, K] = c, 0.0
    matrix[K, K] = 1.0
    return matrix


def scheduler(process):
    """diffusers' own, of the same process."""
    first, last = (slice(1, 2), slice(-1, None))
    shares = [
        each[part].item() for each in (process.kept, process.masked) for part in (first, last)
    ]
    return VQDiffusionScheduler(K + 1, process.times, *shares)


def at(time, count=N):
    return torch.full((count,), time)


def some(process, time, seed=0):
    """N images of one code each, with a guess of it: codes, x_t [N, 1], log p [N, 1, K]."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(K, (N, 1), generator=generator)
    noisy = torch.randint(K + 1, (N, 1), generator=generator)
    noisy[: N // 3] = codes[: N // 3]
    guess = (3 * torch.randn(N, 1, K, generator=generator)).log_softmax(dim=2)
    return codes, noisy, guess


def posteriors(process, earlier, later, noisy):
    """q(x_s | x_t, x_0 = i) by matrices, float64 [N, K + 1, K]: a column for each i."""
    before, way, after = (
        whole(process, earlier),
        step(process, earlier, later),
        whole(process, later),
    )
    joint = way[noisy[:, 0]][:, :, None] * before[None, :, :K]
    return joint / after[noisy[:, 0]][:, None, :K]


def test_columns_of_all_transitions_sum_to_1_and_steps_make_the_whole(process):
    so_far = torch.eye(K + 1, dtype=torch.float64)
    for time in range(1, process.times + 1):
        matrix = step(process, time - 1, time)
        assert matrix.min() >= 0
        assert torch.allclose(matrix.sum(dim=0), torch.ones(K + 1).double(), atol=1e-12)
        so_far = matrix @ so_far
        assert torch.allclose(so_far, whole(process, time), atol=1e-12)
        assert torch.allclose(so_far.sum(dim=0), torch.ones(K + 1).double(), atol=1e-12)
        assert torch.allclose(step(process, 0, time), so_far, atol=1e-12)


def test_the_process_is_diffusers_own(process):
    theirs = scheduler(process)
    for index in range(process.times):
        a, b, c = process.between(at(index, 1), at(index + 1, 1))
        mine = torch.cat([a, b, c, process.kept[[index + 1]], process.masked[[index + 1]]]).float()
        logs = [
            theirs.log_at, theirs.log_bt, theirs.log_ct, theirs.log_cumprod_at,
            theirs.log_cumprod_ct,
        ]  # fmt: skip
        assert torch.allclose(mine, torch.stack([log[index].exp() for log in logs]), atol=1e-6)


@pytest.mark.parametrize("earlier", [0, 1, 2, 3])
@pytest.mark.parametrize("later", [1, 2, 3, 4])
def test_the_posterior_is_that_of_the_matrices(process, earlier, later):
    if earlier >= later:
        return
    codes, noisy, guess = some(process, later)
    wanted = (posteriors(process, earlier, later, noisy) * guess.double().exp()).sum(dim=2)
    found = process.log_posterior(guess, noisy, at(earlier), at(later))[:, 0].exp()
    assert torch.allclose(found.sum(dim=1), torch.ones(N), atol=1e-5)
    assert (found - wanted).abs().max() <= 1e-5
    certain = torch.zeros(N, 1, K).scatter(2, codes[..., None], 1.0).log()
    of_image = posteriors(process, earlier, later, noisy)[torch.arange(N), :, codes[:, 0]]
    found = process.log_posterior(certain, noisy, at(earlier), at(later))[:, 0].exp()
    assert (found - of_image).abs().max() <= 1e-5


def test_the_posterior_is_that_of_the_scheduler(process):
    theirs = scheduler(process)
    for later in range(1, process.times + 1):
        _, noisy, guess = some(process, later, seed=later)
        wanted = theirs.q_posterior(guess.transpose(1, 2), noisy, torch.tensor(later - 1))
        found = process.log_posterior(guess, noisy, at(later - 1), at(later))
        assert (found.exp() - wanted.transpose(1, 2).exp()).abs().max() <= 1e-5, later


@pytest.mark.parametrize(("earlier", "later"), [(0, 1), (1, 2), (1, 4), (3, 4), (0, 4)])
def test_the_divergence_is_that_of_the_matrices(process, earlier, later):
    codes, noisy, guess = some(process, later)
    each = posteriors(process, earlier, later, noisy)
    true = each[torch.arange(N), :, codes[:, 0]]
    mixed = (each * guess.double().exp()).sum(dim=2)
    terms = torch.where(true > 0, true * (true.log() - mixed.log()), torch.zeros_like(true))
    found = process.divergence(guess, codes, noisy, at(earlier), at(later))[:, 0]
    wanted = terms.sum(dim=1)
    assert torch.allclose(found.double(), wanted, rtol=2e-6, atol=1e-5)
    if earlier == 0:
        likely = -guess.gather(2, codes[..., None])[:, 0, 0]
        assert torch.allclose(found, likely, atol=1e-5), "at the image: -log p(x_0 | x_t)"


def test_nothing_diverges_from_a_sure_and_right_guess(process):
    codes, noisy, _ = some(process, 2)
    sure = torch.full((N, 1, K), -200.0).scatter(2, codes[..., None], 0.0)
    for earlier in (0, 1):
        found = process.divergence(sure, codes, noisy, at(earlier), at(2))
        assert found.abs().max() <= 1e-5


def test_what_a_code_says_of_the_image_is_added_by_bayes_rule(process):
    for later in (1, 3):
        _, noisy, prior = some(process, later)
        found = process.with_likelihood(prior, noisy, at(later)).softmax(dim=2)[:, 0].double()
        joint = whole(process, later)[noisy[:, 0], :K] * prior[:, 0].double().exp()
        assert torch.allclose(found, joint / joint.sum(dim=1, keepdim=True), atol=1e-6)


def test_a_large_codebook_and_extreme_guesses_stay_finite_and_have_gradients():
    process, generator = Transitions(8192, TransitionsConfig()), torch.Generator().manual_seed(1)
    codes = torch.randint(8192, (100, 3), generator=generator)
    noisy = codes.clone()
    noisy[:, 1], noisy[:, 2] = 8192, torch.randint(8192, (100,), generator=generator)
    times = torch.arange(1, 101)
    for size in (1.0, 300.0):
        logits = size * torch.randn(100, 3, 8192, generator=generator)
        logits.requires_grad_(True)
        guess = logits.log_softmax(dim=2)
        found = process.divergence(guess, codes, noisy, times - 1, times)
        assert found.isfinite().all() and found.min() > -1e-4
        found.sum().backward()
        assert logits.grad.isfinite().all() and logits.grad.any()
        sums = process.log_posterior(guess, noisy, times - 1, times).exp().sum(dim=2)
        assert torch.allclose(sums, torch.ones(100, 3), atol=1e-4)


def test_codes_are_lost_as_often_as_the_process_says():
    process = Transitions(K, REPLACING)
    generator = torch.Generator().manual_seed(2)
    codes = torch.full((1, 200_000), 3)
    uniform = torch.rand(codes.shape, generator=generator, dtype=torch.float64)
    others = torch.randint(K, codes.shape, generator=generator)
    for time in range(1, T + 1):
        noisy = process.corrupted(codes, torch.tensor([time]), uniform, others)
        shares = torch.bincount(noisy[0], minlength=K + 1) / codes.shape[1]
        assert torch.allclose(shares.double(), whole(process, time)[:, 3], atol=0.005)


def test_what_the_start_does_not_know_of_an_image_is_its_divergence(process):
    image = whole(process, process.times)[:, 2]
    start = torch.full((K + 1,), ((1 - process.masked[-1]) / K).item(), dtype=torch.float64)
    start[K] = process.masked[-1]
    wanted = (image * (image.log() - start.log())).sum().item()
    assert math.isclose(process.last_divergence(), wanted, abs_tol=1e-12) and wanted > 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"times": 1}, "times: is 1"),
        ({"kept": (0.1, 0.9)}, "kept: is 0.1, 0.9, must fall between 0 and 1"),
        ({"kept": (1.0, 0.1)}, "kept: is 1.0, 0.1, must fall"),
        ({"masked": (0.9, 0.1)}, "masked: is 0.9, 0.1, must rise between 0 and 1"),
        ({"kept": (0.95, 0.1), "masked": (0.05, 0.5)}, "0.95 and 0.05 leave nothing to be replace"),
        ({"kept": (0.5, 0.4), "masked": (0.1, 0.59)}, "more would be kept after the last step"),
    ],
)
def test_processes_that_cannot_be_are_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        TransitionsConfig(**wrong)
