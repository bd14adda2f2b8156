"""The parameters of a command in words: what `rdm COMMAND --help` ends with.

Everything is taken from the classes that the parameters are validated by: names, kinds, defaults,
and the docstring below each.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flows.config.parameters import DrawSettings
from rdm_core.families import FAMILIES, config_of, draw_settings

WIDTH = 100
INDENT = 4
NOTES = "__annotations__"
"""Where a class keeps what it itself says of its parameters."""


def manual_of(kind: Any) -> str:
    """Every parameter of a class with its kind, default and meaning; those inside of others by
    their dotted names.
    """
    lines = []
    for name, kind_in_words, default, meaning in parameters_of(kind):
        lines.append(f"  {name}  ({kind_in_words}{default})")
        indent = " " * (2 + INDENT)
        lines += textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def sources_of(kind: Any) -> str:
    """The sources that a class of parameters may be for, each with what it is and wants; nothing
    for a class that has none.
    """
    lines = []
    for member in _kinds_in(kind):
        if not (isinstance(member, type) and "source" in getattr(member, "model_fields", {})):
            return ""
        # An import's own class says no more than that it is one: its base tells of the images.
        named = (base for base in member.__mro__ if "source" in vars(base).get(NOTES, ()))
        text = " ".join((next(named).__doc__ or "").split())
        lines += textwrap.wrap(
            f"{_called(member):<12}{text}", WIDTH, initial_indent="  ", subsequent_indent=" " * 14
        )
    return "\n".join(lines)


def parameters_of(kind: Any, before: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(dotted name, kind, default, meaning) of every parameter, in the order of the classes."""
    members = _kinds_in(kind)
    if len(members) > 1:
        yield from _parameters_of_any(members, before)
        return
    meanings = documented(kind)
    for name, annotation, default in _fields_of(kind):
        inside = [option for option in _kinds_in(annotation) if _has_parameters(option)]
        if annotation == DrawSettings:  # the family is known when the run is: all are listed
            inside = [draw_settings(family) for family in FAMILIES]
        meaning = " ".join(meanings.get(name, "").split())
        if not inside:
            yield f"{before}{name}", _in_words(annotation), _default(default), meaning
            continue
        yield from _parameters_of_any(inside, f"{before}{name}.")


def _parameters_of_any(members: list[Any], before: str) -> Iterator[tuple[str, str, str, str]]:
    """The same of a union: what all its classes have is told once, the rest with the sources or
    families that it is for.
    """
    if len(members) == 1:
        yield from parameters_of(members[0], before)
        return
    rows: dict[tuple[str, str], list[tuple[Any, str, str]]] = {}
    for member in members:
        for name, told, default, meaning in parameters_of(member, before):
            rows.setdefault((name, meaning), []).append((member, told, default))
    for (name, meaning), having in rows.items():
        sources = [_called(member) for member, _, _ in having]
        told = " | ".join(dict.fromkeys(told for _, told, _ in having if told))
        defaults = {default for _, _, default in having}
        only = "" if len(having) == len(members) else f"{', '.join(sources)}: "
        yield name, told, defaults.pop() if len(defaults) == 1 else "", f"{only}{meaning}"


def _called(member: Any) -> str:
    """What tells a class from the others of its union: its family, or its source."""
    for family in FAMILIES:
        if member in (config_of(family), draw_settings(family)):
            return family
    return _default(member.model_fields["source"].default)[2:]


@lru_cache
def documented(kind: type) -> dict[str, str]:
    """Name -> the docstring below it, of a class and those it is made from."""
    meanings: dict[str, str] = {}
    # From the oldest base on, so that a class may say more of what it has from a base.
    for base in reversed(kind.__mro__):
        if base.__module__.split(".")[0] not in ("flows", "rdm_core"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef), "the source of a class"
        # Python keeps no docstrings of attributes: each is the text in the statement after.
        for statement, after in pairwise(body.body):
            if not isinstance(statement, ast.AnnAssign):
                continue
            documents = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if documents and isinstance(statement.target, ast.Name):
                text = after.value.value  # type: ignore[attr-defined]
                meanings[statement.target.id] = str(text)
    return meanings


def _fields_of(kind: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, parameter in kind.model_fields.items():
            default = parameter.default
            if parameter.default_factory is not None:
                default = PydanticUndefined
            yield name, parameter.annotation, default
    elif is_dataclass(kind):
        for field in fields(kind):
            default = PydanticUndefined if field.default is MISSING else field.default
            yield field.name, field.type, default


def _has_parameters(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))


def _kinds_in(annotation: Any) -> list[Any]:
    """The kinds that a value may have."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds_in(get_args(annotation)[0])
    if origin in (Union, UnionType):
        kinds = []
        for option in get_args(annotation):
            kinds += _kinds_in(option)
        return kinds
    return [annotation]


def _in_words(annotation: Any) -> str:
    """The kinds that a value may have, in words."""
    words = [_word(kind) for kind in _kinds_in(annotation) if kind is not NoneType]
    return " or ".join(dict.fromkeys(words))


def _word(kind: Any) -> str:
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    origin = get_origin(kind)
    if origin is Literal:
        return " | ".join(map(str, get_args(kind)))
    if origin is tuple:
        # tuple[str, ...] is a list of any length, tuple[float, float] one of a fixed length
        of_items = get_args(kind)
        return f"list of {_in_words(of_items[0])}s" if Ellipsis in of_items else "list"
    if origin is dict:
        return "names and values"
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _default(value: Any) -> str:
    if value is PydanticUndefined or value is None:
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple):
        value = list(value)
    return f"; {value}" if value != "" else ""
