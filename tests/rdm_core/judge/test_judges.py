"""Who says what a picture shows."""

import numpy as np

from rdm_core.judge.judges import CaptionsJudge, FeaturesJudge, ShapesJudge
from rdm_core.shapes import world


def test_shapes_are_wished_for_in_every_pair_once_before_any_comes_twice():
    wishes = ShapesJudge().wishes(200)
    pairs = [(wish.shows["colour"], wish.shows["shape"]) for wish in wishes]
    every = len(world.COLOURS) * len(world.SHAPES)
    assert len(pairs) == 200 and len(set(pairs[:every])) == every < 200
    assert pairs[every:] == pairs[: 200 - every]
    assert wishes[0].prompt == f"a {pairs[0][0]} {pairs[0][1]}"


def test_shapes_that_are_drawn_as_wished_fulfil_and_others_do_not():
    judge = ShapesJudge()
    wishes = judge.wishes(6)
    images = []
    same = {"size": "large", "position": "centre", "style": "photograph", "background": "light"}
    for number, wish in enumerate(wishes):
        images.append(world.render(world.Factors(**same, **wish.shows), 32, number))
    right = judge.fulfilled(np.stack(images), wishes)
    assert set(right) == {"colour", "shape"}
    assert right["colour"].mean() > 0.8 and right["shape"].mean() > 0.8
    wrong = judge.fulfilled(np.stack(images[1:] + images[:1]), wishes)
    assert wrong["colour"].mean() < right["colour"].mean()
    assert set(judge.styles(np.stack(images))) == {"photograph"}


def test_a_guess_is_right_once_in_as_many_values_as_there_are():
    chance = ShapesJudge().chance()
    assert chance == {factor: 1 / len(world.VALUES[factor]) for factor in ("colour", "shape")}


def test_captions_are_wishes_of_which_no_factor_is_known():
    judge = CaptionsJudge(["a cat", "two dogs", "a tree"], lambda images: images)
    wishes = judge.wishes(2)
    assert [wish.prompt for wish in wishes] == ["a cat", "two dogs"]
    assert judge.fulfilled(np.zeros((2, 4, 4, 3)), wishes) == judge.chance() == {}


def test_features_alone_know_no_wish():
    judge = FeaturesJudge(lambda images: images + 1)
    assert judge.wishes(3) == [] and judge.chance() == judge.fulfilled(np.zeros(0), []) == {}
    assert judge.features(np.zeros(2)).tolist() == [1, 1]
