"""What each term of the loss sees, and what it does not."""

import pytest
import torch

from rdm_core.autoencoders import losses

SIDE = 16


def picture(seed: int = 0) -> torch.Tensor:
    """Noise [2, 3, SIDE, SIDE] in -1..1."""
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


PAIRS = (
    losses.absolute,
    losses.squared,
    losses.gradient,
    losses.low_frequencies,
    losses.chroma,
    losses.texture,
    losses.grain,
)


@pytest.mark.parametrize("term", PAIRS)
def test_equal_pictures_lose_nothing_and_others_something(term):
    assert term(picture(), picture()) == 0
    assert term(picture(), picture(1)) > 0.01


@pytest.mark.parametrize("term", PAIRS)
def test_pictures_smaller_than_a_window_have_a_loss_too(term):
    small = picture()[..., :3, :4]
    assert term(small, small.flip(0)).isfinite()


def test_absolute_and_squared_are_means():
    x = picture()
    assert losses.absolute(x, x + 0.5).item() == pytest.approx(0.5, abs=1e-6)
    assert losses.squared(x, x + 0.5).item() == pytest.approx(0.25, abs=1e-6)


def test_a_gradient_sees_no_shift_of_tone_but_an_edge_that_turns_round():
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    assert losses.gradient(edge, edge + 0.3).item() == pytest.approx(0, abs=1e-6)
    # Of 7 differences to the right one is 1 or -1; downwards there is none.
    assert losses.gradient(edge, -edge).item() == pytest.approx(2 / 7)


def test_low_frequencies_see_tone_but_no_fine_texture():
    x = picture()
    checks = torch.ones(SIDE, SIDE)
    checks[::2, ::2] = checks[1::2, 1::2] = -1
    assert losses.low_frequencies(x, x + checks).item() == pytest.approx(0, abs=1e-6)
    assert losses.low_frequencies(x, x + 0.1).item() == pytest.approx(0.2, abs=1e-6)


def test_chroma_sees_colour_but_no_grey():
    x = picture()
    grey = picture(1)[:, :1]
    assert losses.chroma(x, x + grey).item() == pytest.approx(0, abs=1e-6)
    red = torch.tensor([0.3, 0.0, 0.0])[:, None, None]
    # 0.2 in red, 0.1 in green and in blue.
    assert losses.chroma(x, x + red).item() == pytest.approx(0.4 / 3, abs=1e-6)


def test_texture_sees_how_much_there_is_and_not_where():
    lines = torch.zeros(1, 3, SIDE, SIDE)
    lines[..., ::2] = 1
    assert losses.texture(lines, 1 - lines).item() == pytest.approx(0, abs=1e-6)
    assert losses.texture(lines, lines * 0 + 0.5).item() == pytest.approx(1, abs=1e-6)
    assert losses.gradient(lines, 1 - lines) > losses.gradient(lines, lines * 0 + 0.5)


def test_grain_sees_a_spread_outline_of_colour_and_speckles_but_no_grey():
    outline = torch.zeros(1, 3, SIDE, SIDE)
    outline[:, 0, :, 8:] = 1
    spread = outline.clone()
    spread[:, 0, :, 7:9] = 0.5
    assert losses.grain(outline, spread) > 0.02
    assert losses.grain(outline, outline + 0.1 * picture()) > 0.02
    assert losses.grain(outline, outline + picture()[:1, :1]).item() == pytest.approx(0, abs=1e-5)


def test_the_divergence_is_zero_for_the_standard_normal_only():
    zeros = torch.zeros(2, 4, 3, 3)
    assert losses.divergence(zeros, zeros) == 0
    mean, log_variance = torch.full_like(zeros, 0.7), torch.full_like(zeros, -1.1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(torch.tensor(0.7), torch.tensor(-1.1).mul(0.5).exp()), normal(0.0, 1.0)
    )
    assert losses.divergence(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-5)


def test_commitment_moves_the_latents_and_not_the_entries():
    latents = torch.zeros(1, 2, 2, 2, requires_grad=True)
    entries = torch.ones(1, 2, 2, 2, requires_grad=True)
    loss = losses.commitment(latents, entries)
    loss.backward()
    assert loss == 1
    assert latents.grad is not None and latents.grad.abs().sum() > 0
    assert entries.grad is None


def test_a_sure_discriminator_loses_nothing_and_a_wrong_one_twice_its_margin():
    ones = torch.ones(1, 1, 4, 4)
    assert losses.hinge(ones, -ones) == 0
    assert losses.hinge(-ones, ones) == 4
    assert losses.fooling(3 * ones) == -3
