"""The denoiser: neighbors are a set, absent ones are absent, and what is saved is what was
trained.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from rdm_core.denoiser import Denoiser, SetEncoder, build_denoiser, load_denoiser, parameter_count
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from flows.presets import PRESETS
from rdm_core.config import DenoiserConfig
from rdm_core.context import ABSENT, NEIGHBOR, QUERY, TEXT, Context, zeros
from rdm_core.errors import WeightsError

B, K, D = 3, 5, 8
EXTRAS = {
    "neighbors alone": {},
    "set layers": {"set_layers": 2},
    "query token": {"query_token": True},
    "means removed": {"remove_means": True},
    "everything": {"set_layers": 1, "query_token": True, "remove_means": True},
}
SETTINGS = ("context_norm", "query_token", "set_layers", "remove_means")


@pytest.fixture(params=list(EXTRAS))
def config(request, tiny_config) -> DenoiserConfig:
    """Each network with each of the ways to see its context."""
    return replace(tiny_config, **EXTRAS[request.param])


@pytest.fixture
def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents [B, 3, 8, 8] and network times [B]."""
    return torch.randn(B, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(
        [10.0, 500.0, 900.0]
    )


def sets(count: int = K, seed: int = 1) -> Context:
    """B sets of neighbors, all there."""
    generator = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(B, count, D, generator=generator), dim=-1)
    norms, scores = (low + torch.rand(B, count, generator=generator) for low in (8, -0.5))
    return Context(vectors, norms, scores, torch.full((B, count), NEIGHBOR, dtype=torch.int8))


def with_slots(context: Context, *slots: list[int]) -> Context:
    """The sets with other kinds of slots: one list for all, or one for each."""
    kinds = torch.tensor(slots if len(slots) > 1 else slots * B, dtype=torch.int8)
    return replace(context, slots=kinds)


def shuffled(context: Context, at: int | slice = slice(None)) -> Context:
    """The sets with the vectors, norms and scores of some slots those of another set."""
    changed = {name: getattr(context, name).clone() for name in ("vectors", "norms", "scores")}
    for tensor in changed.values():
        tensor[:, at] = tensor[:, at].roll(1, dims=0)
    return replace(context, **changed)


@torch.no_grad()
def influence(denoiser: Denoiser, noisy, context: Context, changed: Context) -> list[float]:
    """How much each of the B predictions changes when the context does."""
    return (
        (denoiser(*noisy, context) - denoiser(*noisy, changed)).abs().amax(dim=(1, 2, 3)).tolist()
    )


@torch.no_grad()
def given(denoiser: Denoiser, noisy, context: Context) -> list[torch.Tensor]:
    """The tokens that the network attends to: [K', D] for each sample."""
    seen = []
    hook = denoiser.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    denoiser(*noisy, context)
    hook.remove()
    return [
        t[m]
        for t, m in zip(
            seen[0]["encoder_hidden_states"], seen[0]["encoder_attention_mask"], strict=True
        )
    ]


FEWER = ([NEIGHBOR] * K, [NEIGHBOR] * 3 + [ABSENT] * 2, [NEIGHBOR] + [ABSENT] * 4)


def test_the_neighbors_have_no_order(config, tiny_denoiser, noisy):
    denoiser = tiny_denoiser(config)
    context = with_slots(sets(), *FEWER[:2], [TEXT] + FEWER[2][1:])
    order = torch.tensor([3, 0, 4, 1, 2])
    mixed = Context(
        *(getattr(context, name)[:, order] for name in ("vectors", "norms", "scores", "slots"))
    )
    with torch.no_grad():
        torch.testing.assert_close(
            denoiser(*noisy, mixed), denoiser(*noisy, context), rtol=1e-4, atol=1e-5
        )
    assert min(influence(denoiser, noisy, context, shuffled(context))) > 1e-3, "they do count"


def test_an_absent_neighbor_has_no_influence(config, tiny_denoiser, noisy):
    denoiser, context = tiny_denoiser(config), with_slots(sets(), [NEIGHBOR] * 3 + [ABSENT] * 2)
    assert influence(denoiser, noisy, context, shuffled(context, slice(3, 5))) == [0, 0, 0]
    assert min(influence(denoiser, noisy, context, shuffled(context, 2))) > 1e-4
    with torch.no_grad():
        shorter = denoiser(*noisy, Context(*(tensor[:, :3] for tensor in vars(context).values())))
        torch.testing.assert_close(denoiser(*noisy, context), shorter, rtol=1e-4, atol=1e-5)


def test_any_number_of_neighbors_will_do(config, tiny_denoiser, noisy):
    denoiser = tiny_denoiser(config)
    for count in (1, 2, 20):
        assert denoiser(*noisy, sets(count)).shape == noisy[0].shape


def test_an_empty_set_is_the_null_and_the_null_alone(config, tiny_denoiser, noisy):
    denoiser, empty = tiny_denoiser(config), with_slots(sets(), [ABSENT] * K)
    assert influence(denoiser, noisy, empty, shuffled(empty)) == [0, 0, 0]
    for tokens in given(denoiser, noisy, empty):
        assert torch.equal(tokens, denoiser.null[None])
    with torch.no_grad():
        before = denoiser(*noisy, empty)
        denoiser.null += 1
        after = denoiser(*noisy, empty)
    assert (after - before).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_each_sample_has_its_own_set_or_none(config, tiny_denoiser, noisy):
    denoiser, context = (
        tiny_denoiser(config),
        with_slots(sets(), [NEIGHBOR] * K, [ABSENT] * K, [NEIGHBOR] * K),
    )
    found = influence(denoiser, noisy, context, shuffled(context))
    assert found[1] == 0
    assert min(found[0], found[2]) > 1e-3


def test_the_null_is_learned_from_empty_sets(config, tiny_denoiser, noisy):
    denoiser = tiny_denoiser(config)
    denoiser(*noisy, with_slots(sets(), [ABSENT] * K)).square().mean().backward()
    assert denoiser.null.grad.abs().max() > 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in denoiser.parameters())


def test_the_time_matters(tiny_config, tiny_denoiser, noisy):
    denoiser, (x, time) = tiny_denoiser(tiny_config), noisy
    with torch.no_grad():
        difference = denoiser(x, time, sets()) - denoiser(x, time + 50, sets())
    assert difference.abs().amax(dim=(1, 2, 3)).min() > 1e-3


TRANSFORMER = DenoiserConfig(
    network="transformer", channels=(32,), depth=1, head_channels=16, patch=4
)


def untrained(**extras) -> Denoiser:
    """A transformer with its initial weights."""
    return build_denoiser(replace(TRANSFORMER, **extras), 3, 8, D, seed=0).eval()


@pytest.mark.parametrize("context_norm", ["raw", "unit"])
def test_a_token_has_the_length_the_network_is_trained_with(context_norm):
    context = sets()
    tokens = untrained(context_norm=context_norm).tokens(context)
    torch.testing.assert_close(
        tokens.norm(dim=-1), context.norms if context_norm == "raw" else torch.full((B, K), D**0.5)
    )
    torch.testing.assert_close(cosine_similarity(tokens, context.vectors, dim=-1), torch.ones(B, K))


# -- the set encoder


def test_the_set_encoder_starts_as_the_identity():
    context = with_slots(sets(), *FEWER)
    assert torch.equal(untrained(set_layers=2).tokens(context), untrained().tokens(context))


def test_what_the_set_encoder_adds_is_learned_from_the_start(noisy):
    denoiser = untrained(set_layers=2).train()
    nn.init.normal_(denoiser.network.proj_out.weight)
    denoiser(*noisy, sets()).square().mean().backward()
    assert denoiser.set_encoder.gate.grad.abs().min() > 0


@pytest.fixture
def encoded():
    """A function: context -> its tokens behind a set encoder whose every parameter is away from
    zero.
    """
    torch.manual_seed(0)
    encoder = SetEncoder(D, 2).eval()
    for parameter in encoder.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return torch.no_grad()(lambda context: encoder(context.vectors, context.scores, context.mask))


def test_the_set_encoder_lets_each_vector_see_the_others_and_their_scores(encoded):
    context = sets()
    before = encoded(context)
    assert (encoded(shuffled(context, 4)) - before)[:, :4].abs().amin() > 1e-5
    scores = context.scores.clone()
    scores[:, 0] += 0.1
    assert (encoded(replace(context, scores=scores)) - before).abs().amax(dim=-1).min() > 1e-4


def test_the_set_encoder_sees_nothing_in_absent_slots(encoded):
    context = with_slots(sets(), [NEIGHBOR] * 3 + [ABSENT] * 2)
    assert torch.equal(encoded(shuffled(context, slice(3, 5)))[:, :3], encoded(context)[:, :3])


def test_the_set_encoder_answers_in_numbers_for_nothing_and_for_any_score(encoded):
    context = with_slots(sets(), [ABSENT] * K)
    assert torch.isfinite(encoded(context)).all()
    assert torch.isfinite(encoded(replace(sets(), scores=torch.full((B, K), -2.0)))).all()


# -- the query token


def test_the_query_is_marked_whether_text_or_image_and_neighbors_are_not(tiny_denoiser):
    marked = tiny_denoiser(replace(TRANSFORMER, query_token=True))
    context = with_slots(sets(2), [QUERY, NEIGHBOR], [TEXT, NEIGHBOR], [NEIGHBOR, NEIGHBOR])
    mark = marked.tokens(context) - tiny_denoiser().tokens(context)
    torch.testing.assert_close(mark[:2, 0], marked.query_kind.expand(2, D))
    assert not mark[:, 1].any()
    assert not mark[2].any()


def test_where_the_query_is_dropped_its_learned_null_stands_for_it_whatever_it_was(
    tiny_config, tiny_denoiser, noisy
):
    denoiser = tiny_denoiser(replace(tiny_config, query_token=True))
    context = with_slots(sets(), [ABSENT] + [NEIGHBOR] * 4)
    assert influence(denoiser, noisy, context, shuffled(context, 0)) == [0, 0, 0]
    for tokens, expected in zip(
        given(denoiser, noisy, context), denoiser.tokens(context)[:, 1:], strict=True
    ):
        assert torch.equal(tokens, torch.cat([expected, denoiser.query_null[None]]))


def test_a_set_with_its_query_does_not_see_the_querys_null(tiny_config, tiny_denoiser, noisy):
    denoiser = tiny_denoiser(replace(tiny_config, query_token=True))
    for kind in (QUERY, TEXT):
        context = with_slots(sets(), [kind] + [NEIGHBOR] * 4)
        for tokens, expected in zip(
            given(denoiser, noisy, context), denoiser.tokens(context), strict=True
        ):
            assert torch.equal(tokens, expected)


def test_the_querys_null_and_mark_are_learned(tiny_denoiser, noisy):
    denoiser = tiny_denoiser(replace(TRANSFORMER, query_token=True))
    denoiser(
        *noisy, with_slots(sets(2), [ABSENT, NEIGHBOR], [QUERY, NEIGHBOR], [TEXT, NEIGHBOR])
    ).square().mean().backward()
    assert denoiser.query_null.grad.abs().max() > 0
    assert denoiser.query_kind.grad.abs().max() > 0


# -- means


def test_the_mean_of_images_or_of_texts_is_subtracted_by_what_a_slot_holds():
    denoiser, context = untrained(remove_means=True), with_slots(sets(3), [TEXT, QUERY, NEIGHBOR])
    means = 0.5 * normalize(torch.randn(2, D, generator=torch.Generator().manual_seed(2)), dim=-1)
    denoiser.set_means(means.numpy())
    tokens = denoiser.tokens(context)
    for place, mean in enumerate((means[1], means[0], means[0])):
        expected = normalize(context.vectors[:, place] - mean, dim=-1) * D**0.5
        torch.testing.assert_close(tokens[:, place], expected)


def test_means_are_no_parameters_and_zero_until_they_are_known():
    denoiser, context = untrained(remove_means=True), with_slots(sets(2), [TEXT, NEIGHBOR])
    torch.testing.assert_close(denoiser.tokens(context), untrained().tokens(context))
    assert parameter_count(denoiser) == parameter_count(untrained())


def test_means_of_raw_vectors_are_refused():
    with pytest.raises(
        ValueError, match="remove_means: means are those of unit vectors; use context_norm=unit"
    ):
        DenoiserConfig(remove_means=True, context_norm="raw")


# -- initial weights, saving and loading


@pytest.mark.parametrize("how", ["global", "own"])
def test_initial_weights_follow_the_seed(how, config):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed if how == "global" else len(states))
        denoiser = build_denoiser(config, 3, 8, D, seed if how == "own" else None)
        states.append(torch.cat([p.flatten() for p in denoiser.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.fixture
def folder(tiny_denoiser, tmp_path):
    """A saved transformer."""
    tiny_denoiser().save(tmp_path / "weights", {"k": 4})
    return tmp_path / "weights"


def test_what_is_loaded_predicts_what_was_saved(config, tiny_denoiser, noisy, tmp_path):
    denoiser = tiny_denoiser(config)
    denoiser.save(tmp_path, {"k": 4, "encoder": {"model": "ViT-B-32"}})
    loaded, facts = load_denoiser(tmp_path)
    with torch.no_grad():
        for slots in ([TEXT] + [NEIGHBOR] * 4, [NEIGHBOR] * K, [ABSENT] * K):
            context = with_slots(sets(), slots)
            assert torch.equal(loaded(*noisy, context), denoiser(*noisy, context))
    assert not loaded.training
    settings = {name: asdict(config)[name] for name in SETTINGS}
    assert loaded.settings == denoiser.settings == settings
    assert facts == {"k": 4, "encoder": {"model": "ViT-B-32"}, "dimension": D} | settings
    assert parameter_count(loaded) == parameter_count(denoiser)


def test_a_folder_from_before_there_were_such_settings_is_one_without_them(
    folder, tiny_denoiser, noisy
):
    file = folder / "context.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({name: facts[name] for name in ("k", "dimension", "context_norm")}))
    loaded, _ = load_denoiser(folder)
    assert loaded.settings == tiny_denoiser().settings
    assert influence(loaded, noisy, sets(), sets()) == [0, 0, 0]
    with torch.no_grad():
        assert torch.equal(loaded(*noisy, sets()), tiny_denoiser()(*noisy, sets()))


@pytest.mark.parametrize(
    "extra", [{"query_token": True}, {"set_layers": 1}, {"remove_means": True}]
)
def test_a_folder_whose_settings_and_tensors_disagree_is_refused(extra, folder):
    file = folder / "context.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | extra))
    with pytest.raises(WeightsError, match=r"tensors of the context are absent or too many, \w+"):
        load_denoiser(folder)


def test_only_safetensors_and_json_are_written(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    expected = [
        "context.json",
        "context.safetensors",
        "network/config.json",
        "network/diffusion_pytorch_model.safetensors",
    ]
    assert files == expected


NETWORK = "network/diffusion_pytorch_model.safetensors"
NETWORK_CONFIG = "network/config.json"


def without_a_tensor(folder: Path) -> None:
    """The network's file lacks one of its tensors."""
    state = load_file(folder / NETWORK)
    del state["pos_embed.proj.weight"]
    save_file(state, folder / NETWORK)


def only_a_pickle(folder: Path) -> None:
    """The same tensors in the format that runs code."""
    torch.save(load_file(folder / NETWORK), (folder / NETWORK).with_suffix(".bin"))
    (folder / NETWORK).unlink()


def with_config(folder: Path, **changed) -> None:
    """The network's file is untouched, what it is said to be is not."""
    config = json.loads((folder / NETWORK_CONFIG).read_text())
    (folder / NETWORK_CONFIG).write_text(json.dumps(config | changed))


SPOILED: dict[str, Callable[[Path], object]] = {
    "no such folder": shutil.rmtree,
    "only the network": lambda folder: (folder / "context.json").unlink(),
    "truncated": lambda folder: (folder / NETWORK).write_bytes(
        (folder / NETWORK).read_bytes()[:1000]
    ),
    "only a pickle": only_a_pickle,
    "a tensor too few": without_a_tensor,
    "a block too many": lambda folder: with_config(folder, num_layers=0),
    "another class": lambda folder: with_config(folder, _class_name="AutoencoderKL"),
    "a word for a number": lambda folder: with_config(folder, num_layers="two"),
    "no JSON": lambda folder: (folder / "context.json").write_text("{"),
    "other JSON": lambda folder: (folder / "context.json").write_text("[]"),
    "null of another dimension": lambda folder: save_file(
        {"null": torch.zeros(D + 1)}, folder / "context.safetensors"
    ),
    "no null": lambda folder: save_file({"nil": torch.zeros(D)}, folder / "context.safetensors"),
}


@pytest.mark.parametrize("how", list(SPOILED))
def test_a_folder_that_is_not_whole_is_refused(how, folder):
    SPOILED[how](folder)
    with pytest.raises(
        WeightsError,
        match=r"weights: not a weights folder of this project \(.+\).*Give a run's name",
    ):
        load_denoiser(folder)


# The released 2022 configurations, and the parameters that their checkpoints hold.
RELEASED = {
    "imagenet-2022": (
        400.92,
        {"block_out_channels": [192, 384, 576, 960], "attention_head_dim": [6, 12, 18, 30]},
    ),
    "ffhq-2022": (
        414.71,
        {"block_out_channels": [224, 448, 672, 896], "attention_head_dim": [7, 14, 21, 28]},
    ),
}
RELEASED_BOTH = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_dim": 512,
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "use_linear_projection": False,
    "center_input_sample": False,
    "resnet_time_scale_shift": "default",
    "num_attention_heads": None,
    "only_cross_attention": False,
    "class_embed_type": None,
}


@pytest.mark.parametrize("preset", list(RELEASED))
def test_the_2022_presets_are_the_released_networks(preset):
    millions, own = RELEASED[preset]
    with torch.device("meta"):
        denoiser = build_denoiser(DenoiserConfig(**PRESETS[preset]["denoiser"]), 3, 64, 512)
    config = denoiser.network.config
    listed = {
        key: list(value) if isinstance(value, tuple) else value for key, value in config.items()
    }
    assert {key: listed[key] for key in RELEASED_BOTH | own} == RELEASED_BOTH | own
    assert round(parameter_count(denoiser.network) / 1e6, 2) == millions
    assert parameter_count(denoiser) == parameter_count(denoiser.network) + 512, (
        "the null is all that is new"
    )
    assert denoiser.settings["context_norm"] == "raw"
    attentions = [module for module in denoiser.network.modules() if isinstance(module, Attention)]
    assert {attention.inner_dim // attention.heads for attention in attentions} == {32}, (
        "channels of a head at every level"
    )
    assert {m.eps for m in denoiser.network.modules() if isinstance(m, nn.GroupNorm)} == {
        1e-5,
        1e-6,
    }, "1e-6 before attention"


def test_the_two_presets_of_the_built_in_world_are_equally_large():
    with torch.device("meta"):
        shapes, unet = (
            build_denoiser(DenoiserConfig(**PRESETS[n]["denoiser"]), 3, 32, 64)
            for n in ("shapes", "shapes-unet")
        )
    assert abs(parameter_count(unet) / parameter_count(shapes) - 1) < 0.01


def test_a_unet_of_any_widths_has_groups_that_divide_them():
    config = DenoiserConfig(
        network="unet", channels=(24, 32), attention_levels=(1,), depth=1, head_channels=8
    )
    groups = {
        m.num_groups
        for m in build_denoiser(config, 3, 8, D).network.modules()
        if isinstance(m, nn.GroupNorm)
    }
    assert groups == {2}, "24 / 4 = 6 does not divide 32"


def test_a_zero_vector_stays_zero_where_means_are_removed():
    denoiser = untrained(remove_means=True)
    denoiser.set_means(torch.ones(2, D).numpy())
    assert not denoiser.tokens(zeros(2, D)).any()
