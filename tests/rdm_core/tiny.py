"""The smallest networks and processes: what the core's fixtures are built of."""

from rdm_core.families.diffusion.config import DenoiserConfig
from rdm_core.families.diffusion.noise import Diffusion, FlowMatching

DIMENSION = 8
TINY = {
    "transformer": DenoiserConfig(
        network="transformer", channels=(32,), depth=1, head_channels=16, patch=4
    ),
    "unet": DenoiserConfig(
        network="unet", channels=(32, 64), depth=1, head_channels=16, attention_levels=(1,)
    ),
}
"""For latents of 3 channels and vectors of DIMENSION."""
EVERYTHING = {"query_token": True, "set_layers": 1, "remove_means": True}
"""All that a denoiser may be asked for beside its network."""
PROCESSES = {
    "flow": FlowMatching(),
    "epsilon": Diffusion(),
    "velocity": Diffusion(velocity=True),
    "zero terminal": Diffusion(velocity=True, zero_terminal_snr=True),
}
