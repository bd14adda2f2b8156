"""COCO 2017: photographs with five captions each.

<root>/{train,val}2017/<12 digits>.jpg
<root>/annotations/{captions,instances}_{train,val}2017.json
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.sources.disk import check_root, files_in, read_json, snapshot_of, wrong_layout
from storage.sources.source import Listing, SourceImage, listing_of

LAYOUT = "train2017/ or val2017/ and annotations/captions_*2017.json, annotations/instances_*2017.json"
CURE = "Unpack http://images.cocodataset.org/annotations/annotations_trainval2017.zip into the root folder."
SPLITS = ("train", "val")


def read_coco(root: Path, split: str = "all") -> Listing:
    """List COCO 2017 under root; split: "train", "val", or "all" for those whose image folder is there.

    An annotated image without a file is a row with a reason; a file without annotation is a row without captions.
    labels: names of the object classes in it. licence: "name (url)". COCO names no authors.
    Raises SourceError for a wrong folder, and for annotation files that are missing, git-lfs pointers or broken.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}, must be one of {SPLITS} or 'all'")
    check_root(root, "coco", LAYOUT)
    splits = [name for name in SPLITS if split in (name, "all") and (root / f"{name}2017").is_dir()]
    if not splits:
        raise wrong_layout(root, "coco", LAYOUT if split == "all" else f"{split}2017/ and annotations/")
    notes: Counter[str] = Counter()
    images: list[SourceImage] = []
    files: dict[str, tuple[int, int]] = {}
    for name in splits:
        images += _read_split(root, name, files, notes)
    metadata = [path for name in splits for path in _annotation_paths(root, name)]
    return listing_of(root, images, snapshot_of(files, metadata), dict(notes), files)


def _annotation_paths(root: Path, split: str) -> tuple[Path, Path]:
    """The captions and the instances file of a split."""
    folder = root / "annotations"
    return folder / f"captions_{split}2017.json", folder / f"instances_{split}2017.json"


def _read_split(root: Path, split: str, files: dict[str, tuple[int, int]], notes: Counter[str]) -> list[SourceImage]:
    """The images of one split; adds id -> (bytes, mtime) to files and counts to notes."""
    on_disk, others = files_in(root / f"{split}2017", lambda name: name.endswith(".jpg"))
    captions_path, instances_path = _annotation_paths(root, split)
    captions_json, instances_json = _load(captions_path), _load(instances_path)
    records = {**_records(instances_json, instances_path), **_records(captions_json, captions_path)}
    captions, labels = _captions(captions_json, captions_path), _labels(instances_json, instances_path)
    licences = _licences(captions_json, captions_path) | _licences(instances_json, instances_path)

    rows = [
        SourceImage(
            dataset="coco", source_id=Path(name).stem, path=on_disk[name][0] if name in on_disk else None,
            captions=captions.get(number, ()), labels=labels.get(number, ()), licence=licences.get(record.get("license", -1)),
            source_url=record.get("flickr_url") or record.get("coco_url"), split=split,
            reason=None if name in on_disk else f"listed in {captions_path.name}, but {split}2017/{name} is absent",
        )
        for name, (number, record) in records.items()
    ]  # fmt: skip
    unannotated = on_disk.keys() - records.keys()
    rows += [SourceImage("coco", Path(name).stem, on_disk[name][0], split=split) for name in unannotated]
    files.update({Path(name).stem: (size, mtime) for name, (_, size, mtime) in on_disk.items()})

    numbers = {number for number, _ in records.values()}
    notes["other_files"] += others
    notes["files_without_annotation"] += len(unannotated)
    notes["listed_but_absent"] += len(records.keys() - on_disk.keys())
    notes["without_captions"] += sum(not captions.get(number) for number in numbers)
    notes["without_licence"] += sum(row.licence is None for row in rows)
    notes["captions_of_unlisted_images"] += len(captions.keys() - numbers)
    return rows


def _load(path: Path) -> dict[str, Any]:
    """An annotation file; the polygons, nine tenths of it, are dropped while reading."""
    loaded = read_json(path, CURE, object_hook=_without_polygons)
    if not isinstance(loaded, dict):
        raise SourceError(path, f"holds a JSON {type(loaded).__name__}, not a COCO object", CURE)
    return loaded


def _without_polygons(record: dict[str, Any]) -> dict[str, Any]:
    """A record as read, without the fields of an instance that nobody here asks for."""
    if "segmentation" in record:
        return {key: record[key] for key in ("id", "image_id", "category_id") if key in record}
    return record


def _table(content: dict[str, Any], name: str, fields: tuple[str, ...], path: Path) -> list[dict[str, Any]]:
    """content[name], checked to be a list of records that have the fields; SourceError names what is missing."""
    rows = content.get(name)
    if not isinstance(rows, list):
        raise SourceError(path, f'has no list "{name}"', f"It is not the COCO 2017 file of this name. {CURE}")
    for place, row in enumerate(rows):
        for wanted in fields:
            if not isinstance(row, dict) or wanted not in row:
                raise SourceError(path, f'{name}[{place}] has no "{wanted}"', f"The file was altered. {CURE}")
    return rows


def _records(content: dict[str, Any], path: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """file name -> (image id, record)."""
    rows = _table(content, "images", ("id", "file_name"), path)
    return {str(row["file_name"]): (row["id"], row) for row in rows}


def _captions(content: dict[str, Any], path: Path) -> dict[int, tuple[str, ...]]:
    """image id -> captions in the order of their ids, white space tidied, empty ones dropped."""
    captions: defaultdict[int, list[str]] = defaultdict(list)
    rows = _table(content, "annotations", ("id", "image_id", "caption"), path)
    for row in sorted(rows, key=lambda row: row["id"]):
        caption = " ".join(str(row["caption"]).split())
        if caption:
            captions[row["image_id"]].append(caption)
    return {number: tuple(texts) for number, texts in captions.items()}


def _labels(content: dict[str, Any], path: Path) -> dict[int, tuple[str, ...]]:
    """image id -> names of the object classes in it, each once, in the order of the class ids."""
    names = {row["id"]: str(row["name"]) for row in _table(content, "categories", ("id", "name"), path)}
    classes: defaultdict[int, set[int]] = defaultdict(set)
    for row in _table(content, "annotations", ("image_id", "category_id"), path):
        if row["category_id"] not in names:
            raise SourceError(path, f"category_id {row['category_id']} is not in categories", CURE)
        classes[row["image_id"]].add(row["category_id"])
    return {number: tuple(names[one] for one in sorted(found)) for number, found in classes.items()}


def _licences(content: dict[str, Any], path: Path) -> dict[int, str]:
    """licence id -> "name (url)", or what there is of the two."""
    licences = {}
    for row in _table(content, "licenses", ("id",), path):
        name, url = row.get("name"), row.get("url")
        licences[row["id"]] = f"{name} ({url})" if name and url else str(name or url or f"COCO licence {row['id']}")
    return licences
