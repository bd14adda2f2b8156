"""The parameters of every flow: one frozen class a flow, declared once.

The same class is the flow's parameter, the command line's `--set key=value`, and the manifest's
record. Unknown keys and wrong values are refused by name before anything runs. Importing this file
loads neither Prefect nor torch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag, model_validator

from flows.config.idle import refuse_idle, refuse_precision_of_texts
from flows.config.parameters import (
    Count,
    DrawSettings,
    FlowConfig,
    GuidanceScale,
    Neighbors,
    Parameters,
    SamplerSteps,
    Seed,
)
from rdm_core.config import ContextConfig, ExecutionConfig, ReportingConfig, TrainingConfig
from rdm_core.families import FAMILIES, config_of

SourceName = Literal["shapes", "coco", "openimages", "wikiart", "folder"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Embedded = Literal["image", "text", "document"]
Stored = Literal["pixels", "moments", "codes"]
SPLITS = {
    "coco": ("all", "train", "val"),
    "openimages": ("all", "train", "validation", "test"),
    "wikiart": ("all",),
    "folder": ("all",),
}
"""What each dataset can be restricted to."""
VOCABULARY = {
    "shapes": ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent"),
    "colours": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "styles": ("photograph", "oil painting", "sketch"),
    "backgrounds": ("light", "dark", "striped", "checkered"),
    "positions": ("centre", "top left", "top right", "bottom left", "bottom right"),
    "sizes": ("small", "medium", "large"),
}
"""The shapes world's factors; a test holds them equal to rdm_core.shapes.world, which is too heavy
to import here.
"""


def one_of(kinds: Mapping[str, type]) -> Any:
    """Any of some classes, told apart by `family`, which is the first one's unless given."""
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    first = next(iter(kinds))
    tagged = tuple(Annotated[kind, Tag(name)] for name, kind in kinds.items())

    def family_in(value: Any) -> str:
        given = value.get("family", first) if isinstance(value, dict) else value.family
        return str(given)

    return Annotated[Union[tagged], Discriminator(family_in)]  # noqa: UP007 - made here


_CONFIGS = {family: config_of(family) for family in FAMILIES}
AnyModel: Any = one_of(_CONFIGS)
"""What can be chosen about a model: the configuration of its family."""


class Images(Parameters):
    """Which images, and how they are stored."""

    source: SourceName = "folder"
    """Which reader: the layout the dataset has on disk, or the built-in shapes."""
    path: Path | None = None
    """Where the dataset lies; not for shapes."""
    split: str = Field("all", pattern=r"^[A-Za-z0-9_]{1,32}$")
    """all, or one split of the dataset (coco: train, val; openimages: train, validation, test);
    shapes: any word.
    """
    size: int = Field(256, ge=16, le=16_384)
    """Side of a stored crop in pixels."""
    crop: Literal["centre", "random"] = "centre"
    """centre: shorter side to `size`, central square. random: windows of a square frame, as the
    2022 database.
    """
    crops_per_image: int = Field(1, ge=1, le=10_000)
    """random: windows an image."""
    frame: int = Field(1200, ge=1, le=20_000)
    """random: side in pixels of the square the windows are cut from."""
    encoding: Literal["jpg", "png"] = "jpg"
    """How a crop is stored."""
    quality: int = Field(95, ge=1, le=100)
    """jpg quality."""
    seed: Seed = 0
    """Of random crops, and of the shapes world."""
    images_per_part: Count | Literal["auto"] = "auto"
    """Source images a part, about: the unit of resume, and what a changed image makes anew. auto:
    as the last version of the name was cut; a new name 100, and up to 1,000 from 8,000 images on.
    """
    max_pixels: Count = 100_000_000
    """Images with more pixels are rejected before any pixel is decoded."""
    max_bytes: int = Field(268_435_456, ge=1, le=10**12)
    """Files with more bytes are rejected unread."""
    min_side: int = Field(16, ge=1, le=100_000)
    """Images with a shorter side, in pixels, are rejected."""
    dataset: str = Field("folder", pattern=r"^[a-z0-9_]{1,32}$")
    """folder: name of the dataset, the first part of every key; give each folder its own."""
    licence: str | None = None
    """folder: licence of every image in it."""
    author: str | None = None
    """folder: author of every image in it."""
    count: Count = 1000
    """shapes: how many images."""
    styles: tuple[str, ...] = ()
    """shapes: only these styles; empty means all."""
    colours: tuple[str, ...] = ()
    """shapes: only these colours; empty means all."""
    shapes: tuple[str, ...] = ()
    """shapes: only these shapes; empty means all."""
    backgrounds: tuple[str, ...] = ()
    """shapes: only these backgrounds; empty means all."""
    positions: tuple[str, ...] = ()
    """shapes: only these positions; empty means all."""
    sizes: tuple[str, ...] = ()
    """shapes: only these sizes; empty means all."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Images":
        if self.source != "shapes" and self.path is None:
            raise ValueError(f"path: the source {self.source!r} needs the directory it lies in")
        splits = SPLITS.get(self.source, (self.split,))
        if self.split not in splits:
            raise ValueError(f"split: {self.split!r} is not one of {', '.join(splits)}")
        for factor, values in VOCABULARY.items():
            for value in getattr(self, factor):
                if value not in values:
                    raise ValueError(f"{factor}: {value!r} is not one of {', '.join(values)}")
        if self.crop == "random" and self.frame < self.size:
            raise ValueError(
                f"frame: {self.frame} px is smaller than the crops of {self.size} px cut from it"
            )
        if self.crop == "centre" and self.crops_per_image > 1:
            raise ValueError(
                f"crops_per_image: {self.crops_per_image} central crops would be equal; use crop=random"
            )
        return self

    @model_validator(mode="after")
    def _says_nothing_idle(self) -> "Images":
        refuse_idle(self)
        return self


class ImportImages(FlowConfig, Images):
    """images -> shards: tars of crops and a sidecar that says of every image what became of it."""


class BuildDatabase(FlowConfig):
    """shards -> embeddings -> index: a database that answers which images are nearest."""

    shards: str
    """Shards to embed: a name, or name@id for one version."""
    encoder: str = "ViT-B-32"
    """open_clip model name, or hf-hub:org/repo."""
    weights: str = "openai"
    """open_clip tag, a local file (TAG@FILE where the model's tags differ in use) or directory (as
    the hub gives it), 'built-in' (rdm-shapes only) or 'random' (for tests).
    """
    precision: Precision = "auto"
    """Of the image tower while it embeds; auto: as the last version, else what this machine is
    measured to be fastest with.
    """
    of: Embedded = "image"
    """What a row's vector is of. image: the picture. text: its caption, the mean of several.
    document: the mean of both, unit again (RA-CM3, arXiv 2211.12561).
    """
    recipe: Literal["auto", "exact", "autofaiss"] = "auto"
    """exact up to 100,000 rows, autofaiss above; or one of the two."""
    index_memory: str = "4G"
    """autofaiss: memory the index may take."""
    recall_target: float = Field(0.95, gt=0, le=1)
    """autofaiss: share of the exact neighbors that the index is set to find, with the least effort
    that does.
    """
    latency_target_milliseconds: float = Field(20.0, gt=0, le=1_000_000)
    """autofaiss: within which 95 % of the queries should be answered; it is said where they are
    not.
    """
    recall_queries: Count = 256
    """Database rows used as queries to measure recall against exact search."""
    recall_k: Neighbors = 20
    """Neighbors of each of them."""

    @model_validator(mode="after")
    def _says_nothing_idle(self) -> "BuildDatabase":
        refuse_precision_of_texts(self.of, self.precision)
        return self


class FindNeighbors(FlowConfig):
    """embeddings x database -> neighbor table, exact, the query's own image left out."""

    queries: str
    """Embeddings whose rows are the queries."""
    database: str
    """Database (embeddings and index of one name) that is searched."""
    k: Neighbors = 20
    """Neighbors stored for each query."""
    group: Literal["author", "style", "source_url"] | None = None
    """Rows with the query's own value in this column are no neighbors of it; other crops of its
    image never are.
    """
    score_cap: Annotated[float, Field(gt=0, le=1)] | Literal["calibrated"] = 1.0
    """Cosine above which a row is a near-duplicate and passed over; 1 passes over none. calibrated:
    what altered copies of the database's images have under its encoder (as `rdm duplicates`), to
    two digits; the plan holds the number.
    """


class ConvertOriginal(FlowConfig):
    """A file released in 2022 -> weights, an autoencoder or a database that this project uses."""

    files: tuple[Path, ...] = Field(min_length=1)
    """The checkpoint; or the .npz archives of a database."""
    layout: Literal[
        "imagenet-2022", "imagenet-in-db-2022", "ffhq-2022", "laion-768-2022",
        "vq-f4", "vq-f16", "vqgan-f16", "kl-f16", "embeddings",
    ]  # fmt: skip
    """Which of the released models it is; autoencoders alone need `out`; 'embeddings' are the
    archives.
    """
    ema: bool = True
    """Take the running mean of the weights, as every sampling script of 2022 did; false: the live
    weights.
    """
    encoder: str | None = None
    """open_clip model of the contexts; the released one unless given."""
    encoder_weights: str | None = None
    """Its weights: a tag, a local file; 'openai' unless given."""
    out: Path | None = None
    """An autoencoder alone: the folder it is written to."""

    @model_validator(mode="after")
    def _one_checkpoint(self) -> "ConvertOriginal":
        if len({path.name for path in self.files}) < len(self.files):
            raise ValueError("files: two have one name, which names a part; rename one")
        if self.layout != "embeddings" and len(self.files) > 1:
            raise ValueError(f"files: {self.layout} is one checkpoint, {len(self.files)} are given")
        return self


class EncodeLatents(FlowConfig):
    """shards -> latents: what the denoiser is trained on, encoded once."""

    shards: str
    """Shards to encode."""
    autoencoder: str = "pixels"
    """'pixels', a local diffusers folder of an AutoencoderKL or VQModel, or a hub id."""
    stored: Stored | None = None
    """pixels: the images, in pixel space. moments: what the encoder says before anything is drawn
    or rounded, as diffusion learns it. codes: places in a VQModel's codebook, for a family that
    reads codes. Unless given: pixels in pixel space, else moments.
    """


class Upstream(Parameters):
    """How `train-rdm` makes what it finds missing; what is there is used as it is."""

    images: Images | None = None
    """The training images, if their shards are missing too: imported under the latents' name."""
    database_images: Images | None = None
    """The images of the database, if they are not the training images: imported under the
    database's name.
    """
    encoder: str = "ViT-B-32"
    """As in BuildDatabase."""
    weights: str = "openai"
    """As in BuildDatabase."""
    precision: Precision = "auto"
    """As in BuildDatabase."""
    of: Embedded = "image"
    """As in BuildDatabase."""
    autoencoder: str = "pixels"
    """As in EncodeLatents."""
    stored: Stored | None = None
    """As in EncodeLatents."""
    k: Neighbors = 20
    """Neighbors stored for each training image."""

    @model_validator(mode="after")
    def _says_nothing_idle(self) -> "Upstream":
        refuse_precision_of_texts(self.of, self.precision)
        return self


class TrainRDM(FlowConfig):
    """latents + neighbors + database -> run: checkpoints, metrics and weights."""

    latents: str
    """Latents of the training images."""
    neighbors: str
    """Neighbor table of the training images."""
    database: str
    """Database the table was made with."""
    model: AnyModel = Field(default_factory=next(iter(_CONFIGS.values())))
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
    def _divides(self) -> "TrainRDM":
        total = self.processes * self.machines * self.execution.accumulate
        if self.training.batch % total:
            raise ValueError(
                f"training.batch: {self.training.batch} cannot be divided over {total} processes and pieces"
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


class Rebuild(FlowConfig):
    """images -> shards, database, neighbor table and latents under one name: what a schedule
    runs.
    """

    images: Images
    """The images."""
    encoder: str = "ViT-B-32"
    """As in BuildDatabase."""
    weights: str = "openai"
    """As in BuildDatabase."""
    precision: Precision = "auto"
    """As in BuildDatabase."""
    of: Embedded = "image"
    """As in BuildDatabase."""
    autoencoder: str = "pixels"
    """As in EncodeLatents."""
    stored: Stored | None = None
    """As in EncodeLatents."""
    k: Neighbors = 20
    """Neighbors stored for each image."""

    @model_validator(mode="after")
    def _says_nothing_idle(self) -> "Rebuild":
        refuse_precision_of_texts(self.of, self.precision)
        return self


class EvaluateRDM(FlowConfig):
    """Does the model use its neighbors? Losses, prompt agreement and database swap on the shapes
    world.
    """

    run: str
    """Run under test."""
    baseline: str
    """Run of the same network trained without neighbors."""
    heldout_latents: str
    """Latents of images neither run has seen."""
    heldout_neighbors: str
    """Their neighbor table in the run's database."""
    swaps: dict[Literal["photograph", "oil painting", "sketch"], str]
    """Style -> database that holds only that style."""
    prompts: int = Field(64, ge=1, le=1_000_000)
    """Colour-and-shape prompts a measurement."""
    seeds: int = Field(3, ge=1, le=10_000)
    """Sampling seeds a measurement is repeated with."""
    k: Neighbors = 4
    """Vectors in a context."""
    draw: DrawSettings = {}
    """How images are drawn: settings of the run's family, as in `rdm sample`."""
    quality_images: int = Field(200, ge=11, le=10_000_000)
    """Held-out images whose neighbors are drawn from, for the distances between sets of images."""
    judge: Literal["shapes", "captions", "features"] = "shapes"
    """Who says what images show. shapes: the classifier of the built-in world; captions: prompts
    are captions of the held-out images, see judge_clip; features: nobody, sets of images alone are
    compared.
    """
    extractor: str = "oracle"
    """Features those are measured in: 'oracle', clip:MODEL:WEIGHTS, timm:MODEL or timm:MODEL:FILE;
    not the run's encoder.
    """
    judge_clip: str | None = None
    """MODEL:WEIGHTS of a CLIP other than the run's encoder, for the CLIP score of prompted
    samples.
    """


class WriteReport(FlowConfig):
    """One self-contained HTML page about a run."""

    run: str
    """Run the page is about."""
    baseline: str
    """The same network without neighbors."""
    evaluation: str
    """What was measured."""
    samples: tuple[str, ...]
    """Sampled sets to show, in order."""
    artifacts: tuple[str, ...] = ()
    """kind/name of the other artifacts, for the table of stages."""


class Demo(FlowConfig):
    """The whole path on the built-in world."""

    name: str = "demo"
    """Not used to name anything: the demo's artifacts have names of their own."""
    scale: float = Field(1.0, gt=0, le=10)
    """Share of the demo's images and prompts; 0.02 for a smoke test."""
    steps: Count = 1400
    """Training steps of each of the two networks."""
    seed: Seed = 0
    """Of images, training and samples."""


class Study(FlowConfig):
    """Six tests of the method on the built-in world, over several training seeds."""

    name: str = "study"
    """Not used to name anything: the runs are study-0, study-1, ..."""
    scale: float = Field(1.0, gt=0, le=10)
    """Share of the demo's images; 0.02 for a smoke test."""
    steps: Count = 1400
    """Training steps of each network."""
    seed: Seed = 0
    """Of the images, and of the first training."""
    seeds: int = Field(3, ge=1, le=10_000)
    """Training seeds, one after the other."""
    images: int = Field(400, ge=11, le=10_000_000)
    """Images drawn for each figure."""
    sampler_steps: SamplerSteps = 12
    """Sampler steps of each image."""
    guidance_scale: GuidanceScale = 2.0
    """Of the images drawn for texts and for restricted databases."""


class RemoveKeys(FlowConfig):
    """database -> the same database without some images, for good."""

    name: str = "remove"
    """Not used to name anything: what is published keeps its name."""
    database: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Database (embeddings, and index if there is one) the images are taken out of."""
    keys_file: Path
    """Text file with one key a line; a key without its crop number stands for every crop of the
    image.
    """
    missing_ok: bool = False
    """Keys that the database does not hold go on its removal list too, instead of being refused."""
