"""What is written beside a data set that was fetched: where it came from, and when."""

import json
from pathlib import Path
from typing import Any

from storage.atomic import write_json

RECORD_FILE = "acquired.json"


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write it; the old one is replaced."""
    write_json(folder / RECORD_FILE, record)


def read_record(folder: Path | None) -> dict[str, Any] | None:
    """What is recorded of a data set's folder; None where nobody fetched it so."""
    if folder is None:
        return None
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
