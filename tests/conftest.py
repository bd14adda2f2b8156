"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

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
