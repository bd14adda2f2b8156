"""The embedding archives of 2022: keys that never change, vectors with a direction, nothing
unpacked that claims too much.
"""

import io
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from storage.errors import FormatError
from storage.keys import source_key_of
from storage.sources import archives
from storage.sources.archives import archive_sidecar, read_archive

PLACES = [(10, 20), (10, 20), (7, 20), (10, 20)]
IMAGES = [5, 5, 5, 1234]


def written(path, **changed):
    vectors = np.array([[3, 4], [0, 2], [-6, 8], [1, 0]], np.float16)
    corners = np.array(PLACES)
    patches = np.hstack([corners, corners + 256])
    arrays = {"embedding": vectors, "img_id": np.array(IMAGES), "patch_coords": patches}
    np.savez_compressed(path, **arrays | changed)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "part_1.npz"


def test_a_key_is_the_image_and_the_corner_and_a_patch_that_comes_twice_says_so(path):
    keys, sources, _, _ = read_archive(written(path))
    assert keys == [
        "openimages_2022-00000005-100020", "openimages_2022-00000005-100100020",
        "openimages_2022-00000005-70020", "openimages_2022-00001234-100020",
    ]  # fmt: skip
    assert sources == [f"openimages_2022-{number:08d}" for number in IMAGES]
    assert sources == [source_key_of(key) for key in keys], "so that one line removes an image"
    thrice = read_archive(written(path, img_id=np.full(4, 5), patch_coords=np.full((4, 4), 1)))[0]
    assert thrice == [
        "openimages_2022-00000005-10001", "openimages_2022-00000005-100010001",
        "openimages_2022-00000005-200010001", "openimages_2022-00000005-300010001",
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"img_id": np.array([5, -1, 5, 5])}, (-1, 0), (0, 10_000)])
def test_a_patch_outside_every_image_is_named_by_its_row(wrong, path):
    changed = wrong
    if isinstance(wrong, tuple):
        changed = {"patch_coords": np.array([[0, 0, 9, 9], [*wrong, 9, 9]] * 2)}
    with pytest.raises(FormatError, match=r"part_1.npz: row 1 is a patch at \[.*\] of image"):
        read_archive(written(path, **changed))


def test_vectors_become_unit_and_their_lengths_are_kept(path):
    _, _, vectors, norms = read_archive(written(path))
    np.testing.assert_allclose(norms, [5, 2, 10, 1])
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 1], [-0.6, 0.8], [1, 0]], atol=1e-6)
    assert (vectors.dtype, norms.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_named_by_its_row_and_the_others_counted(value, path):
    vectors = np.ones((4, 2), np.float16)
    vectors[[1, 3], 0] = value
    vectors[[1, 3], 1] = 0
    with pytest.raises(FormatError, match="part_1.npz: row 1 and 1 more hold no direction"):
        read_archive(written(path, embedding=vectors))


def test_the_sidecar_says_nothing_of_what_nobody_knows():
    table = archive_sidecar(["a", "b"], ["x", "x"])
    assert (
        table.schema.field("captions").type
        == table.schema.field("labels").type
        == pa.list_(pa.string())
    )
    rows = table.to_pylist()
    unknown = dict.fromkeys(("style", "author", "licence", "source_url"))
    known = {"source_key": "x", "captions": [], "labels": []}
    assert rows == [{"key": "a"} | known | unknown, {"key": "b"} | known | unknown]


@pytest.mark.parametrize(
    "changed",
    [
        {"img_id": np.arange(3)},
        {"patch_coords": np.ones((4, 3), int)},
        {"embedding": np.ones((3, 2), np.float16)},
    ],
    ids=["images", "corners", "vectors"],
)
def test_arrays_that_do_not_belong_together_are_refused(changed, path):
    with pytest.raises(
        FormatError, match="part_1.npz: its arrays do not belong together: .*'img_id'"
    ):
        read_archive(written(path, **changed))


@pytest.mark.parametrize("damaged", [b"", b"PK\x03\x04 and no more", b"no archive"])
def test_what_is_no_archive_is_refused(damaged, path):
    path.write_bytes(damaged)
    with pytest.raises(FormatError, match="part_1.npz: is no embedding archive"):
        read_archive(path)


def test_an_archive_that_lacks_an_array_is_refused(path):
    np.savez(path, embedding=np.ones((4, 2), np.float16), img_id=np.arange(4))
    with pytest.raises(FormatError, match="is no embedding archive .*patch_coords"):
        read_archive(path)


def claiming(path, name, shape, kind="<f2"):
    """The archive with a header that claims a shape, followed by nothing."""
    written(path)
    head = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": kind}
    np.lib.format.write_array_header_1_0(head, header)
    with zipfile.ZipFile(path) as whole:
        members = {member: whole.read(member) for member in whole.namelist()}
    members[f"{name}.npy"] = head.getvalue()
    with zipfile.ZipFile(path, "w") as made:
        for member, data in members.items():
            made.writestr(member, data)
    return path


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("embedding", (archives.MOST_ROWS + 1, 2), "<f2"),
        ("embedding", (2, archives.MOST_DIMENSIONS + 1), "<f2"),
        ("embedding", (4,), "<f2"),
        ("img_id", (4, 1), "<i8"),
        ("img_id", (archives.MOST_ROWS + 1,), "<i8"),
        ("patch_coords", (4, 4, 1), "<i8"),
        ("img_id", (4,), "|O"),
    ],
)
def test_what_an_array_claims_is_looked_at_before_it_is_unpacked(
    name, shape, kind, path, monkeypatch
):
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(FormatError) as caught:
        read_archive(claiming(path, name, shape, kind))
    assert f"part_1.npz: {name} is " in str(caught.value) and str(shape) in str(caught.value)


def test_as_many_rows_and_dimensions_as_are_allowed_are_read(path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_ROWS", 4)
    monkeypatch.setattr(archives, "MOST_DIMENSIONS", 4)
    assert read_archive(written(path))[2].shape == (4, 2)
    monkeypatch.setattr(archives, "MOST_ROWS", 3)
    with pytest.raises(FormatError, match="embedding is float16"):
        read_archive(path)
