"""Which images are imported, and how they are stored: one class a source, and their union.

The same classes are the flow's parameter, the command line's `--set key=value`, and the manifest's
record. Importing this file loads neither Prefect nor torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from flows.config.parameters import Count, FlowConfig, Parameters, Seed

SourceName = Literal[
    "shapes", "coco", "openimages", "wikiart", "folder", "urls", "entities", "emoji"
]
EntityGroup = Literal["all", "known", "frequent", "rare", "held out"]
"""Which of the built-in entities: those of rdm_core.shapes.entities."""
ConceptGroup = Literal["all", "known", "held out"]
"""Which of the emoji: those of storage.sources.emoji."""
VOCABULARY = {
    "shapes": ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent"),
    "colours": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "styles": ("photograph", "oil painting", "sketch"),
    "backgrounds": ("light", "dark", "striped", "checkered"),
    "positions": ("centre", "top left", "top right", "bottom left", "bottom right"),
    "sizes": ("small", "medium", "large"),
    "accessories": ("none", "hat", "crown", "bow tie", "flag", "leaf"),
}
"""The shapes world's factors; a test holds them equal to rdm_core.shapes.world, which is too heavy
to import here.
"""


class Images(Parameters):
    """What is said of the images of every source."""

    source: SourceName
    """Which reader: the layout the dataset has on disk, or the built-in shapes or entities; folder
    unless given.
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
    """Of random crops, and of what is drawn."""
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

    @model_validator(mode="before")
    @classmethod
    def _says_nothing_of_other_sources(cls, values: Any) -> Any:
        """Say of a parameter that only other sources have which those are."""
        for name in values if isinstance(values, dict) else ():
            if name in cls.model_fields:
                continue
            sources = [repr(source_of(kind)) for kind in SOURCES if name in kind.model_fields]
            if sources:
                only = "source {} alone" if len(sources) == 1 else "sources {}"
                raise ValueError(
                    f"{name}: is for the {only.format(', '.join(sources))}, "
                    f"this is {source_of(cls)!r}, which knows {', '.join(cls.model_fields)}"
                )
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> "Images":
        if self.crop == "random" and self.frame < self.size:
            raise ValueError(
                f"frame: {self.frame} px is smaller than the crops of {self.size} px cut from it"
            )
        if self.crop == "centre" and self.crops_per_image > 1:
            raise ValueError(
                f"crops_per_image: {self.crops_per_image} central crops would be equal; "
                "use crop=random"
            )
        # A form sends every parameter, so the default of one that changes nothing is accepted.
        if self.crop != "random" and self.frame != Images.model_fields["frame"].default:
            raise ValueError(f"frame: is for crop=random (given: {self.frame})")
        if self.encoding != "jpg" and self.quality != Images.model_fields["quality"].default:
            why = f"is for encoding=jpg; {self.encoding} loses nothing"
            raise ValueError(f"quality: {why} (given: {self.quality})")
        return self


class DataSet(Images):
    """Images that lie on a disk."""

    path: Path
    """Where the dataset lies; not for what is drawn."""


class WikiArt(DataSet):
    """Paintings: <Style>/<artist>_<title>.jpg, and ArtGAN's lists Style/, Genre/ and Artist/."""

    source: Literal["wikiart"] = "wikiart"


class Coco(DataSet):
    """Photographs with captions and object classes: {train,val}2017/ and annotations/ with
    captions_*.json and instances_*.json, or COCO's zips of them, out of which they are read.
    """

    source: Literal["coco"] = "coco"
    split: Literal["all", "train", "val"] = "all"
    """One split of COCO, or all of them that are there."""


class OpenImages(DataSet):
    """Photographs of Flickr with their licences and authors: {train,validation,test}/<ImageID>.jpg,
    the lists image_ids_and_rotation.csv, *-annotations-bbox.csv, class-descriptions-boxable.csv;
    for labels of whole images *-annotations-human-imagelabels.csv, oidv7-class-descriptions.csv.
    """

    source: Literal["openimages"] = "openimages"
    split: Literal["all", "train", "validation", "test"] = "all"
    """One split of Open Images, or all of them that are there."""


class Folder(DataSet):
    """Any images in a folder, however deep; NAME.txt beside NAME.jpg holds captions, one a line."""

    source: Literal["folder"] = "folder"
    dataset: str = Field("folder", pattern=r"^[a-z0-9_]{1,32}$")
    """Name of the dataset, the first part of every key; give each folder its own."""
    licence: str | None = None
    """Licence of every image in it."""
    author: str | None = None
    """Author of every image in it."""


class Urls(DataSet):
    """Images of the web that were fetched by a list of addresses: `rdm acquire urls`."""

    source: Literal["urls"] = "urls"


class Emoji(DataSet):
    """Emoji in several styles of drawing, as `rdm acquire emoji` leaves them."""

    source: Literal["emoji"] = "emoji"
    style: str = Field("all", pattern=r"^[a-z0-9_]{1,32}(,[a-z0-9_]{1,32})*$")
    """One style, several with commas between them (noto,twemoji), or all that are there."""
    concepts: ConceptGroup = "all"
    """known: what trainings may show. held out: about one in ten, for which a model is asked that
    has never seen them, in no style.
    """


class Drawn(Images):
    """Images of the built-in world: they are drawn, not read."""

    path: None = None  # so that `path=null` takes back the path of a deployment that is changed
    """Where the dataset lies; not for what is drawn."""
    split: str = Field("all", pattern=r"^[A-Za-z0-9_]{1,32}$")
    """Any word: other splits are other images."""
    count: Count = 1000
    """How many images."""

    @field_validator("path", mode="before")
    @classmethod
    def _lies_nowhere(cls, path: Any) -> Any:
        if path is not None:
            what = f"is not for {source_of(cls)}, which are drawn"
            raise ValueError(f"path: {what} (given: {path})")
        return path

    @model_validator(mode="after")
    def _values_are_of_the_world(self) -> "Drawn":
        for factor, known in VOCABULARY.items():
            for value in getattr(self, factor, ()):
                if value not in known:
                    raise ValueError(f"{factor}: {value!r} is not one of {', '.join(known)}")
        return self


class Shapes(Drawn):
    """Shapes in colours and styles, each a combination of factors."""

    source: Literal["shapes"] = "shapes"
    styles: tuple[str, ...] = ()
    """Only these styles; empty means all."""
    colours: tuple[str, ...] = ()
    """Only these colours; empty means all."""
    shapes: tuple[str, ...] = ()
    """Only these shapes; empty means all."""
    backgrounds: tuple[str, ...] = ()
    """Only these backgrounds; empty means all."""
    positions: tuple[str, ...] = ()
    """Only these positions; empty means all."""
    sizes: tuple[str, ...] = ()
    """Only these sizes; empty means all."""
    accessories: tuple[str, ...] = ("none",)
    """Only these accessories; empty means all, and none on half of the images."""
    frequencies: Literal["even", "uneven"] = "even"
    """How often each value is drawn. uneven: in shares of 1, 1/2, 1/3, ... in their order, so that
    some are rare.
    """
    pairs: Literal["all", "known", "new"] = "all"
    """Pairs of a shape and a colour. known: never a certain colour of each shape; new: only those.
    A model trained on known pairs can be asked for new ones.
    """


class Entities(Drawn):
    """Things with a made-up name and one fixed look each. Known ones are for trainings: half of
    them are frequent, half rare. Those held out are for databases alone: no training shows them.
    """

    source: Literal["entities"] = "entities"
    entities: EntityGroup = "known"
    """Only entities of this group."""
    backgrounds: tuple[str, ...] = ()
    """Only these backgrounds; empty means all."""
    positions: tuple[str, ...] = ()
    """Only these positions; empty means all."""


SOURCES: tuple[type[Images], ...] = (
    WikiArt,
    Coco,
    OpenImages,
    Folder,
    Urls,
    Emoji,
    Shapes,
    Entities,
)


def source_of(kind: type[Parameters]) -> str:
    """The source that a class of parameters is for."""
    return str(kind.model_fields["source"].default)


@dataclass(frozen=True)
class BySource:
    """Annotation of a union of such classes: a value is of the class of its source, and of the
    folder's where it names none.
    """

    names: tuple[str, ...] = get_args(SourceName)
    """The sources there are, as an error tells them."""
    unless_named: str = "folder"

    def __get_pydantic_core_schema__(
        self, union: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """A union whose errors are those of one class, at the place `source=NAME` inside it."""
        kinds = {f"source={source_of(kind)}": kind for kind in get_args(union)}
        names = ", ".join(map(repr, self.names))
        return core_schema.tagged_union_schema(
            {tag: handler.generate_schema(kind) for tag, kind in kinds.items()},
            self.tag_of,
            custom_error_type="unknown_source",
            custom_error_message=f"source: Input should be one of {names}",
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """As `anyOf`: the form of Prefect's UI offers that as a choice, and knows no `oneOf`."""
        described = handler(schema)
        described["anyOf"] = described.pop("oneOf")
        return described

    def tag_of(self, value: Any) -> str:
        """Which member of the union a value is to be."""
        if isinstance(value, dict):
            return f"source={value.get('source', self.unless_named)}"
        return f"source={getattr(value, 'source', self.unless_named)}"


# The form of Prefect's UI takes the first class that has most parameters of a value. WikiArt has
# none that another data set lacks, so what is deployed with a few of them can be sent as it is.
AnyImages = Annotated[
    WikiArt | Coco | OpenImages | Folder | Urls | Emoji | Shapes | Entities, BySource()
]
"""The images of one source."""


class ImportWikiArt(FlowConfig, WikiArt):
    """WikiArt -> shards."""


class ImportCoco(FlowConfig, Coco):
    """COCO -> shards."""


class ImportOpenImages(FlowConfig, OpenImages):
    """Open Images -> shards."""


class ImportFolder(FlowConfig, Folder):
    """A folder of images -> shards."""


class ImportUrls(FlowConfig, Urls):
    """Images of the web, fetched before -> shards."""


class ImportEmoji(FlowConfig, Emoji):
    """Emoji in several styles -> shards."""


class ImportShapes(FlowConfig, Shapes):
    """The built-in world -> shards."""


class ImportEntities(FlowConfig, Entities):
    """The entities of the built-in world -> shards."""


AnyImport = Annotated[
    ImportWikiArt
    | ImportCoco
    | ImportOpenImages
    | ImportFolder
    | ImportUrls
    | ImportEmoji
    | ImportShapes
    | ImportEntities,
    BySource(),
]
"""images -> shards: tars of crops and a sidecar that says of every image what became of it."""
_ANY_IMPORT: TypeAdapter[AnyImport] = TypeAdapter(AnyImport)


def ImportImages(**values: Any) -> AnyImport:
    """The parameters of an import, of the class of its source. Raises ValidationError."""
    return _ANY_IMPORT.validate_python(values)
