"""A folder of images, however deep, each with optional caption files beside it.

<root>/**/<stem>.<suffix>      <root>/**/<stem>.txt or .caption: its captions, one a line
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from storage.errors import SourceError
from storage.sources.disk import check_root
from storage.sources.source import Listing, SourceImage, listing_of, source_id_of
from storage.sources.walk import Entry, check_not_ours, is_image_name, walk
from storage.text import NotText, text_of

CAPTION_SUFFIXES = (".txt", ".caption")
_MAX_CAPTION_BYTES = 2**20  # a longer .txt is a document, not a caption


def read_folder(
    root: Path, licence: str | None = None, author: str | None = None, ours: Path | None = None
) -> Listing:
    """List every file under root that is not hidden; licence and author are the caller's word.

    What is no image is found out by the decoder and becomes a rejected row there. A `<stem>.txt` or
    `<stem>.caption` (in any case) beside an image `<stem>.<suffix>` holds its captions. Links out
    of the folder, pipes and devices, folders and caption files that cannot be read are rows with a
    reason. ours: the root of this project's files, which is not entered. Raises SourceError if root
    is absent, a file, without files, not readable or among our own files.
    """
    check_root(root, "folder", "images")
    check_not_ours(root, ours)
    notes: Counter[str] = Counter()
    entries = walk(root, notes, ours, links_out=False)
    if not entries:
        raise SourceError(
            root, "holds no files", "Pass a folder of images (hidden files do not count)."
        )
    captions: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    read: set[str] = set()
    unreadable: dict[str, str] = {}
    for entry in _caption_files_in_order(entries):
        try:
            captions[_stem(entry.name)] += _captions(entry.path)
            read.add(entry.name)
        except (NotText, OSError) as error:
            what = error.strerror if isinstance(error, OSError) else error
            unreadable[entry.name] = f"a caption file that cannot be read: {what}"
    rows = []
    for entry in entries:
        if entry.name in read:  # its lines stand beside its image
            continue
        row = SourceImage(
            "folder", source_id_of(entry.name), None if entry.name in unreadable else entry.file,
            captions[_stem(entry.name)] if is_image_name(entry.name) else (),
            licence=licence, author=author,
            reason=unreadable.get(entry.name, entry.reason), stamp=entry.stamp,
        )  # fmt: skip
        rows.append(row)
        notes["without_captions"] += not row.captions
        notes["not_to_be_opened"] += row.reason is not None
    notes["caption_files"] = len(read)
    notes["caption_files_that_cannot_be_read"] = len(unreadable)
    return listing_of(root, rows, notes)


def _stem(name: str) -> str:
    """What an image and its captions share: the name without its suffix, accents composed."""
    return source_id_of(str(PurePosixPath(name).with_suffix("")))


def _caption_files_in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Files of at most _MAX_CAPTION_BYTES that are called as an image is, .txt before .caption."""
    images = [entry for entry in entries if entry.file and is_image_name(entry.name)]
    with_image = {_stem(image.name) for image in images}
    txt_files: list[Entry] = []
    caption_files: list[Entry] = []
    for entry in entries:
        suffix = PurePosixPath(entry.name).suffix.lower()
        short = entry.stamp is not None and entry.stamp[0] <= _MAX_CAPTION_BYTES
        if suffix in CAPTION_SUFFIXES and short and _stem(entry.name) in with_image:
            (txt_files if suffix == ".txt" else caption_files).append(entry)
    return txt_files + caption_files


def _captions(path: Path) -> tuple[str, ...]:
    """The lines of a caption file that are not blank. Raises NotText or OSError."""
    lines = [line.strip() for line in text_of(path.read_bytes()).splitlines()]
    return tuple(line for line in lines if line)
