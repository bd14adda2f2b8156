"""Images of shards by number: the bytes that were stored, or a refusal."""

import io

import numpy as np
import pytest
from PIL import Image

from storage.errors import FormatError
from storage.shards import EncodedSample, SampleRecord, read_images, write_shard
from storage.stored_images import stored_images


def sample(number: int, status: str = "ok") -> EncodedSample:
    stream = io.BytesIO()
    Image.new("RGB", (4 + number, 6), (number, 0, 0)).save(stream, "PNG")
    record = SampleRecord(
        key=f"a-{number:03d}-00",
        source_key=f"a-{number:03d}",
        status=status,
        width=4 + number,
        height=6,
        captions=("a caption",),
    )
    return EncodedSample(record, stream.getvalue())


@pytest.fixture
def shards(make):
    """Two parts of three images, one of which was rejected."""

    def writer(numbers):
        def write(directory, part_name):
            samples = [sample(n, "rejected" if n == 1 else "ok") for n in numbers]
            return write_shard(directory, part_name, samples)

        return write

    return make("shards", "a", writer([0, 1, 2]), writer([3, 4, 5]))


def test_every_accepted_image_is_read_where_it_lies(shards):
    images = stored_images(shards)
    expected = []
    for part in shards.parts:
        expected += [data for _, data in read_images(shards, part.name)]
    assert [images.read(row) for row in range(len(images))] == expected
    assert images.source_keys.tolist() == ["a-000", "a-002", "a-003", "a-004", "a-005"]
    assert images.sizes.tolist() == [[4, 6], [6, 6], [7, 6], [8, 6], [9, 6]]


def test_some_of_them_are_images_too(shards):
    images = stored_images(shards)
    some = images.take(np.array([False, True, False, False, True]))
    assert len(some) == 2 and some.source_keys.tolist() == ["a-002", "a-005"]
    assert [some.read(0), some.read(1)] == [images.read(1), images.read(4)]
    assert some.sizes.tolist() == [[6, 6], [9, 6]]


def test_a_tar_with_other_images_than_its_sidecar_lists_is_refused(shards):
    tar = shards.file("00000.tar")
    tar.write_bytes(shards.file("00001.tar").read_bytes())
    with pytest.raises(FormatError, match="00000.tar.*not those that the sidecar lists.*rdm check"):
        stored_images(shards)


def test_a_tar_that_became_shorter_is_told(shards):
    images = stored_images(shards)
    shards.file("00001.tar").write_bytes(b"")
    assert images.read(1)
    with pytest.raises(FormatError, match="00001.tar.*shorter than it was"):
        images.read(4)


def test_shards_without_an_accepted_image_have_none(make):
    def write(directory, part_name):
        return write_shard(directory, part_name, [sample(1, "rejected")])

    assert len(stored_images(make("shards", "a", write))) == 0
    assert len(stored_images(make("shards", "b"))) == 0
