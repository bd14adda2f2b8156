"""The built-in world: deterministic, varied, and named truthfully."""

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_core.shapes import world

RED_CIRCLE = world.Factors("circle", "red", "photograph", "dark", "top left", "small")


def all_factors() -> list[world.Factors]:
    """Every shape, colour and style, with the other factors taken in turn."""
    rest = list(product(world.BACKGROUNDS, world.POSITIONS, world.SIZES, world.ACCESSORIES))
    main = product(world.SHAPES, world.COLOURS, world.STYLES)
    return [world.Factors(*chosen, *rest[row % len(rest)]) for row, chosen in enumerate(main)]


def test_the_world_looks_as_it_did_when_the_built_in_weights_were_trained_on_it():
    """world.png: the first 96 pictures of the split train without accessories, 12 in a line.
    Shards of every version are named by split, number and seed alone, so these pixels may never
    change; a level up or down is another processor's rounding.
    """
    with Image.open(Path(__file__).with_name("world.png")) as image:
        kept = np.asarray(image.convert("RGB")).astype(int)
    lines = kept.reshape(8, 32, 12, 32, 3).swapaxes(1, 2).reshape(96, 32, 32, 3)
    differing = []
    for index, picture in enumerate(lines):
        drawn = world.sample("train", index, 32, accessories=("none",)).pixels.astype(int)
        if np.abs(drawn - picture).max() > 1:
            differing.append(index)
    assert differing == []


@pytest.mark.parametrize("style", world.STYLES)
def test_a_render_is_the_same_on_every_call(style):
    factors = world.draw_factors("train", 3, styles=(style,))
    assert np.array_equal(world.render(factors, 32, seed=7), world.render(factors, 32, seed=7))


def test_another_process_with_another_hash_seed_draws_the_same_picture():
    script = (
        "import hashlib; from rdm_core.shapes import world; one = world.sample('train', 11, 32);"
        "print(one.caption, hashlib.sha256(one.pixels.tobytes()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    here = world.sample("train", 11, 32)
    assert run.stdout.split() == [
        *here.caption.split(),
        hashlib.sha256(here.pixels.tobytes()).hexdigest(),
    ]


@pytest.mark.parametrize("side", [16, 32, 50, 64, 128])
def test_a_render_has_the_asked_side_and_type(side):
    pixels = world.render(RED_CIRCLE, side, seed=0)
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("factors", all_factors()[::7], ids=lambda factors: world.caption(factors))
def test_another_seed_moves_nuisance_but_not_the_picture(factors):
    one, other = (world.render(factors, 32, seed).astype(float) for seed in (1, 2))
    assert np.abs(one - other).mean() > 0.5
    assert np.corrcoef(one.mean(axis=(0, 1)), other.mean(axis=(0, 1)))[0, 1] > 0.5


@pytest.mark.parametrize("name", world.FACTORS)
def test_every_factor_changes_the_pixels(name):
    renders = {
        value: world.render(world.Factors(**{**vars(RED_CIRCLE), name: value}), 32, seed=4).astype(
            float
        )
        for value in world.VALUES[name]
    }
    for one, other in islice(product(renders, renders), None):
        if one != other:
            assert np.abs(renders[one] - renders[other]).mean() > 1, (
                f"{one} and {other} look the same"
            )


@pytest.mark.parametrize("style", world.STYLES)
def test_the_same_seed_shows_the_same_picture_at_32_and_64_pixels(style):
    factors = world.draw_factors("train", 5, styles=(style,))
    small = world.render(factors, 32, seed=9).astype(float)
    large = world.render(factors, 64, seed=9).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    other = world.render(factors, 32, seed=10).astype(float)
    assert np.abs(small - large).mean() < 0.5 * np.abs(small - other).mean()


@pytest.mark.parametrize("style", world.STYLES)
@pytest.mark.parametrize("shape", world.SHAPES)
def test_a_small_shape_is_at_least_ten_pixels_across_and_never_cut_off(shape, style):
    for position, size in product(world.POSITIONS, world.SIZES):
        pixels = world.render(
            world.Factors(shape, "red", style, "light", position, size), 32, seed=1
        ).astype(float)
        vivid = pixels.max(axis=2) - pixels.min(axis=2) > 70
        rows, columns = np.flatnonzero(vivid.any(axis=1)), np.flatnonzero(vivid.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 10
        border = np.ones_like(vivid)
        border[1:-1, 1:-1] = False
        assert vivid[border].sum() <= 8, f"{size} {shape} at {position} runs over the border"


def test_splits_are_independent_streams():
    def stream(split: str) -> list[world.Factors]:
        return [world.draw_factors(split, index) for index in range(300)]

    same = sum(
        one.shape == other.shape
        for one, other in zip(stream("train"), stream("heldout"), strict=True)
    )
    assert 15 < same < 65, "about one shape in eight agrees by chance"
    assert stream("train") == stream("train")


def test_the_seed_of_a_sample_changes_its_factors_and_its_pixels():
    ones = [world.sample("train", index, 32, seed=0) for index in range(8)]
    others = [world.sample("train", index, 32, seed=1) for index in range(8)]
    assert [one.factors for one in ones] != [other.factors for other in others]
    assert all(
        not np.array_equal(one.pixels, other.pixels)
        for one, other in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("accessory", world.ACCESSORIES[1:])
@pytest.mark.parametrize("style", world.STYLES)
def test_an_accessory_changes_its_own_place_only_and_stays_inside(style, accessory):
    for position, size in product(world.POSITIONS, world.SIZES):
        bare = world.Factors("circle", "red", style, "light", position, size)
        worn = world.Factors("circle", "red", style, "light", position, size, accessory)
        one, other = (world.render(factors, 64, seed=2).astype(int) for factors in (bare, worn))
        changed = np.abs(one - other).max(axis=2) > 0
        assert 0.02 < changed.mean() < 0.2
        border = np.ones_like(changed)
        border[1:-1, 1:-1] = False
        # A cast shadow may fall there, and the tips of a tilted crown or flag.
        assert (np.abs(one - other).max(axis=2)[border] > 100).sum() <= 12
        red = one[..., 0] - one[..., 1] > 70
        assert (red & changed).sum() < 0.5 * red.sum(), f"{accessory} hides a {size} shape"


def test_half_of_the_pictures_show_no_accessory_and_the_others_each_as_often():
    seen = Counter(world.draw_factors("uniform", index).accessory for index in range(6000))
    assert set(seen) == set(world.ACCESSORIES)
    assert abs(seen.pop("none") - 3000) < 200
    assert all(abs(times - 600) < 120 for times in seen.values()), seen


def test_accessories_leave_the_older_factors_as_they_were():
    for index in range(50):
        free, bare = (
            world.draw_factors("train", index, accessories=allowed)
            for allowed in (world.ACCESSORIES, ("none",))
        )
        assert vars(bare) == vars(free) | {"accessory": "none"}
    # As drawn before there were accessories.
    drawn = world.draw_factors("train", 0, accessories=("none",))
    before = ("heart", "orange", "photograph", "dark", "top left", "large", "none")
    assert tuple(vars(drawn).values()) == before


@pytest.mark.parametrize("allowed", [("none", "hat"), ("hat", "none", "leaf"), ("none", "none")])
def test_none_takes_half_wherever_it_is_allowed_among_others(allowed):
    shares = world.shares("accessory", allowed)
    assert sum(shares) == pytest.approx(1)
    of_none = sum(share for share, value in zip(shares, allowed, strict=True) if value == "none")
    assert of_none == pytest.approx(1 if set(allowed) == {"none"} else 0.5)


@pytest.mark.parametrize("name", world.FACTORS)
def test_uneven_frequencies_fall_from_value_to_value(name):
    count = 6000
    drawn = (world.draw_factors("uniform", i, frequencies="uneven") for i in range(count))
    seen = Counter(getattr(factors, name) for factors in drawn)
    shares = world.shares(name, world.VALUES[name], "uneven")
    for value, share in zip(world.VALUES[name], shares, strict=True):
        assert abs(seen[value] - share * count) < 5 * (share * count) ** 0.5
    falling = shares[1:] if name == "accessory" else shares
    assert list(falling) == sorted(falling, reverse=True)
    assert falling[0] / falling[-1] == pytest.approx(len(falling))


def test_known_pairs_leave_one_colour_of_each_shape_out_and_new_ones_are_only_those():
    shown = {}
    for pairs in ("known", "new"):
        drawn = [world.draw_factors("pairs", i, pairs=pairs) for i in range(4000)]
        shown[pairs] = {(factors.shape, factors.colour) for factors in drawn}
    assert (len(shown["known"]), len(shown["new"])) == (56, 8)
    assert not shown["known"] & shown["new"]
    assert {world.is_new_pair(*pair) for pair in shown["new"]} == {True}
    for place in range(2):
        assert len({pair[place] for pair in shown["new"]}) == 8, "every shape, every colour"


def test_pairs_change_no_factor_but_the_colour():
    for index in range(50):
        plain, known = (world.draw_factors("p", index, pairs=each) for each in ("all", "known"))
        assert {**vars(plain), "colour": ""} == {**vars(known), "colour": ""}


SIX = tuple(name for name in world.FACTORS if name != "accessory")


@pytest.mark.parametrize("name", SIX)
def test_each_value_of_a_factor_is_equally_likely(name):
    count = 6000
    seen = Counter(getattr(world.draw_factors("uniform", index), name) for index in range(count))
    expected = count / len(world.VALUES[name])
    assert set(seen) == set(world.VALUES[name])
    assert all(abs(times - expected) < 5 * expected**0.5 for times in seen.values()), seen


def test_a_restricted_style_leaves_the_other_factors_as_they_were():
    free = world.draw_factors("train", 8)
    bound = world.draw_factors("train", 8, styles=("sketch",))
    assert bound.style == "sketch"
    assert world.Factors(**{**vars(free), "style": "sketch"}) == bound


def test_restrictions_reach_the_samples():
    samples = [
        world.sample("train", index, 16, shapes=("star", "ring"), colours=("blue",))
        for index in range(20)
    ]
    assert {sample.factors.shape for sample in samples} == {"star", "ring"}
    assert {sample.factors.colour for sample in samples} == {"blue"}


def test_a_sample_carries_its_factors_and_their_full_caption():
    for index in range(40):
        sample = world.sample("database", index, 16)
        named = dict(vars(sample.factors))
        if named["accessory"] == "none":
            del named["accessory"]  # nothing to be seen, nothing to be named
        assert world.parse_caption(sample.caption) == named


def test_captions_name_what_is_included_and_nothing_else():
    assert (
        world.caption(RED_CIRCLE)
        == "a photograph of a small red circle at the top left on a dark background"
    )
    assert world.caption(RED_CIRCLE, ("colour", "shape")) == "a red circle"
    assert world.caption(RED_CIRCLE, ("colour",)) == "a red object"
    orange = world.Factors("star", "orange", "oil painting", "light", "centre", "large")
    assert world.caption(orange, ("style",)) == "an oil painting"
    assert (
        world.caption(orange, ("style", "colour", "shape")) == "an oil painting of an orange star"
    )
    assert world.caption(orange, ("shape", "position")) == "a star in the centre"
    worn = world.Factors(**{**vars(RED_CIRCLE), "accessory": "bow tie"})
    assert world.caption(worn) == (
        "a photograph of a small red circle with a bow tie at the top left on a dark background"
    )
    assert world.caption(worn, ("accessory",)) == "an object with a bow tie"
    assert world.caption(RED_CIRCLE, ("colour", "shape", "accessory")) == "a plain red circle"


def test_every_training_caption_is_true_of_its_picture():
    for factors in all_factors():
        texts = world.captions(factors)
        assert len(set(texts)) == len(texts)
        for text in texts:
            named = world.parse_caption(text)
            assert named, f"{text!r} names nothing"
            assert named.items() <= vars(factors).items(), text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A Photo of three RED stars!", {"style": "photograph", "colour": "red", "shape": "star"}),
        (
            "pencil drawing of a moon in the middle",
            {"style": "sketch", "shape": "crescent", "position": "centre"},
        ),
        (
            "a painting, light and airy, of a pink ring",
            {"style": "oil painting", "colour": "pink", "shape": "ring"},
        ),
        ("a dog crossing the starry street", {}),
        ("a plain circle", {"shape": "circle", "accessory": "none"}),
        ("hearts on a plain background", {"shape": "heart"}),
        ("a ring without an accessory", {"shape": "ring", "accessory": "none"}),
        ("a star wearing a bowtie", {"shape": "star", "accessory": "bow tie"}),
        ("leaves, and that is all", {"accessory": "leaf"}),
        ("", {}),
    ],
)
def test_a_prompt_is_understood_by_the_factors_it_names(text, named):
    assert world.parse_caption(text) == named


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: world.render(RED_CIRCLE, 15, 0), "side is 15"),
        (
            lambda: world.render(world.Factors(**{**vars(RED_CIRCLE), "colour": "mauve"}), 32, 0),
            "colour is 'mauve'",
        ),
        (lambda: world.draw_factors("train", -1), "index of split 'train' is -1"),
        (lambda: world.draw_factors("train", 0, styles=("mosaic",)), "'mosaic'"),
        (lambda: world.draw_factors("train", 0, shapes=()), "shapes"),
        (lambda: world.draw_factors("train", 0, accessories=("scarf",)), "accessories.*scarf"),
        (lambda: world.draw_factors("train", 0, frequencies="odd"), "frequencies is 'odd'"),
        (lambda: world.draw_factors("train", 0, pairs="odd"), "pairs is 'odd'"),
        (
            lambda: world.draw_factors("a", 0, shapes=("circle",), colours=("red",), pairs="known"),
            "colours.*none of them makes a known pair: circle",
        ),
        (lambda: world.caption(RED_CIRCLE, ("accessories",)), "accessories"),
        (lambda: world.caption(RED_CIRCLE, ("mood",)), "mood"),
    ],
)
def test_a_value_outside_the_world_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
