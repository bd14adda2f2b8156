"""The study: a quick part of it on a network of a minute, and the whole of it on networks that
learned nothing.
"""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import study as module
from benchmarks import study_runs, study_subject
from benchmarks.study import claim_loss, claim_purity, claim_text, study
from benchmarks.study_claims import CLAIMS, SHARES, shares_table, table_of
from benchmarks.study_runs import Study
from benchmarks.study_subject import open_subject
from flows.judge import demo
from flows.judge.evaluate import EVALUATION_FILE
from flows.model.opening import open_run
from flows.model.train_rdm import train_rdm

SMALL = {
    "network": "transformer",
    "channels": [64],
    "depth": 2,
    "head_channels": 32,
    "patch": 2,
    "remove_means": True,
}


@pytest.fixture(scope="module")
def quick(tmp_path_factory, in_one_process):
    """The figures of T1, T3 and T4 for one small network after 180 steps; its twin is not
    trained.
    """
    config = Study(
        root=tmp_path_factory.mktemp("quick"), scale=0.1, steps=180, images=32, sampler_steps=6
    )
    model = demo.PRESETS["shapes"]["model"] | {"denoiser": SMALL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            demo, "PRESETS", demo.PRESETS | {"shapes": demo.PRESETS["shapes"] | {"model": model}}
        )
        demo.prepare_world(config)
        in_one_process(train_rdm, demo.training(config, "study-0"))
        patch.setattr(study_subject, "open_run", lambda root, name: open_run(root, "study-0"))
        patch.setattr(study_subject, "same_but_for_neighbors", lambda run, twin: None)
        patch.setattr(study_subject, "uneven_evaluation_of", module.evaluation_of)
        subject = open_subject(config, 0)
        return {
            name: value
            for claim in (claim_loss, claim_purity, claim_text)
            for name, value in claim.fn(config, subject).items()
        }


@pytest.mark.parametrize(
    "name", ["T1 shuffled", "T4 colour, text alone", "T4 colour, text and neighbors"]
)
def test_a_small_network_passes_after_a_minute(quick, name):
    (claim,) = [claim for claim in CLAIMS if claim.name == name]
    assert quick[name] >= claim.threshold


def test_a_small_network_is_on_its_way_after_a_minute(quick):
    assert quick["T1 gain"] >= 0.02, "the whole study asks for 0.05"
    assert quick["T3 colour"] >= 0.5, "chance is 0.125; the whole study asks for 0.9"


@pytest.fixture(scope="module")
def measured(small_demo):
    return study(
        Study(
            root=small_demo.config.root, scale=0.02, steps=12, seeds=1, images=11, sampler_steps=2
        )
    )


@pytest.mark.long
def test_every_claim_is_measured(measured):
    figures = json.loads(measured[0].file(EVALUATION_FILE).read_text())
    assert set(figures) >= {claim.name for claim in CLAIMS}
    assert all(isinstance(value, float) for value in figures.values())


@pytest.mark.long
def test_the_rows_of_each_share_are_judged_themselves(small_demo, measured):
    config = Study(root=small_demo.config.root, scale=0.02, steps=12, seeds=1, images=11)
    own = module.rows_themselves(config)
    assert [len(own[world]) for world in ("even", "uneven")] == [len(SHARES)] * 2
    assert len(shares_table(measured, own).splitlines()) == 2 + 8


@pytest.mark.long
def test_the_table_has_a_line_a_claim_with_threshold_figure_and_verdict(measured):
    lines = table_of(measured).splitlines()[2:]
    assert len(lines) == len(CLAIMS)
    assert all(line.rsplit("|", 2)[1].strip() in ("yes", "**no**") for line in lines)
    assert lines[0].startswith(
        "| T1 gain | held-out loss: right neighbors below the learned null by | ≥ 5.0 % |"
    )


# What each claim compares with what


class Drawn:
    """Stands for images; remembers how they were drawn."""

    def __init__(self, run, context, guidance, **how):
        self.run, self.context, self.guidance, self.how = run, context, guidance, how


@pytest.fixture
def judged_by(monkeypatch):
    """judged_by(function) lets `function(drawn)` say how good a set of images is."""
    monkeypatch.setattr(module, "draw_all", lambda config, *how, **more: Drawn(*how, **more))
    monkeypatch.setattr(module, "heldout_context", lambda config, subject: "near")
    return lambda function: monkeypatch.setattr(
        module, "judged", lambda subject, drawn: function(drawn)
    )


def subject(**more):
    def run(name):
        model = SimpleNamespace(of=name, null=lambda count: f"{count} nulls")
        return SimpleNamespace(model=model, facts=SimpleNamespace(k=3), name=name)

    runs = {name: run(name) for name in ("run", "twin", "rival")}
    database = SimpleNamespace(retrieval=None)
    return SimpleNamespace(**runs, evaluation=None, database=database, **more)


ASKED = Study(images=11, seeds=1)


def test_the_gain_is_a_share_of_the_nulls_loss_and_shuffling_loses_a_share_of_the_gain(monkeypatch):
    losses = {(): [0.5, 0.7], ("null",): [0.8, 0.8], ("shuffled",): [0.7, 0.8]}

    def measured(model, data, k, **how):
        assert (model.of, data, k) == ("run", "held out", 3)
        return np.array(losses[tuple(how)])

    monkeypatch.setattr(module, "held_out_losses", measured)
    monkeypatch.setattr(module, "heldout_data", lambda *_: "held out")
    found = claim_loss.fn(ASKED, subject())
    assert found == pytest.approx({"T1 gain": 0.25, "T1 shuffled": 0.75})


def test_distance_and_recall_are_compared_with_the_twins_which_draws_from_nothing(judged_by):
    def quality(drawn):
        if drawn.run.name == "twin":
            assert (drawn.context, drawn.guidance) == ("11 nulls", 1.0)
            return {"fd": 4.0, "recall": 0.5, "copy_rate": 0.3}
        assert (drawn.run.name, drawn.context, drawn.guidance) == ("run", "near", 1.0)
        return {"fd": 1.0, "recall": 0.75, "copy_rate": 0.02}

    judged_by(quality)
    found = module.claim_distance.fn(ASKED, subject())
    assert found == {"T2 distance": 0.25, "T2 recall": 0.25, "T2 copies": 0.02}


def test_the_learned_null_is_compared_with_the_zero_vector_at_each_scale(judged_by):
    def quality(drawn):
        zero = {"zero": True, "learned": False}[drawn.how["null"]]
        return {"fd": drawn.guidance * (4.0 if zero else 1.0) ** drawn.guidance}

    judged_by(quality)
    found = module.claim_nulls.fn(ASKED, subject())
    assert found == {"T6 scale 1.5": 0.125, "T6 scale 2": 0.0625}


def test_the_networks_are_compared_at_enough_steps_and_the_samplers_at_few_and_many(judged_by):
    judged_by(lambda drawn: {"fd": {"run": 3.0, "rival": 4.0}[drawn.run.name] * drawn.how["steps"]})
    assert module.claim_network.fn(ASKED, subject()) == {"N network": 0.75}

    def by_steps(drawn):
        assert drawn.run.name == "run" and drawn.guidance == 1.0
        return {
            "fd": {("dpm++", 20): 1.0, (None, 100): 2.0}[drawn.how["sampler"], drawn.how["steps"]]
        }

    judged_by(by_steps)
    assert module.claim_sampler.fn(ASKED, subject()) == {"S sampler": 0.5}


def test_shares_are_drawn_from_what_training_retrieved_and_ranked_against_precision_and_recall(
    judged_by, monkeypatch
):
    seen = []

    def pseudo(counts, share, count, rng, weighted):
        assert (counts, count, weighted) == ("counts", 11, False)
        seen.append(share)
        return np.arange(2)

    monkeypatch.setattr(module, "training_counts", lambda run, database: "counts")
    monkeypatch.setattr(module, "draw_pseudo_queries", pseudo)
    monkeypatch.setattr(
        module, "neighbors_only", lambda q, d, k: SimpleNamespace(context=(len(seen), k))
    )
    asked = subject()
    asked.database.retrieval = SimpleNamespace(vectors=lambda rows: np.eye(2), norms=np.ones(2))
    asked.uneven = SimpleNamespace(run=asked.rival, database=asked.database)

    def quality(drawn):
        rank = drawn.context[0]
        precision = 1 - rank / 10 if drawn.run.name == "run" else rank / 20
        return {"precision": precision, "recall": rank**2}

    judged_by(quality)
    found = module.claim_shares.fn(ASKED, asked)
    assert tuple(seen) == SHARES * 2
    correlations = {name: found[name] for name in found if "of the rows" not in name}
    assert correlations == pytest.approx(
        {
            "T5 precision": -1.0,
            "T5 recall": 1.0,
            "T5 uneven precision": 1.0,
            "T5 uneven recall": 1.0,
        }
    )
    assert found["T5 precision, 0.02 of the rows"] == 0.9
    assert found["T5 uneven recall, 1 of the rows"] == 144
    assert module.rank_correlation((1, 2, 3), (5, 5, 5)) == 0.0
    assert module.rank_correlation((1, 2, 3), (1, 3, 2)) == pytest.approx(0.5)


def test_the_table_judges_each_claim_by_its_mean_and_direction(tmp_path):
    def figures(shift):
        values = {claim.name: claim.threshold for claim in CLAIMS}
        return values | {
            "T1 gain": 0.1 + shift,
            "T2 distance": 0.9 + shift,
            "T2 recall": -0.2 + shift,
        }

    measured = []
    for number, shift in enumerate((0.0, 0.02)):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(figures(shift)))
        measured.append(SimpleNamespace(file=lambda name, path=path: path))
    lines = {line.split("|")[1].strip(): line for line in table_of(measured).splitlines()[2:]}
    assert lines["T1 gain"].endswith("| ≥ 5.0 % | 11.0 % [-1.7 %, 23.7 %] | yes |")
    assert lines["T2 distance"].endswith("| ≤ 0.700 | 0.910 [0.783, 1.037] | **no** |")
    assert lines["T2 recall"].endswith("| **no** |")
    at_threshold = [line for name, line in lines.items() if name[:2] in ("T3", "T4", "T5", "T6")]
    assert len(at_threshold) == 21 and not [line for line in at_threshold if "| yes |" not in line]
    assert "(one seed)" in table_of(measured[:1]) and "[" not in table_of(measured[:1])


def test_the_table_behind_t5_has_the_mean_over_seeds_of_every_share(tmp_path):
    measured = []
    for number, value in enumerate((0.5, 0.75)):
        figures = {}
        for share in SHARES:
            for measure in ("precision", "recall"):
                figures[f"T5 {measure}, {share:g} of the rows"] = value * share
                figures[f"T5 uneven {measure}, {share:g} of the rows"] = 1.0
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(figures))
        measured.append(SimpleNamespace(file=lambda name, path=path: path))
    own = {
        "even": [{"precision": 1 - share, "recall": 0.0} for share in SHARES],
        "uneven": [{"precision": 0.0, "recall": share} for share in SHARES],
    }
    lines = shares_table(measured, own).splitlines()
    shown = "1.2 % | 3.1 % | 6.2 % | 12.5 % | 31.2 % | 62.5 % |"
    assert lines[2] == f"| precision of samples, even | {shown}"
    assert lines[3].startswith("| precision of the rows themselves, even | 98.0 % | 95.0 % |")
    assert lines[8].startswith("| recall of samples, uneven | 100.0 % |")
    assert lines[9].startswith("| recall of the rows themselves, uneven | 2.0 % | 5.0 % |")


def test_seeds_networks_and_plans_of_a_study_are_told_apart():
    evaluation = module.evaluation_of(ASKED, 3)
    assert (evaluation.run, evaluation.baseline) == ("study-3", "study-3-without-neighbors")
    assert (evaluation.heldout_latents, evaluation.heldout_neighbors) == ("shapes-heldout",) * 2
    assert module.rival_of(3) == "study-3-unet" and evaluation.name == "study-3"
    uneven = module.uneven_evaluation_of(ASKED, 3)
    assert (uneven.run, uneven.baseline) == ("study-3-uneven", None)
    assert uneven.heldout_latents == uneven.heldout_neighbors == "shapes-uneven-heldout"


def test_the_twin_differs_in_its_name_and_in_that_it_is_given_no_neighbors():
    run = study_runs.training_of(ASKED, "study-3", 3)
    assert (run.name, run.threads, run.training.seed) == ("study-3", 1, 3)
    twin = study_runs.twin_of(run)
    assert (twin.name, twin.context.neighbor_dropout) == (study_runs.twin_of_seed(3), 1.0)
    dropout = run.context.neighbor_dropout
    again = replace(twin.context, neighbor_dropout=dropout)
    assert dropout < 1 and twin.model_copy(update={"name": run.name, "context": again}) == run


def test_a_seed_trains_four_networks_one_of_them_on_images_in_which_some_things_are_rare(
    monkeypatch,
):
    trained = []
    monkeypatch.setattr(study_runs.train_rdm, "ensured", trained.append)
    study_runs.train_seed(ASKED, 2)
    by_name = {config.name: config for config in trained}
    assert set(by_name) == {
        "study-2", "study-2-without-neighbors", "study-2-unet", "study-2-uneven"
    }  # fmt: skip
    assert by_name["study-2-unet"].model.denoiser.network == "unet"
    uneven = by_name["study-2-uneven"]
    assert (uneven.latents, uneven.neighbors, uneven.database) == (
        "shapes-uneven", "shapes-uneven", "shapes-database"
    )  # fmt: skip
    assert by_name["study-2"].latents == "shapes-train"


def test_when_one_network_fails_those_not_begun_never_begin(monkeypatch):
    begun = []

    def stage(config):
        begun.append(config)
        raise ValueError("this one fails")

    monkeypatch.setattr(study_runs, "sched_getaffinity", lambda process: {0})
    monkeypatch.setattr(study_runs, "stop_all", lambda: None)
    with pytest.raises(ValueError, match="this one fails"):
        study_runs.side_by_side(stage, *range(50))
    assert len(begun) < 50
