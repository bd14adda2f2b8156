"""The families of models behind one database: different ways to model p(image | its neighbors).

A family is a folder with two files. `config.py` has what can be chosen, `Config` and `Draw`, and
imports no torch. `model.py` has `build` and `load`, which make a `rdm_core.families.family.Model`,
and `import_networks`, which imports the libraries that those two need. Families do not import each
other, but for those that go on from one: references from diffusion, multimodal from
autoregressive.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from rdm_core.config import DrawConfig
from rdm_core.errors import WeightsError
from rdm_core.families.facts import ModelConfig, RunFacts

FAMILIES = {
    "diffusion": "rdm_core.families.diffusion",
    "autoregressive": "rdm_core.families.autoregressive",
    "discrete": "rdm_core.families.discrete",
    "references": "rdm_core.families.references",
    "multimodal": "rdm_core.families.multimodal",
}
"""Name -> folder."""
FACTS_FILE = "model.json"


def config_of(family: str) -> type[ModelConfig]:
    """The class of the configuration of a family's models."""
    return import_module(f"{FAMILIES[family]}.config").Config


def draw_settings(family: str) -> type[DrawConfig]:
    """The class of the settings for drawing from a family's models."""
    return import_module(f"{FAMILIES[family]}.config").Draw


def family_of(name: str) -> Any:
    """The module with a family's `build`, `load` and `import_networks`."""
    return import_module(f"{FAMILIES[name]}.model")


def read_facts(directory: Path) -> RunFacts:
    """Read the facts in a weights folder, without its weights.

    Raises WeightsError when the folder is no weights folder of this version.
    """
    path = directory / FACTS_FILE
    try:
        facts = RunFacts.of(json.loads(path.read_bytes()))
        if facts.family not in FAMILIES:
            raise ValueError(f"family {facts.family!r} is none of {', '.join(FAMILIES)}")
    except FileNotFoundError as error:
        what = f"has no {FACTS_FILE}: it is no weights folder, or one of an older version"
        cure = "Give a run's name or its weights folder; train or convert an older run again."
        raise WeightsError(directory, what, cure) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        cure = "Give a run's name or its weights folder, or train again."
        raise WeightsError(path, f"cannot be read ({error})", cure) from error
    return facts


def load_model(directory: Path, facts: RunFacts, space: Any) -> Any:
    """Load the `rdm_core.families.family.Model` in a weights folder, in evaluation mode.

    `space` is its latent space. Raises WeightsError when the folder's weights do not fit its facts.
    """
    return family_of(facts.family).load(directory, read_config(directory, facts), facts, space)


def read_config(directory: Path, facts: RunFacts) -> ModelConfig:
    """Read the configuration of the model in a weights folder.

    Raises WeightsError when its family does not know such a configuration.
    """
    try:
        return config_of(facts.family).of(facts.model)
    except (ValueError, TypeError, AttributeError) as error:
        cure = "Give a run's name or its weights folder, or train again."
        raise WeightsError(directory / FACTS_FILE, f"cannot be read ({error})", cure) from error
