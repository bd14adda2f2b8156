"""Latents: arrays as they were encoded, memory-mapped, with the key of each row."""

import numpy as np
import pytest

from storage.errors import ArtifactMismatch, FormatError
from storage.latents import LATENT_KEYS, LAYOUTS, open_latents, refuse_other_latents, write_latents
from storage.parquet import read_table, write_table


def raw(n, stored="moments", seed=0):
    """n made-up latents in one of the layouts."""
    kind, axes = LAYOUTS[stored]
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 4, 4)[:axes]).astype(kind)


@pytest.mark.parametrize("stored", LAYOUTS)
def test_raw_latents_come_back_bit_for_bit_with_their_keys(stored, make):
    arrays = [raw(3, stored, seed=1), raw(2, stored, seed=2)]
    artifact = make(
        "latents",
        "a",
        lambda d, n: write_latents(d, n, ["a", "b", "c"], arrays[0]),
        lambda d, n: write_latents(d, n, ["d", "e"], arrays[1]),
        parameters={"stored": stored},
    )
    keys, opened = open_latents(artifact)
    assert keys == ["a", "b", "c", "d", "e"]
    assert artifact.rows == 5
    assert all(isinstance(array, np.memmap) for array in opened)
    for array, written in zip(opened, arrays, strict=True):
        assert array.dtype == written.dtype
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
        # Keys of two arrays beside an array of three.
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


# Layouts


ODD = {
    "float32": np.zeros((1, 3, 4, 4), np.float32),
    "codes with channels": np.zeros((1, 3, 4, 4), np.uint16),
    "pixels without channels": np.zeros((1, 4, 4), np.uint8),
    "wide codes": np.zeros((1, 4, 4), np.int32),
    "codes of another byte order": np.zeros((1, 4, 4), ">u2"),
}


@pytest.mark.parametrize("how", ODD)
def test_an_array_of_another_layout_is_neither_written_nor_read(how, make, tmp_path):
    wanted = "latents are uint8 of 4 axes, float16 of 4 axes, uint16 of 3 axes"
    with pytest.raises(FormatError, match=rf"00000.npy: holds {ODD[how].dtype} \[1, .*{wanted}"):
        write_latents(tmp_path, "00000", ["a"], ODD[how])
    assert not list(tmp_path.iterdir())

    def foreign(scratch, part_name):
        write_latents(scratch, part_name, ["a"], raw(1))
        np.save(scratch / f"{part_name}.npy", ODD[how])

    artifact = make("latents", "a", foreign)
    with pytest.raises(FormatError, match=rf"00000.npy: holds .*{wanted}. Run `rdm check`"):
        open_latents(artifact)


@pytest.mark.parametrize("planned", LAYOUTS)
@pytest.mark.parametrize("found", LAYOUTS)
def test_an_array_is_laid_out_as_the_plan_says(planned, found, make):
    made = make(
        "latents",
        "a",
        lambda d, n: write_latents(d, n, ["a"], raw(1, found)),
        parameters={"stored": planned},
    )
    if planned == found:
        assert open_latents(made)[0] == ["a"]
        return
    with pytest.raises(FormatError, match=rf"holds {found} \(.*\), and its plan says {planned}"):
        open_latents(made)


def test_codes_are_refused_by_name_to_who_learns_from_numbers(make):
    write = lambda d, n: write_latents(d, n, ["a"], raw(1, "codes"))  # noqa: E731
    measured = {"autoencoder_path": "/models/vq"}
    codes = make("latents", "mine", write, parameters={"stored": "codes"}, measured=measured)
    with pytest.raises(ArtifactMismatch) as caught:
        refuse_other_latents(codes, ("pixels", "moments"), "diffusion")
    assert str(caught.value) == (
        "latents/mine: holds codes, and diffusion is trained on pixels or moments. Encode its "
        "shards again under another name, and name that: rdm encode --name ... --shards ... "
        "--set autoencoder=/models/vq --set stored=moments"
    )
    for stored in ("pixels", "moments"):
        refuse_other_latents(
            make("latents", stored, write, parameters={"stored": stored}),
            ("pixels", "moments"),
            "diffusion",
        )
