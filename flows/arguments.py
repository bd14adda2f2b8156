"""From words on the command line to a flow's parameters, refused by name where they are wrong."""

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def configured(options: argparse.Namespace, kind: type, **flags: Any) -> Any:
    """The flow's parameters from flags and --set, validated by the flow's own class. Exits with 2 naming what is wrong."""
    from pydantic import ValidationError

    given = {key: value for key, value in flags.items() if value not in (None, [], ())}
    try:
        return kind(**assigned({"root": options.root} | given, options.set))
    except ValidationError as error:
        raise UsageError("\n".join(_complaint(e, kind) for e in error.errors())) from error


def assigned(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The values with every KEY=VALUE put in its place; dots lead inside. Raises UsageError for what is no assignment."""
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
        place[last] = _value(text)
    return values


def typed(text: str) -> str:
    """An argument that is a text and no path: as UTF-8 where its bytes are that, else as the locale has it.

    So a command says the same in every locale; what is text in neither is refused by the parameters.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


class UsageError(Exception):
    """The command line was wrong; the message says where, what and the cure."""


_NAMES_PARAMETERS = re.compile(r"[a-z_]+(, [a-z_]+)*( and [a-z_]+)?: ")
"""How a complaint begins that a class makes of several of its parameters."""


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _complaint(error: Any, kind: type) -> str:
    where = ".".join(str(step) for step in error["loc"] if not isinstance(step, int))
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = "" if "." in where else f" Parameters: {', '.join(kind.model_fields)}."  # type: ignore[attr-defined]
        return f"{where}: there is no such parameter.{known}"
    if error["type"] == "missing":
        return f"{where}: is needed. Give it with its flag, or --set {where}=..."
    if error["type"] == "string_unicode":
        return f"{where}: {error['input']!r} is not UTF-8 text; write it in UTF-8"
    message = error["msg"].removeprefix("Value error, ")
    if where and error["type"] == "value_error" and _NAMES_PARAMETERS.match(message):
        return f"{where}.{message}"
    return f"{where}: {message} (given: {error['input']!r})" if where else message


def root_argument(text: str) -> Path:
    """--root: a directory, or the local mirror of a URL. Refuses a URL that names no plain folder."""
    from storage.errors import StorageError
    from storage.remote import root_of

    try:
        return root_of(text)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
