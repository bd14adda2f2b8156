"""The denoiser: neighbors are a set, and absent ones are absent."""

from dataclasses import replace

import pytest
import torch
from neighbor_sets import B, D, K, first_slots, sets, shuffled, with_slots
from tiny import TINY
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from rdm_core.context import ABSENT, NEIGHBOR, QUERY, TEXT, Context, zeros
from rdm_core.families.diffusion.config import DenoiserConfig
from rdm_core.families.diffusion.denoiser import Denoiser, build_denoiser
from rdm_core.families.tokens import SetEncoder

TRANSFORMER = TINY["transformer"]


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
    tokens, masks = seen[0]["encoder_hidden_states"], seen[0]["encoder_attention_mask"]
    return [of_sample[mask] for of_sample, mask in zip(tokens, masks, strict=True)]


FEWER = ([NEIGHBOR] * K, [NEIGHBOR] * 3 + [ABSENT] * 2, [NEIGHBOR] + [ABSENT] * 4)


def test_the_neighbors_have_no_order(config, tiny_denoiser, noisy):
    denoiser = tiny_denoiser(config)
    context = with_slots(sets(), *FEWER[:2], [TEXT] + FEWER[2][1:])
    order = torch.tensor([3, 0, 4, 1, 2])
    mixed = Context(
        context.vectors[:, order],
        context.norms[:, order],
        context.scores[:, order],
        context.slots[:, order],
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
        shorter = denoiser(*noisy, first_slots(context, 3))
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
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


def test_the_time_matters(tiny_config, tiny_denoiser, noisy):
    denoiser, (x, time) = tiny_denoiser(tiny_config), noisy
    with torch.no_grad():
        difference = denoiser(x, time, sets()) - denoiser(x, time + 50, sets())
    assert difference.abs().amax(dim=(1, 2, 3)).min() > 1e-3


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
    assert list(dict(denoiser.named_parameters())) == list(dict(untrained().named_parameters()))


def test_means_of_raw_vectors_are_refused():
    with pytest.raises(
        ValueError, match="remove_means: means are those of unit vectors; use context_norm=unit"
    ):
        DenoiserConfig(remove_means=True, context_norm="raw")


def test_a_zero_vector_stays_zero_where_means_are_removed():
    denoiser = untrained(remove_means=True)
    denoiser.set_means(torch.ones(2, D).numpy())
    assert not denoiser.tokens(zeros(2, D)).any()
