"""What a preset would take is said before anything is built."""

import pytest

from flows.config.plan import PlanPreset
from flows.config.presets import PRESETS
from flows.data.space_needed import bytes_of_row
from flows.model import outlook as module
from flows.model.outlook import outlook
from rdm_core.errors import RequestError


def planned(tmp_path, preset="coco-smoke", images=1000, **more):
    return PlanPreset(root=tmp_path, preset=preset, images=images, seconds=0.05, **more)


def test_every_stage_has_its_disk_its_time_and_its_rate(tmp_path):
    text, value = outlook(planned(tmp_path))
    stages = {stage["name"]: stage for stage in value["stages"]}
    assert list(stages) == ["fetch", "import", "embed", "neighbors", "encode", "train"]
    assert stages["fetch"]["disk_bytes"] == 1000 * 163_500
    assert stages["encode"]["disk_bytes"] == 1000 * 3 * 32 * 32
    assert stages["embed"]["disk_bytes"] == 1000 * bytes_of_row(64, 20)
    assert all(stage["hours"] >= 0 for stage in stages.values())
    assert stages["train"]["memory_bytes"] > 1e6
    assert value["disk_bytes"] == sum(stage["disk_bytes"] for stage in stages.values())
    assert value["hours"] == pytest.approx(sum(stage["hours"] for stage in stages.values()))
    for name in stages:
        assert f"\n{name} " in text
    assert not list(tmp_path.iterdir()), "nothing is built"


def test_a_network_twice_as_fast_fetches_in_half_of_the_time_and_the_text_says_whose_guess_it_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "stages_of", lambda *_: [])
    text, slow = outlook(planned(tmp_path, "wikiart-smoke", megabits_per_second=40))
    _, fast = outlook(planned(tmp_path, "wikiart-smoke", megabits_per_second=80))
    assert "rdm acquire wikiart, at 40 Mbit/s: not measured" in text
    assert slow["hours"] == pytest.approx(1000 * 312_000 * 8 / 40e6 / 3600)
    assert slow["hours"] == pytest.approx(2 * fast["hours"])
    assert slow["disk_bytes"] == 2 * 1000 * 312_000, "the archive, and what it holds"


def test_ten_times_the_images_need_ten_times_the_disk_and_a_hundred_times_the_search(tmp_path):
    few, many = (outlook(planned(tmp_path, images=images))[1] for images in (1000, 10_000))
    of_few, of_many = ({stage["name"]: stage for stage in value["stages"]} for value in (few, many))
    for name in ("import", "embed", "encode"):
        assert of_many[name]["disk_bytes"] == 10 * of_few[name]["disk_bytes"]
    assert of_many["train"]["disk_bytes"] == of_few["train"]["disk_bytes"]
    ratio = of_many["neighbors"]["hours"] / of_few["neighbors"]["hours"]
    assert 20 < ratio < 500, "each rate is measured anew"


def test_other_steps_change_the_training_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "stages_of", lambda config, *_: asked.append(config) or [])
    outlook(planned(tmp_path, steps=77))
    assert asked[0].training.steps == 77
    assert asked[0].training.batch == PRESETS["coco-smoke"]["training"]["batch"]


@pytest.mark.parametrize(
    "preset, what",
    [("coco", "there is no 'coco'. Take one of emoji, knn-emoji, coco-256-8gb,"),
     ("shapes", "'shapes' does not say which images it is for")],
)  # fmt: skip
def test_a_preset_that_cannot_be_planned_is_refused(tmp_path, preset, what):
    with pytest.raises(RequestError, match=what):
        outlook(planned(tmp_path, preset))


def test_all_presets_of_data_sets_say_which_images_they_are_for():
    for name, preset in PRESETS.items():
        of_data = name.startswith(("coco-", "openimages-", "wikiart-")) or "emoji" in name
        assert ("upstream" in preset) == of_data
