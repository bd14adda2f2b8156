"""Images, captions and parts of either are drawn as the settings say, each from its own seed; what
was learned comes back.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from word_documents import (
    CODES,
    FILLER,
    LENGTH,
    SHAPE,
    SIDE,
    SMALL,
    D,
    contexts,
    made,
    some_codes,
    texts,
)

from rdm_core.context import ABSENT, NO_TOKEN
from rdm_core.errors import RequestError
from rdm_core.families import family_of
from rdm_core.families.autoregressive.config import Draw as OfCodes
from rdm_core.families.family import Beside, Model
from rdm_core.families.multimodal import draw as module
from rdm_core.families.multimodal.config import Draw, MaskingConfig
from rdm_core.families.multimodal.draw import captions, infilled, known_of
from rdm_core.families.multimodal.layout import stays
from rdm_core.families.multimodal.masking import NUMBERS, moved_places
from rdm_core.families.multimodal.model import MultimodalInputs, OnHost
from rdm_core.families.multimodal.score import caption_scores

PLAIN = Draw(guidance_scale=1.0)
CHOSEN = {
    "image": slice(LENGTH, None),
    "box": [LENGTH + 1, LENGTH + 2, LENGTH + 4, LENGTH + 5],
    "caption": slice(0, LENGTH),
    "words": slice(1, 3),
}
"""What is drawn -> its places."""
NOTHING = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)


@pytest.fixture
def model():
    return made().eval()


@torch.no_grad()
def step_by_step(model, retrieved, main, unknown, uniform, how):
    """A document int64 [1, N], each unknown place from the logits of the whole sequence before it,
    guided away from the same without documents and caption.
    """
    layout, main = model.layout, main.clone()
    of_words = bool(unknown[:, :LENGTH].any())
    places = layout.sequence(retrieved[:, :0], main, unknown).places
    inside = (places[0] > 0) & (places[0] <= layout.document)
    order = [int(place) for place in places[0][inside] if unknown[0, int(place) - 1]]
    ended = False
    for place in order:
        logits = []
        for given in (True, False):
            seen = main.clone()
            if not given and not of_words:
                seen[:, :LENGTH] = layout.without_caption(1)
            documents = retrieved if given else retrieved[:, :0]
            sequence = layout.sequence(documents, seen, unknown)
            end = int((sequence.places[0] == place).nonzero()[-1])
            hidden = model.transformer.hidden(sequence[:end], sequence.places[:, 1 : end + 1])
            head = model.transformer.word_logits if of_words else model.transformer.code_logits
            logits.append(head(hidden[:, -1]))
        guided = logits[1] + how.guidance_scale * (logits[0] - logits[1])
        token = module.chosen(guided, uniform[:, place - 1], how)
        if of_words:
            token = torch.full_like(token, layout.pad) if ended else token + CODES
            ended = ended or int(token) == layout.pad
        main[0, place - 1] = token
    return main


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("what", CHOSEN)
def test_each_place_is_drawn_from_the_logits_of_all_before_it(model, what, scale):
    """Beside a drawing that computes everything anew at each place."""
    how, seeds = Draw(guidance_scale=scale), [5, 6, 7]
    context, codes = contexts([2, 0, 1]), some_codes(3)
    unknown = torch.zeros(3, model.layout.document, dtype=torch.bool)
    unknown[:, CHOSEN[what]] = True
    if what in ("image", "box"):
        known = ~unknown[:, LENGTH:].view(3, SIDE, SIDE)
        drawn = infilled(model, context, codes, known, seeds, how).flatten(1)
    else:
        known = None if what == "caption" else ~unknown[:, :LENGTH]
        drawn = captions(model, context, codes, seeds, how, known)
    retrieved, there = model.retrieved(context)
    uniform = module.uniforms(seeds, model.layout.document)
    for row in range(3):
        one, documents = slice(row, row + 1), retrieved[row : row + 1, : there[row]]
        main = model.documents(context, codes)[one]
        wanted = step_by_step(model, documents, main, unknown[one], uniform[one], how)
        if what in ("image", "box"):
            assert torch.equal(drawn[one], wanted[:, LENGTH:])
        else:
            assert torch.equal(drawn[one], model.layout.texts(wanted[:, :LENGTH]))


@torch.no_grad()
@pytest.mark.parametrize("what", CHOSEN)
def test_logits_with_a_cache_are_those_without(model, what):
    layout, network = model.layout, model.transformer
    context, codes = contexts([2, 2]), some_codes(2)
    retrieved, there = model.retrieved(context)
    unknown = torch.zeros(2, layout.document, dtype=torch.bool)
    unknown[:, CHOSEN[what]] = True
    main = model.documents(context, codes)
    branch = module.Branch(network, module.Known(main, unknown, retrieved, there))
    sequence = layout.sequence(retrieved, main, unknown)
    hidden = network.hidden(sequence[:-1], sequence.places[:, 1:])
    before, start = None, branch.known.tokens.shape[1] - 1
    for step in range(branch.places.shape[1]):
        found = branch.following(step, before)
        assert torch.allclose(found, hidden[:, start + step], atol=1e-4)
        before = main.gather(1, branch.places[:, step : step + 1] - 1)[:, 0]


def test_what_is_drawn_depends_on_its_seed_and_context_alone(model, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    how, seeds, context = Draw(guidance_scale=1.5), [5, 6, 7, 5, 8], contexts([2, 0, 2, 2, 1])
    codes, done = some_codes(5), []
    known = torch.rand(5, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) < 0.5
    known[1] = True
    together = infilled(model, context, codes, known, seeds, how, done.append)
    written = captions(model, context, codes, seeds, how)
    assert torch.equal(together[known], codes[known]) and done[-1] == 5
    for row, seed in enumerate(seeds):
        one = slice(row, row + 1)
        alone = context.rows(one)
        assert torch.equal(
            infilled(model, alone, codes[one], known[one], [seed], how), together[one]
        )
        assert torch.equal(captions(model, alone, codes[one], [seed], how), written[one])
    other = infilled(model, context, codes, known & False, range(5), how)
    same = infilled(model, context, codes, known & False, [9] * 5, how)
    assert not torch.equal(other, same)


def test_the_number_of_documents_is_free(model):
    codes = some_codes(4)
    for k in (0, 1, 2, 3):
        drawn = infilled(model, contexts([k] * 4), codes, NOTHING, range(4), PLAIN)
        assert drawn.shape == (4, SIDE, SIDE) and drawn.max() < CODES
    with pytest.raises(RequestError, match="k: asks for 4 documents"):
        infilled(model, contexts([4] * 4), codes, NOTHING, range(4), PLAIN)


def test_guidance_goes_away_from_neither_caption_nor_documents(model):
    context, codes = contexts([2] * 4), some_codes(4)
    null = replace(context, slots=torch.full_like(context.slots, ABSENT), text=None)
    unguided, without = (
        infilled(model, one, codes, NOTHING, range(4), Draw(guidance_scale=scale))
        for one, scale in ((context, 0.0), (null, 1.0))
    )
    assert torch.equal(unguided, without)
    assert not torch.equal(without, infilled(model, context, codes, NOTHING, range(4), PLAIN))
    dropped = replace(context, text=torch.full_like(context.text, NO_TOKEN))
    bare = replace(context, text=None)
    drawn = [infilled(model, one, codes, NOTHING, range(4), PLAIN) for one in (dropped, bare)]
    assert torch.equal(*drawn)


def test_nothing_follows_the_end_of_a_caption(model):
    with torch.no_grad():
        model.transformer.word_head.bias[-1] += 1.5
        model.transformer.word_head.bias[FILLER] -= 50  # the word that fills up is none
    written = captions(model, contexts([1] * 64, k=1), some_codes(64), range(64), PLAIN)
    ends = written == FILLER
    assert (ends.long().diff(dim=1) >= 0).all() and ends.any() and not ends.all()


@torch.no_grad()
def test_scores_of_captions_are_their_log_likelihoods(model):
    context, codes = contexts([2, 0, 1]), some_codes(3)
    candidates = texts(3, 4, seed=3)
    scores = caption_scores(model, context, codes, candidates)
    assert scores.shape == (3, 4) and scores.dtype == torch.float64
    retrieved, there = model.retrieved(context)
    moved = torch.zeros(1, model.layout.document, dtype=torch.bool)
    moved[:, :LENGTH] = True
    for row in range(3):
        for which in range(4):
            text = replace(context.rows(slice(row, row + 1)), text=candidates[row, which][None])
            main = model.documents(text, codes[row : row + 1])
            sequence = model.layout.sequence(retrieved[row : row + 1, : there[row]], main, moved)
            losses = model.transformer(sequence) * sequence.counted[:, 1:]
            wanted = -float(losses[:, -LENGTH:].sum())
            assert float(scores[row, which]) == pytest.approx(wanted, abs=1e-3)
    with pytest.raises(RequestError, match="a caption has 7 words"):
        caption_scores(model, context, codes, torch.full((3, 1, 7), 3))


def test_a_top_k_above_what_there_is_is_refused(model):
    codes = some_codes(4)
    with pytest.raises(RequestError, match="top_k: 13 of 12 that there are. Use at most 12"):
        infilled(model, contexts([0] * 4), codes, NOTHING, range(4), Draw(top_k=13))
    with pytest.raises(RequestError, match="top_k: 11 of 10 that there are"):
        captions(model, contexts([0] * 4), codes, range(4), Draw(top_k=11))


# -- images


class Space:
    """A codebook of grey values: codes are pixels."""

    name, quantises, factor, codebook = "grey", True, 2, range(CODES)

    def encode(self, images, stored):
        assert stored == "codes"
        return np.stack([image[::2, ::2, 0] // 20 for image in images]).astype(np.uint16)

    def decode_codes(self, codes):
        grey = codes.repeat(2, axis=1).repeat(2, axis=2) * 20
        return np.repeat(grey[..., None], 3, axis=3).astype(np.uint8)


def test_images_are_drawn_and_under_a_mask_anew():
    model = made().eval()
    model.space = Space()
    image = np.full((8, 6, 3), 100, np.uint8)
    mask = np.zeros((8, 6, 3), np.uint8)
    mask[4, 3] = 255
    codes, stay = known_of(model.space, SIDE, image, mask)
    assert (codes == 5).all() and stay.sum() == SIDE**2 - 1 and not stay[1, 1]
    how, seeds = Draw(guidance_scale=1.5), range(3)
    context = contexts([1, 0, 2])
    free = model.draw(context, seeds, how)
    assert free.shape == (3, 2 * SIDE, 2 * SIDE, 3) and len(np.unique(free)) > 2
    kept = model.draw(context, seeds, how, Beside(image=image, mask=mask))
    outside = np.delete(kept[:, ::2, ::2, 0].reshape(3, -1), 4, axis=1)
    assert (outside == 100).all()


def test_captions_are_written_of_images():
    model = made().eval()
    model.space = Space()
    images = np.random.default_rng(0).integers(0, 240, (2, 6, 6, 3), dtype=np.uint8)
    context, how = contexts([1, 2]), Draw(guidance_scale=1.0)
    codes = torch.from_numpy(model.space.encode(images, "codes").astype(np.int64))
    written = model.write(context, images, [3, 4], how)
    assert torch.equal(written, captions(model, context, codes, [3, 4], how))
    assert Draw.writes and not OfCodes.writes
    with pytest.raises(RequestError, match="the family none writes no texts"):
        Silent().write(context, images, [3, 4], how)


class Silent(Model):
    """A family that draws alone."""

    family = "none"


# -- what was learned


@pytest.fixture(scope="module")
def learned():
    """A model that learned four documents by heart, in every order."""
    config = replace(
        SMALL, masking=MaskingConfig(caption=0.3, words=0.2, box=0.3),
        transformer=replace(SMALL.transformer, width=48, head_channels=16),
    )  # fmt: skip
    model = family_of("multimodal").build(config, SHAPE, seed=1).train()
    context, codes = contexts([0] * 4, seed=20), some_codes(4, seed=21)
    context.text[:, 0] = torch.tensor([1, 2, 3, 4])
    main = model.documents(context, codes).repeat(8, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(0)
    empty = main.new_zeros(32, 0, main.shape[1])
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1.0, (300 - step) / 150)
        numbers = torch.rand(32, NUMBERS, generator=generator).double()
        moved = moved_places(model.layout, config.masking, numbers)
        inputs = MultimodalInputs(context, main, moved, empty, OnHost(np.zeros(32, np.int64)))
        optimizer.zero_grad()
        model._training_losses(inputs).mean().backward()
        optimizer.step()
    return model.eval(), context, codes


def test_an_image_comes_back_from_its_caption_and_a_caption_from_its_image(learned):
    model, context, codes = learned
    how = Draw(guidance_scale=1.0, temperature=0.1)
    assert torch.equal(infilled(model, context, codes * 0, NOTHING, range(4), how), codes)
    written = captions(model, context, codes, range(4), how)
    assert torch.equal(written, model.layout.texts(model.layout.captions(context.text)))


def test_what_is_hidden_of_an_image_or_of_a_caption_is_found(learned):
    model, context, codes = learned
    how, known = Draw(guidance_scale=1.0, temperature=0.1), NOTHING.clone()
    known[:, 0], known[:, :, 0] = True, True
    assert not stays((~known).flatten(1)).any()
    hidden = torch.where(known, codes, 0)
    assert torch.equal(infilled(model, context, hidden, known, range(4), how), codes)
    words = torch.ones(4, LENGTH, dtype=torch.bool)
    words[:, 0] = False
    text = context.text.clone()
    text[:, 0] = 5
    found = captions(model, replace(context, text=text), codes, range(4), how, words)
    assert torch.equal(found, model.layout.texts(model.layout.captions(context.text)))


def test_the_right_caption_is_the_likeliest(learned):
    model, context, codes = learned
    candidates = context.text[None].expand(4, 4, -1)
    scores = caption_scores(model, context, codes, candidates)
    assert scores.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_made_up_inputs_are_of_the_size_that_was_asked_for(model):
    inputs = model.example(3, 2, torch.device("cpu"))
    assert inputs.retrieved.shape[1] == 2 and inputs.context.vectors.shape == (3, 2, D)
    assert model.train()(inputs).shape == (3,)
    assert not model.null(2).mask.any()
