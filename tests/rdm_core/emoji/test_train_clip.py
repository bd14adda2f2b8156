"""How the CLIP of emoji learns: which captions are true, what changes in a picture, and that a
little of it goes a long way.
"""

import random

import numpy as np
import open_clip
import pytest
import torch

from rdm_core.emoji import encoder, train_clip
from rdm_core.emoji.pictures import Pictures
from rdm_core.emoji.train_clip import Caption, augment, info_nce, matches, words_of
from rdm_core.small_clip import embed_images

COLOURS = {"red apple": (220, 20, 20), "blue car": (20, 20, 220), "green leaf": (20, 200, 20)}


@pytest.fixture
def pictures():
    """Three concepts in two styles: a square and a disc of the concept's colour."""
    side, pixels, styles, concepts, texts, groups = 64, [], [], [], [], []
    across = np.arange(side) - side / 2
    disc = across[:, None] ** 2 + across**2 < 24**2
    square = np.maximum(abs(across)[:, None], abs(across)) < 20
    for style, shape in (("noto", disc), ("fluent", square)):
        for name, colour in COLOURS.items():
            image = np.full((side, side, 3), 255, np.uint8)
            image[shape] = colour
            pixels.append(image)
            styles.append(style)
            concepts.append(name.replace(" ", "-"))
            texts.append((name, "fruit" if name == "red apple" else "thing"))
            groups.append(("group", "sub-group"))
    return Pictures(np.stack(pixels), styles, concepts, texts, groups, np.zeros(6, bool))


def caption(text, concept, keywords, style=None):
    return Caption(text, concept, frozenset(keywords), style)


def test_a_caption_is_true_of_its_concept_and_of_all_that_have_its_keywords(pictures):
    said = [
        caption("a red apple", "red-apple", ["red apple"]),
        caption("thing", "blue-car", ["thing"]),
        caption("red apple fluent", "red-apple", ["red apple"], "fluent"),
        caption("sub group", "red-apple", ["sub group"]),
    ]
    true = matches(pictures, range(6), said).int().tolist()
    assert true == [
        [1, 0, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1],
        [1, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1],
    ]  # fmt: skip


def test_captions_are_drawn_of_names_keywords_and_now_and_then_the_style(pictures):
    draw = random.Random(0)
    drawn = [Caption.drawn(draw, pictures, 3) for _ in range(300)]
    texts = {one.text for one in drawn}
    assert {"red apple", "a red apple", "fruit", "red apple fluent"} <= texts
    styled = [one for one in drawn if one.style]
    assert 0.2 < len(styled) / len(drawn) < 0.4
    assert all(one.text.endswith("fluent") for one in styled)


def test_words_are_runs_of_letters():
    assert words_of("1st place medal: O’Clock") == ["st", "place", "medal", "o", "clock"]


def test_the_loss_is_least_where_right_pairs_stand_out():
    right = torch.eye(4, dtype=torch.bool)
    none = torch.zeros_like(right)
    good, bad = info_nce(10.0 * right, right, none), info_nce(10.0 * ~right, right, none)
    assert good < 0.01 and bad > 5
    two_right = right | right.flip(0)
    even = info_nce(torch.zeros(4, 4), two_right, none)
    assert even.item() == pytest.approx(np.log(4))
    # A row without a right answer counts nothing.
    first = torch.zeros_like(right)
    first[0, 0] = True
    assert info_nce(torch.zeros(4, 4), first, none).item() == pytest.approx(np.log(4))


def test_augmented_pictures_stay_on_white_and_differ_from_each_other(pictures):
    torch.manual_seed(0)
    changed = augment(torch.from_numpy(np.repeat(pictures.pixels[:1], 32, axis=0)))
    assert changed.shape == (32, 3, 64, 64)
    deviation = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    plain = changed * deviation + mean
    assert plain.min() >= -1e-5 and plain.max() <= 1 + 1e-5
    assert plain[:, :, :2, :2].median() > 0.95
    assert plain.std(dim=0).max() > 0.2


def test_a_short_training_tells_colours_apart(pictures, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(train_clip, "CONCEPTS", 3)
    encoder.register()
    model = open_clip.create_model(encoder.MODEL_NAME)
    tokenizer = open_clip.get_tokenizer(encoder.MODEL_NAME)
    told = []
    train_clip.train(model, tokenizer, pictures, 60, tell=told.append)
    assert told == list(range(1, 61))
    _, _, preprocess = open_clip.create_model_and_transforms(encoder.MODEL_NAME)
    model.eval()
    vectors = embed_images(model, preprocess, pictures.pixels)
    measured = train_clip.recalls(model, tokenizer, vectors, pictures, range(3), ranks=(1,))
    assert measured == {"R@1": 1.0, "chance@1": pytest.approx(1 / 3)}


def test_merges_leave_rare_words_in_pieces(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(train_clip, "MERGES", 10)
    assert train_clip.write_tokenizer(pictures, tmp_path / "bpe.txt.gz") == 512 + 10 + 2
