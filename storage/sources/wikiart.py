"""WikiArt as ArtGAN publishes it: paintings in one folder a style, with lists for style, genre and artist.

<root>/<Style>/<artist>_<title>.jpg
<root>/{Style,Genre,Artist}/*_class*, *_train*, *_val*      optional, https://github.com/cs-chan/ArtGAN
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from storage.errors import SourceError
from storage.sources.disk import check_root, files_in, is_image_name, names_in, read_lines, snapshot_of, wrong_layout
from storage.sources.source import Listing, SourceImage, listing_of, readable, source_id_of

# WikiArt and ArtGAN state no licence for a single image, and a row without any would read as "free".
LICENCE = "ArtGAN lists: non-commercial research; image rights: see WikiArt.org"
LAYOUT = "<Style>/<artist>_<title>.jpg (Impressionism/, Ukiyo_e/, ...) and Style/, Genre/, Artist/ lists"
CURE = "Take the Style, Genre and Artist lists together from one ArtGAN download (wikiart_csv.zip)."
LISTS = ("Style", "Genre", "Artist")
STYLES = frozenset({
    "Abstract_Expressionism", "Action_painting", "Analytical_Cubism", "Art_Nouveau", "Art_Nouveau_Modern", "Baroque",
    "Color_Field_Painting", "Contemporary_Realism", "Cubism", "Early_Renaissance", "Expressionism", "Fauvism",
    "High_Renaissance", "Impressionism", "Mannerism_Late_Renaissance", "Minimalism", "Naive_Art_Primitivism",
    "New_Realism", "Northern_Renaissance", "Pointillism", "Pop_Art", "Post_Impressionism", "Realism", "Rococo",
    "Romanticism", "Symbolism", "Synthetic_Cubism", "Ukiyo_e",
})  # fmt: skip
_LIST_LINE = re.compile(r"(?P<path>.*[^,\s])\s*,+\s*(?P<number>\d+)\s*")  # Artist lists put two commas
_COPY_NUMBER = re.compile(r"\(\d+\)$")
_ARTIST = re.compile(r"[^A-Z0-9\s_]+")  # as ArtGAN writes artists; "960px-1913" and "Joseph-Sattler" are other names


@dataclass
class _Lists:
    """What the ArtGAN lists say, by image id: class name, and split in the first of LISTS that has the image."""

    classes: dict[str, dict[str, str]] = field(default_factory=lambda: {name: {} for name in LISTS})
    split: dict[str, str] = field(default_factory=dict)
    listed_in: dict[str, str] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)


def read_wikiart(root: Path) -> Listing:
    """List a WikiArt folder. A style folder is any folder at the top with images in it, except the lists' own three.

    source_id: "<Style>/<file>". style: the folder; a list that names another style is an error. labels: the genre, if
    listed. author: the Artist list's, else from the file name. captions: "<title> by <artist>", derived from the file
    name, as WikiArt has none. A listed image without a file is a row with a reason. licence: LICENCE for all.
    Raises SourceError for a wrong folder and for lists that cannot be read or contradict the folders.
    """
    check_root(root, "wikiart", LAYOUT)
    notes: Counter[str] = Counter()
    on_disk = _on_disk(root, notes)
    lists = _read_lists(root, notes)
    styles = {PurePosixPath(source_id).parts[0] for source_id in on_disk}
    if not styles & (STYLES | set(lists.classes["Style"].values())):
        raise wrong_layout(root, "wikiart", LAYOUT)
    rows = [_row(source_id, path, lists, notes) for source_id, (path, _, _) in on_disk.items()]
    rows += [_row(source_id, None, lists, notes) for source_id in lists.listed_in.keys() - on_disk.keys()]
    files = {source_id: (size, mtime) for source_id, (_, size, mtime) in on_disk.items()}
    return listing_of(root, rows, snapshot_of(files, lists.paths), dict(notes), files)


def _on_disk(root: Path, notes: Counter[str]) -> dict[str, tuple[Path, int, int]]:
    """Image id -> (path, bytes, mtime in ns) for all style folders; other folders are counted, not entered."""
    found: dict[str, tuple[Path, int, int]] = {}
    for name in names_in(root):
        folder = root / name
        if name in LISTS or name.startswith(".") or not folder.is_dir():
            continue
        images, others = files_in(folder, is_image_name)
        for file, place in images.items():
            source_id = source_id_of(f"{name}/{file}")
            if source_id in found:
                what = f"its name differs only in Unicode normalisation from another file: {source_id!r}"
                raise SourceError(readable(str(place[0])), what, "Rename or remove one of the two.")
            found[source_id] = place
        notes["other_files"] += others if images else 0
        notes["other_folders"] += not images
        notes["folders_of_unknown_style"] += bool(images) and name not in STYLES
    return found


def _row(source_id: str, path: Path | None, lists: _Lists, notes: Counter[str]) -> SourceImage:
    """One painting from its file name and the lists."""
    style, name = source_id.split("/", 1)
    artist, title = _artist_and_title(name)
    genre = lists.classes["Genre"].get(source_id)
    author = lists.classes["Artist"].get(source_id, "").replace("_", " ") or artist
    listed = lists.listed_in.get(source_id)
    notes["author_from_file_name"] += author is not None and source_id not in lists.classes["Artist"]
    notes["without_author"] += author is None
    notes["in_no_list"] += listed is None
    notes["listed_but_absent"] += path is None
    return SourceImage(
        dataset="wikiart", source_id=source_id, path=path, captions=(f"{title} by {author}" if author else title,),
        labels=(genre,) if genre else (), style=style, author=author, licence=LICENCE,
        split=lists.split.get(source_id),
        reason=None if path else f"listed in {listed}, but the file is absent",
    )  # fmt: skip


def _artist_and_title(name: str) -> tuple[str | None, str]:
    """("Juan Gris", "bottle wine glass") from "juan-gris_bottle-wine-glass(1).jpg".

    (None, all words) for a file that is not named like ArtGAN's. str.title would spoil mojibake and apostrophes.
    """
    stem = _COPY_NUMBER.sub("", PurePosixPath(name).stem)
    artist, underscore, title = stem.partition("_")
    named = bool(underscore) and _ARTIST.fullmatch(artist) is not None
    words = (title if named else stem).replace("-", " ").replace("_", " ").split()
    author = " ".join(word[:1].upper() + word[1:] for word in artist.split("-")) if named else None
    return author, " ".join(words)


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
        lists.paths.append(class_path)
        for split in ("train", "val"):
            path = _list_path(folder, f"{name.lower()}_{split}")
            if path is None:
                raise SourceError(folder / f"{name.lower()}_{split}.csv", "this file is missing", CURE)
            lists.paths.append(path)
            _read_list(path, name, split, classes, lists)
    return lists


def _list_path(folder: Path, stem: str) -> Path | None:
    """The list of that stem; ArtGAN ships some as .csv, some as .txt, some with no suffix."""
    candidates = (folder / f"{stem}{suffix}" for suffix in (".csv", ".txt", ""))
    return next((path for path in candidates if path.is_file()), None)


def _class_names(path: Path) -> dict[int, str]:
    """Class number -> name, from lines like "12 Impressionism"."""
    names = {}
    for number, line in enumerate(read_lines(path, CURE), start=1):
        if not line.strip():
            continue
        left, _, right = line.strip().partition(" ")
        if not left.isdecimal() or not right:
            raise SourceError(path, f'line {number} is {readable(line[:80])!r}, not "<number> <name>"', CURE)
        names[int(left)] = right.strip()
    return names


def _read_list(path: Path, kind: str, split: str, classes: dict[int, str], lists: _Lists) -> None:
    """One list of "<Style>/<file>,<class number>" into lists; SourceError names the line that cannot be so."""
    for number, line in enumerate(read_lines(path, CURE), start=1):
        if not line.strip() or line.startswith("(Path"):  # the Artist lists begin with a sentence
            continue
        match = _LIST_LINE.fullmatch(line)
        if match is None or "/" not in match["path"] or int(match["number"]) not in classes:
            what = f"line {number} is {readable(line[:120])!r}, not <Style>/<file>,<number of one of {len(classes)} classes>"
            raise SourceError(path, what, CURE)
        source_id, label = source_id_of(match["path"]), classes[int(match["number"])]
        if kind == "Style" and label != source_id.split("/")[0]:
            raise SourceError(path, f"line {number} says style {label!r} of {source_id!r}", CURE)
        lists.classes[kind][source_id] = label
        lists.split.setdefault(source_id, split)
        lists.listed_in.setdefault(source_id, f"{kind}/{path.name}")
