"""A change in a data set makes the parts around it anew and no other, whatever its size."""

import random
from bisect import insort
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import pytest

from storage.sources import Listing, SourceImage, cut_into_parts
from storage.sources.parts import REACHES

AROUND = 3
"""Parts that one image more or less makes anew at most, away from the places of REACHES."""
AT_MOST = AROUND + 2 * (len(REACHES) - 1)
NAMES = {
    "hex": lambda dice, number: f"{dice.getrandbits(64):016x}",
    "numbers in order": lambda dice, number: f"{number:012d}",
    "sparse numbers": lambda dice, number: f"{dice.randrange(10**9):012d}",
    "a camera's": lambda dice, number: f"2019/IMG_{number}.jpg",
    "shapes": lambda dice, number: f"train-{number:06d}",
}


class Ids:
    """A data set that grows and shrinks one image at a time."""

    def __init__(self, names="hex", seed=0):
        self.names, self.dice, self.number = NAMES[names], random.Random(seed), 0
        self.ids, self.images = [], {}

    def fill(self, count):
        while len(self.images) < count:
            self._new()
        self.ids = sorted(self.images)
        return self

    def _new(self):
        source_id = self.names(self.dice, self.number)
        self.number += 1
        self.images[source_id] = SourceImage("a", source_id, None, reason="not read")
        return source_id

    def add(self):
        count = len(self.images)
        while len(self.images) == count:  # random names may be there already
            source_id = self._new()
        insort(self.ids, source_id)

    def remove(self):
        del self.images[self.ids.pop(self.dice.randrange(len(self.ids)))]

    def listing(self):
        return Listing(tuple(self.images[source_id] for source_id in self.ids), "s")

    def parts(self):
        """Where each part begins and ends, and its images' number: enough to see one change."""
        parts = cut_into_parts(self.listing(), "auto").values()
        return {(part[0].source_id, part[-1].source_id, len(part)) for part in parts}

    def remade(self, *changes) -> Iterator[int]:
        """How many parts each change makes anew."""
        before = self.parts()
        for change in changes:
            change()
            after = self.parts()
            yield len(after - before)
            before = after


def listing_of(count, names="hex"):
    return Ids(names).fill(count).listing()


def sizes_of_parts(count, names, images_per_part="auto"):
    return [
        len(part) for part in cut_into_parts(listing_of(count, names), images_per_part).values()
    ]


@pytest.mark.parametrize("images_per_part", ["auto", 1, 2, 7, 100, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 49, 101, 102, 1000, 9000])
def test_every_image_is_in_one_part_and_in_order(count, images_per_part):
    listing = listing_of(count)
    parts = cut_into_parts(listing, images_per_part)
    assert tuple(chain.from_iterable(parts.values())) == listing.images
    assert list(parts) == [f"{number:05d}" for number in range(len(parts))]
    assert all(parts.values())


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize(
    ("count", "fewest", "most"), [(100, 1, 1), (1_000, 7, 13), (8_000, 65, 95), (50_000, 150, 220)]
)
def test_a_small_data_set_has_small_parts_and_a_large_one_not_many(names, count, fewest, most):
    sizes = sizes_of_parts(count, names)
    assert fewest <= len(sizes) <= most
    assert min(sizes) >= REACHES[0][1] and max(sizes) < 6 * REACHES[-1][1]
    assert max(sizes[:60]) < 6 * REACHES[0][1]


@pytest.mark.long
@pytest.mark.parametrize("names", NAMES)
def test_a_million_images_have_parts_of_about_a_thousand(names):
    sizes = sizes_of_parts(1_000_000, names)
    assert 1_000 < len(sizes) < 1_250 and max(sizes) < 3_200


@pytest.mark.parametrize("count", [10, 60, 200, 1_000, 4_000, 8_000, 8_020, 20_010, 40_010, 50_000])
def test_one_image_more_or_less_makes_few_parts_anew(count):
    ids = Ids(seed=count).fill(count)
    # More adds than removes at first, as the smallest set has ten images.
    changes = [ids.add] * 8 + ids.dice.choices((ids.add, ids.remove), k=min(300, 400_000 // count))
    remade = list(ids.remade(*changes))
    assert max(remade) <= AROUND and sum(remade) / len(remade) < 1.4


def test_a_changed_image_moves_no_cut():
    """What it is called decides, not what it looks like."""
    ids = Ids().fill(2_000)
    before = ids.parts()
    for source_id, image in ids.images.items():
        ids.images[source_id] = replace(image, captions=("new",))
    assert ids.parts() == before


def test_growth_one_by_one_never_makes_more_than_a_few_parts_anew():
    for names, seed in (("hex", 1), ("hex", 2), ("a camera's", 3)):
        ids = Ids(names, seed)
        remade = list(ids.remade(*[ids.add] * 1_500))
        assert max(remade) <= AROUND, f"{names}, {seed}"


@pytest.mark.parametrize("start", [7_950, 19_950, 39_950])
def test_growth_past_a_place_where_parts_become_larger_is_growth_like_any_other(start):
    ids = Ids(seed=start).fill(start)
    # From 50 before the place of REACHES to 50 behind it.
    remade = list(ids.remade(*[ids.add] * 100))
    assert max(remade) <= AT_MOST and sum(remade) / len(remade) < 1.4


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_growth_through_every_size_to_five_thousand_and_back_makes_few_parts_anew_a_step(seed):
    ids = Ids(seed=seed)
    assert max(ids.remade(*[ids.add] * 5_000)) <= AROUND
    assert max(ids.remade(*[ids.remove] * 4_990)) <= AROUND


def test_a_set_that_grows_hundredfold_keeps_what_did_not_move():
    """Images after all others, as of a camera that counts on: all parts but the last stay."""
    ids = Ids("numbers in order").fill(1_000)
    before = ids.parts()
    for count in (1_050, 2_000, 9_000, 100_000):
        after = ids.fill(count).parts()
        assert len(before - after) <= 1, f"{count}: the last one at most"
        before = after


def test_many_more_images_make_anew_no_more_than_they_touch():
    """A tenth more, all before the others: so many pass each place of REACHES."""
    ids = Ids("numbers in order").fill(50_000)
    before = ids.parts()
    for number in range(5_000):
        ids.images[f"-{number:05d}"] = SourceImage("a", f"-{number:05d}", None, reason="not read")
    # "-" sorts before all digits.
    ids.ids = sorted(ids.images)
    images_that_stay = 0
    for _, _, length in before & ids.parts():
        images_that_stay += length
    assert images_that_stay > 50_000 - 3 * (5_000 + 1_000)


def test_a_number_cuts_as_it_always_has():
    """Else everything that was imported with it would be made anew."""
    sizes = sizes_of_parts(100, "shapes", 10)
    assert sizes == [9, 6, 20, 10, 9, 6, 7, 5, 5, 8, 10, 5]


def test_where_parts_end_is_the_same_on_every_machine():
    """Literal values: if one changes, every part of every data set out there is made anew."""
    sizes = sizes_of_parts(1_000, "shapes")
    assert sizes == [95, 79, 100, 121, 96, 87, 100, 149, 100, 73]
