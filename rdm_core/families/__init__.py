"""The families of models behind one database: p(image | what was retrieved), in several ways.

A family is a folder with `config.py` (what can be chosen, importing no torch: `Config`, `Draw`) and
`model.py` (`build` and `load`, which give a `rdm_core.families.family.Model`, and
`import_networks`, which imports now what they will). They do not import
each other.
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
}
"""Name -> folder."""
FACTS_FILE = "model.json"


def config_of(family: str) -> type[ModelConfig]:
    """The class of what can be chosen about a family's models."""
    return import_module(f"{FAMILIES[family]}.config").Config


def draw_settings(family: str) -> type[DrawConfig]:
    """The class of what can be chosen about drawing from a family's models."""
    return import_module(f"{FAMILIES[family]}.config").Draw


def family_of(name: str) -> Any:
    """The module with a family's `build`, `load` and `import_networks`."""
    return import_module(f"{FAMILIES[name]}.model")


def read_facts(directory: Path) -> RunFacts:
    """The facts in a weights folder, without loading weights.

    Raises WeightsError when the folder is none of this version.
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
    """The `rdm_core.families.family.Model` in a weights folder, in evaluation mode, with the latent
    space it works in.

    Raises WeightsError when the folder's weights are not those that its facts tell of.
    """
    return family_of(facts.family).load(directory, read_config(directory, facts), facts, space)


def read_config(directory: Path, facts: RunFacts) -> ModelConfig:
    """What was chosen about the model in a weights folder.

    Raises WeightsError when its family does not know what its facts tell of.
    """
    try:
        return config_of(facts.family).of(facts.model)
    except (ValueError, TypeError, AttributeError) as error:
        cure = "Give a run's name or its weights folder, or train again."
        raise WeightsError(directory / FACTS_FILE, f"cannot be read ({error})", cure) from error
