"""Latent spaces: pixels come back exactly; an autoencoder's moments are stored and read as they
should be.
"""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from safetensors.torch import load_file, save_file

from rdm_core.autoencoders.config import MOST_CODES
from rdm_core.codes import nearest_codes
from rdm_core.device import full_float32
from rdm_core.errors import RequestError, WeightsError
from rdm_core.latents import PIXELS, load_latent_space

SCALING = 0.25


def images(count: int, side: int = 16) -> list[np.ndarray]:
    """Noise."""
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random autoencoder, halving the side, as diffusers saves it."""
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=SCALING,
    )
    folder = tmp_path_factory.mktemp("autoencoder") / "tiny-kl"
    autoencoder.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def space(folder):
    """Its latent space."""
    return load_latent_space(str(folder))


def test_every_pixel_value_comes_back_exactly():
    pixels = load_latent_space(PIXELS)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (16, 16, 3))
    given = [ramp, *images(2)]
    raw = pixels.encode(given)
    assert (raw.dtype, raw.shape) == (np.uint8, (3, 3, 16, 16))
    final = pixels.final(torch.from_numpy(raw))
    assert final.dtype == torch.float32
    assert (final.min(), final.max()) == (-1, 1)
    np.testing.assert_array_equal(pixels.decode(final), np.stack(given))


def test_pixels_have_no_posterior_to_draw_from():
    pixels = load_latent_space(PIXELS)
    raw = torch.from_numpy(pixels.encode(images(2)))
    assert torch.equal(pixels.final(raw, torch.randn(2, 3, 16, 16)), pixels.final(raw))


def test_what_lies_outside_the_range_is_clipped_when_decoded():
    decoded = load_latent_space(PIXELS).decode(
        torch.tensor([-7.0, 7.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    )
    assert (decoded[0] == 0).all()
    assert (decoded[1] == 255).all()


def test_an_autoencoder_stores_its_posteriors_moments(space):
    raw = space.encode(images(3))
    assert (raw.dtype, raw.shape) == (np.float16, (3, 8, 8, 8))
    pixels = torch.from_numpy(np.stack(images(3))).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        posterior = space.autoencoder.encode(pixels).latent_dist
    np.testing.assert_allclose(raw[:, :4], posterior.mean.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(raw[:, 4:], posterior.logvar.numpy(), rtol=1e-3, atol=1e-3)


def test_a_final_latent_is_the_scaled_mean_or_a_scaled_draw_of_the_posterior(space):
    raw = torch.from_numpy(space.encode(images(3)))
    mean, log_variance = raw.float().chunk(2, dim=1)
    torch.testing.assert_close(space.final(raw), mean * SCALING)
    noise = torch.randn(3, 4, 8, 8)
    torch.testing.assert_close(
        space.final(raw, noise), (mean + torch.exp(log_variance / 2) * noise) * SCALING
    )
    assert not torch.allclose(space.final(raw, noise), space.final(raw, -noise))


def test_decoding_undoes_the_scaling(space):
    final = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        pixels = space.autoencoder.decode(final / SCALING).sample
    expected = ((pixels.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    decoded = space.decode(final)
    assert (decoded.dtype, decoded.shape) == (np.uint8, (2, 16, 16, 3))
    np.testing.assert_array_equal(decoded, expected)


def test_a_space_says_what_it_is_without_saying_where_it_lies(space, folder, tmp_path):
    assert (space.channels, space.factor) == (4, 2)
    assert json.loads(json.dumps(space.identity)) == space.identity
    assert str(folder.parent) not in json.dumps(space.identity)
    elsewhere = tmp_path / folder.name
    space.autoencoder.save_pretrained(elsewhere)
    assert load_latent_space(str(elsewhere)).identity == space.identity
    state = load_file(elsewhere / "diffusion_pytorch_model.safetensors")
    state["quant_conv.bias"] += 1e-3
    save_file(state, elsewhere / "diffusion_pytorch_model.safetensors")
    assert load_latent_space(str(elsewhere)).identity != space.identity


def test_an_autoencoder_is_frozen(space):
    assert not space.autoencoder.training
    assert not any(parameter.requires_grad for parameter in space.autoencoder.parameters())


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """The latent space of a tiny random autoencoder with a codebook, quartering the side."""
    torch.manual_seed(0)
    autoencoder = VQModel(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=6,
        vq_embed_dim=3,
        num_vq_embeddings=32,
        norm_num_groups=4,
        scaling_factor=SCALING,
    )
    torch.nn.init.normal_(autoencoder.quantize.embedding.weight)
    folder = tmp_path_factory.mktemp("autoencoder") / "tiny-vq"
    autoencoder.save_pretrained(folder)
    return load_latent_space(str(folder))


def test_an_autoencoder_with_a_codebook_stores_what_is_not_yet_quantised(coded):
    assert (type(coded.autoencoder), coded.channels, coded.factor) == (VQModel, 3, 4)
    assert coded.identity == {
        "autoencoder": "tiny-vq",
        "weights_sha256": coded.weights_sha256,
        "channels": 3,
        "factor": 4,
    }
    raw = coded.encode(images(3))
    assert (raw.dtype, raw.shape) == (np.float16, (3, 3, 4, 4))
    pixels = torch.from_numpy(np.stack(images(3))).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = coded.autoencoder.encoder(pixels)
        expected = coded.autoencoder.quant_conv(expected)
    np.testing.assert_allclose(raw, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_what_is_not_yet_quantised_is_scaled_and_nothing_is_drawn(coded):
    raw = torch.from_numpy(coded.encode(images(3)))
    assert torch.equal(coded.final(raw), raw.float() * SCALING)
    assert torch.equal(coded.final(raw, torch.randn(3, 3, 4, 4)), coded.final(raw))


def test_decoding_takes_the_nearest_codes(coded):
    codes = coded.autoencoder.quantize.embedding.weight
    vectors = codes[torch.arange(16)].view(1, 4, 4, 3).permute(0, 3, 1, 2)
    exact = coded.decode(vectors * SCALING)
    nearest = torch.cdist(codes, codes).fill_diagonal_(torch.inf).min() / 4
    assert nearest > 0.01
    np.testing.assert_array_equal(coded.decode((vectors + nearest) * SCALING), exact)
    np.testing.assert_array_equal(coded.decode(vectors.half() * SCALING), exact)
    assert (coded.decode(vectors.flip(2) * SCALING) != exact).any()


# Codes


def test_codes_are_the_nearest_entries_of_what_is_not_yet_quantised(coded):
    codes = coded.encode(images(3), "codes")
    assert (codes.dtype, codes.shape) == (np.uint16, (3, 4, 4))
    pixels = torch.from_numpy(np.stack(images(3))).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = coded.autoencoder.encode(pixels).latents.double()
    distances = (latents[:, None] - coded.codebook.double()[None, :, :, None, None]).norm(dim=2)
    np.testing.assert_array_equal(codes, distances.argmin(dim=1).numpy())
    assert len(np.unique(codes)) > 3, "otherwise any order of places would do"


def saying(coded, monkeypatch, codebook, latents):
    """The space with a codebook [K, 3] whose encoder says latents [N, 3, h, w] whatever it sees."""
    monkeypatch.setattr(coded.autoencoder.quantize.embedding.weight, "data", codebook)
    said = type("Said", (), {"latents": latents})
    monkeypatch.setattr(coded.autoencoder, "encode", lambda inputs: said)
    return coded


def test_a_near_tie_falls_as_the_float32_output_says_and_not_as_its_half_would(coded, monkeypatch):
    codebook = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    nearly = torch.tensor([0.5 + 1e-5, 0.5 - 1e-5, 0.5])  # all three are 0.5 in float16
    latents = torch.stack([nearly, torch.zeros(3), torch.zeros(3)]).view(1, 3, 1, 3)
    assert len(latents[0, 0].half().unique()) == 1
    codes = saying(coded, monkeypatch, codebook, latents).encode(images(1), "codes")
    assert codes.tolist() == [[[1, 0, 0]]], "of two that are equally near the first is taken"


def test_a_near_tie_far_from_zero_falls_as_float32_says(coded, monkeypatch):
    """Where |v|^2 + |e|^2 - 2 v.e in float32 has no digit left for the difference."""
    codebook = torch.tensor([[1000.0, 0, 0], [1000.25, 0, 0]])
    nearly = torch.tensor([1000.1252, 1000.1248])
    latents = torch.stack([nearly, torch.zeros(2), torch.zeros(2)]).view(1, 3, 1, 2)
    codes = saying(coded, monkeypatch, codebook, latents).encode(images(1), "codes")
    assert codes.tolist() == [[[1, 0]]]


def test_codes_are_found_piece_by_piece_as_in_one_go(monkeypatch):
    vectors, codebook = torch.randn(50, 3), torch.randn(7, 3)
    at_once = nearest_codes(vectors, codebook)
    monkeypatch.setattr("rdm_core.codes.DISTANCES_AT_ONCE", 10)
    assert torch.equal(nearest_codes(vectors, codebook), at_once)
    assert nearest_codes(vectors[:0], codebook).shape == (0,)


def test_float32_is_whole_where_it_decides_and_as_it_was_afterwards(coded, monkeypatch):
    seen = []
    encode = coded.autoencoder.encode

    def watched(inputs):
        seen.append((torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")))
        return encode(inputs)

    monkeypatch.setattr(coded.autoencoder, "encode", watched)
    before = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        coded.encode(images(1), "codes")
    assert before and seen == [(False, False)]
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 == before


def test_codes_decode_to_what_the_autoencoder_makes_of_the_same_images(coded):
    codes = coded.encode(images(3), "codes")
    through = coded.decode(coded.final(torch.from_numpy(coded.encode(images(3), "moments"))))
    assert (coded.decode_codes(codes).dtype, through.shape) == (np.uint8, (3, 16, 16, 3))
    np.testing.assert_array_equal(coded.decode_codes(codes), through)
    other = (codes + 1) % 32
    assert (coded.decode_codes(other) != through).any()


def test_the_largest_codebook_is_numbered_to_its_last_entry(coded, monkeypatch):
    codebook = torch.zeros(MOST_CODES, 3)
    codebook[-1] = 1
    space = saying(coded, monkeypatch, codebook, torch.full((1, 3, 1, 1), 0.9))
    assert space.encode(images(1), "codes").tolist() == [[[65_535]]]


def test_a_codebook_that_uint16_cannot_number_is_refused(coded, monkeypatch):
    space = saying(coded, monkeypatch, torch.zeros(MOST_CODES + 1, 3), torch.zeros(1, 3, 1, 1))
    with pytest.raises(RequestError) as caught:
        space.encode(images(1), "codes")
    assert str(caught.value) == (
        "autoencoder 'tiny-vq': stored=codes can number 65,536 entries of a codebook, this one has "
        "65,537. Name a VQModel with a smaller codebook, or store moments."
    )
    assert space.storing(None) == "moments"


def test_a_code_that_the_codebook_lacks_is_refused(coded):
    told = "autoencoder 'tiny-vq': there is no code 32, its codebook has 32. Name the VQModel"
    with pytest.raises(RequestError, match=told):
        coded.decode_codes(np.array([[[31, 32]]], np.uint16))


def test_what_is_stored_unless_asked_for_is_what_asking_for_it_gives(space, coded):
    pixels = load_latent_space(PIXELS)
    for one, stored in ((pixels, "pixels"), (space, "moments"), (coded, "moments")):
        assert one.stored_by_default == one.storing(None) == one.storing(stored) == stored
        np.testing.assert_array_equal(one.encode(images(2)), one.encode(images(2), stored))


@pytest.mark.parametrize(
    ("which", "stored", "told"),
    [
        ("pixels", "codes", "'pixels': stored=codes is what an .*Name a VQModel: autoencoder="),
        ("pixels", "moments", "'pixels': stored=moments is .*Name an AutoencoderKL or a VQModel"),
        ("kl", "codes", "'tiny-kl': .*an AutoencoderKL has none. Name a VQModel: .*or store mom"),
    ],
)
def test_what_a_space_does_not_have_is_refused_with_the_cure(which, stored, told, space, coded):
    asked = {"pixels": load_latent_space(PIXELS), "kl": space, "vq": coded}[which]
    for refuses in (asked.storing, lambda stored: asked.encode(images(1), stored)):
        with pytest.raises(RequestError, match=f"autoencoder {told}"):
            refuses(stored)


def test_a_place_takes_as_many_bytes_as_are_stored_of_it(space, coded):
    for one in (load_latent_space(PIXELS), space, coded):
        for stored in {one.stored_by_default, *(["codes"] if one is coded else [])}:
            raw = one.encode(images(1), stored)
            assert raw.nbytes == one.bytes_per_place(stored) * raw.shape[-1] * raw.shape[-2]
        kept = one.encode(images(1), "pixels")
        places = (16 // one.factor) ** 2
        assert kept.nbytes == one.bytes_per_place("pixels") * places, "of a final latent"


@pytest.mark.parametrize("which", ["kl", "vq"])
def test_images_behind_an_autoencoder_are_encoded_as_they_are_read(
    which, space, coded, monkeypatch
):
    one = {"kl": space, "vq": coded}[which]
    kept = torch.from_numpy(one.encode(images(3), "pixels"))
    assert torch.equal(kept.permute(0, 2, 3, 1), torch.from_numpy(np.stack(images(3))))
    moments = torch.from_numpy(one.encode(images(3)))
    noise = torch.randn(3, one.channels, 16 // one.factor, 16 // one.factor)
    assert torch.equal(one.final(kept), one.final(moments))
    assert torch.equal(one.final(kept, noise), one.final(moments, noise))
    monkeypatch.setattr("rdm_core.latents.ENCODED_TOGETHER", 2)
    torch.testing.assert_close(one.final(kept, noise), one.final(moments, noise))


def test_images_that_do_not_fall_into_whole_places_are_not_kept(space):
    told = "'tiny-kl': makes one place of 2 x 2 pixels, and images are 15 x 15. Import them in a si"
    with pytest.raises(RequestError, match=told):
        space.encode(images(1, side=15), "pixels")


def spoil(folder, how: str) -> None:
    """Make the weights folder unusable."""
    weights = folder / "diffusion_pytorch_model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "only a pickle":
        torch.save(load_file(weights), folder / "diffusion_pytorch_model.bin")
        weights.unlink()
    elif how == "config is no JSON":
        (folder / "config.json").write_text("{")
    elif how == "a tensor too few":
        state = load_file(weights)
        del state["decoder.conv_in.bias"]
        save_file(state, weights)
    elif how == "a tensor of another shape":
        save_file(load_file(weights) | {"decoder.conv_in.bias": torch.zeros(3)}, weights)


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "only a pickle",
        "config is no JSON",
        "a tensor too few",
        "a tensor of another shape",
    ],
)
def test_a_damaged_folder_is_refused(how, space, tmp_path):
    space.autoencoder.save_pretrained(tmp_path / "damaged")
    spoil(tmp_path / "damaged", how)
    with pytest.raises(
        WeightsError, match=r"autoencoder '.*damaged': cannot be loaded \(.+\).*Give 'pixels'"
    ):
        load_latent_space(str(tmp_path / "damaged"))


def test_a_folder_of_another_network_is_refused(tmp_path):
    UNet2DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        cross_attention_dim=8,
        layers_per_block=1,
    ).save_pretrained(tmp_path / "unet")
    with pytest.raises(
        WeightsError, match=r"unet': cannot be loaded \(it is a UNet2DConditionModel\)"
    ):
        load_latent_space(str(tmp_path / "unet"))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(
        WeightsError, match=r"cannot be loaded \(.+\).*AutoencoderKL.save_pretrained"
    ):
        load_latent_space(str(tmp_path))
