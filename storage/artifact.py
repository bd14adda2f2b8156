"""An artifact is a directory that is whole or absent: which there are, opened and checked.

What is written of one stands in storage.manifest, how one is built in storage.build.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from storage import layout
from storage.errors import ArtifactDamaged, ArtifactMissing, FormatError, StorageError
from storage.manifest import (
    Manifest,
    Part,
    PartFile,
    files_in,
    read_manifest,
    reasons_by_part,
)
from storage.mirror import path_or_url
from storage.place import place_of

THREADS_THAT_HASH = 8


@dataclass(frozen=True)
class Artifact(Manifest):
    """A published artifact. Its files never change."""

    directory: Path

    def file(self, relative: str) -> Path:
        """The path of one of the artifact's files or folders; from an object store it is fetched
        first.
        """
        return local_path(self.directory, self._listed, relative)

    def files(self, suffix: str) -> list[Path]:
        """The files that end with `suffix`, in part order."""
        return local_files(self.directory, self.parts, suffix)

    @cached_property
    def _listed(self) -> dict[str, tuple[str, PartFile]]:
        return listed(self.parts)


def listed(parts: Iterable[Part]) -> dict[str, tuple[str, PartFile]]:
    """path -> (prefix, file) over all files of some parts."""
    files = {}
    for part in parts:
        for file in part.files:
            files[file.path] = (part.prefix, file)
    return files


def local_path(directory: Path, files: Mapping[str, tuple[str, PartFile]], relative: str) -> Path:
    """The path of a file or folder of a version whose files are `listed`; from an object store,
    what of it this mirror lacks is fetched first. Other paths are those right in its directory.
    """
    if relative in files:
        names = [relative]
    else:
        names = [name for name in files if name.startswith(f"{relative}/")]
    if not names:
        return directory / relative
    wanted = []
    for name in names:
        prefix, file = files[name]
        wanted.append((layout.part_file(directory, prefix, file.path), file))
    place_of(directory).fetch(wanted)
    # A folder lies in one part, so the prefix of its first file is that of all.
    return layout.part_file(directory, files[names[0]][0], relative)


def local_files(directory: Path, parts: Iterable[Part], suffix: str) -> list[Path]:
    """The files of some parts that end with `suffix`, in order, fetched if they need to be."""
    wanted, paths = [], []
    for _, path, file in files_in(directory, parts):
        if file.path.endswith(suffix):
            wanted.append((path, file))
            paths.append(path)
    place_of(directory).fetch(wanted)
    return paths


def open_artifact(root: Path, kind: str, reference: str) -> Artifact:
    """Open `name` (the current version) or `name@id`, after checking that its files have their
    sizes.

    Raises ArtifactMissing, ArtifactDamaged or FormatError.
    """
    name, _, identity = reference.partition("@")
    if not identity:
        current = current_id(root, kind, name)
        if current is None:
            what = f"there is no artifact {kind}/{name}"
            raise ArtifactMissing(f"{path_or_url(root)}/{kind}", what, _present(root, kind))
        identity = current
    directory = layout.artifact_directory(root, kind, name, identity)
    # In an object store it may have been deleted or published since.
    place_of(directory).follow(layout.manifest_file(directory))
    if not layout.manifest_file(directory).is_file():
        what = "it has no manifest, so it was never finished"
        raise ArtifactMissing(path_or_url(directory), what, "Run the command that builds it again.")
    artifact = read_artifact(directory)
    # Hashes would read every byte at each opening: `rdm check` does that.
    check(artifact, hashes=False)
    return artifact


def read_artifact(directory: Path) -> Artifact:
    """The artifact in a directory, as its manifest says; its files are not looked at.

    Raises FormatError or ArtifactDamaged as `read_manifest` does.
    """
    return Artifact(**vars(read_manifest(directory)), directory=directory)


def check(artifact: Artifact, hashes: bool = True) -> None:
    """Compare every file with the manifest: sizes always, sha256 when `hashes`; then every object
    of a bucket is read.

    Raises ArtifactDamaged naming each file.
    """
    wrong = damage(artifact.directory, artifact.parts, hashes)
    if hashes and not wrong:
        wrong = place_of(artifact.directory).altered(artifact.directory, artifact.parts)
    if wrong:
        reasons = "; ".join(chain.from_iterable(wrong.values()))
        cure = "Run the command that builds it again."
        raise ArtifactDamaged(path_or_url(artifact.directory), reasons, cure)


def artifacts(root: Path, kind: str = "*", name: str = "*") -> list[Artifact]:
    """Every published artifact under the root, or those of one kind or name, by kind, name and
    version.

    Manifests that cannot be read are left out here and listed by `unreadable`.
    """
    readable = [read for read in _read_all(root, kind, name) if isinstance(read, Artifact)]
    return sorted(readable, key=lambda a: (a.kind, a.name, a.version, a.id))


def unreadable(root: Path, kind: str = "*", name: str = "*") -> list[ArtifactDamaged | FormatError]:
    """What is wrong with each manifest that cannot be read."""
    return [error for error in _read_all(root, kind, name) if not isinstance(error, Artifact)]


def with_fingerprint(root: Path, kind: str, fingerprint: str) -> Artifact | None:
    """An artifact of that kind whose bytes have this fingerprint, or None where none is.

    Good for its bytes alone: others may have them too, under another name or made from something
    else.
    """
    return next(reversed(all_with_fingerprint(root, kind, fingerprint)), None)


def all_with_fingerprint(
    root: Path, kind: str, fingerprint: str, name: str = "*"
) -> list[Artifact]:
    """Every artifact of that kind, or of that kind and name, whose bytes have this fingerprint.

    By name and version. One that is asked for its name or its inputs must be looked for among all:
    versions of different inputs may be equal byte for byte, and so may artifacts of two names.
    """
    return [a for a in artifacts(root, kind, name) if a.fingerprint == fingerprint]


def current_id(root: Path, kind: str, name: str) -> str | None:
    """The id of the version in use, or None when nothing was published under that name."""
    path = layout.pointer_file(root, kind, name)
    pointer = place_of(path).read(path)
    return None if pointer is None else pointer.decode(errors="replace").strip()


def is_current(root: Path, artifact: Artifact) -> bool:
    """Whether the name's pointer leads to this version."""
    return current_id(root, artifact.kind, artifact.name) == artifact.id


def damage(
    directory: Path, parts: Sequence[Part], hashes: bool, attempt: str = ""
) -> dict[str, list[str]]:
    """Part name -> what is wrong with its files; a part that is whole is not in the answer.

    In an object store the sizes are those of a listing, and of one a build `attempt` where it is
    given; `hashes` means the copies in the mirror.
    """
    place = place_of(directory)
    files = files_in(directory, parts)
    paths = [path for _, path, _ in files]
    sizes = place.sizes(directory, paths, attempt)

    def wrong(located: tuple[Part, Path, PartFile], size: int | None) -> str:
        _, path, file = located
        if size is None:
            return f"{file.path} is absent"
        if size != file.bytes:
            return f"{file.path} has {size} bytes instead of {file.bytes}"
        try:
            if hashes and place.has_other_bytes(path, file.sha256):
                return f"{file.path} has other bytes than when it was written"
        except (FileNotFoundError, NotADirectoryError):  # removed since its size was asked for
            return f"{file.path} is absent"
        return ""

    # Hashing releases the lock of the interpreter, so threads help; comparing sizes needs none.
    with ThreadPoolExecutor(THREADS_THAT_HASH if hashes else 1) as pool:
        return reasons_by_part([part for part, _, _ in files], pool.map(wrong, files, sizes))


def _read_all(
    root: Path, kind: str, name: str
) -> Iterator[Artifact | ArtifactDamaged | FormatError]:
    """Every published artifact that matches, or what is wrong with its manifest."""
    place_of(root).follow_versions(root, kind, name, "manifest.json")
    # Every level of folders that the search passes through.
    for pattern in (kind, f"{kind}/{name}", f"{kind}/{name}/*"):
        _refuse_closed_folders([root, *root.glob(pattern)])
    for path in sorted(root.glob(f"{kind}/{name}/*/manifest.json")):
        # A folder beside ours may hold a manifest.json of something else.
        if path.parts[-4] in layout.KINDS:
            yield _read_or_error(path.parent)


def _refuse_closed_folders(paths: Sequence[Path]) -> None:
    """Raise StorageError for a folder that may not be looked into. `glob` skips such a folder
    without an error, and what lies there would silently be left out.
    """
    for path in paths:
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            cure = "Give yourself the right to read it, or choose another root."
            raise StorageError(path, "this folder may not be looked into", cure)


def _read_or_error(directory: Path) -> Artifact | ArtifactDamaged | FormatError:
    try:
        return read_artifact(directory)
    except (ArtifactDamaged, FormatError) as error:
        return error
    except FileNotFoundError:  # removed since it was listed
        return ArtifactDamaged(directory, "its manifest has just been removed", "Look again.")


def _present(root: Path, kind: str) -> str:
    names = place_of(root).names(root, kind)
    if names:
        return f"Present: {', '.join(names)}."
    return f"Nothing of kind {kind} has been built under this root yet."
