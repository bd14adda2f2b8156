"""What the licences of the images behind a sample ask for is told, and refused where that is
asked for.
"""

import pytest
from asking import sample

from flows.config.sample import SampleRDM
from flows.model.licences import look_at_licences
from flows.model.sample import sample_plan
from rdm_core.errors import RequestError
from storage.artifact import open_artifact
from storage.errors import ArtifactMissing

RECORDS = [
    {"neighbor_keys": ["a", "b"], "licences": ["CC-BY-NC-2.0", "CC-BY-4.0"]},
    {"neighbor_keys": ["b", "c", "d"], "licences": ["CC-BY-4.0", "CC-BY-SA-4.0", None]},
]


def asking(*refused):
    return SampleRDM(root="/nowhere", name="s", run="r", texts=("a",), refuse_licences=refused)


def test_each_image_is_counted_once_in_one_line(capsys):
    look_at_licences(asking(), RECORDS)
    (line,) = capsys.readouterr().err.splitlines()
    assert "of 4 images behind the samples 1 non-commercial (CC-BY-NC-2.0), " in line
    assert "1 share-alike (CC-BY-SA-4.0), 1 no licence that is known (not stated)" in line


def test_where_nothing_more_than_a_name_is_asked_for_nothing_is_told(capsys):
    look_at_licences(asking("NC", "ND", "SA", "unknown"), [RECORDS[0] | {
        "neighbor_keys": ["b"], "licences": ["CC-BY-4.0"]}])  # fmt: skip
    assert not capsys.readouterr().err


@pytest.mark.parametrize("term", ["NC", "SA", "unknown"])
def test_what_is_refused_is_named_with_a_condition_that_leaves_it_out(term):
    with pytest.raises(RequestError, match=rf"refuse_licences {term}: of 4 images") as caught:
        look_at_licences(asking(term, "ND"), RECORDS)
    assert "'CC-BY-4.0'" in caught.value.cure and "--where" in caught.value.cure
    kept = {"NC": "CC-BY-SA-4.0", "SA": "CC-BY-NC-2.0", "unknown": "CC-BY-SA-4.0"}[term]
    assert f"'{kept}'" in caught.value.cure


def test_nothing_is_drawn_from_what_is_refused_and_the_cure_helps(small_world):
    asked = {"texts": ("a red circle",), "refuse_licences": ("unknown",), "k": 6}
    with pytest.raises(RequestError, match="no licence that is known"):
        sample(small_world, "strict", **asked)
    with pytest.raises(ArtifactMissing):
        open_artifact(small_world.root, "samples", "strict")
    known = "licence IN ('CC-BY-4.0', 'CC0-1.0')"
    assert sample(small_world, "strict", **asked, where=known).rows


def test_samples_that_were_drawn_before_are_not_taken_for_allowed_ones(small_world):
    config = {"root": small_world.root, "name": "s", "run": "small", "texts": ("a red circle",)}
    plain = sample_plan(SampleRDM(**config))
    strict = sample_plan(SampleRDM(**config, refuse_licences=("NC",)))
    assert "refuse_licences" not in plain.parameters and plain.id != strict.id
