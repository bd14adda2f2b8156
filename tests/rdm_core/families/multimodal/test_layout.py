"""Documents as sequences: every token is there once, in its place, and gaps are where CM3 has
them.
"""

import pytest
import torch
from word_documents import CODES, FILLER, LENGTH, SIDE, WORDS, contexts

from rdm_core.context import NO_TOKEN
from rdm_core.errors import RequestError
from rdm_core.families.multimodal.config import MaskingConfig
from rdm_core.families.multimodal.layout import MAIN, RETRIEVED, Layout
from rdm_core.families.multimodal.masking import NUMBERS, moved_places

LAYOUT = Layout(CODES, WORDS, FILLER, LENGTH, SIDE)
N, END = LAYOUT.document, LAYOUT.document + 1
WORD = LAYOUT.codes


def document(*words):
    """One main document: these words, then 0, 1, 2, ... as codes."""
    caption = [WORD + word for word in words] + [LAYOUT.pad] * (LENGTH - len(words))
    return torch.tensor([[*caption, *range(SIDE**2)]])


def places(*chosen):
    moved = torch.zeros(1, N, dtype=torch.bool)
    moved[0, torch.tensor(chosen, dtype=torch.long) - 1] = True
    return moved


def arranged(main, moved, retrieved=None):
    retrieved = main[:, None][:, :0] if retrieved is None else retrieved
    return LAYOUT.sequence(retrieved, main, moved)


def test_nothing_moved_is_the_reading_order_without_gaps():
    sequence = arranged(document(1, 2, 3), places())
    assert sequence.tokens[0, 0] == LAYOUT.start(MAIN)
    assert torch.equal(sequence.tokens[:, 1 : N + 1], document(1, 2, 3))
    assert sequence.places[0].tolist() == [*range(N + 1), END, END]
    assert sequence.tokens[0, -2:].tolist() == [LAYOUT.pad] * 2
    assert not sequence.counted[0, [0, -1, -2]].any()


def test_what_is_moved_comes_last_and_gaps_are_in_its_place_and_before_it():
    codes = [LENGTH + 2, LENGTH + 3, LENGTH + 7]  # with a hole
    sequence = arranged(document(1, 2, 3, 4, 5), places(*codes))
    kept = [place for place in range(LENGTH + 2, N + 1) if place not in codes]
    wanted = [*range(LENGTH + 2), END, *kept, END, *codes]
    assert sequence.places[0].tolist() == wanted
    gaps = (sequence.places[0] == END).nonzero()[:, 0].tolist()
    assert gaps == [LENGTH + 2, N - 1] and (sequence.tokens[0, gaps] == LAYOUT.gap).all()
    assert sequence.tokens[0, -3:].tolist() == [1, 2, 6] and not sequence.counted[0, gaps].any()


def test_a_whole_caption_moved_is_captioning():
    sequence = arranged(document(1, 2, 3), places(*range(1, LENGTH + 1)))
    wanted = [0, END, *range(LENGTH + 1, N + 1), END, *range(1, LENGTH + 1)]
    assert sequence.places[0].tolist() == wanted


@pytest.mark.parametrize("first", [1, LENGTH + 1, N])
def test_what_ends_the_document_anyway_stays(first):
    ends = arranged(document(1), places(*range(first, N + 1)))
    assert torch.equal(ends.tokens, arranged(document(1), places()).tokens)
    assert LAYOUT.gap not in ends.tokens


def test_every_token_is_there_once_however_much_is_moved():
    generator = torch.Generator().manual_seed(0)
    moved = torch.rand(200, N, generator=generator) < torch.linspace(0, 1, 200)[:, None]
    main = torch.arange(N).expand(200, -1)  # each place a token of its own
    sequence = arranged(main, moved)
    order = sequence.places.argsort(dim=1, stable=True)
    assert torch.equal(sequence.tokens.gather(1, order)[:, 1 : N + 1], main)
    assert torch.equal(
        sequence.places.gather(1, order)[:, : N + 1], torch.arange(N + 1).expand(200, -1)
    )
    assert (sequence.places.sort(dim=1).values[:, -2:] == END).all()


def test_retrieved_documents_come_first_each_behind_its_start():
    retrieved = torch.stack([document(1, 2), document(3)], dim=1)
    sequence = arranged(document(4), places(), retrieved)
    assert sequence.tokens.shape == (1, 3 * (N + 1) + 2)
    starts = [0, N + 1, 2 * (N + 1)]
    assert sequence.tokens[0, starts].tolist() == [LAYOUT.start(RETRIEVED)] * 2 + [
        LAYOUT.start(MAIN)
    ]
    assert (sequence.places[0, starts] == 0).all()
    assert torch.equal(sequence.tokens[:, N + 2 : 2 * N + 2], document(3))
    assert (sequence.marks[0] == MAIN).long().tolist() == [0] * 2 * (N + 1) + [1] * (N + 3)


def test_of_the_pads_only_the_first_counts_and_nothing_of_a_caption_that_is_not_there():
    counted = arranged(document(1, 2), places()).counted[0, 1 : LENGTH + 1]
    assert counted.tolist() == [True, True, True, False, False]
    assert arranged(document(*range(1, LENGTH + 1)), places()).counted[0, 1 : N + 1].all()
    absent = torch.cat([LAYOUT.without_caption(1), document()[:, LENGTH:]], dim=1)
    counted = arranged(absent, places()).counted[0]
    assert not counted[: LENGTH + 1].any() and counted[LENGTH + 1 : N + 1].all()
    moved = arranged(document(1, 2), places(*range(1, LENGTH + 1))).counted[0, -LENGTH:]
    assert moved.tolist() == [True, True, True, False, False]


def test_captions_are_cut_behind_their_end_and_come_back():
    given = torch.tensor([[3, FILLER, 5, FILLER, FILLER, FILLER, FILLER], [NO_TOKEN] * 7])
    captions = LAYOUT.captions(given)
    assert captions[0].tolist() == [WORD + 3, WORD + FILLER, WORD + 5, LAYOUT.pad, LAYOUT.pad]
    assert captions[1].tolist() == [LAYOUT.no_caption] + [LAYOUT.pad] * 4
    assert LAYOUT.texts(captions)[0].tolist() == [3, FILLER, 5, FILLER, FILLER]
    assert LAYOUT.captions(given[:1, :3]).tolist() == captions[:1].tolist(), "filled up"


def test_captions_of_too_many_words_are_refused_with_their_number():
    given = torch.tensor([[[3, 4, FILLER, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, FILLER]]])
    with pytest.raises(RequestError, match="caption_tokens: is 5, and a caption has 7 words"):
        LAYOUT.captions(given)
    assert LAYOUT.captions(given[..., :5]).shape == (1, 2, 5)


def test_documents_that_are_there_come_first_in_their_order():
    context = contexts([1, 0, 3, 2], k=4)
    retrieved, there = LAYOUT.retrieved(context)
    assert there.tolist() == [1, 0, 3, 2] and retrieved.shape == (4, 3, N)
    for row, number in enumerate(there.tolist()):
        slots = context.slots[row].nonzero()[:, 0]
        wanted = context.references[row, slots].flatten(1)
        assert torch.equal(retrieved[row, :number, LENGTH:], wanted)
        captions = LAYOUT.captions(context.neighbor_texts[row, slots])
        assert torch.equal(retrieved[row, :number, :LENGTH], captions)


def test_moved_places_are_as_often_what_the_configuration_says():
    config = MaskingConfig(caption=0.3, words=0.2, box=0.1)
    numbers = torch.rand(20_000, NUMBERS, generator=torch.Generator().manual_seed(0)).double()
    moved = moved_places(LAYOUT, config, numbers)
    of_words, of_codes = moved[:, :LENGTH].any(dim=1), moved[:, LENGTH:].any(dim=1)
    assert not (of_words & of_codes).any()
    assert of_codes.double().mean() == pytest.approx(0.1, abs=0.01)
    assert of_words.double().mean() == pytest.approx(0.5, abs=0.01)
    whole_ones = moved[:, :LENGTH].all(dim=1)
    whole = whole_ones.double().mean()
    assert whole == pytest.approx(0.3 + 0.2 / LENGTH, abs=0.01)
    assert moved[of_codes].any(dim=0)[LENGTH:].all() and moved[~whole_ones].any(dim=0).all()
    boxes = moved[of_codes, LENGTH:].view(-1, SIDE, SIDE)
    rows, columns = boxes.any(dim=2), boxes.any(dim=1)
    assert torch.equal(boxes, rows[:, :, None] & columns[:, None, :]), "rectangles"
    assert (rows.long().diff(dim=1).abs().sum(dim=1) <= 2).all()
    sizes = rows.sum(dim=1).bincount(minlength=SIDE + 1)[1:].double()
    assert sizes.div(sizes.sum()).tolist() == pytest.approx([1 / SIDE] * SIDE, abs=0.05)


def test_shares_above_1_are_refused():
    with pytest.raises(ValueError, match="caption, words, box: are 1.1 together"):
        MaskingConfig(caption=0.5, words=0.5, box=0.1)


def test_what_is_left_open_inside_of_a_caption_is_closed_up():
    words = [WORD + 3, LAYOUT.pad, WORD + 4] + [LAYOUT.pad] * (LENGTH - 3)
    told = LAYOUT.texts(torch.tensor([words]))
    assert told[0].tolist() == [3, 4] + [FILLER] * (LENGTH - 2)
