"""A small CLIP for the built-in world, loaded by open_clip like any other.

    register()
    model, _, preprocess = open_clip.create_model_and_transforms(MODEL_NAME,
    pretrained=str(WEIGHTS))
    tokenizer = open_clip.get_tokenizer(MODEL_NAME)

Three files beside this one make it up: the architecture (open_clip's own JSON),
the tokenizer's merges, and the weights, which train_clip.py produced; there are two sets of them.
"""

from pathlib import Path

from rdm_core import small_clip

MODEL_NAME = "rdm-shapes"
WEIGHTS = Path(__file__).with_name("clip.safetensors")
ACCESSORIES_WEIGHTS = Path(__file__).with_name("clip-accessories.safetensors")
"""The same, trained on to tell what an object wears, which the first ones hardly do."""
CONFIG = Path(__file__).with_name("rdm-shapes.json")
MERGES = Path(__file__).with_name("bpe.txt.gz")


def register() -> None:
    """Make open_clip know MODEL_NAME; calling it again changes nothing."""
    small_clip.register(CONFIG, MERGES)
