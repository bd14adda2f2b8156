"""How a model is evaluated and told about.

The same class is the flow's parameter, the command line's `--set key=value`, and the manifest's
record. Importing this file loads neither Prefect nor torch.
"""

from typing import Literal

from pydantic import Field

from flows.config.drawing import Drawing
from flows.config.parameters import (
    Count,
    FlowConfig,
    Neighbors,
    Seed,
    UnderRoot,
)


class EvaluateRDM(Drawing, FlowConfig):
    """How good is a run, and does it use its neighbors? Losses, prompts, sets of images and copies,
    on any database.
    """

    run: str
    """Run under test."""
    baseline: str | None = None
    """Run of the same network trained without neighbors. Without one its rows are left out, and
    changes of the loss are relative to the learned null.
    """
    database: str | None = None
    """Where neighbors come from; default: the database that the run was trained with. A converted
    run knows none: name one.
    """
    heldout_latents: str
    """Latents of images that no run has seen, at least 11."""
    heldout_neighbors: str
    """Their neighbor table in the database."""
    swaps: dict[Literal["photograph", "oil painting", "sketch"], str] = {}
    """Style -> database that holds only that style; only the judge of the built-in world tells
    styles.
    """
    prompts: int = Field(64, ge=1, le=1_000_000)
    """Prompts a measurement: colours and shapes, or captions."""
    seeds: int = Field(3, ge=1, le=10_000)
    """Sampling seeds a measurement is repeated with."""
    k: Neighbors = 4
    """Vectors in a context."""
    quality_images: int = Field(200, ge=11, le=10_000_000)
    """Held-out images whose neighbors are drawn from, for the distances between sets of images."""
    judge: Literal["shapes", "entities", "captions", "features"] | None = None
    """Who says what images show. shapes: the classifier of the built-in world; entities: which of
    its entities a picture shows, told by its pixels, for held-out images of them, whose captions
    are the prompts; captions: prompts are captions of the held-out images, compared by judge_clip;
    features: nobody, sets of images alone are compared. Default: shapes, or for held-out entities
    entities, where the run's encoder is the built-in one, captions where judge_clip is named, else
    features; the record says which.
    """
    extractor: str | None = None
    """Features that sets of images are compared in: 'oracle', clip:MODEL:WEIGHTS, timm:MODEL or
    timm:MODEL:FILE; not the run's encoder. Default: oracle where the judge is shapes or
    entities; otherwise they must be named.
    """
    judge_clip: str | None = None
    """MODEL:WEIGHTS of a CLIP other than the run's encoder, for the CLIP score of prompted
    samples.
    """


class WriteReport(FlowConfig):
    """One self-contained HTML page about a run."""

    run: str
    """Run the page is about."""
    baseline: str | None = None
    """The same network without neighbors, if there is one."""
    evaluation: str
    """What was measured."""
    samples: tuple[str, ...]
    """Sampled sets to show, in order."""
    artifacts: tuple[str, ...] = ()
    """kind/name of the other artifacts, for the table of stages."""


class BuiltInWorld(UnderRoot):
    """Trainings on the built-in world, whose artifacts have names of their own."""

    scale: float = Field(1.0, gt=0, le=10)
    """Share of the images and prompts; 0.02 for a smoke test."""
    steps: Count = 1800
    """Training steps of each network."""
    seed: Seed = 0
    """Of images, training and samples."""


class Demo(BuiltInWorld):
    """The whole path on the built-in world."""
