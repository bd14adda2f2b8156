"""What was learned from emoji and is part of this package: a small CLIP, an autoencoder, a model.

Nothing here has seen the style OpenMoji or a concept that is held out, and no artwork is here: the
pictures are fetched by `rdm acquire emoji`.
"""

from pathlib import Path

AUTOENCODER = Path(__file__).with_name("autoencoder-kl")
"""An AutoencoderKL f4 for pictures of 64 pixels, a diffusers folder."""
RUN = Path(__file__).with_name("run")
"""The weights folder of the run that draws emoji."""
