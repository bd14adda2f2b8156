"""Re-Imagen's family: what its network sees of a text and of references, and what it is made
from.
"""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from referring import FLOW, NETWORKS, SHAPE, given, made, predict, without_neighbors

from rdm_core.clip import load_encoder
from rdm_core.config import ExecutionConfig
from rdm_core.context import ABSENT, NO_TOKEN, QUERY
from rdm_core.errors import EncoderError, RequestError
from rdm_core.families.diffusion.config import Config as DiffusionConfig
from rdm_core.families.diffusion.model import build as build_diffusion
from rdm_core.families.facts import Shape
from rdm_core.families.references import model as family
from rdm_core.families.references.attention import half_of
from rdm_core.families.references.config import Config
from rdm_core.latents import PIXELS, load_latent_space


@pytest.fixture(scope="module")
def encoder():
    """The built-in encoder."""
    return load_encoder("rdm-shapes", "built-in")


@pytest.fixture(params=list(NETWORKS))
def model(request, encoder) -> family.References:
    """A model in pixel space, whose every parameter is away from zero."""
    return made(encoder, request.param)


def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-5)


def test_token_states_are_those_that_the_pooled_vector_is_made_of(encoder):
    tokens = encoder.tokenizer(["a red circle", "a vorta at the top left"])
    states, there = encoder.text_states(tokens)
    at_end = states[torch.arange(2), tokens.argmax(dim=1)]
    pooled = encoder.model.encode_text(tokens)
    assert torch.allclose(at_end @ encoder.model.text_projection, pooled, atol=1e-5)
    assert there.sum(dim=1).tolist() == [int((row != 0).sum()) for row in tokens]
    assert encoder.text_width == states.shape[2] == 96


def test_a_tower_without_token_states_is_refused(encoder):
    blind = replace(encoder, model=torch.nn.Linear(2, 2))
    with pytest.raises(EncoderError, match="no state for each token.*ViT-B-32"):
        _ = blind.text_width


def test_an_encoder_of_another_width_is_refused_with_the_width_to_set(encoder):
    new = family.build(Config(denoiser=NETWORKS["unet"], text_width=64), SHAPE)
    with pytest.raises(RequestError, match="is 64.*96 wide.*model.text_width=96"):
        new.set_encoder(encoder)
    with pytest.raises(RequestError, match="set_encoder"):
        predict(new, given(encoder))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_new_model_begins_without_regard_to_references(encoder, network):
    new = family.build(
        Config(denoiser=NETWORKS[network], text_width=96), SHAPE, load_latent_space(PIXELS), 0
    ).eval()
    new.set_encoder(encoder)
    context = given(encoder)
    assert torch.equal(predict(new, context), predict(new, without_neighbors(context)))


def test_each_reference_its_caption_and_the_text_count(model, encoder):
    context = given(encoder)
    before = predict(model, context)
    assert context.references is not None and context.neighbor_texts is not None
    changed = {
        "references": replace(context, references=context.references.flip(0)),
        "their captions": replace(context, neighbor_texts=context.neighbor_texts.flip(0)),
        "the text": replace(context, text=context.text.flip(0)),
        "no text": replace(context, text=torch.full_like(context.text, NO_TOKEN)),
        "no neighbors": without_neighbors(context),
    }
    for what, other in changed.items():
        assert differs(predict(model, other), before), what


def test_their_order_does_not_count_and_vectors_do_not_either(model, encoder):
    context = given(encoder)
    turned = replace(
        context,
        references=context.references.flip(1),
        neighbor_texts=context.neighbor_texts.flip(1),
        vectors=torch.zeros_like(context.vectors),
    )
    assert torch.allclose(predict(model, turned), predict(model, context), atol=1e-5)


@pytest.mark.parametrize("slot", [ABSENT, QUERY])
def test_what_stands_in_a_slot_without_a_neighbor_does_not_count(model, encoder, slot):
    context = given(encoder)
    context.slots[:, 1] = slot
    references = context.references.clone()
    references[:, 1] = 9.0
    other = replace(context, references=references)
    assert torch.equal(predict(model, other), predict(model, context))
    assert differs(predict(model, given(encoder)), predict(model, context))


def test_samples_do_not_see_each_others_references(model, encoder):
    context = given(encoder)
    alone = predict(model, context.rows(slice(0, 1)))
    assert torch.allclose(predict(model, context)[:1], alone, atol=1e-5)


def test_any_number_of_references_fits(model, encoder):
    for k in (1, 5):
        assert predict(model, given(encoder, k=k)).shape == (3, 3, 8, 8)


def test_a_text_alone_needs_no_references(model, encoder):
    alone = without_neighbors(given(encoder))
    bare = replace(alone, references=None, neighbor_texts=None)
    assert torch.allclose(predict(model, bare), predict(model, alone), atol=1e-5)
    with pytest.raises(RequestError, match="no latents"):
        predict(model, replace(given(encoder), references=None))


def test_references_may_be_encoded_once(model, encoder):
    context = given(encoder)
    features = model.denoiser.features_of(context)
    x, time = torch.randn(3, 3, 8, 8), torch.full((3,), 77.0)
    with torch.no_grad():
        once = model.denoiser(x, time, context, features=features)
        assert torch.equal(once, model.denoiser(x, time, context))
        left_out = features.without()
        assert not left_out.of_layer, "what is left out costs nothing"
        none = model.denoiser(x, time, context, features=left_out)
        hidden = model.denoiser(x, time, without_neighbors(context))
        assert torch.allclose(none, hidden, atol=1e-6)


def test_references_go_through_the_first_half_alone(encoder):
    new = made(encoder)
    features = new.denoiser.features_of(given(encoder))
    assert half_of(new.denoiser.network) == 1
    assert list(features.of_layer) == ["transformer_blocks.0.attn2"]
    of_unet = made(encoder, "unet").denoiser.features_of(given(encoder))
    assert of_unet.of_layer and all(name.startswith("down") for name in of_unet.of_layer)


def test_every_parameter_learns_even_without_text_and_neighbors(model, encoder):
    context = without_neighbors(given(encoder))
    context = replace(context, text=torch.full_like(context.text, NO_TOKEN))
    inputs = replace(model.example(3, 2, torch.device("cpu")), context=context)
    model(inputs).mean().backward()
    missing = [name for name, weights in model.named_parameters() if weights.grad is None]
    assert not missing  # else processes of a training would wait for each other in vain


def test_an_example_needs_no_encoder():
    new = family.build(Config(denoiser=NETWORKS["transformer"], text_width=96), SHAPE)
    assert new(new.example(2, 3, torch.device("cpu"))).shape == (2,)


def test_the_rival_sees_vectors_in_place_of_references(encoder):
    rival, context = made(encoder, neighbors="vectors"), given(encoder)
    before = predict(rival, context)
    assert not rival.reads.references and rival.reads.captions
    assert torch.equal(predict(rival, replace(context, references=None)), before)
    assert differs(predict(rival, replace(context, vectors=context.vectors.flip(0))), before)
    assert differs(predict(rival, without_neighbors(context)), before)


def test_weights_are_a_plain_diffusers_network_and_what_is_added_beside_it(
    model, encoder, tmp_path
):
    model.save_weights(tmp_path)
    config = Config(denoiser=model.denoiser.config, noise=FLOW, text_width=96)
    facts = type("Facts", (), {"shape": SHAPE})()
    again = family.load(tmp_path, config, facts, load_latent_space(PIXELS))
    again.set_encoder(encoder)
    context = given(encoder)
    assert torch.equal(predict(again, context), predict(model, context))
    kind = getattr(diffusers, type(model.denoiser.network).__name__)
    _, loaded = kind.from_pretrained(tmp_path / "network", output_loading_info=True)
    assert not loaded["unexpected_keys"] and not loaded["missing_keys"]


def test_it_begins_with_the_weights_of_a_diffusion_run(model, encoder):
    plain = build_diffusion(
        DiffusionConfig(denoiser=model.denoiser.config, noise=FLOW), SHAPE, None, 5
    )
    added = {
        name: weights.detach().clone()
        for name, weights in model.named_parameters()
        if name.startswith(("denoiser.text.", "denoiser.references."))
    }
    model.begin_with(plain)
    taken = dict(plain.named_parameters())
    for name, weights in model.named_parameters():
        assert torch.equal(weights, added[name] if name in added else taken[name]), name
    assert added


def test_a_run_of_another_width_is_no_start(encoder):
    plain = build_diffusion(DiffusionConfig(denoiser=NETWORKS["unet"]), Shape(3, 8, 16), None, 5)
    with pytest.raises(RequestError, match="start_from"):
        made(encoder, "unet").begin_with(plain)


def test_inputs_hold_final_latents_of_references(encoder):
    new, context = made(encoder), given(encoder)
    raw = torch.randint(0, 256, (3, 2, 3, 8, 8), dtype=torch.uint8)
    final = new._final(replace(context, references=raw)).references
    assert torch.allclose(final, raw.float() / 127.5 - 1)


def test_a_query_token_is_refused():
    with pytest.raises(ValueError, match="query_token"):
        Config(denoiser=replace(NETWORKS["unet"], query_token=True))


def test_what_is_for_vectors_is_refused_where_latents_are_seen():
    for seen in ({"set_layers": 1}, {"remove_means": True}, {"context_norm": "raw"}):
        denoiser = replace(NETWORKS["unet"], **seen)
        with pytest.raises(ValueError, match="set_layers, remove_means, context_norm"):
            Config(denoiser=denoiser)
        Config(denoiser=denoiser, neighbors="vectors")


@pytest.mark.parametrize("neighbors", ["latents", "vectors"])
def test_every_parameter_learns_where_no_sample_has_a_text(encoder, neighbors):
    new = made(encoder, neighbors=neighbors)
    context = given(encoder)
    context = replace(context, text=torch.full_like(context.text, NO_TOKEN))
    new(replace(new.example(3, 2, torch.device("cpu")), context=context)).mean().backward()
    assert not [name for name, weights in new.named_parameters() if weights.grad is None]


def test_it_may_start_from_a_run_of_diffusion_and_of_no_other_family():
    assert Config().starts_from == {"diffusion"}
    assert not DiffusionConfig().starts_from


def test_checkpointing_changes_no_gradient(encoder):
    gradients = []
    for keeps in (True, False):
        new = made(encoder)
        new.execute(ExecutionConfig(gradient_checkpointing=not keeps))
        new.train()
        inputs = new.example(2, 2, torch.device("cpu"))
        torch.manual_seed(3)
        inputs = replace(
            inputs, clean=torch.randn_like(inputs.clean), noise=torch.randn_like(inputs.noise),
            times=torch.tensor([0.2, 0.7]), context=given(encoder).rows(slice(0, 2)),
        )  # fmt: skip
        new(inputs).mean().backward()
        gradients.append([weights.grad for weights in new.parameters()])
    for own, again in zip(*gradients, strict=True):
        assert torch.allclose(own, again, atol=1e-6)


def test_a_null_has_neither_text_nor_neighbors(model, encoder):
    null = model.null(3)
    nothing = without_neighbors(given(encoder))
    nothing = replace(nothing, text=torch.full_like(nothing.text, NO_TOKEN))
    assert torch.allclose(predict(model, null), predict(model, nothing), atol=1e-6)
    assert np.isfinite(predict(model, null).numpy()).all()
