"""Plain arrays in .npy files, memory-mapped; never pickled objects."""

from pathlib import Path

import numpy as np

from storage.errors import FormatError


def open_array(path: Path) -> np.ndarray:
    """The array in a file: opening costs nothing, a row is read when it is used.

    Raises FormatError for anything but a whole array of plain numbers.
    """
    try:
        # Unlike np.load it cannot be told to unpickle: a file from elsewhere runs no code.
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise FormatError(
            path, f"not a plain array ({error})", "Run `rdm check`, then build it again."
        ) from error
