"""The tests with entities: what is trained, what is asked, and who judges; and the whole of it on
networks that learned nothing.
"""

import sys
from itertools import product

import numpy as np
import pytest
import torch

from benchmarks import entity_study as module
from benchmarks.entity_runs import REFERENCES, TRAINED, VECTORS, WITHOUT, EntityStudy, training_of
from benchmarks.entity_study import CLAIMS, MEASURES, Asked, of_others
from rdm_core.context import NEIGHBOR, Context
from rdm_core.shapes import entities as world


def trainings(test: str):
    config = EntityStudy(root="/nowhere")
    return {
        each.name: training_of(config, TRAINED[test], each, 0) for each in TRAINED[test].variants
    }


@pytest.mark.parametrize("test", sorted(MEASURES))
def test_the_networks_of_a_test_see_the_same_images_for_the_same_time(test):
    by_name = trainings(test)
    same = [(run.training, run.latents, run.neighbors, run.database) for run in by_name.values()]
    assert all(each == same[0] for each in same)
    assert by_name[WITHOUT].context.neighbor_dropout == 1
    assert all(claim.name.startswith(test) for claim in CLAIMS[test])


def test_the_rival_of_references_is_the_same_network_with_vectors():
    by_name = trainings("T11")
    own, rival = by_name[REFERENCES].model, by_name[VECTORS].model
    assert own.reads.references and not rival.reads.references
    assert own.denoiser == rival.denoiser and own.noise == rival.noise
    assert by_name[REFERENCES].context == by_name[VECTORS].context


def test_texts_name_every_entity_everywhere():
    asked = Asked.of("held out", 1000)
    places = set(product(world.POSITIONS, world.BACKGROUNDS))
    for entity in range(len(asked.group)):
        own = asked.which == entity
        found = set(zip(asked.positions[own], asked.backgrounds[own], strict=True))
        assert found == places
    assert asked.texts[0] == (
        f"a photograph of a {asked.group[0].name} in the centre on a light background"
    )


def test_images_of_what_is_asked_are_right_and_those_of_others_are_not():
    asked = Asked.of("held out", 40)
    images = []
    for place, (which, position, background) in enumerate(
        zip(asked.which, asked.positions, asked.backgrounds, strict=True)
    ):
        images.append(world.render(asked.group[which], position, background, 48, place))
    right = asked.right(np.stack(images))
    assert right["entity"] == right["place"] == 1 and right["all"] >= 0.95
    wrong = asked.right(np.stack(images[1:] + images[:1]))
    assert wrong["entity"] == 0 and wrong["place and background"] < 0.2


def test_neighbors_of_others_come_with_their_captions_and_not_with_the_text():
    ones = torch.ones(10, 2)
    numbers = torch.arange(10)[:, None]
    context = Context(
        numbers[..., None].expand(-1, 2, 3).float(), ones, ones,
        torch.full((10, 2), NEIGHBOR, dtype=torch.int8), numbers.expand(-1, 2),
        numbers, numbers.expand(-1, 2)[..., None],
    )  # fmt: skip
    other = of_others(context)
    assert torch.equal(other.text, context.text)
    assert not (other.references == context.references).any()
    assert torch.equal(other.neighbor_texts[..., 0], other.references)


@pytest.mark.long
@pytest.mark.parametrize("test", sorted(MEASURES))
def test_the_whole_study_in_small(test, tmp_path, capsys, monkeypatch):
    arguments = ["entity_study", "--root", str(tmp_path), "--set", "scale=0.02", "--set", "steps=3"]
    arguments += ["--set", "seeds=1", "--set", "images=10", "--set", f'tests=["{test}"]']
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()
    told = capsys.readouterr().out
    assert all(claim.asks in told for claim in CLAIMS[test])
    module.main()  # every figure is kept
    assert told in capsys.readouterr().out
