"""What is known of a model: written beside its weights, read without them, refused by name."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path

import pytest
from tiny import DIMENSION, TINY

from rdm_core.errors import WeightsError
from rdm_core.families import FACTS_FILE, FAMILIES, config_of, load_model, read_facts
from rdm_core.families.diffusion.config import Config
from rdm_core.families.facts import Reads, RunFacts, Shape, Version
from rdm_core.latents import PIXELS, load_latent_space

FACTS = RunFacts(
    family="diffusion",
    model=asdict(Config(denoiser=TINY["transformer"])),
    encoder={"model": "rdm-shapes", "weights_sha256": "0123456789abcdef", "dimension": DIMENSION},
    vectors_of="image",
    encoder_weights="built-in",
    space={"autoencoder": "pixels", "weights_sha256": "", "channels": 3, "factor": 1},
    space_path="pixels",
    latent_side=8,
    k=2,
    random_k=True,
    neighbor_dropout=0.1,
    steps=3,
    parameters=123,
    trained_on={"database": Version("paintings", "abc", "fff000")},
    ema_length=0.05,
    converted_from={"file": "model.ckpt", "layout": "imagenet-2022", "ema": True},
)
OPTIONAL = {"trained_on", "ema_length", "converted_from", "search"}


def in_json(value: object) -> object:
    """The same as a file tells it: lists for tuples."""
    return json.loads(json.dumps(value))


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A weights folder."""
    tiny_model().save(tmp_path, FACTS)
    return tmp_path


def change(folder: Path, change: Callable[[dict], object]) -> None:
    """Write other facts over those of a folder."""
    told = json.loads((folder / FACTS_FILE).read_text())
    change(told)
    (folder / FACTS_FILE).write_text(json.dumps(told))


def test_facts_come_back_from_the_folder_as_they_were_saved(folder):
    found = read_facts(folder)
    assert found == replace(FACTS, model=in_json(FACTS.model))
    assert found.trained_on["database"].reference == "paintings@abc"
    assert config_of(found.family).of(found.model) == Config(denoiser=TINY["transformer"])
    assert found.shape == Shape(channels=3, side=8, dimension=DIMENSION)


def test_they_are_sorted_and_readable_and_written_alike_every_time(folder, tiny_model, tmp_path):
    text = (folder / FACTS_FILE).read_text()
    assert text == json.dumps(in_json(asdict(FACTS)), indent=2, sort_keys=True) + "\n"
    tiny_model().save(tmp_path / "again", read_facts(folder))
    assert (tmp_path / "again" / FACTS_FILE).read_text() == text


def test_facts_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        FACTS.steps = 4


def test_facts_are_read_without_weights_and_without_torch(folder):
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    code = "import sys; from pathlib import Path; from rdm_core.families import read_facts\n"
    code += f"print(read_facts(Path({str(folder)!r})).steps, 'torch' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.split() == ["3", "False"]


@pytest.mark.parametrize("name", [field.name for field in fields(RunFacts)])
def test_an_absent_fact_is_refused_by_name_unless_nobody_need_tell_it(name, folder):
    change(folder, lambda told: told.pop(name))
    if name in OPTIONAL:
        default = {"trained_on": {}, "search": "vectors"}.get(name)
        assert getattr(read_facts(folder), name) == default
        return
    with pytest.raises(ValueError, match=f"missing 1 required .*'{name}'"):
        RunFacts.of(json.loads((folder / FACTS_FILE).read_text()))
    with pytest.raises(WeightsError, match=rf"model.json: cannot be read \(.*'{name}'\).*again"):
        read_facts(folder)


def test_unknown_facts_are_refused_by_name(folder):
    change(folder, lambda told: told.update(zeal=1, context_norm="raw"))
    with pytest.raises(ValueError, match="^context_norm, zeal: unknown$"):
        RunFacts.of(json.loads((folder / FACTS_FILE).read_text()))
    with pytest.raises(WeightsError, match=r"cannot be read \(context_norm, zeal: unknown\)"):
        read_facts(folder)


def test_what_is_told_of_an_artifact_is_told_in_full(folder):
    change(folder, lambda told: told["trained_on"]["database"].pop("fingerprint"))
    with pytest.raises(WeightsError, match="cannot be read .*'fingerprint'"):
        read_facts(folder)


def test_an_unknown_family_is_refused_with_those_that_are_known(folder):
    change(folder, lambda told: told.update(family="adversarial"))
    known = ", ".join(FAMILIES)
    with pytest.raises(WeightsError, match=f"family 'adversarial' is none of {known}"):
        read_facts(folder)


def test_a_folder_of_an_older_version_is_refused_with_the_cure(folder):
    (folder / FACTS_FILE).rename(folder / "context.json")
    with pytest.raises(WeightsError, match="has no model.json: it is .*an older version") as error:
        read_facts(folder)
    assert error.value.where == str(folder)
    assert error.value.cure.endswith("train or convert an older run again.")


SPOILED: dict[str, Callable[[Path], object]] = {
    "no JSON": lambda file: file.write_text("{"),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\xff"),
    "a list": lambda file: file.write_text("[]"),
    "a word": lambda file: file.write_text('"diffusion"'),
    "a list for a family": lambda file: change(file.parent, lambda told: told.update(family=[])),
    "a word for artifacts": lambda file: change(
        file.parent, lambda told: told.update(trained_on="database")
    ),
    "a word for an artifact": lambda file: change(
        file.parent, lambda told: told["trained_on"].update(database="paintings@abc")
    ),
}


@pytest.mark.parametrize("how", list(SPOILED))
def test_facts_that_cannot_be_read_are_refused(how, folder):
    SPOILED[how](folder / FACTS_FILE)
    with pytest.raises(WeightsError, match=r"model.json: cannot be read \(.+\). Give a run's name"):
        read_facts(folder)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"family": "diffusion", "width": 3}, "width: unknown"),
        ({"denoiser": {"depth": 0}}, "depth: is 0, must be between 1 and 1000"),
        ({"denoiser": {"channels": 5}}, "int"),
        ({"denoiser": 5}, "int"),
        ([], "list"),
    ],
)
def test_a_model_that_its_family_does_not_know_is_refused(model, told, folder):
    change(folder, lambda facts: facts.update(model=model))
    facts = read_facts(folder)
    with pytest.raises(WeightsError, match=rf"model.json: cannot be read \(.*{told}"):
        load_model(folder, facts, load_latent_space(PIXELS))


def test_a_family_reads_images_and_moments_unless_it_says_otherwise():
    assert Reads() == Reads(("pixels", "moments"), query=False, captions=False, references=False)
