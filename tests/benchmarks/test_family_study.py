"""The tests of the families: what is trained, what is asked, and what is compared with what; and
the whole of it on networks that learned nothing.
"""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import family_page
from benchmarks import family_study as module
from benchmarks.family_page import SYSTEMS
from benchmarks.family_runs import TRAINED, WITHOUT, FamilyStudy, training_of
from benchmarks.family_study import CLAIMS, MEASURES, Bench, new_factors, report_of
from flows.judge.evaluate import EVALUATION_FILE
from rdm_core.retrieve import Retrieved
from rdm_core.shapes import world

SEEDS = (0, 1)


def trainings(test, seed=0):
    config = FamilyStudy(root="/nowhere")
    return {each.name: training_of(config, test, each, seed) for each in TRAINED[test].variants}


TESTS = sorted(MEASURES)


@pytest.mark.parametrize("test", TESTS)
def test_the_networks_of_a_test_differ_in_what_they_are_given_alone(test):
    by_name = trainings(test)
    same = [(run.training, run.latents, run.neighbors, run.database) for run in by_name.values()]
    assert all(each == same[0] for each in same)
    twin, own = by_name[WITHOUT], by_name["neighbors"]
    assert twin.model == own.model and twin.context != own.context
    without = twin.context.neighbor_dropout == 1 or twin.context.each_neighbor_dropout == 1
    assert without and own.context.neighbor_dropout < 1
    assert own.context.each_neighbor_dropout < 1


def test_the_rivals_of_knn_diffusion_never_see_a_neighbor():
    by_name = trainings("T8")
    for name in (WITHOUT, "noise", "centred"):
        assert by_name[name].context.each_neighbor_dropout == 1
    assert by_name["noise"].context.embedding_noise == 0.6
    assert not by_name["noise"].model.denoiser.remove_means
    assert by_name["centred"].model.denoiser.remove_means
    assert by_name["neighbors"].context.k == 10 and by_name["neighbors"].model.denoiser.query_token


def test_a_seed_has_runs_of_its_own():
    names = {run.name for seed in SEEDS for run in trainings("T8", seed).values()}
    assert len(names) == 2 * len(TRAINED["T8"].variants)
    assert {run.training.seed for run in trainings("T8", 1).values()} == {1}


def test_every_new_pair_is_asked_for_equally_often_in_every_style():
    asked = new_factors(48)
    assert all(world.is_new_pair(factors.shape, factors.colour) for factors in asked)
    kinds = {(factors.shape, factors.style) for factors in asked}
    assert len(kinds) == 24
    assert world.caption(asked[0], module.NAMED) == "a photograph of a red circle"


def test_bits_are_compared_with_the_twin_that_never_had_neighbors(monkeypatch):
    nats = {
        ("own", False, False): 2.0,
        ("own", True, False): 2.6,
        ("own", False, True): 2.3,
        ("twin", False, True): 2.5,
    }

    def losses(model, data, k, shuffled=False, null=False):
        return np.full(3, nats[model, shuffled, null])

    runs = {"neighbors": "own", WITHOUT: "twin"}
    bench = SimpleNamespace(
        run=lambda name: SimpleNamespace(model=runs[name], facts=SimpleNamespace(k=4)),
        held_out=lambda run: "held out",
    )
    monkeypatch.setattr(module, "held_out_losses", losses)
    figures = module.measure_bits.fn(bench)
    assert figures["T7 bits, right"] == pytest.approx(2 / np.log(2))
    assert figures["T7 gain"] == pytest.approx(0.2)
    assert figures["T7 shuffled"] == pytest.approx(1.2)


def test_new_pairs_are_drawn_with_neighbors_by_those_alone_that_had_them(monkeypatch):
    drawn = []

    def drawn_for_texts(bench, run, images, k, name):
        drawn.append((run, images, k, name))
        right = {"neighbors": 0.9, WITHOUT: 0.7}.get(name, 0.5)
        return {f"T8 {name}: all": right, f"T8 {name}: fd": 1 - right}

    monkeypatch.setattr(module, "drawn_for_texts", drawn_for_texts)
    figures = module.measure_new_pairs.fn(SimpleNamespace(test="T8", run=lambda name: name))
    of = {name: (run, images, k) for run, images, k, name in drawn}
    assert of["without"] == ("without", None, 0)
    assert of["neighbors"] == ("neighbors", "database", 10)
    assert [k for run, images, k, _ in drawn if (run, images) == ("neighbors", "database")] == [
        1, 5, 10, 20,
    ]  # fmt: skip
    assert of["neighbors, pairs not retrieved"] == ("neighbors", "poorer", 10)
    assert figures["T8 all"] == pytest.approx(0.2)
    assert figures["T8 distance"] == pytest.approx(0.1 / 0.3)


def test_what_is_right_is_all_that_a_text_names(monkeypatch):
    asked = new_factors(24)
    images = np.stack([world.render(factors, 64, seed) for seed, factors in enumerate(asked)])
    bench = SimpleNamespace(compared_with=(None, None))
    near = {"fd": 1.5, "copy_rate": 0.25}
    monkeypatch.setattr(module, "quality", lambda features, real, known: near)
    figures = module.told(bench, images)
    assert figures["all"] >= 0.9 and (figures["fd"], figures["copies"]) == (1.5, 0.25)
    turned = module.told(bench, np.roll(images, 1, axis=0))
    assert turned["all"] == 0 and turned["style"] > 0.5


def test_the_controls_give_each_text_the_neighbors_of_another_one(monkeypatch):
    asked = new_factors(24)
    vectors = np.arange(24.0)[:, None, None].repeat(3, axis=1).astype(np.float32)
    of_slots = np.ones((24, 3), np.float32)
    rows = np.tile([-1, 5, 6], (24, 1)) + 10 * np.arange(24)[:, None] * [0, 1, 1]
    retrieved = Retrieved(vectors, of_slots, of_slots.astype(np.int8), rows, of_slots)
    seen = {}

    def drawn_from(bench, run, context):
        seen["context"] = context.vectors[..., 0].numpy()
        return "drawn"

    stands = {
        "Bench": lambda config, test, seed: SimpleNamespace(
            run=lambda name: name,
            database=lambda name, run: SimpleNamespace(retrieval=name),
        ),
        "text_queries": lambda run, texts: texts,
        "query_and_neighbors": lambda queries, database, k: retrieved,
        "database_images": lambda database, rows: seen.setdefault("rows", rows),
        "drawn_from": drawn_from,
        "rightness": lambda drawn, wanted: {"all": np.array([isinstance(drawn, str)])},
    }
    for name, stand in stands.items():
        monkeypatch.setattr(module, name, stand)
    config = FamilyStudy(root="/nowhere", seeds=1, images=24)
    found = module.controls(config, "T8")
    assert found == {"return the neighbour": [0.0], "neighbors of other texts": [1.0]}
    assert seen["rows"].tolist() == [5 + 10 * text for text in range(24)]
    own, first, second = seen["context"].T.astype(int)
    assert own.tolist() == list(range(24)) and (first == second).all()
    for text, other in enumerate(first):
        pair = asked[text], asked[other]
        assert pair[0].shape != pair[1].shape and pair[0].colour != pair[1].colour


@pytest.mark.long
@pytest.mark.parametrize("test", TESTS)
def test_every_claim_is_measured_and_kept(test, tmp_path):
    config = FamilyStudy(root=tmp_path, tests=(test,), scale=0.02, steps=2, seeds=1, images=24)
    measured = module.family_study(config)
    (artifact,) = measured[test]
    figures = json.loads(artifact.file(EVALUATION_FILE).read_text())
    assert {claim.name for claim in CLAIMS[test]} <= set(figures)
    assert test in report_of(measured)
    again = module.family_study(config)[test]
    assert [each.id for each in again] == [artifact.id]


def test_every_test_has_networks_measures_and_claims():
    assert set(MEASURES) == set(CLAIMS) == set(FamilyStudy(root="/nowhere").tests)
    assert set(TRAINED) == set(MEASURES) | {"RDM", "T11", "T13"} and set(SYSTEMS) >= set(TRAINED)
    assert Bench(FamilyStudy(root="/nowhere"), "T7", 0).world.train == "pairs-40-train"


@pytest.mark.long
def test_the_page_draws_every_family_side_by_side(tmp_path, monkeypatch, capsys):
    asked = ["family_page", "--root", str(tmp_path), "--picture", str(tmp_path / "page.png")]
    for change in ("scale=0.02", "steps=2", "seeds=2", "images=24"):
        asked += ["--set", change]
    monkeypatch.setattr(sys, "argv", asked)
    family_page.main()
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("| ") and " px | " in line]
    assert len(table) == len(TRAINED)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width > picture.height
