"""Latents: arrays as they were encoded, memory-mapped, with the key of each row."""

import numpy as np
import pytest

from storage.errors import FormatError
from storage.latents import LATENT_KEYS, open_latents, write_latents
from storage.parquet import read_table, write_table


def raw(n, dtype=np.float16, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, 8, 4, 4)) * 50).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_raw_latents_come_back_bit_for_bit_with_their_keys(dtype, make):
    arrays = [raw(3, dtype, seed=1), raw(2, dtype, seed=2)]
    artifact = make(
        "latents",
        "a",
        lambda d, n: write_latents(d, n, ["a", "b", "c"], arrays[0]),
        lambda d, n: write_latents(d, n, ["d", "e"], arrays[1]),
    )
    keys, opened = open_latents(artifact)
    assert keys == ["a", "b", "c", "d", "e"]
    assert artifact.rows == 5
    assert all(isinstance(array, np.memmap) for array in opened)
    for array, written in zip(opened, arrays, strict=True):
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, written)
    assert read_table(artifact.file("00000.parquet")).schema.equals(LATENT_KEYS)


def test_a_part_of_nothing_has_no_rows(make):
    keys, (array,) = open_latents(
        make("latents", "a", lambda d, n: write_latents(d, n, [], raw(0)))
    )
    assert keys == []
    assert array.shape == (0, 8, 4, 4)


def test_arrays_and_keys_of_different_length_are_refused_by_part(make):
    def mixed(scratch, part_name):
        write_latents(scratch, part_name, ["a", "b", "c"], raw(3))
        write_latents(scratch, "other", ["a", "b"], raw(2))
        (scratch / "other.parquet").replace(scratch / f"{part_name}.parquet")

    artifact = make("latents", "a", lambda d, n: write_latents(d, n, ["x"], raw(1)), mixed)
    told = f"{artifact.directory}: part 00001 has 3 arrays for 2 keys. Encode again"
    with pytest.raises(FormatError, match=told):
        open_latents(artifact)


def test_a_table_without_keys_is_refused(make):
    def nameless(scratch, part_name):
        write_latents(scratch, part_name, ["a"], raw(1))
        table = read_table(scratch / f"{part_name}.parquet").rename_columns(["other"])
        write_table(scratch / f"{part_name}.parquet", table)

    with pytest.raises(FormatError, match=r"lacks the column\(s\) key"):
        open_latents(make("latents", "a", nameless))
