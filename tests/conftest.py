"""Fixtures for all tests: small artifacts, and where real files lie."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage.artifact import Artifact
from storage.build import begin
from storage.manifest import Plan
from storage.shards import SIDECAR, EncodedSample, SampleRecord

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files (coco/, openimages/, wikiart/, queries/, awkward/), from
    RDM_TEST_DATA.
    """
    folder = Path(os.environ.get("RDM_TEST_DATA", REPOSITORY / "../shared/data")).resolve()
    if not (folder / "awkward").is_dir():
        pytest.skip(
            f"no real data at {folder}; set RDM_TEST_DATA to the folder that holds "
            "coco/, wikiart/, awkward/, ..."
        )
    return folder


LICENCES = ("CC-BY", None, "CC0")
"""Of samples 0, 1, 2 and so on: no two neighbors alike, so that an order can be wrong."""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Artifact]:
    """make(kind, name, writer, ...) publishes under tmp_path; each writer(scratch, part_name)
    writes one part.
    """

    def made(kind, name, *writers, parameters=None, inputs=None, measured=None):
        with begin(tmp_path, Plan(kind, name, parameters or {}, inputs or {})) as build:
            if build.finished:
                return build.finished
            parts = []
            for number, write in enumerate(writers):
                part_name = f"{number:05d}"
                parts.append(
                    build.write_part(
                        part_name, "", lambda scratch, w=write, n=part_name: counted(w(scratch, n))
                    )
                )
            return build.commit(parts, measured or {})

    return made


def counted(result):
    """Writers give (rows, counts) or rows alone."""
    return result if isinstance(result, tuple) else (result or 0, {})


@pytest.fixture
def sample() -> Callable[..., EncodedSample]:
    """sample(3) is an accepted sample with every field filled; keywords replace fields, reason=
    makes a reject.
    """

    def made(number, image=None, extension="png", **fields):
        values = {
            "key": f"folder-{number}-00",
            "source_key": f"folder-{number}",
            "captions": (f"caption {number}", "second caption"),
            "labels": ("cat",),
            "author": f"author {number}",
            "licence": LICENCES[number % len(LICENCES)],
            "source_url": f"https://example.org/{number}",
        }
        values |= (
            {"status": "rejected"}
            if "reason" in fields
            else {"width": 4, "height": 4, "sha256": "0" * 64}
        )
        data = b"PNG bytes %d" % number if image is None else image
        return EncodedSample(SampleRecord(**(values | fields)), data, extension)

    return made


@pytest.fixture
def sidecar(sample: Callable[..., EncodedSample]) -> Callable[[int], pa.Table]:
    """sidecar(n) is the table of n accepted samples."""
    return lambda n: pa.Table.from_pylist(
        [asdict(sample(i).record) for i in range(n)], schema=SIDECAR
    )


@pytest.fixture
def unit_vectors() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """unit_vectors(n, d) -> seeded unit vectors float32 [n, d] and the norms float32 [n] they
    had.
    """

    def made(n, d=8, seed=0):
        raw = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
        norms = np.linalg.norm(raw, axis=1)
        return raw / norms[:, None], norms

    return made
