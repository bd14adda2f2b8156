"""Everything the maths can refuse, as one tree.

CoreError          base: says where it happened, what is wrong and what cures it
  EncoderError     an encoder or its weights cannot be loaded
  WeightsError     a weights folder cannot be used
  RequestError     a sampling request that makes no sense (k larger than the database, an unknown class, ...)
"""

from pathlib import Path


class CoreError(Exception):
    """One message with where it happened, what is wrong, and what to do about it."""

    def __init__(self, where: str | Path, what: str, cure: str) -> None:
        self.where, self.what, self.cure = str(where), what, cure
        super().__init__(f"{where}: {what}. {cure}")

    def __reduce__(self) -> tuple:  # keeps the three parts when it crosses a process border
        return type(self), (self.where, self.what, self.cure)


class EncoderError(CoreError):
    """An encoder or its weights cannot be loaded."""


class WeightsError(CoreError):
    """A weights folder cannot be used."""


class RequestError(CoreError):
    """A sampling request that makes no sense."""
