"""Concepts of emoji: names and groups, which are held out, and the packages they come from."""

import re

import pytest
from drawn_icons import CONCEPTS, DISC, GROUPS, icon_files, name_files, package_of

from storage import emoji
from storage.emoji import (
    Concept,
    concept_is_held_out,
    concepts_in_all,
    read_authors,
    read_concepts,
)
from storage.errors import SourceError
from storage.icon_sets import read_icon_set


def concepts_of(folder, files):
    return read_concepts(package_of(folder, "names", "1.0.0", files))


def test_a_concept_has_a_name_keywords_and_its_place(tmp_path):
    assert concepts_of(tmp_path, name_files()) == [
        Concept("1f600", "grinning face", ("grin", "smile"), "smileys-emotion", "face-smiling"),
        Concept("2639", "frowning face", ("sad",), "smileys-emotion", "face-smiling"),
        Concept("1f34e", "red apple", ("fruit",), "food-drink", "food-fruit"),
    ]


def test_flags_of_countries_skin_tones_and_letters_of_flags_are_left_out(tmp_path):
    names = {concept.name for concept in concepts_of(tmp_path, name_files())}
    assert names == {name for name, _, group, _ in CONCEPTS.values() if group not in (2, 9)}


def test_a_flag_of_no_country_is_a_concept(tmp_path):
    files = name_files({"1f3c1": ("chequered flag", [], 9, 97)})
    files["meta/groups.json"] = GROUPS | {"subgroups": {"97": "flag"}}
    assert [concept.name for concept in concepts_of(tmp_path, files)] == ["chequered flag"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": ""}, "has no name but ''"),
        ({"label": "two\nlines"}, "has no name"),
        ({"label": None}, "has no name"),
        ({"tags": "fruit"}, "no list of at most 50 keywords"),
        ({"tags": ["a"] * 51}, "no list of at most 50 keywords"),
        ({"tags": ["a", 5]}, "has a keyword 5"),
        ({"tags": ["\x1b[31m"]}, "has a keyword"),
        ({"group": 77}, "is of no known group"),
        ({"subgroup": None}, "is of no known subgroup"),
        ({"hexcode": "../x"}, "no code points"),
    ],
)
def test_names_that_are_laid_out_otherwise_are_refused_by_their_place(tmp_path, change, told):
    files = name_files()
    files["en/data.json"][1] |= change
    with pytest.raises(SourceError, match=f"names-1.0.0.tgz, en/data.json: 1: .*{told}"):
        concepts_of(tmp_path, files)


@pytest.mark.parametrize("content", [{}, [5], "[", '"text"'])
def test_names_that_are_no_list_of_objects_are_refused(tmp_path, content):
    with pytest.raises(SourceError, match="en/data.json"):
        concepts_of(tmp_path, name_files() | {"en/data.json": content})


def test_a_concept_counts_if_every_set_has_it(tmp_path):
    sets = []
    for number, chars in enumerate(({"1f600": "a", "2639-fe0f": "a"}, {"2639": "a", "1f34e": "a"})):
        package = package_of(tmp_path, f"set{number}", "1.0.0", icon_files({"a": DISC}, chars))
        sets.append(read_icon_set(package))
    concepts = concepts_of(tmp_path, name_files())
    assert [one.code_points for one in concepts_in_all(concepts, sets)] == ["2639"]
    assert [one.code_points for one in concepts_in_all(concepts, sets[:1])] == ["1f600", "2639"]


# Held out


def test_about_one_concept_in_ten_is_held_out():
    held_out = [concept_is_held_out(f"{number:x}") for number in range(0x1F300, 0x1FA00)]
    assert 0.07 < sum(held_out) / len(held_out) < 0.13


def test_which_concepts_are_held_out_never_changes():
    """Models were trained without them."""
    some = ["1f600", "1f34e", "2639", "1f46f", "2712", "1f436", "1f680", "1f9ea"]
    held_out = [one for one in some if concept_is_held_out(one)]
    assert held_out == ["1f34e", "1f46f", "2712", "1f436"]


@pytest.mark.parametrize(
    ("variants"),
    [
        ("1f46f", "1f46f-200d-2640-fe0f", "1f46f-200d-2642", "1F46F-1F3FB"),
        ("1f9d1-200d-1f680", "1f468-200d-1f680", "1f469-1f3ff-200d-1f680"),
        ("1f6b6", "1f6b6-200d-27a1-fe0f", "1f6b6-200d-2640-fe0f-200d-27a1-fe0f"),
        ("2712", "2712-fe0f"),
    ],
)
def test_variants_of_a_concept_are_held_out_together(variants, monkeypatch):
    for share in (0.1, 0.5, 0.9):
        monkeypatch.setattr(emoji, "HELD_OUT_SHARE", share)
        assert len({concept_is_held_out(variant) for variant in variants}) == 1


def test_concepts_that_are_no_variants_are_told_apart():
    bases = {emoji._without_variants(one) for one in ("1f468", "1f469", "1f9d1", "1f3fb", "1f46f")}
    assert len(bases) == 5 and "" not in bases


# Packages


def test_the_packages_are_pinned_by_version_and_integrity():
    pins = [emoji.NAMES, *emoji.STYLES.values(), *emoji.AUTHORS.values()]
    for pin in pins:
        assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", pin.version)
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", pin.integrity)
    assert len({pin.integrity for pin in pins}) == len(pins)
    first = ["noto", "twemoji", "fluent", "openmoji"]
    assert list(emoji.STYLES) == [*first, "noto_v1", "emojione"]
    assert set(emoji.AUTHORS) | set(emoji.NAMED_AS) <= set(emoji.STYLES)
    assert set(emoji.NAMED_AS.values()) <= set(first)


def test_authors_are_read_by_code_points(tmp_path):
    table = (
        "emoji,hexcode,openmoji_author\n"
        "x,1F600,Ada Lovelace\n"
        'x,2639-FE0F,"Bo, Ann"\n'
        "x,1F34E, \n"
        "x,E000x,Nobody\n"
    )
    package = package_of(tmp_path, "openmoji", "1.0.0", {"data/openmoji.csv": table})
    assert read_authors(package) == {"1f600": "Ada Lovelace", "2639": "Bo, Ann"}


@pytest.mark.parametrize("table", ["", "hexcode,author\n1F600,Ada\n", 'hexcode,openmoji_author\n"'])
def test_a_list_without_authors_is_refused(tmp_path, table):
    package = package_of(tmp_path, "openmoji", "1.0.0", {"data/openmoji.csv": table})
    with pytest.raises(SourceError, match="openmoji.csv: (names no author|is no CSV)"):
        read_authors(package)
