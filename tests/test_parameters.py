"""Whatever can be set: no number that is none, of any parameter, from anywhere."""

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import flows.config
from flows.config.arguments import UsageError, assigned, configured
from flows.config.database import Rebuild
from flows.config.images import AnyImport, ImportShapes
from flows.config.judge import EvaluateRDM
from flows.config.parameters import Parameters
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from rdm_core.config import Config, TrainingConfig
from rdm_core.families.diffusion.config import NoiseConfig

INFINITY, NAN = float("inf"), float("nan")
ODD = {
    "inf": INFINITY,
    "-inf": -INFINITY,
    "nan": NAN,
    "2**64": 2**64,
    "-2**64": -(2**64),
    "-1": -1,
    "1e300": 1e300,
}
MAY_BE_NEGATIVE = {
    ("NoiseConfig", "time_mean"),
    ("ContextConfig", "score_cap"),
    ("EditingConfig", "least_correlation"),
}
"""The only parameters that mean something below zero."""


def with_subclasses(cls):
    return {cls}.union(*map(with_subclasses, cls.__subclasses__()))


def every_kind():
    """Each class of parameters there is, in whichever file."""
    for module in pkgutil.iter_modules(flows.config.__path__):
        importlib.import_module(f"flows.config.{module.name}")
    importlib.import_module("flows.data.upkeep")
    every = with_subclasses(Parameters) | with_subclasses(Config)
    ours = [cls for cls in every if cls.__module__.split(".")[0] in ("flows", "rdm_core")]
    # other tests make up some
    ours = [cls for cls in ours if cls.__module__ in sys.modules]
    return sorted(ours, key=lambda cls: cls.__name__)


def numbers_in(annotation):
    """Paths to the numbers of an annotation: () for a number, ("tuple", n, ...) inside one of n
    entries.
    """
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        yield ()
    elif origin is Annotated:
        yield from numbers_in(inside[0])
    elif origin in (Union, UnionType):
        for part in inside:
            yield from numbers_in(part)
    elif origin is tuple:
        count = 1 if inside[-1] is Ellipsis else len(inside)
        for path in numbers_in(inside[0]):
            for place in range(count):
                yield (count, place, *path)


def filled(path, value):
    """The value where the path leads, ones elsewhere."""
    if not path:
        return value
    count, place, *rest = path
    return tuple(filled(rest, value) if i == place else 0 for i in range(count))


NUMBERS = [
    (cls, name, path)
    for cls in every_kind()
    for name, annotation in get_type_hints(cls, include_extras=True).items()
    for path in numbers_in(annotation)
]


def complaints(cls, name, value):
    """What is said of one parameter when nothing else is given."""
    try:
        cls(**{name: value})
    except ValidationError as error:
        return [
            one["msg"] for one in error.errors() if one["loc"][:1] == (name,) or name in one["msg"]
        ]
    except ValueError as error:
        return [str(error)] if name in str(error) else []
    return []


def test_the_walk_reaches_every_class_and_what_is_inside():
    kinds = {cls.__name__ for cls in every_kind()}
    assert {
        "ImportCoco",
        "TrainRDM",
        "SampleRDM",
        "SearchDatabase",
        "CollectVersions",
        "NoiseConfig",
        "Demo",
    } <= kinds
    found = {(cls.__name__, name) for cls, name, _ in NUMBERS}
    assert {
        ("Draw", "guidance_interval"),
        ("DenoiserConfig", "channels"),
        ("FindNeighbors", "score_cap"),
        ("TrainRDM", "threads"),
        ("Images", "images_per_part"),
        ("Rebuild", "k"),
    } <= found
    assert len(found) > 100


@pytest.mark.parametrize("odd", ODD)
def test_every_number_is_finite_and_in_range_or_refused_by_name(odd):
    accepted = [
        f"{cls.__name__}.{name}{list(path)}"
        for cls, name, path in NUMBERS
        if not (odd == "-1" and (cls.__name__, name) in MAY_BE_NEGATIVE)
        and not complaints(cls, name, filled(path, ODD[odd]))
    ]
    assert not accepted, f"{odd} is accepted by {accepted}"


def test_a_number_that_is_none_is_refused_inside_other_parameters_too():
    """As Prefect hands them over, and as Python does."""
    inputs = {"name": "a", "latents": "a", "neighbors": "a", "database": "a"}
    for name, given in (
        ("time_mean", {"model": {"noise": {"time_mean": float("nan")}}}),
        ("channels", {"model": {"denoiser": {"channels": [2**64]}}}),
        ("learning_rate", {"training": {"learning_rate": float("inf")}}),
        ("seed", {"training": {"seed": 2**64}}),
        ("score_cap", {"context": {"score_cap": float("nan")}}),
    ):
        with pytest.raises(ValidationError, match=name):
            TrainRDM(**inputs, **given)
        with pytest.raises(ValidationError, match=name):
            TypeAdapter(TrainRDM).validate_json(json.dumps(inputs | given))
    with pytest.raises(ValidationError, match="seed"):
        Rebuild(name="a", images={"source": "shapes", "seed": 2**64})
    for wrong in ({"time_mean": float("nan")}, {"beta_end": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NoiseConfig(**wrong)
    with pytest.raises(ValueError, match="steps: is 2.5, must be a whole number"):
        TrainingConfig(steps=2.5)


@pytest.mark.parametrize("cls", [TrainRDM, SampleRDM, ImportShapes, EvaluateRDM])
def test_yes_and_no_are_no_numbers(cls):
    numbers = {name for one, name, path in NUMBERS if one is cls and not path}
    assert len(numbers) > 3
    for name in numbers:
        assert any("must be a number" in said for said in complaints(cls, name, True)), name


# The command line


def parsed(kind, *assignments, **flags):
    options = argparse.Namespace(root=Path("data"), set=list(assignments))
    return configured(options, kind, **flags)


def imported(*assignments):
    return parsed(AnyImport, *assignments, source="folder", path=Path("p"), name="a")


@pytest.mark.parametrize(
    "text",
    [
        "1984",
        "007",
        "1e5",
        "2.0",
        "2.00",
        "1_000",
        "true",
        "false",
        "NaN",
        "Infinity",
        "1e400",
        "[a",
        "[1]",
        "{}",
        "-1",
        "a=b=c",
        'it is "so"',
        "O'Neil",
        "CC BY 4.0",
        "",
    ],
)
def test_a_text_is_taken_as_it_is_written(text):
    assert imported(f"author={text}").author == text
    assert parsed(SampleRDM, f"negative={text}", run="r", name="s", texts=["a"]).negative == text


def test_a_text_in_quotes_is_what_the_quotes_hold_and_null_is_none():
    assert imported('author="1984"').author == "1984"
    assert imported('author="null"').author == "null"
    assert imported("author=null").author is None
    assert imported("dataset=2020").dataset == "2020", "no null there"
    assert imported("dataset=null").dataset == "null"
    assert str(imported("path=2020").path) == "2020"


@pytest.mark.parametrize("root", [Path("s3://bucket/x"), "s3:/bucket/x", Path("gs://b")])
def test_a_url_that_lost_a_slash_is_no_folder(root):
    with pytest.raises(
        ValidationError, match="is no folder; if it is a URL, give it as a text: (s3|gs)://b"
    ):
        SampleRDM(root=root, name="s", run="r")
    assert SampleRDM(root=Path("a b/c:/d"), name="s", run="r").root == Path("a b/c:/d")


def test_texts_inside_other_parameters_are_taken_as_they_are():
    values = assigned(
        {},
        ["images.author=1984", "images.size=64", "upstream.images.licence=2.0", "nothing.there=1"],
        TrainRDM,
    )
    assert values["upstream"]["images"]["licence"] == "2.0" and values["nothing"]["there"] == 1
    images = {"source": "folder", "path": "p"}
    assert parsed(Rebuild, "images.author=1984", name="a", images=images).images.author == "1984"


@pytest.mark.parametrize(
    ("kind", "assignment"),
    [
        (SampleRDM, 'texts=["a","caf\udce9"]'),
        (SampleRDM, "negative=\udce9"),
        (SampleRDM, "run=\udce9"),
        (AnyImport, "author=\udce9"),
    ],
)
def test_a_text_that_is_not_utf_8_is_refused_by_name(kind, assignment):
    flags = (
        {"name": "a", "run": "r"}
        if kind is SampleRDM
        else {"name": "a", "source": "folder", "path": "p"}
    )
    with pytest.raises(UsageError) as caught:
        parsed(kind, assignment, **flags)
    assert f"{assignment.partition('=')[0]}: " in str(caught.value) and "not UTF-8" in str(
        caught.value
    )
    str(caught.value).encode()


def test_a_file_may_be_named_by_any_bytes():
    assert imported("path=caf\udce9").path == Path("caf\udce9")


def test_numbers_and_choices_are_read_as_before():
    config = imported("size=1e2", "images_per_part=auto", 'crop="centre"', "quality=95.0")
    assert (config.size, config.images_per_part, config.crop, config.quality) == (
        100,
        "auto",
        "centre",
        95,
    )
    assert (
        parsed(
            TrainRDM, "timeout_seconds=null", name="a", latents="a", neighbors="a", database="a"
        ).timeout_seconds
        is None
    )


@pytest.mark.parametrize(
    ("kind", "assignment", "said"),
    [
        (
            TrainRDM,
            "model.denoiser.channels=[1,NaN]",
            "model.denoiser.channels: Input should be a valid tuple. It is no JSON: ",
        ),
        (SampleRDM, "texts=a", 'texts: Input should be a valid tuple. Write a list: ["a"]'),
        (
            SampleRDM,
            "texts=[1984]",
            'texts: Input should be a valid string. Write a text in quotes: "1984" (given: 1984)',
        ),
        (
            TrainRDM,
            "training.learning_rate=NaN",
            "training.learning_rate: is nan, must be a finite number",
        ),
        (TrainRDM, "training.seed=99999999999999999999", "training.seed: "),
        (TrainRDM, "model.noise.time_mean=NaN", "model.noise.time_mean: is nan"),
        (
            TrainRDM,
            "model.family=gan",
            "model.family: choose one of diffusion, autoregressive, discrete, references, "
            "multimodal",
        ),
        (
            TrainRDM,
            "model.codes=4",
            "model.codes: there is no such parameter of this family or source, only of another one",
        ),
        (TrainRDM, "training.learning_rate=-1", "training.learning_rate: is -1.0, must be above 0"),
    ],
)
def test_what_is_refused_is_named_with_how_to_write_it(kind, assignment, said):
    given = {"run": "r", "latents": "a", "neighbors": "a", "database": "a", "name": "a"}
    flags = {name: value for name, value in given.items() if name in kind.model_fields}
    with pytest.raises(UsageError) as caught:
        parsed(kind, assignment, **flags)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "assignment", "said"),
    [
        (
            TrainRDM,
            "denoiser.channels=[1]",
            "denoiser: there is no such parameter; model.denoiser is one.",
        ),
        (TrainRDM, "noise.process=flow", "noise: there is no such parameter; model.noise is one."),
        (
            TrainRDM,
            "training.k=3",
            "training.k: there is no such parameter; context.k and upstream.k are some.",
        ),
        (
            TrainRDM,
            "training.neighbor_dropout=1",
            "training.neighbor_dropout: there is no such parameter; "
            "context.neighbor_dropout is one.",
        ),
        (
            TrainRDM,
            "training.checkpoint_steps=3",
            "training.checkpoint_steps: there is no such parameter; "
            "reporting.checkpoint_steps is one.",
        ),
        (
            TrainRDM,
            "execution.tensorboard=true",
            "execution.tensorboard: there is no such parameter; reporting.tensorboard is one.",
        ),
        (
            TrainRDM,
            "quality=3",
            "quality: there is no such parameter; "
            "upstream.images.quality and upstream.database_images.quality are some.",
        ),
        (TrainRDM, "training.stepz=3", "training.stepz: there is no such parameter."),
        (
            TrainRDM,
            "stepz=3",
            "stepz: there is no such parameter. Parameters: root, name, latents, ",
        ),
        (Rebuild, "size=64", "size: there is no such parameter; images.size is one."),
    ],
)
def test_a_parameter_that_stands_elsewhere_is_told_with_its_place(kind, assignment, said):
    given = {"name": "a", "run": "r", "baseline": "b", "heldout_latents": "h", "swaps": {}}
    given |= {"heldout_neighbors": "h", "latents": "a", "neighbors": "a", "database": "a"}
    given |= {"images": {"source": "shapes"}} if kind is Rebuild else {}
    flags = {name: value for name, value in given.items() if name in kind.model_fields}
    if kind is SampleRDM:
        del flags["database"]
    with pytest.raises(UsageError) as caught:
        parsed(kind, assignment, **flags)
    told = str(caught.value)
    assert told.startswith(said) and (told == said or said.endswith(" "))


def test_every_kind_of_parameters_is_frozen_and_strict():
    for cls in every_kind():
        if issubclass(cls, BaseModel):
            assert cls.model_config["frozen"] and cls.model_config["extra"] == "forbid", cls
        else:
            assert cls.__dataclass_params__.frozen, cls
