"""Who says what a picture shows."""

import numpy as np

from rdm_core.judge.judges import CaptionsJudge, EntitiesJudge, FeaturesJudge, ShapesJudge, Wish
from rdm_core.shapes import entities, world


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


def entity_wishes(count):
    """Pictures with held-out entities, and wishes for just these."""
    drawn = [entities.sample("test", index, 32, entities="held out") for index in range(count)]
    wishes = []
    for one in drawn:
        shows = {"entity": one.entity.name, "position": one.position}
        wishes.append(Wish(one.caption, {**shows, "background": one.background}))
    return np.stack([one.pixels for one in drawn]), wishes


def test_entities_that_are_drawn_as_wished_fulfil_and_others_do_not():
    images, wishes = entity_wishes(24)
    judge = EntitiesJudge(wishes, entities.group("held out"))
    assert judge.wishes(3) == wishes[:3]
    right = judge.fulfilled(images, wishes)
    assert set(right) == {"entity", "position", "background"} == set(judge.chance())
    assert all(values.mean() > 0.9 for values in right.values())
    wrong = judge.fulfilled(images, wishes[1:] + wishes[:1])
    assert wrong["entity"].mean() < 0.2
    assert wrong["position"].mean() < 0.6 and wrong["background"].mean() < 0.6
    assert judge.features(images).shape[0] == 24


def test_a_guess_of_an_entity_is_right_once_in_as_many_as_there_are():
    judge = EntitiesJudge([], entities.group("held out"))
    assert judge.chance() == {"entity": 1 / 50, "position": 1 / 5, "background": 1 / 4}
    assert judge.wishes(4) == []


def test_captions_are_wishes_of_which_no_factor_is_known():
    judge = CaptionsJudge(["a cat", "two dogs", "a tree"], lambda images: images)
    wishes = judge.wishes(2)
    assert [wish.prompt for wish in wishes] == ["a cat", "two dogs"]
    assert judge.fulfilled(np.zeros((2, 4, 4, 3)), wishes) == judge.chance() == {}


def test_features_alone_know_no_wish():
    judge = FeaturesJudge(lambda images: images + 1)
    assert judge.wishes(3) == [] and judge.chance() == judge.fulfilled(np.zeros(0), []) == {}
    assert judge.features(np.zeros(2)).tolist() == [1, 1]
