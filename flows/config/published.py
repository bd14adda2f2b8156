"""Where data sets are published: addresses, and sizes and hashes where somebody published them.

Nothing here is from memory, and nothing could be asked from where this was written: every address
is a setting, and what is published about a file is checked when it is fetched.

- COCO: https://cocodataset.org/#download (addresses); bytes and sha256 as TensorFlow Datasets
  recorded them (tensorflow_datasets/url_checksums/coco.txt). Its images are under the terms of
  Flickr, its annotations CC BY 4.0 (cocodataset.org/#termsofuse).
- Open Images: the addresses that FiftyOne asks (fiftyone/utils/openimages.py) and those of
  https://storage.googleapis.com/openimages/web/download_v7.html (labels of whole images:
  #image-labels-subset, as vipy/dataset and others ask for them); images from the bucket that
  openimages/dataset (downloader.py) names. No hashes are published. Annotations CC BY 4.0; images
  are "listed as having a CC BY 2.0 license", without warranty.
- WikiArt: the README of cs-chan/ArtGAN ("WikiArt Dataset"): for non-commercial research only, and
  under the terms of WikiArt.org. No hashes are published. What WikiArt.org's own pages allow was
  not found, so nothing is fetched from them.
"""

from typing import Any

_COCO = "http://images.cocodataset.org"
_OPEN_IMAGES = "https://storage.googleapis.com/openimages"
_WIKIART = "http://web.fsktm.um.edu.my/~cschan/source/ICIP2017"


def _file(address: str, size: int | None = None, sha256: str | None = None) -> dict[str, Any]:
    return {"address": address, "bytes": size, "sha256": sha256}


COCO: dict[str, dict[str, Any]] = {
    "train2017.zip": _file(
        f"{_COCO}/zips/train2017.zip",
        19_336_861_798,
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    "val2017.zip": _file(
        f"{_COCO}/zips/val2017.zip",
        815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "annotations_trainval2017.zip": _file(
        f"{_COCO}/annotations/annotations_trainval2017.zip",
        252_907_541,
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
}
"""Name of a file -> what is published about it."""
OPEN_IMAGES: dict[str, dict[str, Any]] = {
    "class-descriptions-boxable.csv": _file(f"{_OPEN_IMAGES}/v5/class-descriptions-boxable.csv"),
    "train-images-boxable-with-rotation.csv": _file(
        f"{_OPEN_IMAGES}/2018_04/train/train-images-boxable-with-rotation.csv"
    ),
    "validation-images-with-rotation.csv": _file(
        f"{_OPEN_IMAGES}/2018_04/validation/validation-images-with-rotation.csv"
    ),
    "test-images-with-rotation.csv": _file(
        f"{_OPEN_IMAGES}/2018_04/test/test-images-with-rotation.csv"
    ),
    "oidv6-train-annotations-bbox.csv": _file(
        f"{_OPEN_IMAGES}/v6/oidv6-train-annotations-bbox.csv"
    ),
    "validation-annotations-bbox.csv": _file(f"{_OPEN_IMAGES}/v5/validation-annotations-bbox.csv"),
    "test-annotations-bbox.csv": _file(f"{_OPEN_IMAGES}/v5/test-annotations-bbox.csv"),
    "oidv7-class-descriptions.csv": _file(f"{_OPEN_IMAGES}/v7/oidv7-class-descriptions.csv"),
    "oidv7-train-annotations-human-imagelabels.csv": _file(
        f"{_OPEN_IMAGES}/v7/oidv7-train-annotations-human-imagelabels.csv"
    ),
    "oidv7-val-annotations-human-imagelabels.csv": _file(
        f"{_OPEN_IMAGES}/v7/oidv7-val-annotations-human-imagelabels.csv"
    ),
    "oidv7-test-annotations-human-imagelabels.csv": _file(
        f"{_OPEN_IMAGES}/v7/oidv7-test-annotations-human-imagelabels.csv"
    ),
}
OPEN_IMAGES_BUCKET = "https://open-images-dataset.s3.amazonaws.com"
"""Its images are <bucket>/<split>/<ImageID>.jpg, at most 1024 pixels on the long side."""
WIKIART: dict[str, dict[str, Any]] = {
    "wikiart.zip": _file(f"{_WIKIART}/wikiart.zip"),
    "wikiart_csv.zip": _file(f"{_WIKIART}/wikiart_csv.zip"),
}
WIKIART_TERMS = (
    "The WikiArt dataset can be used only for non-commercial research purpose, and under the terms "
    "and conditions of WikiArt.org (ArtGAN's README)."
)
BYTES_OF_IMAGE = {"coco": 163_500, "openimages": 294_000, "wikiart": 312_000, "emoji": 2_900}
"""Data set -> bytes an image to fetch, about: train2017.zip over its 118,287 images, 513 GB over
1,743,042 (the bucket's own count of train), 25.4 GB over 81,444, the packages of npm over 6,376.
"""
