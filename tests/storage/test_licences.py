"""A licence asks for the same in every spelling."""

import pytest

from storage.licences import asked_by, terms_of


@pytest.mark.parametrize(
    ("spelled", "terms"),
    [
        ("CC0-1.0", ""), ("CC0", ""), ("MIT", ""), ("Apache-2.0", ""), ("CC-BY-4.0", ""),
        ("CC BY 4.0", ""), ("CC-BY-SA-4.0", "SA"), ("cc by-sa 3.0", "SA"), ("CC BY SA 3.0", "SA"),
        ("CC-BY-NC-ND-4.0", "NC ND"), ("CC-BY-NC-SA-3.0-IGO", "NC SA"), ("BY-NC", "NC"),
        ("CC-BY-ND-2.0", "ND"),
        ("http://creativecommons.org/licenses/by-nc-sa/2.0/", "NC SA"),
        ("https://creativecommons.org/licenses/by/2.0/", ""),
        ("https://creativecommons.org/licenses/by-nd/4.0/deed.de", "ND"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", ""),
        ("https://creativecommons.org/publicdomain/mark/1.0/", ""),
        ("Attribution-NonCommercial-NoDerivs License", "NC ND"),
        ("Attribution-ShareAlike License", "SA"), ("Attribution License", ""),
        ("No known copyright restrictions", ""), ("United States Government Work", ""),
        (None, "unknown"), ("", "unknown"), ("  ", "unknown"), ("All rights reserved", "unknown"),
        ("CC", "unknown"), ("by the author", "unknown"), ("http://example.org/by-nc/", "unknown"),
        ("https://creativecommons.org.evil.example/licenses/by/2.0/", "unknown"),
        ("CC-BY-4.0 or later, ask", "unknown"),
    ],
)  # fmt: skip
def test_a_spelling_says_what_is_asked_for(spelled, terms):
    assert terms_of(spelled) == frozenset(terms.split())


def test_those_that_ask_are_counted_as_they_are_spelled_most_first():
    licences = ["CC-BY-SA-4.0", None, "CC BY-SA 4.0", "CC BY-SA 4.0", "MIT", "CC-BY-NC-SA-2.0"]
    assert asked_by(licences) == {
        "NC": {"CC-BY-NC-SA-2.0": 1},
        "SA": {"CC BY-SA 4.0": 2, "CC-BY-SA-4.0": 1, "CC-BY-NC-SA-2.0": 1},
        "unknown": {"not stated": 1},
    }
    assert asked_by(["CC0"]) == {}


def test_the_licences_of_the_real_data_are_known(real_data):
    import json

    for path in sorted((real_data / "coco" / "annotations").glob("*.json")):
        for licence in json.loads(path.read_text(encoding="utf-8")).get("licenses", []):
            by_name, by_address = terms_of(licence["name"]), terms_of(licence["url"])
            assert "unknown" not in by_name
            assert by_name == by_address or by_address == {"unknown"}, licence
