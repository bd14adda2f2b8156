"""The embedding archives released in 2022: `.npz` files of CLIP vectors cut from OpenImages, of
which no image is known.

Each holds `embedding` float16 [N, D] (as long as the encoder made them), `img_id` int64 [N] (a row
of a list of files that was never published) and `patch_coords` int64 [N, 4] (x0, y0, x1, y1 in a
centred square of 1200 pixels).
"""

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.errors import FormatError
from storage.keys import key_of, source_key_of

MOST_ROWS, MOST_DIMENSIONS = 20_000_000, 4096
FIELDS = {"embedding": 2, "img_id": 1, "patch_coords": 2}
"""Arrays that are read, and their number of axes."""
DATASET = "openimages_2022"
"""As the keys name it."""
_SIDES = 10_000
"""Above every coordinate of a corner, so that one number says both."""
CURE = "Give the .npz files of the released database, downloaded whole."


def read_archive(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Keys, source keys, unit vectors float32 [N, D] and raw norms float32 [N] of one archive.

    A key is made of what is known: the image's number and the patch's corner, before which a patch
    that comes again has how often it came. Raises FormatError, naming the array or row, for a file
    that is no such archive, or holds a vector without direction or a patch outside every image.
    """
    arrays = _arrays(path)
    vectors = arrays["embedding"].astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise FormatError(
            path,
            f"row {bad[0]} and {len(bad) - 1} more hold no direction (zero, NaN or infinite)",
            CURE,
        )
    keys = _keys(path, arrays["img_id"], arrays["patch_coords"])
    return keys, [source_key_of(key) for key in keys], vectors / norms[:, None], norms


def _keys(path: Path, images: np.ndarray, patches: np.ndarray) -> list[str]:
    """The key of each patch [x0, y0, x1, y1]: its corner is the number of the crop, xxxxyyyy."""
    # Negative, or so far out that the corner would not fit its four digits.
    outside = (images < 0) | ((patches[:, :2] < 0) | (patches[:, :2] >= _SIDES)).any(axis=1)
    bad = np.flatnonzero(outside)
    if len(bad):
        image, corner = images[bad[0]], patches[bad[0], :2].tolist()
        raise FormatError(path, f"row {bad[0]} is a patch at {corner} of image {image}", CURE)
    seen: Counter[tuple[int, int, int]] = Counter()
    keys = []
    for image, (x, y) in zip(images.tolist(), patches[:, :2].tolist(), strict=True):
        # 8 digits for the corner; a patch that comes again has how often in the digits before.
        crop = _SIDES**2 * seen[image, x, y] + _SIDES * x + y
        keys.append(key_of(DATASET, f"{image:08d}", crop))
        seen[image, x, y] += 1
    return keys


def archive_sidecar(keys: list[str], sources: list[str]) -> pa.Table:
    """What is known of the patches, in the columns of a sidecar: no licence, no author, no page."""
    count = len(keys)
    # One array of nulls stands for all four columns.
    unknown = pa.nulls(count, pa.string())
    none = pa.array([[]] * count, pa.list_(pa.string()))
    columns = {"key": keys, "source_key": sources, "captions": none, "labels": none}
    return pa.table(columns | dict.fromkeys(("style", "author", "licence", "source_url"), unknown))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name, axes in FIELDS.items():
                # All headers are looked at before numpy unpacks anything: a file of a few bytes can
                # claim more than fits into memory.
                _check_header(path, archive, name, axes)
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in FIELDS}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise FormatError(path, f"is no embedding archive ({error})", CURE) from error
    shapes = {name: array.shape for name, array in arrays.items()}
    lengths = {shape[0] for shape in shapes.values()}
    if len(lengths) != 1 or shapes["patch_coords"][1] != 4:
        raise FormatError(path, f"its arrays do not belong together: {shapes}", CURE)
    return arrays


def _check_header(path: Path, archive: zipfile.ZipFile, name: str, axes: int) -> None:
    """Look at what an array claims to be before a byte of it is unpacked."""
    with archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(stream)
    if (
        len(shape) != axes
        or shape[0] > MOST_ROWS
        or (axes == 2 and shape[1] > MOST_DIMENSIONS)
        or kind.hasobject
    ):
        raise FormatError(path, f"{name} is {kind} {shape}", CURE)
