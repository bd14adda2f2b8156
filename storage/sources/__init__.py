"""Readers of data sets as they lie on a user's disk: each lists its images with all that is known
of them.
"""

from storage.sources.coco import members_in_zips, read_coco
from storage.sources.disk import NotAsListed, read_as_listed
from storage.sources.emoji import read_emoji
from storage.sources.folder import read_folder
from storage.sources.openimages import read_openimages
from storage.sources.parts import cut_into_parts, origin_of
from storage.sources.source import Listing, Reader, SourceImage
from storage.sources.urls import read_urls
from storage.sources.wikiart import read_wikiart

# Every reader takes the data set's folder first, and as `ours` the root of this project's files,
# which it leaves out;
# what else it takes is in its own signature.
SOURCES: dict[str, Reader] = {
    "coco": read_coco,
    "openimages": read_openimages,
    "wikiart": read_wikiart,
    "folder": read_folder,
    "urls": read_urls,
    "emoji": read_emoji,
}

__all__ = [
    "SOURCES",
    "Listing",
    "NotAsListed",
    "Reader",
    "SourceImage",
    "cut_into_parts",
    "members_in_zips",
    "origin_of",
    "read_as_listed",
    "read_coco",
    "read_emoji",
    "read_folder",
    "read_openimages",
    "read_urls",
    "read_wikiart",
]
