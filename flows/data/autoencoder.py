"""Which autoencoder a name means, and its latent space.

pixels                the images themselves
rdm-shapes-kl, -vq    those of the built-in world, which are part of this package
autoencoders/NAME     one that `rdm autoencoder` trained under the root; NAME@ID for one version
anything else         a local diffusers folder if there is one, else a hub id

So a folder that is itself called autoencoders/NAME is written ./autoencoders/NAME.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flows.run.stage import download
from rdm_core.device import best_device
from rdm_core.latents import BUILT_IN, PIXELS, LatentSpace, load_latent_space
from storage.artifact import Artifact, open_artifact

KIND = "autoencoders"


def trained_autoencoder(root: Path, autoencoder: str) -> Artifact | None:
    """The artifact of that name; None where the name means something else.

    Raises ArtifactMissing where none has the name.
    """
    kind, slash, reference = autoencoder.partition("/")
    return open_artifact(root, kind, reference) if slash and kind == KIND else None


def pinned(root: Path, autoencoder: str) -> str:
    """The name by which it is found again: the present version, or a local folder by its absolute
    path; anything else, a name with its @version too, as it is.
    """
    if autoencoder.startswith(f"{KIND}/") and "@" in autoencoder:
        return autoencoder
    trained = trained_autoencoder(root, autoencoder)
    if trained is not None:
        return trained.reference
    if autoencoder != PIXELS and autoencoder not in BUILT_IN and Path(autoencoder).exists():
        return str(Path(autoencoder).resolve())
    return autoencoder


def load_space(root: Path, autoencoder: str) -> LatentSpace:
    """The latent space, on the CPU. Raises what `trained_autoencoder` and `load_latent_space` do.

    That of a trained one goes by its name without the version: the hash of its weights says which.
    """
    trained = trained_autoencoder(root, autoencoder)
    if trained is None:
        return load_latent_space(autoencoder)
    space = load_latent_space(str(trained.file("weights")))
    return replace(space, name=f"{KIND}/{trained.name}")


def space_of(root: Path, autoencoder: str) -> LatentSpace:
    """The latent space on the best device, loaded once a process."""
    return _space_of(root, pinned(root, autoencoder))


def forget_space() -> None:
    """Let go of the one that was loaded last."""
    _space_of.cache_clear()


@lru_cache(maxsize=1)
def _space_of(root: Path, pinned: str) -> LatentSpace:
    part_of_us = pinned == PIXELS or pinned in BUILT_IN
    is_here = part_of_us or pinned.startswith(f"{KIND}/") or Path(pinned).is_dir()
    with nullcontext() if is_here else download():
        return load_space(root, pinned).to(best_device())
