"""What an evaluation compares with what: each figure from the run, the images and the seeds that
its name says.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluating import Oracle, opened, trial

from flows.judge import evaluate as module
from flows.judge import trial as trials
from rdm_core.judge.judges import FeaturesJudge, ShapesJudge
from rdm_core.retrieve import STRATEGIES
from storage.errors import ArtifactMismatch

# Loss


LOSSES = {
    ("run", False, False): [0.1, 0.3],
    ("run", True, False): [0.5, 0.9],
    ("run", False, True): [0.6, 0.4],
    ("twin", False, True): [0.8, 0.6],
}
"""By (network, shuffled, null)."""


def measured_loss(monkeypatch, **changes):
    asked = []

    def losses(model, data, k, *, null=False, shuffled=False):
        asked.append((data, k))
        return np.asarray(LOSSES[model.of, shuffled, null])

    monkeypatch.setattr(module, "held_out_losses", losses)
    held_out = lambda config, run: f"held out for {run.artifact.name}"  # noqa: E731 - a stand-in
    monkeypatch.setattr(module, "heldout_data", held_out)
    found = module.measure_loss.fn(trial(**changes))
    assert {data for data, _ in asked} == {"held out for run"} and len(asked) == 4
    return found, {k for _, k in asked}


def test_each_loss_is_the_one_its_row_names(monkeypatch):
    found, _ = measured_loss(monkeypatch)
    means = {name: row["mean"] for name, row in found["means"].items()}
    assert means == pytest.approx(
        {
            "right neighbors": 0.2,
            "shuffled neighbors": 0.7,
            "learned null": 0.5,
            "trained without neighbors": 0.7,
        }
    )


def test_changes_are_paired_by_sample_and_relative_to_the_network_without_neighbors(monkeypatch):
    found, _ = measured_loss(monkeypatch)
    changes = found["relative to trained without neighbors"]
    means = {name: row["mean"] for name, row in changes.items()}
    wanted = {"right neighbors": -0.5 / 0.7, "shuffled neighbors": 0.0, "learned null": -0.2 / 0.7}
    assert means == pytest.approx(wanted)
    paired = changes["learned null"]
    assert paired["low"] == pytest.approx(paired["high"]), "both samples change by as much"
    assert found["share of the gain lost when shuffled"] == pytest.approx(0.5 / 0.5)


@pytest.mark.parametrize(("asked", "used"), [(3, 3), (9, 4)])
def test_no_more_neighbors_are_given_than_the_run_was_trained_with(asked, used, monkeypatch):
    assert measured_loss(monkeypatch, k=asked)[1] == {used}


# Prompts


def test_agreement_is_counted_by_factor_and_averaged_over_seeds_before_prompts():
    seen = {
        "first": {"colour": ["red", "blue"], "shape": ["star", "star"]},
        "second": {"colour": ["red", "red"], "shape": ["ring", "star"]},
    }
    found = trials.agreements(trial(Oracle(seen.get)), ["first", "second"])
    assert (found["colour"]["mean"], found["shape"]["mean"]) == (0.75, 0.25)
    assert found["colour"]["count"] == found["shape"]["count"] == 2, "prompts are the unit"
    assert found["colour"]["low"] == 0.5 and found["shape"]["high"] == 0.5


def test_chance_stands_beside_what_was_drawn_where_a_judge_knows_it():
    seen = {"colour": ["red", "red"], "shape": ["star", "star"]}
    found = module.measure_agreement.fn(trial(Oracle(lambda images: seen)), {"learned null": ["x"]})
    assert set(found) == {"learned null", "chance"}
    assert found["chance"]["colour"]["mean"] == found["chance"]["colour"]["low"] == 1 / 8
    nobody = trial(FeaturesJudge(None), [])
    assert module.measure_agreement.fn(nobody, {}) == {}


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: (network, context, seeds, steps, guidance)."""
    calls = []

    def draw(run, context, seeds, how):
        calls.append((run.artifact.name, context, list(seeds), how.steps, how.guidance_scale))
        return f"image {len(calls)}"

    for drawing in (module, trials):
        monkeypatch.setattr(drawing, "draw", draw)
    return calls


def test_every_context_is_drawn_with_the_same_seeds_and_the_null_without_guidance(drawn):
    retrieved = SimpleNamespace(context=SimpleNamespace(vectors=["a", "b"]))
    asked = trial()
    assert trials.draws(asked, retrieved) == ["image 1", "image 2"]
    null = asked.baseline.model.null(2)
    trials.draws_of(asked.config, asked.baseline, null, 1.0)
    wanted = retrieved.context
    assert drawn[:2] == [
        ("run", wanted, [10_000, 10_001], 5, 2.5),
        ("run", wanted, [20_000, 20_001], 5, 2.5),
    ]
    for given, without in zip(drawn[:2], drawn[2:], strict=True):
        assert (without[0], without[2], without[4]) == ("twin", given[2], 1.0)
        assert without[1].vectors == ["twin", "twin"], "one null a prompt"


def test_each_row_of_prompts_is_drawn_by_its_network_from_its_context(monkeypatch, small_world):
    from flows.model.opening import open_database, open_run

    run = open_run(small_world.root, "small")
    database = open_database(small_world.root, "shapes", run)
    seen = []

    def draws_of(config, of, context, guidance_scale=None):
        seen.append((of, context, guidance_scale))
        return len(seen) - 1

    for drawing in (module, trials):
        monkeypatch.setattr(drawing, "draws_of", draws_of)
    wishes = ShapesJudge().wishes(4)
    asked = trial(wishes=wishes, database=database, run=run)
    table = module.draw_prompts.fn(asked)
    queries = module.text_queries(run, [wish.prompt for wish in wishes])
    wanted = {
        name: strategy(queries, database.retrieval, 3).context
        for name, strategy in STRATEGIES.items()
    }
    for name, context in wanted.items():
        of, given, scale = seen[table[f"text, context {name}"]]
        assert of is run and scale is None, name
        assert np.array_equal(given.vectors, context.vectors), name
    _, wrong, _ = seen[table["another prompt's context"]]
    own = wanted["query+neighbors"].vectors
    np.testing.assert_allclose(wrong.vectors, own[[2, 3, 0, 1]], atol=1e-6)
    for name, of in {"learned null": run, "trained without neighbors": asked.baseline}.items():
        drawn_by, context, scale = seen[table[name]]
        assert drawn_by is of and len(context.vectors) == 4 and scale == 1.0
    (nearest,) = table["return the neighbour"]
    rows = STRATEGIES["neighbors"](queries, database.retrieval, 3).rows[:, 0]
    keys = [credit["key"] for credit in database.credits(rows.tolist())]
    images = database.images(keys)
    assert all(np.array_equal(nearest[i], trials.decode(images[key])) for i, key in enumerate(keys))
    assert len(set(keys)) > 1


# Swaps, copies, scores


def test_a_swap_tells_the_style_drawn_from_each_database_and_what_the_prompt_still_decides(
    monkeypatch,
):
    styles = {"sketches": ["sketch", "photograph"], "photographs": ["photograph", "photograph"]}

    def shown(name):
        colours = ["red", "blue" if name == "sketches" else "red"]
        return {"style": styles[name], "colour": colours, "shape": ["star", "star"]}

    monkeypatch.setattr(module, "draws", lambda trial, retrieved: [retrieved, retrieved])
    monkeypatch.setattr(module, "text_queries", lambda run, texts: texts)
    database = lambda root, name, run: SimpleNamespace(retrieval=name)  # noqa: E731 - a stand-in
    monkeypatch.setattr(module, "open_database", database)
    monkeypatch.setitem(module.STRATEGIES, "neighbors", lambda queries, database, k: database)
    swaps = {"sketch": "sketches", "photograph": "photographs"}
    found = module.measure_swaps.fn(trial(Oracle(shown), swaps=swaps))
    shares = {name: {s: e["mean"] for s, e in row["styles"].items()} for name, row in found.items()}
    assert shares["sketch"]["sketch"] == shares["sketch"]["photograph"] == 0.5
    assert shares["photograph"] == {"photograph": 1.0, "oil painting": 0.0, "sketch": 0.0}
    assert found["sketch"]["styles"]["sketch"]["count"] == 4, "every image of every seed"
    assert found["sketch"]["colour"]["mean"] == 1.0
    assert found["photograph"]["colour"]["mean"] == found["sketch"]["shape"]["mean"] == 0.5
    assert module.measure_swaps.fn(trial(FeaturesJudge(None), [], swaps=swaps)) == {}


def test_copies_are_counted_among_prompted_samples_and_returned_neighbors(monkeypatch):
    judge = FeaturesJudge(lambda images: images)
    monkeypatch.setattr(module, "held_out_features", lambda config, features: "held out")
    monkeypatch.setattr(module, "known_features", lambda trial, features: "known")
    counted = {}

    def rate(samples, real, known):
        assert (real, known) == ("held out", "known")
        counted[samples.tolist()[0]] = len(samples)
        return samples.tolist()[0] / 10

    monkeypatch.setattr(module, "copy_rate", rate)
    drawn = {"text, context query+neighbors": [np.array([1]), np.array([2])]}
    drawn |= {module.RETURNED: [np.array([7])], "learned null": [np.array([5])]}
    found = module.measure_copies.fn(trial(judge), drawn)
    assert found == {"samples": 0.1, module.RETURNED: 0.7, "held-out images, by definition": 0.01}
    assert counted == {1: 2, 7: 1}
    assert module.measure_copies.fn(trial(judge), {}) == {}


def test_a_clip_score_is_the_cosine_of_each_image_with_its_own_prompt(monkeypatch):
    texts = np.array([[1.0, 0], [0, 1.0]])
    clip = SimpleNamespace(
        encode_texts=lambda prompts: (texts, None),
        encode_images=lambda images: (np.stack(images), None),
    )
    monkeypatch.setattr(module, "another_clip", lambda name, run: clip)
    assert module.measure_clip_scores.fn(trial(), {"a": []}) == {}
    drawn = {"right": [texts, 0 * texts], "swapped": [texts[::-1], texts[::-1]]}
    found = module.measure_clip_scores.fn(trial(judge_clip="a:b"), drawn)
    assert {name: row["mean"] for name, row in found.items()} == {"right": 0.5, "swapped": 0.0}
    assert found["right"]["count"] == 2


def test_a_clip_that_the_run_was_conditioned_on_does_not_judge_it():
    from rdm_core.clip import load_encoder

    own = load_encoder("rdm-shapes", "built-in", trials.best_device())
    run = opened("run", encoder=own.identity)
    with pytest.raises(ArtifactMismatch, match="'rdm-shapes:built-in'.*was conditioned on"):
        trials.another_clip("rdm-shapes:built-in", run)
    other = trials.another_clip("rdm-shapes:built-in", opened("run", encoder={"model": "other"}))
    assert other.identity == own.identity


# Quality


class Data:
    """Three held-out images and their neighbors."""

    neighbor_rows = np.array([[4, 5], [6, 7], [8, 9]])

    def __len__(self):
        return 3

    def neighbors(self, rows, k):
        return SimpleNamespace(asked=(rows.tolist(), k))


def test_each_row_of_quality_is_drawn_as_it_says_once_a_seed(monkeypatch, drawn):
    judged = []

    def quality(features, real, known, seed):
        judged.append((features, real, known, seed))
        return dict.fromkeys(module.MEASURES, float(seed))

    monkeypatch.setattr(module, "quality", quality)
    monkeypatch.setattr(trials, "load_features", lambda name: lambda images: (name, images))
    monkeypatch.setattr(module, "held_out_features", lambda config, features: "held out")
    monkeypatch.setattr(module, "known_features", lambda trial, features: "known")
    monkeypatch.setattr(module, "heldout_data", lambda config, run: Data())
    monkeypatch.setattr(module, "database_images", lambda database, rows: tuple(rows.tolist()))
    database = SimpleNamespace(retrieval=SimpleNamespace(rows=50))
    found = module.measure_quality.fn(trial(database=database, quality_images=11, k=2))
    assert list(found) == [
        "held-out neighbors",
        "held-out neighbors, guided",
        "learned null",
        "trained without neighbors",
        "return the neighbour",
        "random database images",
    ]
    assert found["learned null"]["fd"]["mean"] == 0.5 and found["learned null"]["fd"]["count"] == 2
    for seed in (0, 1):
        held, guided, null, twin = drawn[4 * seed : 4 * seed + 4]
        seeds = [10_000 * (seed + 1) + i for i in range(3)]
        assert held[1].asked == guided[1].asked == ([0, 1, 2], 2)
        assert (held[0], *held[2:]) == ("run", seeds, 5, 1.0)
        assert (guided[0], *guided[2:]) == ("run", seeds, 5, 2.5)
        assert (null[0], *null[2:]) == ("run", seeds, 5, 1.0) and null[1].vectors == ["run"] * 3
        assert (twin[0], *twin[2:]) == ("twin", seeds, 5, 1.0) and twin[1].vectors == ["twin"] * 3
        of_seed = [one for one in judged if one[3] == seed]
        assert {(real, known) for _, real, known, _ in of_seed} == {("held out", "known")}
        returned, randomly = (one[0][1] for one in of_seed[-2:])
        assert returned == (4, 6, 8), "the nearest of each"
        assert len(set(randomly)) == 3 and set(randomly) <= set(range(50))
    assert judged[5][0] != judged[11][0], "other random images every seed"


def test_random_images_are_the_same_in_every_evaluation(monkeypatch, drawn):
    picked = []
    monkeypatch.setattr(module, "quality", lambda *_: dict.fromkeys(module.MEASURES, 0.0))
    monkeypatch.setattr(trials, "load_features", lambda name: lambda images: images)
    monkeypatch.setattr(module, "held_out_features", lambda config, features: "held out")
    monkeypatch.setattr(module, "known_features", lambda trial, features: "known")
    monkeypatch.setattr(module, "heldout_data", lambda config, run: Data())
    images = lambda database, rows: picked.append(tuple(rows.tolist()))  # noqa: E731 - a stand-in
    monkeypatch.setattr(module, "database_images", images)
    database = SimpleNamespace(retrieval=SimpleNamespace(rows=50))
    for _ in range(2):
        module.measure_quality.fn(trial(database=database))
    assert picked[:4] == picked[4:] and picked[1] != picked[3]
