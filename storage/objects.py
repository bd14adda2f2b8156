"""Objects behind a url, through fsspec: every request is bounded in time and repeated while the
store is busy; a failure becomes an error with a cure.

Nothing here knows artifacts. fsspec is imported with the first request, so a root on a disk never
needs it. Messages hold urls, error codes and class names, never an error's own text: that may quote
what was sent.
"""

import errno
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from storage.errors import Unreachable

ATTEMPTS = 6
"""Of one request; in between we wait, each time about twice as long."""
SECONDS_BEFORE_RETRY = 0.5
MOST_SECONDS_BEFORE_RETRY = 8.0
SECONDS_TO_CONNECT = 10.0
SECONDS_TO_ANSWER = 20.0
"""Without a single byte."""
SECONDS_TO_LIST = 300.0
"""All pages of a listing."""
SLOWEST_BYTES_PER_SECOND = 256 * 1024
"""A line that carries less counts as cut."""
PIECE = 16 * 2**20
"""Bytes asked for at a time: what a cut line costs."""
ATTEMPTS_OF_A_PART = 3
"""S3: of each HTTP request inside an attempt, so that one busy moment does not repeat a long
upload.
"""

_REFUSED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AuthFailure",
}
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
}
_NO_CREDENTIALS |= {"TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError"}
_BUSY = {
    "RequestTimeout",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "Throttling",
    "ThrottlingException",
}
_BUSY |= {"ConditionalRequestConflict", "OperationAborted", "SlowDown"}
_NETWORK = {"botocore", "aiobotocore", "aiohttp", "urllib3", "fsspec", "s3fs"}
_OUR_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EISDIR, errno.ENOTDIR}
_AGAIN = "then run the same command again: it continues where it stopped."


@dataclass(frozen=True)
class Remote:
    """One url: an object, or the folder of the objects below it."""

    url: str

    def __truediv__(self, relative: str) -> "Remote":
        return Remote(f"{self.url}/{relative}")

    def read(self) -> bytes | None:
        """All bytes of a small object, or None when there is none."""
        try:
            return bytes(self._ask("cat_file"))
        except FileNotFoundError:
            return None

    def write(self, data: bytes) -> None:
        """Put a small object, whatever was there."""
        self._ask("pipe_file", data)

    def create(self, data: bytes) -> bool:
        """Put a small object unless there is one; whether it was put. A store that knows no such
        request just puts it.
        """
        try:
            if self.read() is not None:
                return False
            self._ask("pipe_file", data, mode="create")
        except FileExistsError:
            return False
        except NotImplementedError:
            self.write(data)
        return True

    def upload(self, source: Path) -> None:
        """Put a file's bytes."""
        self._ask(
            "put_file",
            str(source),
            self._path,
            addressed=False,
            seconds=_seconds_for(source.stat().st_size),
        )

    def pieces(self, size: int) -> Iterator[bytes]:
        """The first `size` bytes, piece by piece, fewer when there are fewer. Raises
        FileNotFoundError.
        """
        # Each piece is a request of its own, so that a cut line costs one of them.
        for start in range(0, size, PIECE):
            end = min(start + PIECE, size)
            try:
                yield bytes(
                    self._ask("cat_file", start=start, end=end, seconds=_seconds_for(end - start))
                )
            except _Beyond:
                return

    def copy_to(self, target: "Remote", size: int) -> None:
        """Copy inside the store: nothing travels through here. Raises FileNotFoundError."""
        self._ask("cp_file", target._path, seconds=_seconds_for(size))

    def delete(self) -> None:
        """Delete the object, if there is one."""
        try:
            self._ask("rm_file")
        except FileNotFoundError:
            return

    def sizes(self) -> dict[str, int]:
        """Bytes of every object below, by its path from here: one listing, not a request an
        object.
        """
        try:
            objects = self._ask("find", detail=True, seconds=SECONDS_TO_LIST)
        except FileNotFoundError:
            return {}
        base = self._path.rstrip("/") + "/"
        sizes = {}
        for name, facts in objects.items():
            if name.startswith(base):  # not the object that is called as the folder is
                sizes[name.removeprefix(base)] = facts["size"]
        return sizes

    def folders(self) -> list[str]:
        """Names of the folders right below."""
        try:
            entries = self._ask("ls", detail=True, seconds=SECONDS_TO_LIST)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = []
        for facts in entries:
            if facts["type"] == "directory":
                names.append(facts["name"].rstrip("/").rpartition("/")[2])
        return sorted(names)

    @property
    def _path(self) -> str:
        """What the file system calls it."""
        return str(file_system(self.url)._strip_protocol(self.url))

    def _ask(
        self,
        method: str,
        *arguments: Any,
        seconds: float = 0,
        addressed: bool = True,
        **options: Any,
    ) -> Any:
        """One request, repeated while the store is busy or the line is cut.

        Raises FileNotFoundError, FileExistsError, NotImplementedError, or Unreachable saying what
        is wrong.
        """
        started, arguments = time.monotonic(), (self._path, *arguments) if addressed else arguments
        for attempt in range(ATTEMPTS):
            try:
                return _once(
                    file_system(self.url), method, seconds or _seconds_for(0), arguments, options
                )
            except Exception as error:
                final = _final_error(self.url, error)
                if final is error:
                    raise
                if final is not None:
                    raise final from error
                last = error
            if attempt + 1 < ATTEMPTS:
                # Twice as long each time, and by chance, so that many clients do not return at
                # once.
                wait = min(SECONDS_BEFORE_RETRY * 2**attempt, MOST_SECONDS_BEFORE_RETRY)
                time.sleep(wait * random.uniform(0.5, 1))
        what = (
            f"no usable answer{_from_where(self.url)} in {ATTEMPTS} attempts and "
            f"{time.monotonic() - started:.0f} s"
        )
        cure = f"Check the network{_endpoint_hint(self.url)}, {_AGAIN}"
        raise Unreachable(self.url, f"{what} ({_in_short(last)})", cure) from last


class _Beyond(Exception):
    """The object ends before the piece that was asked for."""


def file_system(url: str) -> Any:
    """The fsspec file system of a url; fsspec keeps one a process and set of options.

    Raises Unreachable when nothing installed knows the scheme.
    """
    scheme = url.partition("://")[0]
    try:
        import fsspec

        system = fsspec.filesystem(scheme, **_options(scheme))
    except ImportError as error:
        extra = (
            "pip install 'rdm[s3]'"
            if _is_s3(url)
            else f"pip install the fsspec file system for {scheme}://"
        )
        raise Unreachable(
            url, "the library for such urls is not installed", f"Run: {extra}"
        ) from error
    except ValueError as error:
        raise Unreachable(
            url, f"{scheme}:// is no scheme that fsspec knows", "Correct the root."
        ) from error
    if hasattr(system, "retries"):
        # s3fs repeats some requests by itself. Here all are repeated: both would multiply.
        system.retries = 1
    return system


def _options(scheme: str) -> dict[str, Any]:
    if not _is_s3(f"{scheme}://"):
        return {"auto_mkdir": True} if scheme == "file" else {"use_listings_cache": False}
    retries = {"total_max_attempts": ATTEMPTS_OF_A_PART, "mode": "standard"}
    limits = {
        "connect_timeout": SECONDS_TO_CONNECT,
        "read_timeout": SECONDS_TO_ANSWER,
        "max_pool_connections": 32,
    }
    return {
        "endpoint_url": _endpoint(),
        "config_kwargs": limits | {"retries": retries},
        "use_listings_cache": False,
        # otherwise every small read asks for the size first; files travel side by side instead
        "max_concurrency": 1,
    }


def _once(
    system: Any, method: str, seconds: float, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    """The request itself; an asynchronous file system is given so many seconds and no more."""
    if not system.async_impl:
        return getattr(system, method)(*arguments, **options)
    from fsspec.asyn import sync

    # The method with an underscore is the asynchronous one.
    return sync(system.loop, getattr(system, f"_{method}"), *arguments, timeout=seconds, **options)


def _seconds_for(size: int) -> float:
    return SECONDS_TO_CONNECT + SECONDS_TO_ANSWER + size / SLOWEST_BYTES_PER_SECOND


def _final_error(url: str, error: Exception) -> Exception | None:
    """What to raise at once, or None when the request may be repeated."""
    # What the store answered comes first: libraries turn it into various classes of errors.
    code, status = _answer(error)
    name = type(error).__name__
    if code == "NoSuchBucket":
        return Unreachable(
            url, f"there is no such bucket{_from_where(url)}", "Create it, or correct the root."
        )
    # A range that begins behind the end of the object.
    if code == "InvalidRange" or status == 416:
        return _Beyond()
    if code == "NotImplemented":
        return NotImplementedError()
    if isinstance(
        error,
        FileNotFoundError
        | FileExistsError
        | NotADirectoryError
        | NotImplementedError
        | Unreachable,
    ):
        return error
    if name in _NO_CREDENTIALS:
        cure = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        return Unreachable(url, f"there are no credentials for it ({name})", cure)
    if (
        code in _REFUSED
        or status in (401, 403)
        and code not in _BUSY
        or isinstance(error, PermissionError)
        and not code
    ):
        cure = "Check the credentials and that they may list, read, write and delete there."
        return Unreachable(url, f"access is refused{_from_where(url)} ({_in_short(error)})", cure)
    # 408 and 429: the store was too slow, or too many asked
    # Redirects too: they mean another region or endpoint.
    if 300 <= status < 500 and status not in (408, 429) and code not in _BUSY:
        cure = f"Correct the root{_endpoint_hint(url) or ' or its options'}."
        return Unreachable(
            url, f"the request is refused{_from_where(url)} ({_in_short(error)})", cure
        )
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):
        return Unreachable(
            url, "AWS_ENDPOINT_URL is not the url of an endpoint", "Write it as https://host:port."
        )
    if isinstance(error, OSError) and not code and error.errno in _OUR_DISK:
        return error
    repeatable = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _NETWORK
    return None if repeatable else error


def _answer(error: Exception) -> tuple[str, int]:
    """(error code, HTTP status) of what an S3 store answered; ("", 0) when it did not."""
    # s3fs raises errors of its own; the one of its client library lies behind them.
    for behind in (error, error.__cause__, error.__context__):
        response = getattr(behind, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status or 0)
    return "", 0


def _in_short(error: Exception) -> str:
    code, status = _answer(error)
    return f"{code or type(error).__name__}{f', HTTP {status}' if status else ''}"


def _is_s3(url: str) -> bool:
    return url.partition("://")[0] in ("s3", "s3a")


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _from_where(url: str) -> str:
    """Host and port of a store that is not AWS; nothing else of its url may show."""
    endpoint = _endpoint() if _is_s3(url) else None
    return f" at {urlsplit(endpoint).netloc.rpartition('@')[2]}" if endpoint else ""


def _endpoint_hint(url: str) -> str:
    return " and AWS_ENDPOINT_URL, AWS_REGION" if _is_s3(url) else ""
