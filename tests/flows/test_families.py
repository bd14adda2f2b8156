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

from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.data.build_database import build_database
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
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
ONE_AFTER_ANOTHER = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from flows.cli import main

answers = {}
for name, words in json.load(sys.stdin).items():
    told = StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        code = main(words)
    answers[name] = code, told.getvalue()
print(json.dumps(answers))
"""


class Tree:
    """A copy of the packages with one family more, and a root with what a training needs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "data"
        self.surroundings = {"PYTHONPATH": str(folder), "PREFECT_API_URL": ""}
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
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *words, "--root", str(self.root)],
            cwd=self.folder,
            env=os.environ | self.surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def rdm(self, *words: str) -> str:
        """What it says."""
        with self.started(*words) as process:
            said, complained = process.communicate(timeout=120)
        assert process.returncode == 0, complained
        return said + complained

    def rdm_each(self, commands: dict[str, list[str]]) -> dict[str, tuple[int, str]]:
        """Exit code and words of several commands, one after another in one process of the copy."""
        given = {name: [*words, "--root", str(self.root)] for name, words in commands.items()}
        done = subprocess.run(
            [sys.executable, "-c", ONE_AFTER_ANOTHER],
            input=json.dumps(given),
            cwd=self.folder,
            env=os.environ | self.surroundings,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def of(self, kind: str, name: str) -> Path:
        """The directory of the one version."""
        (manifest,) = (self.root / kind / name).glob("*/manifest.json")
        return manifest.parent


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Two sets of drawn images in it, with everything upstream of a training, which knows no
    family: made in this process.
    """
    made = Tree(tmp_path_factory.mktemp("families"))
    for name in ("seen", "unseen"):
        here = {"root": made.root, "name": name}
        drawn = {"source": "shapes", "count": 32, "size": 32, "encoding": "png", "split": name}
        import_images(ImportImages(**here, **drawn))
        encoder = {"encoder": "rdm-shapes", "weights": "built-in"}
        build_database(BuildDatabase(**here, shards=name, **encoder))
        find_neighbors(FindNeighbors(**here, queries=name, database="seen"))
        encode_latents(EncodeLatents(**here, shards=name))
    return made


def settings(**values: object) -> list[str]:
    """--set of each."""
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def training(name: str, *sets: str) -> list[str]:
    """The words that train a toy."""
    words = ["train", "--name", name]
    for role in ("latents", "neighbors", "database"):
        words += [f"--{role}", "seen"]
    common = ("model.family=toy", "training.steps=1000", "training.batch=8", "context.k=3")
    for one in (*common, "training.learning_rate=0.01", *sets):
        words += ["--set", one]
    return words


def weights_of(run: Path) -> str:
    """Their hash."""
    return hashlib.sha256((run / "weights" / "toy.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def answers(tree: Tree) -> dict[str, tuple[int, str]]:
    """What is said to commands for one run of the family, which the first of them trains."""
    of_toy = ("sample", "--run", "toy", "--text", "a red circle")
    evaluation = settings(
        baseline="alone",
        heldout_latents="unseen",
        heldout_neighbors="unseen",
        prompts=8,
        seeds=2,
        quality_images=16,
        swaps="{}",
    )
    return tree.rdm_each(
        {
            "train": training("toy"),
            "train alone": training("alone", "context.neighbor_dropout=1"),
            "train another": training("other", "model.family=diffusion", "start_from=toy"),
            "sample": [*of_toy, "--name", "drawn", *settings(count=2, **{"draw.temperature": 0})],
            "sample in steps": [*of_toy, *settings(**{"draw.steps": 3})],
            "sample not a sketch": [*of_toy, *settings(negative="a sketch")],
            "evaluate": ["evaluate", "--name", "toy", "--run", "toy", *evaluation],
        }
    )


def test_a_family_more_is_trained_and_goes_on_where_it_was_killed(
    tree: Tree, answers: dict[str, tuple[int, str]]
) -> None:
    assert answers["train"][0] == 0, answers["train"]
    facts = json.loads((tree.of("runs", "toy") / "weights" / "model.json").read_text())
    assert (facts["family"], facts["model"]) == ("toy", {"family": "toy", "bias": True})
    words = training("killed", "reporting.checkpoint_steps=100")
    with tree.started(*words) as process:
        states, end = tree.root / "runs" / "killed", time.monotonic() + 60
        while not list(states.glob("*/checkpoints/*/manifest.json")) and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
    assert not list(states.glob("*/manifest.json")), "killed before its end"
    assert "continues from step" in tree.rdm(*words)
    assert weights_of(tree.of("runs", "killed")) == weights_of(tree.of("runs", "toy"))


def test_a_family_more_is_drawn_from_with_settings_of_its_own(
    tree: Tree, answers: dict[str, tuple[int, str]]
) -> None:
    assert answers["sample"][0] == 0, answers["sample"]
    assert len(list(tree.of("samples", "drawn").glob("0*.png"))) == 2
    failed, complaint = answers["sample in steps"]
    assert failed and "steps is no setting of the family toy" in complaint
    assert "Settings of toy: guidance_scale, temperature" in complaint
    failed, complaint = answers["sample not a sketch"]
    assert failed and "negative: the family toy has no use for it" in complaint


def test_a_run_of_another_family_is_none_to_start_from(
    answers: dict[str, tuple[int, str]],
) -> None:
    failed, complaint = answers["train another"]
    assert failed and "that run is of another family: toy" in complaint


def test_a_family_more_is_evaluated(tree: Tree, answers: dict[str, tuple[int, str]]) -> None:
    assert answers["train alone"][0] == 0, answers["train alone"]
    code, said = answers["evaluate"]
    assert code == 0, said
    measured = json.loads((tree.of("evaluations", "toy") / "evaluation.json").read_text())
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


GOING_ON_FROM = {"diffusion": "references", "autoregressive": "multimodal"}
"""Family -> another one that is built of its parts."""


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_its_own_folder_knows_a_family(family: str) -> None:
    of_its_own = (f"rdm_core/families/{family}/", "rdm_core/originals/")  # the latter convert to it
    if family in GOING_ON_FROM:
        of_its_own += (f"rdm_core/families/{GOING_ON_FROM[family]}/",)
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
