"""Where everything lives under a root. No path of an artifact is built anywhere else.

<root>/<kind>/<name>/<id>/plan.json       what was asked for, written first
<root>/<kind>/<name>/<id>/...             the parts
<root>/<kind>/<name>/<id>/manifest.json   written last: its existence is completion
<root>/<kind>/<name>/<id>/.build/         lock, scratch and part records of an unfinished build
<root>/embeddings/<name>/removed.txt      keys taken out of the database, one a line, only growing
<root>/<kind>/<name>/current              one line: the id in use, replaced atomically

Objects in a bucket have the same paths, except that each part's files lie in a folder of the
attempt that wrote them, the part's prefix: <id>/<prefix>/... A root in a bucket is used through a
local mirror of it: storage.place.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from storage.errors import StorageError

Kind = Literal[
    "shards",
    "embeddings",
    "index",
    "neighbors",
    "autoencoders",
    "latents",
    "runs",
    "samples",
    "evaluations",
    "reports",
]
KINDS: tuple[str, ...] = get_args(Kind)

# It begins with a letter or a digit: so it is not hidden, and no option of a command.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ID = re.compile(r"[0-9a-f]{12}")
_PART_RECORD = ".part.json"
# Paths from the directory of a version, with forward slashes.
_FINISHED_WORK = re.compile(r"\.build/[^/]+\.part\.json|checkpoints/[^/]+/manifest\.json")
_PATH = re.compile(r"[^\\\x00-\x1f]+")  # no backslash, which Windows takes for a slash
_PREFIX = re.compile("[0-9a-f]{8}|")  # none where the part was written to a disk


def checked_name(name: str) -> str:
    """The name itself, if it can be a directory and nothing else.

    Raises StorageError when it could escape the root ("../x"), hide (".x") or confuse a shell.
    """
    if not _NAME.fullmatch(name):
        raise StorageError(
            "name",
            f"{name!r} is not a valid artifact name",
            "Use 1 to 64 letters, digits, '-' and '_'.",
        )
    return name


def family_directory(root: Path, kind: str, name: str) -> Path:
    """The directory that holds every version of one artifact."""
    if kind not in KINDS:
        raise StorageError(
            "kind", f"{kind!r} is not a kind of artifact", f"Use one of: {', '.join(KINDS)}."
        )
    return root / kind / checked_name(name)


def artifact_directory(root: Path, kind: str, name: str, identity: str) -> Path:
    """The directory of one build: `<root>/<kind>/<name>/<id>`."""
    if not _ID.fullmatch(identity):
        raise StorageError(
            "id",
            f"{identity!r} is not an artifact id",
            "Ids are the 12 hex digits that `rdm show` lists.",
        )
    return family_directory(root, kind, name) / identity


def pointer_file(root: Path, kind: str, name: str) -> Path:
    """The file that says which version is current."""
    return family_directory(root, kind, name) / "current"


def plan_file(directory: Path) -> Path:
    """What was asked for; the first file of a build."""
    return directory / "plan.json"


def manifest_file(directory: Path) -> Path:
    """The last file of a build."""
    return directory / "manifest.json"


def build_directory(directory: Path) -> Path:
    """Scratch files and part records; gone once the manifest stands."""
    return directory / ".build"


def lock_file(directory: Path) -> Path:
    """Held by the run that builds; removed with the build directory."""
    return build_directory(directory) / "lock"


def training_lock_file(directory: Path) -> Path:
    """Held by the process that writes a run's checkpoints."""
    return build_directory(directory) / "training.lock"


def checkpoints_directory(directory: Path) -> Path:
    """Where a training keeps what it resumes from."""
    return directory / "checkpoints"


def snapshots_directory(directory: Path) -> Path:
    """Where a training run keeps means of its weights, if it does."""
    return directory / "snapshots"


def publishing_lock_file(root: Path, kind: str, name: str) -> Path:
    """Held while a version gets its number and becomes the current one."""
    return family_directory(root, kind, name) / ".lock"


def part_file(directory: Path, prefix: str, relative: str) -> Path:
    """A file of a part; the prefix is "" where the part was written to a disk."""
    return directory / prefix / relative


def checked_part(name: str, prefix: str, paths: Iterable[str]) -> None:
    """Raise ValueError when a part's name, prefix or files could lead out of the artifact's
    directory.
    """
    valid = _PREFIX.fullmatch(prefix) and _PATH.fullmatch(name)
    if not valid or "/" in name or name[0] == ".":
        raise ValueError(f"part {name!r} lies outside its artifact")
    for path in paths:
        if not _PATH.fullmatch(path) or not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise ValueError(f"part {name!r} lies outside its artifact")


def part_record_file(directory: Path, part_name: str) -> Path:
    """Says that one part is whole; the unit of resume."""
    return build_directory(directory) / f"{part_name}{_PART_RECORD}"


def is_part_record(relative: str) -> bool:
    """Whether a path from the build directory is that of a part's record."""
    return "/" not in relative and relative.endswith(_PART_RECORD)


def parts_on_record(directory: Path) -> list[str]:
    """Names of the parts of an unfinished build that have a record on this disk."""
    records = build_directory(directory).glob(f"*{_PART_RECORD}")
    return [record.name.removesuffix(_PART_RECORD) for record in records]


def is_finished_work(relative: str) -> bool:
    """Whether a file of an unfinished build is what a resumed run would use: the record of a part,
    or a checkpoint.
    """
    return bool(_FINISHED_WORK.fullmatch(relative))
