"""A COCO annotation file, typed at the border: each value is what it should be, or is left out and counted by reason.

Many programs write this layout. Ids come as numbers or as texts: 7, 7.0 and "7" are one id, true and "07" are not it.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.sources.disk import read_json
from storage.text import is_whole

CURE = "Unpack http://images.cocodataset.org/annotations/annotations_trainval2017.zip into the root folder."
_LARGEST_EXACT = 2**53
_NUMBER = re.compile("-?[0-9]{1,16}")
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """One record of "images". name: its file's, as written, undecodable bytes as surrogates. licence: an id or None."""

    number: str
    name: str
    licence: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a file says. captions, labels: by the number of an image, which no list of images need have."""

    pictures: tuple[Picture, ...]
    licences: Mapping[str, str]
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_captions(path: Path, notes: Counter[str]) -> Annotations:
    """A captions file: of each image its captions in the order of their ids, white space tidied.

    Raises SourceError where it is no COCO object, has no list of images and annotations, or no record of an image that
    can be used.
    """
    content = _content(path)
    captions: defaultdict[str, list[str]] = defaultdict(list)
    rows = _records(content, "annotations", path, notes)
    for row in sorted(rows, key=lambda row: _order(id_in(row.get("id")))):
        number = id_in(row.get("image_id"))
        text = text_in(row.get("caption"), "captions", notes)
        if number is None:
            notes["captions_without_image_id"] += 1
        elif text is not None:
            captions[number].append(text)
    found = {number: tuple(texts) for number, texts in captions.items()}
    return Annotations(_pictures(content, path, notes), _licences(content, notes), captions=found)


def read_instances(path: Path, notes: Counter[str]) -> Annotations:
    """An instances file: of each image the names of the object classes in it, each once, in the order of class ids.

    Raises SourceError as `read_captions`.
    """
    content = _content(path)
    named = ((id_in(row.get("id")), row.get("name")) for row in _optional(content, "categories", notes))
    names = _named(((one, text_in(name, "classes", notes)) for one, name in named), "classes", notes)
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for row in _records(content, "annotations", path, notes):
        number, one = id_in(row.get("image_id")), id_in(row.get("category_id"))
        if number is None:
            notes["objects_without_image_id"] += 1
        elif one not in names:
            notes["objects_of_unknown_class"] += 1
        else:
            classes[number].add(one)
    labels = {number: tuple(names[one] for one in sorted(found, key=_order)) for number, found in classes.items()}
    return Annotations(_pictures(content, path, notes), _licences(content, notes), labels=labels)


def id_in(value: object) -> str | None:
    """An id as text, equal for equal ids; None for what is none: null, NaN, true, a list, no text at all."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) <= _LARGEST_EXACT else None
    if isinstance(value, int):
        return str(value) if abs(value) <= _LARGEST_EXACT else None
    return value if isinstance(value, str) and value.strip() else None


def text_in(value: object, what: str, notes: Counter[str]) -> str | None:
    """A text with its white space tidied; None, counted under what it is called, where there is none or it is no text.

    Half a character (JSON may write one as \\ud83d) becomes U+FFFD, as the rest is certain; that is counted too. A text
    with bytes that are no UTF-8 is left out: which encoding it is in is not known.
    """
    reason = None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        reason = "missing"
    elif not isinstance(value, str):
        reason = "not_text"
    elif not (tidy := " ".join(value.split())):
        reason = "empty"
    elif is_whole(tidy):
        return tidy
    elif any("\udc80" <= character <= "\udcff" for character in tidy):
        reason = "not_utf8"
    else:
        notes[f"{what}_with_half_a_character"] += 1
        return "".join(c if is_whole(c) else "\ufffd" for c in tidy)
    notes[f"{what}_{reason}"] += 1
    return None


def _order(number: str | None) -> tuple[int, int, str]:
    """Numbers by value, then texts, then what has no id."""
    if number is None:
        return 2, 0, ""
    return (0, int(number), "") if _NUMBER.fullmatch(number) else (1, 0, number)


def _content(path: Path) -> Record:
    """The file's object; the polygons, nine tenths of it, are dropped while reading."""
    loaded = read_json(path, CURE, object_hook=_without_polygons)
    if not isinstance(loaded, dict):
        raise SourceError(path, f"holds a JSON {type(loaded).__name__}, not a COCO object", CURE)
    return loaded


def _without_polygons(record: Record) -> Record:
    """A record as read, without the fields of an instance that nobody here asks for."""
    if "segmentation" in record:
        return {key: record[key] for key in ("id", "image_id", "category_id") if key in record}
    return record


def _records(content: Record, name: str, path: Path, notes: Counter[str]) -> list[Record]:
    """The objects in a list that must be there; SourceError names what is missing."""
    if not isinstance(content.get(name), list):
        raise SourceError(path, f'has no list "{name}"', f"It is not the COCO 2017 file of this name. {CURE}")
    return _optional(content, name, notes)


def _optional(content: Record, name: str, notes: Counter[str]) -> list[Record]:
    """The objects in a list that many files lack; anything else is counted."""
    rows = content.get(name)
    if not isinstance(rows, list):
        notes[f"files_without_{name}"] += 1
        return []
    records = [row for row in rows if isinstance(row, dict)]
    notes[f"{name}_that_are_no_record"] += len(rows) - len(records)
    return records


def _pictures(content: Record, path: Path, notes: Counter[str]) -> tuple[Picture, ...]:
    """The usable records of images; SourceError, naming the first, where there are records and none is."""
    pictures: list[Picture] = []
    first = ""
    for place, row in enumerate(content["images"] if isinstance(content.get("images"), list) else []):
        record = row if isinstance(row, dict) else {}
        number, name = id_in(record.get("id")), record.get("file_name")
        if number is None or not isinstance(name, str) or not name.strip():
            missing = "id" if number is None else "file_name"
            first = first or f'images[{place}] has no "{missing}"'
            notes[f"images_without_{missing}"] += 1
            continue
        said = [record[key] for key in ("flickr_url", "coco_url") if _is_said(record.get(key))]
        url = next(filter(None, (text_in(address, "addresses", notes) for address in said)), None)
        pictures.append(Picture(number, name, _licence_id(record.get("license"), notes), url))
    if first and not pictures:
        raise SourceError(path, first, f"The file was altered. {CURE}")
    _records(content, "images", path, Counter())
    return _with_numbers_of_their_own(pictures, notes)


def _is_said(value: object) -> bool:
    """Whether a field holds anything: exporters write null, NaN or "" where nothing is known."""
    return not (value is None or value == "" or (isinstance(value, float) and math.isnan(value)))


def _licence_id(value: object, notes: Counter[str]) -> str | None:
    number = id_in(value)
    notes["licences_that_are_no_id"] += number is None and _is_said(value)
    return number


def _with_numbers_of_their_own(pictures: list[Picture], notes: Counter[str]) -> tuple[Picture, ...]:
    """The pictures; where one number stands for several files it stands for none, as nothing says whose a caption is."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        names[picture.number].add(picture.name)
    notes["ids_of_several_images"] += sum(len(found) > 1 for found in names.values())
    return tuple(
        Picture("" if len(names[one.number]) > 1 else one.number, one.name, one.licence, one.url) for one in pictures
    )


def _licences(content: Record, notes: Counter[str]) -> dict[str, str]:
    """licence id -> "name (url)", or what there is of the two."""
    found = []
    for row in _optional(content, "licenses", notes):
        parts = [text_in(row[key], "licences", notes) if _is_said(row.get(key)) else None for key in ("name", "url")]
        name, url = parts
        number = id_in(row.get("id"))
        found.append((number, f"{name} ({url})" if name and url else name or url or f"COCO licence {number}"))
    return _named(found, "licences", notes)


def _named(pairs: Iterable[tuple[str | None, str | None]], what: str, notes: Counter[str]) -> dict[str, str]:
    """id -> text; an id that is said to be two things is none of them, and counted."""
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for number, text in pairs:
        if number is None:
            notes[f"{what}_without_id"] += 1
        elif text is not None:
            texts[number].add(text)
    notes[f"{what}_of_one_id"] += sum(len(said) > 1 for said in texts.values())
    return {number: said.pop() for number, said in texts.items() if len(said) == 1}
