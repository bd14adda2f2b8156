"""All errors that rdm_core raises by itself, as one tree.

CoreError          base: says where it happened, what is wrong and what cures it
  EncoderError     an encoder or its weights cannot be loaded
  WeightsError     a weights folder cannot be used
  RequestError     a sampling request that makes no sense (k larger than the database, an unknown
                   class, ...)
"""

from pathlib import Path


class CoreError(Exception):
    """One message with where it happened, what is wrong, and what to do about it."""

    def __init__(self, where: str | Path, what: str, cure: str) -> None:
        parts = [_as_text(str(where)), _as_text(what), _as_text(cure)]
        self.where, self.what, self.cure = parts
        super().__init__(f"{self.where}: {self.what}. {self.cure}")

    def __reduce__(self) -> tuple:  # keeps the three parts when it crosses a process border
        return type(self), (self.where, self.what, self.cure)


def _as_text(text: str) -> str:
    """A text that can be printed: \\xe9 for a byte of a file name that is not UTF-8, \\ud83d for
    half a letter (a surrogate).
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


class EncoderError(CoreError):
    """An encoder or its weights cannot be loaded."""


class WeightsError(CoreError):
    """A weights folder cannot be used."""


class RequestError(CoreError):
    """A sampling request that makes no sense."""


class TrainingStopped(Exception):
    """A training was asked to stop and saved its state first."""
