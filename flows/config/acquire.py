"""What is fetched from where it lives, and how politely: one class a source, and their union."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator, model_validator

from flows.config import published
from flows.config.images import BySource
from flows.config.parameters import Count, Parameters, UnderRoot

Sign = Literal["robots.txt", "Content-Signal", "Content-Usage", "X-Robots-Tag", "tdm-reservation"]
"""By which an owner can say no: those of storage.web.manners."""

Style = Literal["noto", "twemoji", "fluent", "openmoji", "noto_v1", "emojione"]
"""A set of emoji: those of storage.emoji."""
EMOJI_RUN = "emoji"
"""The run of this package that is put beside the databases of emoji."""


class PublishedFile(Parameters):
    """A file of a data set, and what is published about it."""

    address: str
    """Where it is: http or https."""
    bytes: int | None = Field(None, ge=0)
    """Its size, where it is published."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Its hash, where it is published."""


class Acquire(UnderRoot):
    """What all sources share."""

    path: Path = Path("datasets")
    """Folder that the data set is to lie in, as its reader wants it."""
    contact: str | None = Field(None, pattern=r"^[!-~]{3,200}$")
    """An address or a page by which the owner of a server reaches you: part of the user agent."""
    connections: int = Field(4, ge=1, le=64)
    """Pieces of one file at a time, or images of all hosts together."""
    requests_per_second: float = Field(10.0, gt=0, le=1000)
    """Of one host, at most."""
    connections_per_host: int = Field(4, ge=1, le=64)
    """At a time, at most."""
    timeout_seconds: float = Field(60.0, gt=0, le=86_400)
    """For connecting and the headers of an answer, then for an image, or a file's next bytes."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts ("host" or "host:port") that you vouch for, such as a mirror inside your network: they
    are asked whatever their robots.txt says; recorded.
    """


class AcquireCoco(Acquire):
    """COCO 2017: zips of photographs, and annotations; read from the zips, or unpacked."""

    source: Literal["coco"] = "coco"
    """Which data set."""
    path: Path = Path("datasets/coco")
    splits: tuple[Literal["train", "val"], ...] = Field(("train", "val"), min_length=1)
    """Which splits."""
    unpack: bool = False
    """Whether the zips are unpacked beside themselves; their images are read from them else."""
    files: dict[str, PublishedFile] = Field(default_factory=dict)
    """Another address, size or hash of a file, by its name; what is published of the others, and
    what is left out, holds; null takes it back.
    """


class AcquireOpenImages(Acquire):
    """Open Images V7: lists, boxes, and images of the public bucket, all or some."""

    source: Literal["openimages"] = "openimages"
    """Which data set."""
    path: Path = Path("datasets/openimages")
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("validation",), min_length=1
    )
    """Which splits: 1,743,042, 41,620 and 125,436 images; 513, 12 and 36 GB."""
    count: Count | None = None
    """At most so many images, the same ones each time; all unless given."""
    classes: tuple[str, ...] = ()
    """Only images with a box of one of these classes, by their names (Dog, Cat, ...); with
    `image_labels` also those of which people said so.
    """
    image_labels: bool = False
    """Whether the labels of whole images are fetched too: some 20,000 classes, where boxes have 601
    (2.7 GB for train, 28 MB for validation, 94 MB for test).
    """
    licences: tuple[str, ...] = ()
    """Only images whose licence holds one of these texts (creativecommons.org/licenses/by/2.0)."""
    bucket: str = published.OPEN_IMAGES_BUCKET
    """Where the images are."""
    max_bytes: Count = 20_000_000
    """Of one image."""
    remove_unlisted: bool = False
    """Whether a list may remove more than half of the images that are there."""
    files: dict[str, PublishedFile] = Field(default_factory=dict)
    """Another address of a list, by its name: a mirror."""


class AcquireWikiArt(Acquire):
    """WikiArt as ArtGAN publishes it: for non-commercial research, under WikiArt.org's terms."""

    source: Literal["wikiart"] = "wikiart"
    """Which data set."""
    path: Path = Path("datasets/wikiart")
    accept_terms: bool = False
    """Say true once you have read its terms: non-commercial research, and those of WikiArt.org."""
    files: dict[str, PublishedFile] = Field(default_factory=dict)
    """Another address, size or hash of an archive, by its name; they are 25.4 GB."""


class AcquireEmoji(Acquire):
    """Emoji in several drawing styles, from npm packages: names, keywords, licences, authors."""

    source: Literal["emoji"] = "emoji"
    """Which data set."""
    path: Path = Path("datasets/emoji")
    styles: tuple[Style, ...] = Field(("noto", "twemoji", "fluent", "openmoji"), min_length=1)
    """Which sets; a concept that one of them lacks is left out of all."""
    pixels: int = Field(128, ge=16, le=512)
    """Side of the pictures that are drawn."""
    databases: bool = True
    """Whether a database of each style is built as well, and the run `emoji` of this package put
    beside them: what `rdm sample --run emoji --database STYLE` draws from.
    """


class AcquireUrls(Acquire):
    """Images anywhere on the web, by a list of their addresses; each becomes an image, or a row
    with the reason why there is none.
    """

    source: Literal["urls"] = "urls"
    """Which data set."""
    path: Path = Path("datasets/urls")
    urls: Path
    """The list: .csv, .parquet or .jsonl with url, and caption, licence, author."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What is known -> its column, where it has another name: {"caption": "TEXT"}."""
    connections: int = Field(16, ge=1, le=256)
    """Images of all hosts together."""
    requests_per_second: float = Field(2.0, gt=0, le=1000)
    """Of one host, at most; its robots.txt may ask for less."""
    connections_per_host: int = Field(2, ge=1, le=64)
    """At a time, at most."""
    max_bytes: Count = 20_000_000
    """Of one image."""
    remove_unlisted: bool = False
    """Whether a list may remove more than half of the images that are there."""
    check_days: float | None = Field(None, ge=0, le=36_500)
    """Ask kept images after so many days whether they changed; never unless given. 0: each time."""
    honour: tuple[Sign, ...] = (
        "robots.txt", "Content-Signal", "Content-Usage", "X-Robots-Tag", "tdm-reservation",
    )  # fmt: skip
    """By which signs an owner's no is heard."""

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        names = {"caption": "captions", "label": "labels", "license": "licence"}
        return {names.get(known, known): column for known, column in columns.items()}

    @model_validator(mode="after")
    def _reachable(self) -> "AcquireUrls":
        if self.contact is None and not self.allow_hosts:  # a mirror of your own
            raise ValueError(
                "contact: is needed: an address or page by which the owners of servers reach you"
            )
        return self


AnyAcquire = Annotated[
    AcquireCoco | AcquireOpenImages | AcquireWikiArt | AcquireEmoji | AcquireUrls,
    BySource(("coco", "openimages", "wikiart", "emoji", "urls"), "coco"),
]
"""The parameters of one source."""
_ANY: TypeAdapter[AnyAcquire] = TypeAdapter(AnyAcquire)


def acquisition(**values: Any) -> AnyAcquire:
    """The parameters of the class of a source. Raises ValidationError."""
    return _ANY.validate_python(values)
