"""How a model is trained, averaged, or converted from a release.

The same class is the flow's parameter, the command line's `--set key=value`, and the manifest's
record. Importing this file loads neither Prefect nor torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag, model_validator

from flows.config.database import Autoencoding, Encoding, Searching
from flows.config.images import AnyImages
from flows.config.parameters import (
    Count,
    FlowConfig,
    Neighbors,
)
from rdm_core.config import ContextConfig, ExecutionConfig, ReportingConfig, TrainingConfig
from rdm_core.families import FAMILIES, config_of


def one_of(kinds: Mapping[str, type]) -> Any:
    """Any of some classes, told apart by `family`, which is the first one's unless given."""
    if len(kinds) == 1:  # a union of one class is that class: nothing to tell apart
        return next(iter(kinds.values()))
    first = next(iter(kinds))
    # As a step of a path in an error, `family=...` tells that it is no parameter's name.
    tagged = tuple(Annotated[kind, Tag(f"family={name}")] for name, kind in kinds.items())

    def family_in(value: Any) -> str:
        return f"family={value.get('family', first) if isinstance(value, dict) else value.family}"

    told = f"family: choose one of {', '.join(kinds)}"
    tells_apart = Discriminator(
        family_in, custom_error_type="unknown_source", custom_error_message=told
    )
    return Annotated[Union[tagged], tells_apart]  # noqa: UP007 - made here


def any_of_them(schema: dict[str, Any]) -> None:
    """Let the schema of a union be met by more than one of its classes: without `family`, what is
    asked of the first may also fit another.
    """
    if "oneOf" in schema:
        schema["anyOf"] = schema.pop("oneOf")


_CONFIGS = {family: config_of(family) for family in FAMILIES}
AnyModel: Any = one_of(_CONFIGS)
"""What can be chosen about a model: the configuration of its family."""


class ConvertOriginal(FlowConfig):
    """A file released in 2022 -> weights, an autoencoder or a database that this project uses."""

    files: tuple[Path, ...] = Field(min_length=1)
    """The checkpoint; or the .npz archives of a database."""
    layout: Literal[
        "imagenet-2022", "imagenet-in-db-2022", "ffhq-2022", "laion-768-2022", "rarm-2022",
        "vq-f4", "vq-f16", "vqgan-f16", "kl-f16", "embeddings",
    ]  # fmt: skip
    """Which of the released models it is; autoencoders alone need `out`; 'embeddings' are the
    archives.
    """
    ema: bool = True
    """Take the running mean of the weights, as every sampling script of 2022 did; false: the live
    weights. The layout rarm-2022 has no running mean.
    """
    encoder: str | None = None
    """open_clip model of the contexts; the released one unless given."""
    encoder_weights: str | None = None
    """Its weights: a tag, a local file; 'openai' unless given."""
    out: Path | None = None
    """An autoencoder alone: the folder it is written to."""

    @model_validator(mode="after")
    def _one_checkpoint(self) -> "ConvertOriginal":
        # The name of an archive becomes the name of a part.
        if len({path.name for path in self.files}) < len(self.files):
            raise ValueError("files: two have one name, which names a part; rename one")
        if self.layout != "embeddings" and len(self.files) > 1:
            raise ValueError(f"files: {self.layout} is one checkpoint, {len(self.files)} are given")
        return self


class Upstream(Searching, Autoencoding, Encoding):
    """How `train-rdm` makes what it finds missing; what is there is used as it is."""

    images: AnyImages | None = None
    """The training images, if their shards are missing too: imported under the latents' name."""
    database_images: AnyImages | None = None
    """The images of the database, if they are not the training images: imported under the
    database's name.
    """
    k: Neighbors = 20
    """Neighbors stored for each training image."""


class TrainRDM(FlowConfig):
    """latents + neighbors + database -> run: checkpoints, metrics and weights."""

    latents: str
    """Latents of the training images."""
    neighbors: str
    """Neighbor table of the training images."""
    database: str
    """Database the table was made with."""
    model: AnyModel = Field(
        default_factory=next(iter(_CONFIGS.values())), json_schema_extra=any_of_them
    )
    """The model, by its family."""
    context: ContextConfig = ContextConfig()
    """Which neighbors a sample is trained with."""
    training: TrainingConfig = TrainingConfig()
    """How the weights are learned."""
    start_from: str | None = None
    """A run whose weights the training begins with, to train on from there; unless given it begins
    with random ones.
    """
    reporting: ReportingConfig = ReportingConfig()
    """What is told and kept on the way."""
    execution: ExecutionConfig = ExecutionConfig()
    """How the loop runs: memory and speed, not what is learned."""
    processes: int = Field(1, ge=1, le=10_000)
    """Processes of `accelerate launch` on this machine, one a device."""
    threads: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """CPU threads of each process; this machine's cores divided over the processes unless given."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: what Accelerate finds; cpu: no GPU even if there is one."""
    machines: int = Field(1, ge=1, le=10_000)
    """Machines of the run, all of which see the root; the command of the others is told when the
    run starts.
    """
    main_process_ip: str = "127.0.0.1"
    """machines > 1: address of this machine."""
    main_process_port: int = Field(29500, ge=0, le=65535)
    """Several processes: port they meet at; 0 picks a free one on one machine."""
    timeout_seconds: Count | None = None
    """Training that takes longer is ended, with a state that resumes."""
    upstream: Upstream = Upstream()
    """How to make what is missing of latents, neighbors and database."""
    preview: int = Field(0, ge=0, le=64)
    """Images drawn and shown at every checkpoint, beside their neighbors, and when training has
    ended.
    """

    @model_validator(mode="after")
    def _has_what_is_left_out(self) -> "TrainRDM":
        if self.context.query_alone and not self.model.reads.query:
            raise ValueError(
                f"context.query_alone: is {self.context.query_alone}, and this model is not given "
                "the images' own vectors; train one that is, or use 0"
            )
        if self.context.text_dropout and not self.model.reads.captions:
            raise ValueError(
                f"context.text_dropout: is {self.context.text_dropout}, and this model reads no "
                "captions; train one that does, or use 0"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> "TrainRDM":
        # Every process computes as many pieces of equal size in each step.
        total = self.processes * self.machines * self.execution.accumulate
        if self.training.batch % total:
            raise ValueError(
                f"training.batch: {self.training.batch} cannot be divided over {total} "
                "processes and pieces"
            )
        return self


class AverageRun(FlowConfig):
    """run -> the same network with a running mean of another length."""

    run: str
    """A run trained with training.posthoc_ema."""
    length: float = Field(0.1, gt=0, le=0.288)
    """Standard deviation of the mean's profile, as a share of the training (arXiv 2312.02696): 0.05
    is short, 0.2 long.
    """
