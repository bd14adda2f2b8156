"""What all parameters share: frozen, documented, told as text, refused by name where they are
unknown or out of range.

Importing this file loads neither Prefect nor torch.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from rdm_core.config import LARGEST_SEED, MOST, refuse_odd_numbers
from storage.errors import as_text
from storage.text import on_one_line

Count = Annotated[int, Field(ge=1, le=MOST)]
"""How many of something there are to be."""
Neighbors = Annotated[int, Field(ge=1, le=10_000)]
"""How many nearest rows."""
DrawSettings = dict[str, Any]
"""Settings for drawing: those of the family of a run, which is known when the run is."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


def local_root(root: Any) -> Any:
    """A URL as the path of its local mirror; anything else as it is. A path cannot hold a URL:
    it drops a slash. Raises ValueError for such a path, and what `root_of` raises.
    """
    if not isinstance(root, str | Path):
        return root
    # A scheme with one slash is left of a URL that went through a Path: s3:/bucket
    halved = re.match("([A-Za-z][A-Za-z0-9+.-]+):/(?!/)(.*)", str(root))
    if halved:
        raise ValueError(
            f"{root} is no folder; if it is a URL, give it as a text: {halved[1]}://{halved[2]}"
        )
    from storage.roots import root_of

    return root_of(str(root))


class Parameters(BaseModel):
    """Frozen, documented, and refusing what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_or_no_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic takes true for 1, as Python does.
        assert info.field_name is not None, "a validator of fields"
        kinds = _kinds_in(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"is {str(value).lower()}, must be a number")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_computed_with_and_stored(cls, value: Any, info: ValidationInfo) -> Any:
        refuse_odd_numbers(str(info.field_name), value)
        for text in _texts_in(value):
            if not is_text(text):
                what = f"'{on_one_line(text)}' is not UTF-8 text"
                raise ValueError(f"{info.field_name}: {what}; write it in UTF-8")
        return value

    @field_serializer("*", mode="wrap", when_used="json")
    def _path_as_text(self, value: Any, serialized: SerializerFunctionWrapHandler) -> Any:
        """A name on the disk may be no UTF-8; JSON is, with an escape for each such byte."""
        if isinstance(value, Path):
            return path_as_text(value)
        if isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
            return [path_as_text(path) for path in value]
        return serialized(value)


def is_text(text: str) -> bool:
    """Whether it is whole letters: Python keeps undecodable bytes, and JSON halves of letters."""
    return as_text(text) == text


def path_as_text(path: Path) -> str:
    """The path; a byte of it that is no UTF-8 as \\xe9."""
    return as_text(str(path))


def _texts_in(value: Any) -> Iterator[str]:
    """Every text of a value. Paths are none: a file may be named by any bytes."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.items() if isinstance(value, dict) else value:
            yield from _texts_in(part)


def _kinds_in(annotation: Any) -> set[Any]:
    """The types that an annotation is put together from."""
    inside = get_args(annotation)
    if not inside:
        return {annotation if isinstance(annotation, type) else None}
    kinds: set[Any] = set()
    for part in inside:
        kinds |= _kinds_in(part)
    return kinds


class Conditioned(Parameters):
    """A condition on the rows of a database: declared here for all that look rows up."""

    where: str | None = None
    """Only rows of the database that satisfy this condition take part, as if it held no others:
    what SQL has after WHERE, over the columns of `embeddings`; "licence = 'CC0' AND style <>
    'sketch'". docs/analysis.md.
    """


class UnderRoot(Parameters):
    """What everything shares that reads or makes artifacts."""

    root: Annotated[Path, BeforeValidator(local_root)] = Path("data")
    """Directory or URL (s3://bucket/prefix) that holds every artifact; not part of any plan."""


class FlowConfig(UnderRoot):
    """What all flows share."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Name of the artifact that is built."""

    def parameters(self, *without: str) -> dict[str, Any]:
        """JSON values of every field that belongs in a plan, `without` the references that are
        recorded as inputs.
        """
        return self.model_dump(mode="json", exclude={"root", "name", *without})
