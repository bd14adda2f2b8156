"""A family of models is its folder and one line: a small one is added to a copy of the tree,
trained, resumed, drawn from and evaluated, and nothing else is changed.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdm_core.families import FAMILIES

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = '''
from dataclasses import dataclass
from typing import Literal

from rdm_core.config import DrawConfig, require_between
from rdm_core.families.facts import ModelConfig


@dataclass(frozen=True)
class Config(ModelConfig):
    """A straight line from the mean of the neighbors' vectors to the pixels."""

    family: Literal["toy"] = "toy"
    """Selects this family."""
    bias: bool = True
    """Also learn the mean image."""


@dataclass(frozen=True)
class Draw(DrawConfig):
    """How its samples are drawn."""

    temperature: float = 0.1
    """Of the noise on top."""

    def check(self) -> None:
        """As in `Config`."""
        super().check()
        require_between(self, ("temperature",), 0, 10)
'''
MODEL = """
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rdm_core.context import nothing
from rdm_core.families.facts import Reads
from rdm_core.families.family import Beside, Inputs, Model


@dataclass(frozen=True)
class ToyInputs(Inputs):
    final: torch.Tensor


class Toy(Model):
    family = "toy"

    def __init__(self, config, shape, space):
        super().__init__()
        self.reads, self.shape, self.space = config.reads, shape, space
        self.line = nn.Linear(shape.dimension, shape.channels * shape.side**2, config.bias)
        self.register_buffer("seen", torch.zeros(1))

    def predicted(self, context):
        mask = context.mask[..., None]
        mean = (context.vectors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return self.line(mean).view(-1, self.shape.channels, self.shape.side, self.shape.side)

    def inputs(self, data, rows, mine, context, generator):
        return ToyInputs(context, self.works_in.final(data.raw(rows[mine])))

    def forward(self, inputs):
        if self.training:
            self.seen += len(inputs)
        return (self.predicted(inputs.context) - inputs.final).square().mean(dim=(1, 2, 3))

    def example(self, count, k, device):
        final = torch.zeros(count, self.shape.channels, self.shape.side, self.shape.side)
        return ToyInputs(nothing(count, self.shape.dimension), final).to(device)

    def null(self, count):
        return nothing(count, self.shape.dimension)

    @torch.no_grad()
    def draw(self, context, seeds, how, beside=Beside(), progress=lambda done: None):
        final = self.predicted(context.to(self.device)) * how.guidance_scale
        each = [np.random.default_rng(seed).normal(size=final.shape[1:]) for seed in seeds]
        noise = torch.from_numpy(np.stack(each)).to(final)
        progress(len(seeds))
        return self.works_in.decode(final + how.temperature * noise)

    def execute(self, execution):
        pass

    def save_weights(self, directory):
        save_file(self.state_dict(), directory / "toy.safetensors")


def import_networks():
    pass


def build(config, shape, space=None, seed=None):
    torch.manual_seed(seed or 0)
    return Toy(config, shape, space)


def load(directory, config, facts, space):
    model = Toy(config, facts.shape, space)
    model.load_state_dict(load_file(directory / "toy.safetensors"))
    return model.eval()
"""


class Tree:
    """A copy of the packages with one family more, and a root with what a training needs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "data"
        for package in ("flows", "rdm_core", "storage"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / package, folder / package, ignore=ignored)
        toy = folder / "rdm_core" / "families" / "toy"
        toy.mkdir()
        (toy / "__init__.py").write_text('"""A family for a test."""\n')
        (toy / "config.py").write_text(CONFIG)
        (toy / "model.py").write_text(MODEL)
        families = folder / "rdm_core" / "families" / "__init__.py"
        line = '    "diffusion": "rdm_core.families.diffusion",\n'
        text = families.read_text()
        assert line in text
        more = '    "toy": "rdm_core.families.toy",\n'
        families.write_text(text.replace(line, line + more))

    def started(self, *words: str) -> subprocess.Popen[str]:
        """`rdm` with these words, in the copy."""
        surroundings = {"PYTHONPATH": str(self.folder), "PREFECT_API_URL": ""}
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words, "--root", str(self.root)],
            cwd=self.folder,
            env=os.environ | surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def rdm(self, *words: str, fails: bool = False) -> str:
        """What it says; its complaint where it is to fail."""
        with self.started(*words) as process:
            said, complained = process.communicate(timeout=120)
        assert bool(process.returncode) == fails, complained
        return complained if fails else said + complained

    def of(self, kind: str, name: str) -> Path:
        """The directory of the one version."""
        (manifest,) = (self.root / kind / name).glob("*/manifest.json")
        return manifest.parent


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Two sets of drawn images in it, with everything upstream of a training."""
    made = Tree(tmp_path_factory.mktemp("families"))
    for name in ("seen", "unseen"):
        drawn = ("count=32", "size=32", "encoding=png", f"split={name}")
        sets = [word for one in drawn for word in ("--set", one)]
        made.rdm("import", "shapes", "--name", name, *sets)
        encoder = ("--set", "encoder=rdm-shapes", "--set", "weights=built-in")
        made.rdm("build", "--name", name, "--shards", name, *encoder)
        made.rdm("neighbors", "--name", name, "--queries", name, "--database", "seen")
        made.rdm("encode", "--name", name, "--shards", name)
    return made


def training(name: str, *sets: str) -> list[str]:
    """The words that train a toy."""
    words = ["train", "--name", name]
    for role in ("latents", "neighbors", "database"):
        words += [f"--{role}", "seen"]
    common = ("model.family=toy", "training.steps=3000", "training.batch=8", "context.k=3")
    for one in (*common, "training.learning_rate=0.01", *sets):
        words += ["--set", one]
    return words


def weights_of(run: Path) -> str:
    """Their hash."""
    return hashlib.sha256((run / "weights" / "toy.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(tree: Tree) -> Tree:
    """The tree with a run of the family."""
    tree.rdm(*training("toy"))
    return tree


def test_a_family_more_is_trained_and_goes_on_where_it_was_killed(trained: Tree) -> None:
    facts = json.loads((trained.of("runs", "toy") / "weights" / "model.json").read_text())
    assert (facts["family"], facts["model"]) == ("toy", {"family": "toy", "bias": True})
    words = training("killed", "reporting.checkpoint_steps=500")
    with trained.started(*words) as process:
        states, end = trained.root / "runs" / "killed", time.monotonic() + 60
        while not list(states.glob("*/checkpoints/*/manifest.json")) and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
    assert not list(states.glob("*/manifest.json")), "killed before its end"
    assert "continues from step" in trained.rdm(*words)
    assert weights_of(trained.of("runs", "killed")) == weights_of(trained.of("runs", "toy"))


def test_a_family_more_is_drawn_from_with_settings_of_its_own(trained: Tree) -> None:
    how = ("--set", "draw.temperature=0", "--set", "count=2")
    trained.rdm("sample", "--run", "toy", "--name", "drawn", "--text", "a red circle", *how)
    assert len(list(trained.of("samples", "drawn").glob("0*.png"))) == 2
    wrong = ("--set", "draw.steps=3")
    complaint = trained.rdm("sample", "--run", "toy", "--text", "x", *wrong, fails=True)
    assert "steps is no setting of the family toy" in complaint
    assert "Settings of toy: guidance_scale, temperature" in complaint
    given = ("--set", "negative=a sketch")
    complaint = trained.rdm("sample", "--run", "toy", "--text", "x", *given, fails=True)
    assert "negative: the family toy has no use for it" in complaint


def test_a_run_of_another_family_is_none_to_start_from(trained: Tree) -> None:
    other = training("other", "model.family=diffusion", "start_from=toy")
    assert "that run is of another family: toy" in trained.rdm(*other, fails=True)


def test_a_family_more_is_evaluated(trained: Tree) -> None:
    trained.rdm(*training("alone", "context.neighbor_dropout=1"))
    names = {
        "baseline": "alone",
        "heldout_latents": "unseen",
        "heldout_neighbors": "unseen",
        "prompts": 8,
        "seeds": 2,
        "quality_images": 16,
        "swaps": "{}",
    }
    sets = [word for name, value in names.items() for word in ("--set", f"{name}={value}")]
    said = trained.rdm("evaluate", "--name", "toy", "--run", "toy", *sets)
    measured = json.loads((trained.of("evaluations", "toy") / "evaluation.json").read_text())
    means = {name: row["mean"] for name, row in measured["loss"]["means"].items()}
    assert len(set(means.values())) == 4 and min(means.values()) > 0, "each is another one"
    assert measured["quality"]["held-out neighbors"]["fd"]["mean"] > 0
    assert "the held-out loss" in said and "rdm show evaluations/toy --full" in said


WORDS_OF_ONE_FAMILY = re.compile(
    r"(?i)denois|diffusion|(?<![a-z_])(noise|noisy|sampler|sigmas?|betas?|unet|u-net)(?![a-z_])"
    r"|ddim|dpm\+\+|unipc|remove_means|query_token|signal-to-noise"
    r"|autoregressive|rarm(?!-2022)|discrete|vq-diffusion|top_k|top_p|(?<![a-z_])temperature(?![a-z_])"
)
NAMING_FAMILIES = {"flows/config/presets.py", "flows/judge/demo.py"}
"""A preset is a row of a family's settings, and the demo trains one of them."""


def test_no_flow_speaks_in_the_words_of_one_family() -> None:
    speaking = []
    for file in sorted((REPOSITORY / "flows").rglob("*.py")):
        name = file.relative_to(REPOSITORY).as_posix()
        if name in NAMING_FAMILIES:
            continue
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if WORDS_OF_ONE_FAMILY.search(line):
                speaking.append(f"{name}:{number}: {line.strip()}")
    assert speaking == [], "\n".join(speaking)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_its_own_folder_knows_a_family(family: str) -> None:
    of_its_own = (f"rdm_core/families/{family}/", "rdm_core/originals/")  # the latter convert to it
    knowing = []
    for package in ("flows", "rdm_core", "storage"):
        for file in (REPOSITORY / package).rglob("*.py"):
            name = file.relative_to(REPOSITORY).as_posix()
            for node in ast.walk(ast.parse(file.read_text())):
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                if module.startswith(FAMILIES[family]):
                    knowing.append(name)
    assert knowing, "its own files know each other"
    assert [name for name in knowing if not name.startswith(of_its_own)] == []
