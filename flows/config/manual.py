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
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flows.config.parameters import DrawSettings
from rdm_core.families import FAMILIES, draw_settings

WIDTH = 100
INDENT = 4


def manual_of(kind: Any) -> str:
    """Every parameter of a class with its kind, default and meaning; those inside of others by
    their dotted names.
    """
    lines = []
    for name, told, default, meaning in parameters_of(kind):
        lines.append(f"  {name}  ({told}{default})")
        indent = " " * (2 + INDENT)
        lines += textwrap.wrap(meaning, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def parameters_of(kind: Any, before: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(dotted name, kind, default, meaning) of every parameter, in the order of the classes."""
    members = _kinds_in(kind)
    if len(members) > 1:
        yield from _parameters_of_any(members, before)
        return
    meanings = documented(kind)
    for name, annotation, default in _fields_of(kind):
        inside = [one for one in _kinds_in(annotation) if _has_parameters(one)]
        if annotation == DrawSettings:  # the family is known when the run is: all are listed
            inside = [draw_settings(family) for family in FAMILIES]
        meaning = " ".join(meanings.get(name, "").split())
        if not inside:
            yield f"{before}{name}", _told(annotation), _default(default), meaning
            continue
        yield from _parameters_of_any(inside, f"{before}{name}.")


def _parameters_of_any(members: list[Any], before: str) -> Iterator[tuple[str, str, str, str]]:
    """The same of a union: what all its classes have is told once, the rest with the sources it is
    for.
    """
    if len(members) == 1:
        yield from parameters_of(members[0], before)
        return
    rows: dict[tuple[str, str], list[tuple[Any, str, str]]] = {}
    for member in members:
        for name, told, default, meaning in parameters_of(member, before):
            rows.setdefault((name, meaning), []).append((member, told, default))
    for (name, meaning), having in rows.items():
        sources = [_default(member.model_fields["source"].default)[2:] for member, _, _ in having]
        told = " | ".join(dict.fromkeys(told for _, told, _ in having if told))
        defaults = {default for _, _, default in having}
        only = "" if len(having) == len(members) else f"{', '.join(sources)}: "
        yield name, told, defaults.pop() if len(defaults) == 1 else "", f"{only}{meaning}"


@lru_cache
def documented(kind: type) -> dict[str, str]:
    """Name -> the docstring below it, of a class and those it is made from."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if one.__module__.split(".")[0] not in ("flows", "rdm_core"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        assert isinstance(body, ast.ClassDef), "the source of a class"
        for statement, after in zip(body.body, body.body[1:], strict=False):
            if not isinstance(statement, ast.AnnAssign):
                continue
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if told and isinstance(statement.target, ast.Name):
                found[statement.target.id] = str(after.value.value)  # type: ignore[attr-defined]
    return found


def _fields_of(kind: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, one in kind.model_fields.items():
            default = one.default
            if one.default_factory is not None:
                default = PydanticUndefined
            yield name, one.annotation, default
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
        return [kind for one in get_args(annotation) for kind in _kinds_in(one)]
    return [annotation]


def _told(annotation: Any) -> str:
    """A kind in words."""
    kinds = [_word(kind) for kind in _kinds_in(annotation) if kind is not NoneType]
    return " or ".join(dict.fromkeys(kinds))


def _word(kind: Any) -> str:
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    origin = get_origin(kind)
    if origin is Literal:
        return " | ".join(str(one) for one in get_args(kind))
    if origin is tuple:
        inside = [one for one in get_args(kind) if one is not Ellipsis]
        return f"list of {_told(inside[0])}s" if Ellipsis in get_args(kind) else "list"
    if origin is dict:
        return "names and values"
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return ""
    if value is None:
        return ""
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple):
        value = list(value)
    return f"; {value}" if value != "" else ""
