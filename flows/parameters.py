"""What the parameters of every command share: frozen, refused by name, told as text.

Importing this file loads neither Prefect nor torch.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_validator,
)

from flows.terminal import on_one_line
from storage.errors import as_text


class Parameters(BaseModel):
    """Frozen, documented, and refusing what it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="after")
    def _are_text(self) -> Self:
        for name, value in self:
            for text in _texts_in(value):
                if not is_text(text):
                    told = f"'{on_one_line(text)}' is not UTF-8 text"
                    raise ValueError(f"{name}: {told}; write it in UTF-8")
        return self

    @field_serializer("*", mode="wrap", when_used="json")
    def _path_as_text(self, value: Any, told: SerializerFunctionWrapHandler) -> Any:
        """A name on the disk may be no UTF-8; JSON is, with an escape for each such byte."""
        if isinstance(value, Path):
            return path_as_text(value)
        if isinstance(value, tuple) and any(isinstance(one, Path) for one in value):
            return [path_as_text(one) for one in value]
        return told(value)


def is_text(text: str) -> bool:
    """Whether it is whole letters: Python keeps undecodable bytes, and JSON halves of letters."""
    return as_text(text) == text


def path_as_text(path: Path) -> str:
    """The path; a byte of it that is no UTF-8 as \\xe9."""
    return as_text(str(path))


def _texts_in(value: Any) -> list[str]:
    """The texts among a parameter's value and what it holds; paths are none."""
    held = [*value, *value.values()] if isinstance(value, dict) else value
    every = held if isinstance(held, list | tuple) else [held]
    return [one for one in every if isinstance(one, str)]


def local_root(root: Any) -> Any:
    """A URL as the path of its local mirror; anything else as it is. Raises what `root_of` raises."""
    if isinstance(root, str | Path):
        from storage.remote import root_of

        return root_of(str(root))
    return root


class UnderRoot(Parameters):
    """What everything shares that reads or makes artifacts."""

    root: Annotated[Path, BeforeValidator(local_root)] = Path("data")
    """Directory or URL (s3://bucket/prefix) that holds every artifact; not part of any plan."""
