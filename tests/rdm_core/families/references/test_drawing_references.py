"""Drawing with references: two guidances, at once or in turn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from referring import given, made, without_neighbors

from rdm_core.clip import load_encoder
from rdm_core.context import NO_TOKEN
from rdm_core.errors import RequestError
from rdm_core.families.family import Beside
from rdm_core.families.references.config import Draw
from rdm_core.families.references.denoiser import without_text
from rdm_core.families.references.draw import _guided, is_texts_turn, shares_of


@pytest.fixture(scope="module")
def encoder():
    """The built-in encoder."""
    return load_encoder("rdm-shapes", "built-in")


@pytest.fixture(scope="module")
def model(encoder):
    """A model whose every parameter is away from zero."""
    return made(encoder)


def raw(context):
    """The same contexts with images as references."""
    images = (context.references.clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8)
    return replace(context, references=images)


@pytest.mark.parametrize("how", [{}, {"interleave": 0.5}, {"neighbor_scale": 4.0}])
@pytest.mark.parametrize("by_text", [True, False])
def test_the_shares_of_a_prediction_add_up_to_one(how, by_text):
    shares = shares_of(Draw(guidance_scale=3.0, **how), by_text)
    assert sum(share for share, _, _ in shares) == pytest.approx(1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 1.0])
def test_turns_are_taken_as_evenly_as_whole_steps_can_be(share):
    turns = [is_texts_turn(step, share) for step in range(20)]
    assert sum(turns) == round(20 * share)
    for first in range(10):
        assert abs(sum(turns[first : first + 10]) - 10 * share) <= 1


def test_guidance_by_both_is_the_sum_of_two_differences(model, encoder):
    context = given(encoder)
    how = Draw(guidance_scale=3.0, neighbor_scale=2.0)
    x = torch.randn(3, 3, 8, 8)
    times = torch.full((3,), 0.5)
    time = model.process.network_time(times)
    with torch.no_grad():
        predict = _guided(model.denoiser, model.process, context, without_text(context), how)
        found = predict(x, 0.5)
        alone = without_neighbors(context)
        nothing = model.denoiser(x, time, without_text(alone))
        text = model.denoiser(x, time, alone)
        both = model.denoiser(x, time, context)
    told = nothing + 3 * (text - nothing) + 2 * (both - text)
    assert torch.allclose(found, model.process.prediction(told, x, times), atol=1e-4)


def test_in_turn_each_step_goes_away_from_what_is_left_without_the_other(model, encoder):
    context = given(encoder)
    how = Draw(guidance_scale=3.0, neighbor_scale=2.0, interleave=0.5)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        predict = _guided(model.denoiser, model.process, context, without_text(context), how)
        found = [predict(x, t) for t in (0.9, 0.8)]  # the neighbors' turn, then the text's
        for t, prediction, scale, other in (
            (0.9, found[0], 2.0, without_neighbors(context)),
            (0.8, found[1], 3.0, without_text(context)),
        ):
            times = torch.full((3,), t)
            time = model.process.network_time(times)
            both = model.denoiser(x, time, context)
            left = model.denoiser(x, time, other)
            told = model.process.prediction(left + scale * (both - left), x, times)
            assert torch.allclose(prediction, told, atol=1e-4)


def test_a_sampler_that_asks_twice_at_a_time_takes_one_turn(model, encoder):
    context = given(encoder)
    how = Draw(guidance_scale=3.0, neighbor_scale=1.0, interleave=0.5)
    with torch.no_grad():
        predict = _guided(model.denoiser, model.process, context, without_text(context), how)
        x = torch.randn(3, 3, 8, 8)
        assert torch.equal(predict(x, 0.9), predict(x, 0.9))


def test_an_image_depends_on_its_own_seed_and_references_alone(model, encoder):
    context = raw(given(encoder))
    how = Draw(steps=3, guidance_scale=2.0)
    together = model.draw(context, [5, 6, 7], how)
    assert together.shape == (3, 8, 8, 3) and together.dtype == np.uint8
    alone = model.draw(context.rows(slice(1, 2)), [6], how)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert not np.array_equal(together[0], model.draw(context, [8, 6, 7], how)[0])


def test_references_are_encoded_once_a_drawing(model, encoder, monkeypatch):
    asked = []
    of = type(model.denoiser).features_of
    monkeypatch.setattr(
        type(model.denoiser), "features_of",
        lambda self, context: asked.append(1) or of(self, context),
    )  # fmt: skip
    model.draw(raw(given(encoder)), [5, 6, 7], Draw(steps=4, guidance_scale=2.0))
    assert len(asked) == 1


def test_a_negative_text_takes_the_place_of_no_text(model, encoder):
    context, how = raw(given(encoder)), Draw(steps=3, guidance_scale=3.0)
    plain = model.draw(context, [5, 6, 7], how)
    negative = replace(model.null(1), text=encoder.tokenizer(["a dark background"]))
    other = model.draw(context, [5, 6, 7], how, Beside(negative=negative))
    assert not np.array_equal(plain, other)
    nothing = replace(negative, text=torch.full_like(negative.text, NO_TOKEN))
    same = model.draw(context, [5, 6, 7], how, Beside(negative=nothing))
    assert np.array_equal(plain, same)


def test_what_is_known_of_an_image_stays(model, encoder):
    image = np.full((8, 8, 3), 200, np.uint8)
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:4] = 255
    drawn = model.draw(
        raw(given(encoder)), [1, 2, 3], Draw(steps=3, guidance_scale=1.0),
        Beside(image=image, mask=mask),
    )  # fmt: skip
    assert (np.abs(drawn[:, 4:].astype(int) - 200) <= 1).all()
    assert np.abs(drawn[:, :4].astype(int) - 200).max() > 5


def test_guidance_in_pixels_ends_before_the_last_steps(model, encoder, monkeypatch):
    asked = []
    forward = type(model.denoiser).forward

    def counted(self, x, time, *args, **kwargs):
        asked.append(float(time[0]))
        return forward(self, x, time, *args, **kwargs)

    monkeypatch.setattr(type(model.denoiser), "forward", counted)
    model.draw(raw(given(encoder)), [1, 2, 3], Draw(steps=10, guidance_scale=3.0))
    late = [time for time in asked if time < 300]
    assert late and len(late) == len(set(late))  # one evaluation a step: no guidance
    assert len(asked) > 10


def test_texts_are_read_once_a_drawing(model, encoder, monkeypatch):
    asked = []
    read = type(encoder).text_states
    monkeypatch.setattr(
        type(encoder), "text_states", lambda self, tokens: asked.append(1) or read(self, tokens)
    )
    counts = []
    for steps in (2, 6):
        asked.clear()
        model.draw(raw(given(encoder)), [1, 2, 3], Draw(steps=steps, guidance_scale=2.0))
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_settings_that_do_not_fit_are_refused(model, encoder):
    with pytest.raises(ValueError, match="interleave"):
        Draw(interleave=1.5)
    with pytest.raises(ValueError, match="guidance_interval"):
        Draw(guidance_interval=(0.7, 0.2))
    with pytest.raises(RequestError, match="eta"):
        model.draw(raw(given(encoder)), [1, 2, 3], Draw(steps=3, sampler="euler", eta=0.5))
