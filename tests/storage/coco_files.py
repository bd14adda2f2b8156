"""Small data sets in the layout of COCO 2017."""

import json
from pathlib import Path

from listings import images_by_id

from storage.sources import read_coco

LICENSES = [
    {"id": 4, "name": "Attribution License", "url": "http://by/2.0/"},
    {"id": 9, "url": "http://only-url/"},
]


def write_coco(root: Path, split: str = "val") -> Path:
    """Images 1..4 are annotated (4 has no file), 5 is a file without annotation."""
    (root / f"{split}2017").mkdir(parents=True)
    for number in (1, 2, 3, 5):
        (root / f"{split}2017" / f"{number:012d}.jpg").write_bytes(b"jpeg")
    images = [
        {
            "id": number,
            "file_name": f"{number:012d}.jpg",
            "license": 4,
            "flickr_url": f"http://f/{number}",
            "coco_url": "http://c",
        }
        for number in (1, 2, 3, 4)
    ]
    images[1] |= {"license": 9, "flickr_url": ""}
    images[2] |= {"license": 77}
    captions = [
        {"id": 12, "image_id": 1, "caption": "second\n"},
        {"id": 11, "image_id": 1, "caption": " A  first one. "},
        {"id": 13, "image_id": 1, "caption": "  "},
        {"id": 14, "image_id": 99, "caption": "of nothing"},
    ]
    annotations = [
        {"id": 0, "image_id": 1, "category_id": 3, "segmentation": [[0]]},
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0]]},
        {"id": 2, "image_id": 1, "category_id": 3, "segmentation": [[0]]},
        {"id": 3, "image_id": 2, "category_id": 1, "segmentation": [[0]]},
    ]
    categories = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]
    common = {"images": images, "licenses": LICENSES}
    (root / "annotations").mkdir(exist_ok=True)
    for name, content in (
        ("captions", {"annotations": captions}),
        ("instances", {"annotations": annotations, "categories": categories}),
    ):
        (root / "annotations" / f"{name}_{split}2017.json").write_text(json.dumps(common | content))
    return root


def small(
    root: Path, captions: list, images: list | None = None, objects: list | None = None, **others
) -> Path:
    """A split of two files, 1.jpg and 2.jpg; records as given, in `captions_val2017.json`."""
    (root / "val2017").mkdir(exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for name in ("1.jpg", "2.jpg"):
        (root / "val2017" / name).write_bytes(b"jpeg")
    images = (
        [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
        if images is None
        else images
    )
    both = {"images": images, "licenses": [], "categories": [{"id": 7, "name": "cat"}], **others}
    for name, rows in (("captions", captions), ("instances", objects or [])):
        content = both | {"annotations": rows}
        (root / f"annotations/{name}_val2017.json").write_text(json.dumps(content))
    return root


def by_id(root: Path) -> dict:
    return images_by_id(read_coco(root))
