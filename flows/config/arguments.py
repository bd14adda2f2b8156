"""From words on the command line to a flow's parameters, refused by name where they are wrong."""

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from types import NoneType
from typing import Any, Union, get_args, get_type_hints


def configured(options: argparse.Namespace, kind: Any, **flags: Any) -> Any:
    """The flow's parameters from flags and --set, validated by the flow's own class, or by a union
    of such. Exits with 2 naming what is wrong.
    """
    from pydantic import TypeAdapter, ValidationError

    given = {key: value for key, value in flags.items() if value not in (None, [], ())}
    try:
        values = assigned({"root": options.root} | given, options.set, kind)
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UsageError("\n".join(_complaint(e, kind) for e in error.errors())) from error


def assigned(
    values: dict[str, Any], assignments: Sequence[str], kind: Any = None
) -> dict[str, Any]:
    """The values with every KEY=VALUE put in its place; dots lead inside.

    A value is JSON, or else a text. Where the parameters are of a known kind, a parameter that is a
    text takes it as it is written (1984, 2.0, true); in quotes it may be any, and null is none
    where none is allowed.

    Raises UsageError for what is no assignment.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment}: write KEY=VALUE")
        *path, last = key.split(".")
        place = values
        for step in path:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {assignment}: {step!r} has no parameters inside")
        place[last] = _value(text, _wanted(kind, [*path, last]))
    return values


def typed(text: str) -> str:
    """An argument that is a text and no path: as UTF-8 where its bytes are that, else as the locale
    has it.

    So a command says the same in every locale; what is text in neither is refused by the
    parameters.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


class UsageError(Exception):
    """The command line was wrong; the message says where, what and the cure."""


_NAMES_PARAMETERS = re.compile(r"[a-z_]+(, [a-z_]+)*( and [a-z_]+)?: ")
"""How a complaint begins that a class makes of several of its parameters."""


def _value(text: str, wanted: Any) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except ValueError:
        return text
    kinds = set(get_args(wanted)) or {wanted}
    is_text = bool(kinds & {str, Path}) and kinds <= {str, Path, type(None)}
    return (
        text
        if is_text and not isinstance(value, str) and not (value is None and type(None) in kinds)
        else value
    )


def _finite(text: str) -> float:
    number = float(text)
    return number if isfinite(number) else _no_number(text)


def _no_number(text: str) -> Any:
    """NaN, Infinity and 1e400 are no JSON: they stay texts, which are refused where a number is
    wanted.
    """
    raise ValueError(text)


def _wanted(kind: Any, path: Sequence[str]) -> Any:
    """The annotation of the parameter that a path leads to; None where there is none."""
    for step in path:
        wanted = []
        for inside in _kinds_inside(kind):
            hints = get_type_hints(inside)
            if step in hints:
                wanted.append(hints[step])
        if not wanted:
            return None
        # Any text includes the choice of some texts that another class of a union may want.
        kind = str if str in wanted else Union[tuple(wanted)]  # noqa: UP007 - made here
    return kind


def _complaint(error: Any, kind: Any) -> str:
    # Numbers are places in a list; `source=coco` is the member of a union that was looked into.
    path = [step for step in error["loc"] if isinstance(step, str) and "=" not in step]
    where = ".".join(path)
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: there is no such parameter{_instead(kind, path)}"
    if error["type"] == "missing":
        return f"{where}: is needed. Give it with its flag, or --set {where}=..."
    if error["type"] == "string_unicode":
        return f"{where}: {error['input']!r} is not UTF-8 text; write it in UTF-8"
    message = error["msg"].removeprefix("Value error, ") + _how_to_write(error)
    if where and error["type"] in ("value_error", "unknown_source"):
        if message.startswith(f"{where}: "):
            return message
        return f"{where}{'.' if _NAMES_PARAMETERS.match(message) else ': '}{message}"
    return f"{where}: {message} (given: {error['input']!r})" if where else message


def _instead(kind: Any, path: Sequence[str]) -> str:
    """The parameters of that name elsewhere, the nearest first; else those that there are."""
    elsewhere = sorted(dict.fromkeys(_named(kind, path[-1])), key=lambda name: name.count("."))
    if elsewhere:
        return f"; {' and '.join(elsewhere)} {'are some' if elsewhere[1:] else 'is one'}."
    if len(path) > 1:
        return "."
    known: dict[str, Any] = {}
    for one in _kinds_inside(kind):
        known |= one.model_fields
    return f". Parameters: {', '.join(known)}."


def _named(kind: Any, name: str, place: str = "") -> Iterator[str]:
    """Where a parameter of some name stands among a kind's parameters and inside them."""
    for inside in _kinds_inside(kind):
        for field, annotation in get_type_hints(inside).items():
            if place and field == name:
                yield f"{place}{field}"
            yield from _named(annotation, name, f"{place}{field}.")


def _kinds_inside(annotation: Any) -> list[Any]:
    """The classes of parameters that an annotation allows."""
    from flows.config.parameters import Parameters
    from rdm_core.config import Config

    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Parameters | Config) else []
    return [kind for part in get_args(annotation) for kind in _kinds_inside(part)]


def _how_to_write(error: Any) -> str:
    """What would be right, where a value has the wrong form."""
    given = error["input"]
    if error["type"] == "string_type" and isinstance(given, bool | int | float | NoneType):
        return f'. Write a text in quotes: "{json.dumps(given)}"'
    if (
        error["type"] in ("tuple_type", "dict_type")
        and isinstance(given, str)
        and given.lstrip()[:1] in ("[", "{")
    ):
        return ". It is no JSON: texts stand in double quotes, numbers are finite"
    if error["type"] == "tuple_type" and isinstance(given, bool | int | float | str):
        return f". Write a list: {json.dumps([given], ensure_ascii=False)}"
    return ""


def root_argument(text: str) -> Path:
    """--root: a directory, or the local mirror of a URL. Refuses a URL that names no plain
    folder.
    """
    from storage.errors import StorageError
    from storage.roots import root_of

    try:
        return root_of(text)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
