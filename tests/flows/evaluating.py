"""Runs and judges that stand for themselves, for the tests of an evaluation."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from flows.config.judge import EvaluateRDM
from flows.judge.trial import Trial
from rdm_core.families.facts import Reads, RunFacts, Version
from rdm_core.judge.judges import ShapesJudge, Wish

WISHES = [
    Wish("a red star", {"colour": "red", "shape": "star"}),
    Wish("a blue ring", {"colour": "blue", "shape": "ring"}),
]


def config(**changes):
    names = {"run": "run", "baseline": "twin", "heldout_latents": "h", "heldout_neighbors": "n"}
    asked = {"swaps": {}, "prompts": 2, "seeds": 2, "k": 3}
    draw = {"draw": {"steps": 5, "guidance_scale": 2.5}}
    return EvaluateRDM(name="x", **names | asked | draw | changes)


def facts(k=4, **changes):
    """Of a run that stands for itself."""
    known = RunFacts(
        family="diffusion",
        model={},
        encoder={"dimension": 8},
        vectors_of="image",
        encoder_weights="w",
        space={"channels": 3},
        space_path="pixels",
        latent_side=8,
        k=k,
        random_k=False,
        neighbor_dropout=0.1,
        steps=6,
        parameters=1,
        trained_on={role: Version(role, "1", "f") for role in ("latents", "index")},
    )
    return replace(known, **changes)


def opened(name, **changes):
    """A run that stands for itself."""

    def null(count):
        return SimpleNamespace(vectors=[name] * count)

    model = SimpleNamespace(of=name, null=null, reads=Reads())
    parameters = {
        "model": {"denoiser": {"depth": 1}},
        "space": {},
        "context": {"k": 4, "neighbor_dropout": 0.1},
        "training": {"steps": 6},
    }
    artifact = SimpleNamespace(name=name, parameters=parameters)
    return SimpleNamespace(artifact=artifact, model=model, facts=facts(**changes))


def trial(
    judge=None, wishes=WISHES, database=None, run=None, alone=False, features=None, clip=None,
    trained="t", **changes,
):  # fmt: skip
    """Two runs that stand for themselves, and who judges them; `alone`: no twin; `trained`: the
    fingerprint of the training images.
    """
    given = run or opened("run"), None if alone else opened("twin"), database or a_database()
    judges = judge or ShapesJudge(), wishes, features or (lambda images: images), clip
    shards = {"database_shards": given[2].embeddings.inputs.get("shards")}
    return Trial(config(**changes), *given, *judges, **shards, training_shards=trained)


def a_database(images=True, rows=50):
    """A database that stands for itself, with images or without."""
    embeddings = SimpleNamespace(name="db", inputs={"shards": "s"} if images else {})
    return SimpleNamespace(retrieval=SimpleNamespace(rows=rows), embeddings=embeddings)


class Oracle(ShapesJudge):
    """A judge of images that are names: what each shows is written down."""

    def __init__(self, shown):
        self.shown = shown

    def fulfilled(self, images, wishes):
        shown = self.shown(images)
        return {
            factor: np.array(
                [float(a == b.shows[factor]) for a, b in zip(row, wishes, strict=True)]
            )
            for factor, row in shown.items()
            if factor != "style"
        }

    def styles(self, images):
        return np.array(self.shown(images)["style"])
