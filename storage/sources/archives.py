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

MOST_ROWS, MOST_DIMENSIONS = 20_000_000, 4096
FIELDS = {"embedding": 2, "img_id": 1, "patch_coords": 2}
"""Arrays that are read, and their number of axes."""
CURE = "Give the .npz files of the released database, downloaded whole."


def read_archive(path: Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Keys, source keys, unit vectors float32 [N, D] and raw norms float32 [N] of one archive.

    A key is made of what is known: the image's number and the patch's corner; a patch that comes
    twice gets a letter. Raises FormatError, naming the array or row, for a file that is no such
    archive or holds a vector without direction.
    """
    arrays = _arrays(path)
    vectors = arrays["embedding"].astype(np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    if len(bad := np.flatnonzero(~np.isfinite(norms) | (norms == 0))):
        raise FormatError(
            path,
            f"row {bad[0]} and {len(bad) - 1} more hold no direction (zero, NaN or infinite)",
            CURE,
        )
    sources = [f"openimages-2022/{number:08d}" for number in arrays["img_id"].tolist()]
    corners = arrays["patch_coords"][:, :2].tolist()
    seen: Counter[str] = Counter()
    keys = []
    for source, (x, y) in zip(sources, corners, strict=True):
        key = f"{source.replace('/', '-')}-{x:04d}-{y:04d}"
        keys.append(key + ("" if not seen[key] else f"-{chr(96 + seen[key])}"))
        seen[key] += 1
    return keys, sources, vectors / norms[:, None], norms


def archive_sidecar(keys: list[str], sources: list[str]) -> pa.Table:
    """What is known of the patches, in the columns of a sidecar: no licence, no author, no page."""
    count = len(keys)
    unknown = pa.nulls(count, pa.string())
    none = pa.array([[]] * count, pa.list_(pa.string()))
    columns = {"key": keys, "source_key": sources, "captions": none, "labels": none}
    return pa.table(columns | dict.fromkeys(("style", "author", "licence", "source_url"), unknown))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            for name, axes in FIELDS.items():
                _check_header(path, archive, name, axes)
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in FIELDS}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise FormatError(path, f"is no embedding archive ({error})", CURE) from error
    if len({len(array) for array in arrays.values()}) != 1 or arrays["patch_coords"].shape[1] != 4:
        raise FormatError(
            path,
            f"its arrays do not belong together: { {n: a.shape for n, a in arrays.items()} }",
            CURE,
        )
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
