"""What an autoencoder is trained by: pure functions, one a term.

x and y are pictures float32 [B, 3, H, W] in -1..1, the original and its reconstruction; every
term is a mean, a scalar of the same order whatever the size of the pictures.
"""

import torch
import torch.nn.functional as F

TEXTURE_WINDOW = 8
"""Side of the windows in which texture is compared, pixels."""
CHROMA_SHARE = 3.0
"""Of chroma's texture beside grey's: coloured texture is fainter, and is missed as much."""


def absolute(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1: mean |x - y|."""
    return (x - y).abs().mean()


def squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L2: mean (x - y)^2."""
    return (x - y).square().mean()


def gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of neighbors, rightwards [B, C, H, W - 1] and downwards [B, C, H - 1, W]."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def gradient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the gradients, both directions added (Mathieu et al., arXiv
    1511.05440, equation 6, without its absolute values: an edge must also turn the right way).
    """
    right, down = gradients(x - y)
    return right.abs().mean() + down.abs().mean()


def low_frequencies(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1 of the pictures averaged over 4x4 and over 8x8 pixels, added.

    Fine texture averages out of it, so what is left to err in are tone and colour of areas. A
    picture narrower than a window is averaged whole.
    """
    difference = x - y
    total = difference.new_zeros(())
    for window in (4, 8):
        sides = [min(window, side) for side in difference.shape[-2:]]
        total = total + F.avg_pool2d(difference, sides).abs().mean()
    return total


def chroma(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1 of the chroma, pixels minus their channel mean: grey texture has no part in it."""
    difference = x - y
    return (difference - difference.mean(dim=1, keepdim=True)).abs().mean()


def texture(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1 of the local mean size of the gradients, in windows of TEXTURE_WINDOW pixels at every
    half of one; both directions added, of grey and, CHROMA_SHARE times, of chroma.

    It asks for as much hatching or as many strokes as there are, and lets them fall elsewhere,
    where the plain gradient term would rather have none than wrong ones.
    """
    total = x.new_zeros(())
    greys = [one.mean(dim=1, keepdim=True) for one in (x, y)]
    chromas = [one - grey for one, grey in zip((x, y), greys, strict=True)]
    for (first, second), share in ((greys, 1.0), (chromas, CHROMA_SHARE)):
        for of_x, of_y in zip(gradients(first), gradients(second), strict=True):
            sides = [min(TEXTURE_WINDOW, side) for side in of_x.shape[-2:]]
            steps = [max(1, side // 2) for side in sides]
            sizes = [F.avg_pool2d(one.abs().mean(dim=1), sides, steps) for one in (of_x, of_y)]
            total = total + share * (sizes[0] - sizes[1]).abs().mean()
    return total


def grain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1 of the local strength of chroma's residual, in windows of TEXTURE_WINDOW pixels at every
    half of one: pixels minus their channel mean, minus the mean of their four neighbors, root mean
    square over a window (what `rdm_core.judge.sharpness.grain` measures of a whole set).

    Squares count the few pixels at the outline of a coloured object, which the mean sizes of
    `texture` hardly see: that outline may not spread, nor may smooth areas be speckled.
    """
    strengths = []
    for one in (x, y):
        chroma_of = one - one.mean(dim=1, keepdim=True)
        around = chroma_of[..., :-2, 1:-1] + chroma_of[..., 2:, 1:-1]
        around = around + chroma_of[..., 1:-1, :-2] + chroma_of[..., 1:-1, 2:]
        squares = (chroma_of[..., 1:-1, 1:-1] - around / 4).square().mean(dim=1)
        sides = [min(TEXTURE_WINDOW, side) for side in squares.shape[-2:]]
        steps = [max(1, side // 2) for side in sides]
        strengths.append((F.avg_pool2d(squares, sides, steps) + 1e-6).sqrt())
    return (strengths[0] - strengths[1]).abs().mean()


def divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), mean over the latents [B, C, h, w] (Kingma and
    Welling, arXiv 1312.6114, appendix B).
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def commitment(latents: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of latents [B, C, h, w] from their entries, which do not move for it
    (van den Oord et al., arXiv 1711.00937, equation 3, last term).
    """
    return (latents - entries.detach()).square().mean()


def hinge(of_real: torch.Tensor, of_made: torch.Tensor) -> torch.Tensor:
    """What a discriminator of patches minimises, from its scores [B, 1, h, w] of real and of
    reconstructed pictures: mean max(0, 1 - real) + mean max(0, 1 + made) (arXiv 1705.02894).
    """
    return F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean()


def fooling(of_made: torch.Tensor) -> torch.Tensor:
    """What the decoder minimises against it: minus the mean score of its pictures."""
    return -of_made.mean()
