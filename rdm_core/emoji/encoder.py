"""The small CLIP of emoji, loaded by open_clip like any other: model "rdm-emoji"."""

from pathlib import Path

from rdm_core import small_clip

MODEL_NAME = "rdm-emoji"
CONFIG = Path(__file__).with_name(f"{MODEL_NAME}.json")
MERGES = Path(__file__).with_name("bpe.txt.gz")
WEIGHTS = Path(__file__).with_name("clip.safetensors")


def register() -> None:
    """Make open_clip know MODEL_NAME; calling it again changes nothing."""
    small_clip.register(CONFIG, MERGES)
