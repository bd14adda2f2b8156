"""How much faster codes are drawn with what earlier positions have left, than by computing every
position anew.

    python -m benchmarks.drawing_codes [--images 8] [--positions 64 128 256]

The network of the preset rarm-shapes with random weights, guided: two sets of contexts an image.
Prints seconds an image of both for each number of positions, and their ratio.
"""

import argparse
import time
from dataclasses import replace

import torch

from flows.config.presets import PRESETS
from rdm_core.context import nothing
from rdm_core.families.autoregressive.config import Config
from rdm_core.families.autoregressive.decoder import Cache, CausalTransformer

DIMENSION = 64


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--positions", type=int, nargs="+", default=[64, 128, 256])
    options = parser.parse_args()
    config = Config.of(PRESETS["rarm-shapes"]["model"])
    print("| positions | with a cache | anew | ratio |\n|---:|---:|---:|---:|")
    for positions in options.positions:
        torch.manual_seed(0)
        transformer = replace(config.transformer, remove_means=False)
        network = CausalTransformer(config.codes, positions, DIMENSION, transformer).eval()
        kept, anew = (seconds(network, options.images, positions, cached) for cached in (1, 0))
        print(f"| {positions} | {kept:.3f} s | {anew:.3f} s | {anew / kept:.1f} |")


@torch.no_grad()
def seconds(network: CausalTransformer, images: int, positions: int, cached: int) -> float:
    """Seconds an image of going through all positions."""
    tokens, mask = network.seen(nothing(2 * images, DIMENSION))
    codes = torch.randint(network.codes, (2 * images, positions))
    before, cache = network.after_start(codes), Cache(positions)
    network.logits(before[:, :1], tokens, mask)  # the first one is slower
    started = time.monotonic()
    for position in range(positions):
        if cached:
            network.logits(before[:, position, None], tokens, mask, position, cache)
        else:
            network.logits(before[:, : position + 1], tokens, mask)
    return (time.monotonic() - started) / images


if __name__ == "__main__":
    main()
