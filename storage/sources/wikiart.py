"""WikiArt as ArtGAN publishes it: paintings in one folder a style, with lists for style, genre and
artist.

<root>/<Style>/<artist>_<title>.jpg
<root>/{Style,Genre,Artist}/*_class*, *_train*, *_val*    optional, https://github.com/cs-chan/ArtGAN
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from storage.errors import SourceError
from storage.sources.disk import (
    check_damage,
    check_root,
    first_file,
    is_folder,
    names_in,
    read_lines,
    wrong_layout,
)
from storage.sources.source import (
    Listing,
    SourceImage,
    absent,
    listing_of,
    readable,
    source_id_of,
    unzipped,
)
from storage.sources.walk import Entry, check_not_ours, is_image_name, is_root, pictures, walk
from storage.text import is_whole

# WikiArt and ArtGAN state no licence for a single image; a row without one would look free to use.
LICENCE = "ArtGAN lists: non-commercial research; image rights: see WikiArt.org"
LAYOUT = (
    "<Style>/<artist>_<title>.jpg (Impressionism/, Ukiyo_e/, ...) and Style/, Genre/, Artist/ lists"
)
CURE = "Take the Style, Genre and Artist lists together from one ArtGAN download (wikiart_csv.zip)."
LISTS = ("Style", "Genre", "Artist")
STYLES = frozenset({
    "Abstract_Expressionism", "Action_painting", "Analytical_Cubism", "Art_Nouveau",
    "Art_Nouveau_Modern", "Baroque", "Color_Field_Painting", "Contemporary_Realism", "Cubism",
    "Early_Renaissance", "Expressionism", "Fauvism", "High_Renaissance", "Impressionism",
    "Mannerism_Late_Renaissance", "Minimalism", "Naive_Art_Primitivism", "New_Realism",
    "Northern_Renaissance", "Pointillism", "Pop_Art", "Post_Impressionism", "Realism", "Rococo",
    "Romanticism", "Symbolism", "Synthetic_Cubism", "Ukiyo_e",
})  # fmt: skip
# "Cubism/juan-gris_bottle.jpg,7"; Artist lists put two commas
_LIST_LINE = re.compile(r"(?P<path>.*[^,\s])\s*(,+|\t)\s*(?P<number>[0-9]{1,9})\s*")
_CLASS_LINE = re.compile(r"(?P<number>[0-9]{1,9})\s+(?P<name>.*)")  # "12 Impressionism"
_COPY_NUMBER = re.compile(r"\([0-9]+\)$")  # "(1)", as browsers number a second download
# as ArtGAN writes artists; "960px-1913" and "Joseph-Sattler" are other names
_ARTIST = re.compile(r"[^A-Z0-9\s_]+")
_NOT_IN_NAMES = re.compile("[\u2500-\u259f\ufffd]")  # box drawing, and the replacement character


@dataclass
class _Lists:
    """What the ArtGAN lists say by image id: class names, and the split in the first of LISTS."""

    classes: dict[str, dict[str, str]] = field(default_factory=lambda: {name: {} for name in LISTS})
    split: dict[str, str] = field(default_factory=dict)
    listed_in: dict[str, str] = field(default_factory=dict)


def read_wikiart(root: Path, ours: Path | None = None) -> Listing:
    """List a WikiArt folder. A style is any folder at the top with images in it but the lists' own.

    source_id: "<Style>/<file>", where #U00e9, as unzip escapes a letter, is the letter. style: the
    folder; a list that names another style is an error. labels: the genre, if listed. author: the
    Artist list's, else from the file name. captions: "<title> by <artist>", derived from the file
    name, as WikiArt has none. An artist or a title that was garbled on its way is left out and
    counted. A listed image without a file is a row with a reason. licence: LICENCE for all. ours:
    the root of this project's files, which is not entered. Raises SourceError for a wrong folder,
    for lists of which more than one line in 100 cannot be read, and for those that contradict the
    folders.
    """
    check_root(root, "wikiart", LAYOUT)
    check_not_ours(root, ours)
    notes: Counter[str] = Counter()
    entries = _on_disk(root, ours, notes)
    lists = _read_lists(root, notes)
    styles = {name.split("/")[0] for name, entry in entries if not entry.is_folder}
    # One folder with the name of a style is enough: people keep parts of WikiArt, and add to it.
    if not styles & (STYLES | set(lists.classes["Style"].values())):
        raise wrong_layout(root, "wikiart", LAYOUT)
    rows = [_row(name, entry, lists, notes) for name, entry in entries]
    on_disk = {row.source_id for row in rows}
    for source_id in lists.listed_in.keys() - on_disk:
        rows.append(_row(source_id, None, lists, notes))
    return listing_of(root, rows, notes)


def _on_disk(root: Path, ours: Path | None, notes: Counter[str]) -> list[tuple[str, Entry]]:
    """("<Style>/<file>", entry) for all style folders; other folders are counted, not entered."""
    paintings: list[tuple[str, Entry]] = []
    for name in names_in(root):
        folder = root / name
        if name in LISTS or name.startswith("."):
            continue
        if not is_folder(folder):
            notes["pictures_in_no_style"] += is_image_name(name)
            continue
        if is_root(folder, ours):
            notes["root_left_out"] += 1
            continue
        inside: Counter[str] = Counter()
        try:
            entries = list(pictures(walk(folder, inside, ours, deep=False), inside))
        except SourceError as error:
            entries = [Entry("", folder, reason=f"a folder that {error.what}", is_folder=True)]
        if not entries:
            notes["other_folders"] += 1
            if name in STYLES:
                notes["folders_not_entered"] += inside["folders_not_entered"]
            continue
        for entry in entries:  # an entry without a name is the folder itself
            paintings.append((f"{name}/{entry.name}" if entry.name else name, entry))
        notes.update(inside)
        notes["folders_of_unknown_style"] += name not in STYLES
    return paintings


def _row(name: str, entry: Entry | None, lists: _Lists, notes: Counter[str]) -> SourceImage:
    """One painting from its file name and the lists."""
    composed = unicodedata.normalize("NFC", name)
    name = unzipped(name) if entry else composed
    notes["names_escaped_by_unzip"] += name != composed
    source_id = source_id_of(name)
    style = source_id.split("/", 1)[0]
    artist, title = _artist_and_title(name.partition("/")[2], notes)
    genre = lists.classes["Genre"].get(source_id)
    author = lists.classes["Artist"].get(source_id, "").replace("_", " ") or artist
    listed = lists.listed_in.get(source_id)
    notes["author_from_file_name"] += (
        author is not None and source_id not in lists.classes["Artist"]
    )
    notes["without_author"] += author is None
    notes["without_title"] += not title
    notes["in_no_list"] += listed is None
    notes["listed_but_absent"] += entry is None
    caption = f"{title} by {author}" if author else title
    return SourceImage(
        dataset="wikiart", source_id=source_id, path=entry.file if entry else None,
        captions=(caption,) if title else (),
        labels=(genre,) if genre else (), style=style, author=author, licence=LICENCE,
        split=lists.split.get(source_id), stamp=entry.stamp if entry else None,
        reason=entry.reason if entry else absent(listed or "", "the file"),
    )  # fmt: skip


def _artist_and_title(name: str, notes: Counter[str]) -> tuple[str | None, str]:
    """("Juan Gris", "bottle wine glass") from "juan-gris_bottle-wine-glass(1).jpg".

    (None, all words) for a file that is not named like ArtGAN's. What has lost letters on its way
    is None, or "". str.title would spoil apostrophes.
    """
    stem = _COPY_NUMBER.sub("", PurePosixPath(name).stem)
    artist, underscore, title = stem.partition("_")
    has_artist = bool(underscore) and _ARTIST.fullmatch(artist) is not None
    if not has_artist:
        title = stem
    artist_garbled = _is_garbled(artist) or "?" in artist
    title_garbled = _is_garbled(title)
    notes["artists_garbled"] += has_artist and artist_garbled
    notes["titles_garbled"] += title_garbled
    author = None
    if has_artist and not artist_garbled:
        names = [name[:1].upper() + name[1:] for name in artist.split("-") if name]
        author = " ".join(names) or None
    words = title.replace("-", " ").replace("_", " ").split()
    return author, "" if title_garbled else " ".join(words)


def _is_garbled(name: str) -> bool:
    """Whether letters of a name were read in another encoding than they were written in.

    Told by what no name is: without a letter or digit ("???"); by what no name holds: bytes that
    are no UTF-8, the replacement character, lines that boxes are drawn of (code page 437, of old
    ZIP programs); or by letters that are UTF-8 when taken for bytes of Windows-1252 or Latin-1.
    """
    if name.strip("-_ ") and not any(character.isalnum() for character in name):
        return True
    if name.isascii():
        return False
    if not is_whole(name) or _NOT_IN_NAMES.search(name):
        return True
    return _is_utf8_of(name, "cp1252") or _is_utf8_of(name, "latin-1")


def _is_utf8_of(name: str, encoding: str) -> bool:
    try:
        name.encode(encoding).decode("utf-8")
    except UnicodeError:
        return False
    return True


def _read_lists(root: Path, notes: Counter[str]) -> _Lists:
    """Every list that is there; a folder of lists that is absent is noted."""
    lists = _Lists()
    for name in LISTS:
        folder = root / name
        class_path = _list_path(folder, f"{name.lower()}_class")
        if class_path is None:
            notes[f"no_{name.lower()}_lists"] += 1
            continue
        classes = _class_names(class_path)
        for split in ("train", "val"):
            path = _list_path(folder, f"{name.lower()}_{split}")
            if path is None:
                raise SourceError(
                    folder / f"{name.lower()}_{split}.csv", "this file is missing", CURE
                )
            _read_list(path, name, split, classes, lists, notes)
    return lists


def _list_path(folder: Path, stem: str) -> Path | None:
    """The list of that stem; ArtGAN ships some as .csv, some as .txt, some with no suffix."""
    return first_file(folder, (f"{stem}.csv", f"{stem}.txt", stem))


def _class_names(path: Path) -> dict[int, str]:
    """Class number -> name, from lines like "12 Impressionism"."""
    names = {}
    for number, line in enumerate(read_lines(path, CURE), start=1):
        if not line.strip():
            continue
        match = _CLASS_LINE.fullmatch(line.strip())
        if match is None:
            what = f'line {number} is {readable(line[:80])!r}, not "<number> <name>"'
            raise SourceError(path, what, CURE)
        names[int(match["number"])] = match["name"]
    return names


def _read_list(
    path: Path, kind: str, split: str, classes: dict[int, str], lists: _Lists, notes: Counter[str]
) -> None:
    """One list of "<Style>/<file>,<class number>" into lists.

    A tab for the comma, "./" and backslashes are read; any other line is left out and counted.
    Raises SourceError naming a line that contradicts its folder, or where too many are damaged.
    """
    rows, damaged, first = 0, 0, ""
    for number, line in enumerate(read_lines(path, CURE), start=1):
        if not line.strip() or line.startswith("(Path"):  # the Artist lists begin with a sentence
            continue
        rows += 1
        match = _LIST_LINE.fullmatch(line)
        written = match["path"].replace("\\", "/").removeprefix("./") if match else ""
        label = classes.get(int(match["number"])) if match else None
        if "/" not in written or label is None:
            damaged += 1
            expected = f"<Style>/<file>,<number of one of {len(classes)} classes>"
            first = first or f"line {number} is {readable(line[:120])!r}, not {expected}"
            continue
        source_id = source_id_of(written)
        if kind == "Style" and source_id_of(label) != source_id.split("/")[0]:
            what = f"line {number} says style {readable(label)!r} of {source_id!r}"
            raise SourceError(path, what, CURE)
        if is_whole(label):
            lists.classes[kind][source_id] = label
        else:
            notes["class_names_not_utf8"] += 1
        lists.split.setdefault(source_id, split)
        lists.listed_in.setdefault(source_id, f"{kind}/{path.name}")
    notes["list_lines_damaged"] += damaged
    check_damage(path, damaged, rows, first, CURE)
