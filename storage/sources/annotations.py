"""A COCO annotation file, typed at the border: what a value should be, or left out and counted.

Many programs write this layout. Ids come as numbers or as texts: 7, 7.0 and "7" are one id, true
and "07" are not it.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.sources.disk import read_json
from storage.sources.zips import ZippedFile, as_named
from storage.text import SURROGATE, UNDECODED_BYTE, is_whole

ZIP = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"
CURE = f"Put {ZIP} into the root folder, or unpack it there."
_LARGEST_EXACT = 2**53
"""Of numbers that were written as 7.0: beyond it two ids may have become one."""
_CONTRADICTED = ...
"""The value of a key that comes twice and says different things: no JSON holds it."""
_NUMBER = re.compile("-?[0-9]{1,100}")  # bounded, as int() refuses a text of thousands of digits
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """One record of "images".

    name: its file's, as written, undecodable bytes as surrogates. licence: an id, or None.
    """

    number: str
    name: str
    licence: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a file says. captions, labels: by the number of an image, which may be unlisted."""

    pictures: tuple[Picture, ...]
    licences: Mapping[str, str]
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_captions(path: Path | ZippedFile, notes: Counter[str]) -> Annotations:
    """A captions file: of each image its captions in the order of their ids, white space tidied.

    Raises SourceError where it is no COCO object, has no list of images and annotations, or no
    record of an image that can be used.
    """
    content, where = _content(path), as_named(path)
    captions: defaultdict[str, list[str]] = defaultdict(list)
    rows = _needed(content, "annotations", where, notes)
    # Files list captions in any order; by id it is the same on every download.
    for row in sorted(rows, key=lambda row: _order(id_in(row.get("id")))):
        number = id_in(row.get("image_id"))
        text = text_in(row.get("caption"), "captions", notes)
        if number is None:
            notes["captions_without_image_id"] += 1
        elif text is not None:
            captions[number].append(text)
    return Annotations(
        _pictures(content, where, notes),
        _licences(content, notes),
        captions={number: tuple(texts) for number, texts in captions.items()},
    )


def read_instances(path: Path | ZippedFile, notes: Counter[str]) -> Annotations:
    """An instances file: of each image the names of the classes in it, in the order of their ids.

    Raises SourceError as `read_captions`.
    """
    content, where = _content(path), as_named(path)
    categories = []
    for row in _optional(content, "categories", notes):
        categories.append((id_in(row.get("id")), text_in(row.get("name"), "classes", notes)))
    names = _by_id(categories, "classes", notes)
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for row in _needed(content, "annotations", where, notes):
        number, class_id = id_in(row.get("image_id")), id_in(row.get("category_id"))
        if number is None:
            notes["objects_without_image_id"] += 1
        elif class_id not in names:
            notes["objects_of_unknown_class"] += 1
        else:
            classes[number].add(class_id)
    labels = {}
    for number, class_ids in classes.items():
        labels[number] = tuple(names[class_id] for class_id in sorted(class_ids, key=_order))
    return Annotations(_pictures(content, where, notes), _licences(content, notes), labels=labels)


def id_in(value: object) -> str | None:
    """An id as text, equal for equal ids; None for what is none: null, NaN, true, a list, ""."""
    # Before int, of which bool is a kind.
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) <= _LARGEST_EXACT else None
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def text_in(value: object, what: str, notes: Counter[str]) -> str | None:
    """A text with its white space tidied; None, counted by reason, where it is none.

    Half a character (JSON may write one as \\ud83d) becomes U+FFFD, as the rest is certain; that is
    counted too. A text with bytes that are no UTF-8 is left out: which encoding it is in is not
    known.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        notes[f"{what}_missing"] += 1
        return None
    if not isinstance(value, str):
        notes[f"{what}_not_text"] += 1
        return None
    tidy = " ".join(value.split())
    if tidy and is_whole(tidy):
        return tidy
    if not tidy:
        notes[f"{what}_empty"] += 1
        return None
    if UNDECODED_BYTE.search(tidy):
        notes[f"{what}_not_utf8"] += 1
        return None
    notes[f"{what}_with_half_a_character"] += 1
    return SURROGATE.sub("\ufffd", tidy)


def _order(number: str | None) -> tuple[int, int, str]:
    """Numbers by value, then texts, then what has no id."""
    if number is None:
        return 2, 0, ""
    return (0, int(number), "") if _NUMBER.fullmatch(number) else (1, 0, number)


def _content(file: Path | ZippedFile) -> Record:
    """The file's object; the polygons, nine tenths of it, are dropped while reading."""
    loaded = read_json(file, CURE, _record)
    if not isinstance(loaded, dict):
        what = f"holds a JSON {type(loaded).__name__}, not a COCO object"
        raise SourceError(as_named(file), what, CURE)
    for name, value in loaded.items():
        if value is _CONTRADICTED:
            what = f'has "{name}" twice, and not the same'
            raise SourceError(as_named(file), what, f"Join them. {CURE}")
    return loaded


def _record(pairs: list[tuple[str, Any]]) -> Record:
    """A record as read; of an object's instance only the fields that are used here.

    A key that comes twice with two values becomes neither a number nor a text.
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        last = dict(record)
        for key, value in pairs:
            if value != last[key]:
                record[key] = _CONTRADICTED
    # Dropped record by record, so that the polygons are never in memory together.
    if "segmentation" in record:
        return {key: record[key] for key in ("id", "image_id", "category_id") if key in record}
    return record


def _needed(content: Record, name: str, where: Path | str, notes: Counter[str]) -> list[Record]:
    """The objects in a list that must be there; SourceError names what is missing."""
    if not isinstance(content.get(name), list):
        cure = f"It is not the COCO 2017 file of this name. {CURE}"
        raise SourceError(where, f'has no list "{name}"', cure)
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


def _pictures(content: Record, where: Path | str, notes: Counter[str]) -> tuple[Picture, ...]:
    """The usable records of images; SourceError where there are records and none is."""
    pictures: list[Picture] = []
    records = _needed(content, "images", where, notes)
    for record in records:
        number, name = id_in(record.get("id")), record.get("file_name")
        if number is None:
            notes["images_without_id"] += 1
        elif not isinstance(name, str) or not name.strip():
            notes["images_without_file_name"] += 1
        else:
            licence = _licence_id(record.get("license"), notes)
            pictures.append(Picture(number, name, licence, _address(record, notes)))
    if content["images"] and not pictures:
        what = 'has no record in "images" with an "id" and a "file_name"'
        raise SourceError(where, what, f"The file was altered. {CURE}")
    return _with_numbers_of_their_own(pictures, notes)


def _address(record: Record, notes: Counter[str]) -> str | None:
    """The first address of a picture that is one: its page, or where it can be downloaded."""
    for key in ("flickr_url", "coco_url"):
        if _holds_anything(record.get(key)):
            address = text_in(record[key], "addresses", notes)
            if address:
                return address
    return None


def _holds_anything(value: object) -> bool:
    """Whether a field holds anything: exporters write null, NaN or "" where nothing is known."""
    return not (value is None or value == "" or (isinstance(value, float) and math.isnan(value)))


def _licence_id(value: object, notes: Counter[str]) -> str | None:
    number = id_in(value)
    notes["licences_that_are_no_id"] += number is None and _holds_anything(value)
    return number


def _with_numbers_of_their_own(pictures: list[Picture], notes: Counter[str]) -> tuple[Picture, ...]:
    """The pictures. A number that several files share becomes "", as nothing says whose a caption
    is.
    """
    names: defaultdict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        names[picture.number].add(picture.name)
    shared = {number for number, its_names in names.items() if len(its_names) > 1}
    notes["ids_of_several_images"] += len(shared)
    return tuple(replace(p, number="") if p.number in shared else p for p in pictures)


def _licences(content: Record, notes: Counter[str]) -> dict[str, str]:
    """licence id -> "name (url)", or what there is of the two."""
    licences = []
    for row in _optional(content, "licenses", notes):
        number = id_in(row.get("id"))
        texts = []
        for key in ("name", "url"):
            text = text_in(row[key], "licences", notes) if _holds_anything(row.get(key)) else None
            if text:
                texts.append(text)
        both = f"{texts[0]} ({texts[1]})" if len(texts) == 2 else "".join(texts)
        licences.append((number, both or f"COCO licence {number}"))
    return _by_id(licences, "licences", notes)


def _by_id(
    pairs: Iterable[tuple[str | None, str | None]], what: str, notes: Counter[str]
) -> dict[str, str]:
    """id -> text; an id with two texts is left out and counted."""
    texts: dict[str, str] = {}
    contradicted: set[str] = set()
    for number, text in pairs:
        if number is None:
            notes[f"{what}_without_id"] += 1
        elif text is not None and texts.setdefault(number, text) != text:
            contradicted.add(number)
    notes[f"{what}_that_contradict"] += len(contradicted)
    for number in contradicted:
        del texts[number]
    return texts
