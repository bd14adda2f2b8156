"""What an evaluation compares with what: each figure from the run, the images and the seeds that
its name says.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from evaluating import Oracle, a_database, opened, trial

from flows.judge import measures as module
from flows.judge import trial as trials
from flows.judge.rows import SHARP
from rdm_core.families.facts import Reads
from rdm_core.judge.judges import CaptionsJudge, FeaturesJudge, ShapesJudge
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
    held_out = lambda config, run, database, *more: f"held out for {run.artifact.name}"  # noqa: E731
    monkeypatch.setattr(trials, "heldout_data", held_out)
    found = module.measure_loss.fn(trial(**changes))
    assert {data for data, _ in asked} == {"held out for run"} and len(asked) in (3, 4)
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


def test_without_a_twin_changes_are_relative_to_the_null_and_are_named_so(monkeypatch):
    found, _ = measured_loss(monkeypatch, alone=True)
    assert "trained without neighbors" not in found["means"]
    changes = found["relative to learned null"]
    means = {name: row["mean"] for name, row in changes.items()}
    assert means == pytest.approx({"right neighbors": -0.6, "shuffled neighbors": 0.4})
    assert found["share of the gain lost when shuffled"] == pytest.approx(0.5 / 0.3)


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
    captions = trial(CaptionsJudge(["a dog"], None))
    assert module.measure_agreement.fn(captions, {"learned null": ["x"]}) == {}, "no factors"


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


def test_image_seeds_are_those_of_always_and_never_shared():
    assert trials.image_seeds(0, 3) == range(10_000, 10_003)
    assert trials.image_seeds(1, 10_000) == range(20_000, 30_000)
    ranges = [trials.image_seeds(seed, 25_000) for seed in range(3)]
    assert len(set().union(*ranges)) == 3 * 25_000


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

    monkeypatch.setattr(module, "draws", lambda trial, retrieved, database: [retrieved] * 2)
    monkeypatch.setattr(module, "text_queries", lambda run, texts: texts)
    monkeypatch.setitem(module.STRATEGIES, "neighbors", lambda queries, database, k: database)
    swaps = {
        "sketch": SimpleNamespace(retrieval="sketches"),
        "photograph": SimpleNamespace(retrieval="photographs"),
    }
    found = module.measure_swaps.fn(trials.replace(trial(Oracle(shown)), swaps=swaps))
    shares = {name: {s: e["mean"] for s, e in row["styles"].items()} for name, row in found.items()}
    assert shares["sketch"]["sketch"] == shares["sketch"]["photograph"] == 0.5
    assert shares["photograph"] == {"photograph": 1.0, "oil painting": 0.0, "sketch": 0.0}
    assert found["sketch"]["styles"]["sketch"]["count"] == 4, "every image of every seed"
    assert found["sketch"]["colour"]["mean"] == 1.0
    assert found["photograph"]["colour"]["mean"] == found["sketch"]["shape"]["mean"] == 0.5
    nobody = trials.replace(trial(FeaturesJudge(None), []), swaps=swaps)
    assert module.measure_swaps.fn(nobody) == {}


def counting_copies(monkeypatch, known):
    counted = {}
    monkeypatch.setattr(trials, "held_out_features", lambda config, features: "held out")
    monkeypatch.setattr(trials, "known_features", lambda trial, features: known)
    monkeypatch.setattr(trials, "known_beside", lambda known, real: (known, real))

    def rate(samples, known):
        assert known == ("known", "held out")
        counted[samples.tolist()[0]] = len(samples)
        return samples.tolist()[0] / 10

    monkeypatch.setattr(module, "copy_rate", rate)
    return counted


DRAWN = {
    "text, context query+neighbors": [np.array([1]), np.array([2])],
    "return the neighbour": [np.array([7])],
    "learned null": [np.array([5])],
}


def test_copies_are_counted_among_prompted_samples_and_returned_neighbors(monkeypatch):
    counted = counting_copies(monkeypatch, "known")
    judged = trial(FeaturesJudge(lambda images: images))
    found = module.measure_copies.fn(judged, DRAWN, {})
    assert found == {"samples": 0.1, module.RETURNED: 0.7, "held-out images, by definition": 0.01}
    assert counted == {1: 2, 7: 1}


def test_without_prompts_the_sets_tell_of_copies_and_without_known_images_nobody(monkeypatch):
    judged = trial(FeaturesJudge(lambda images: images))
    sets = {"held-out neighbors": {"copy_rate": {"mean": 0.2}}, "learned null": {"fd": {}}}
    found = module.measure_copies.fn(judged, {}, sets)
    assert found == {"held-out neighbors": 0.2, "held-out images, by definition": 0.01}
    assert module.measure_copies.fn(judged, {}, {}) == {}
    counting_copies(monkeypatch, None)
    assert module.measure_copies.fn(judged, DRAWN, sets) == {}


def test_a_clip_score_is_the_cosine_of_each_image_with_its_own_prompt():
    texts = np.array([[1.0, 0], [0, 1.0]])
    clip = SimpleNamespace(
        encode_texts=lambda prompts: (texts, None),
        encode_images=lambda images: (np.stack(images), None),
    )
    assert module.measure_clip_scores.fn(trial(), {"a": []}) == {}
    drawn = {"right": [texts, 0 * texts], "swapped": [texts[::-1], texts[::-1]]}
    found = module.measure_clip_scores.fn(trial(clip=clip), drawn)
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
    keys = ("a", "b", "c")

    def __len__(self):
        return 3

    def neighbors(self, rows, k, with_query):
        return SimpleNamespace(asked=(rows.tolist(), k), with_query=with_query, vectors=rows)


@pytest.fixture
def sets(monkeypatch, drawn):
    """What is judged: (features, real, known, seed) of each set, and what the sheet is made of."""
    judged = []

    def quality(features, real, known, seed):
        judged.append((features, real, known, seed))
        return dict.fromkeys(("fd", "copy_rate"), float(seed))

    stands = {
        "quality": quality,
        "held_out_images": lambda config, keys: tuple(keys),
        "database_images": lambda database, rows: tuple(rows.tolist()),
        "contact_sheet": lambda sets: sets,
        "sharpness_of": lambda sets, held_out: {"of": {"grain": float(len(sets))}},
    }
    for name, stand in stands.items():
        monkeypatch.setattr(module, name, stand)
    monkeypatch.setattr(trials, "heldout_data", lambda config, run, database, *more: Data())
    monkeypatch.setattr(trials, "held_out_features", lambda config, features: "held out")
    monkeypatch.setattr(trials, "known_features", lambda trial, features: "known images")
    monkeypatch.setattr(trials, "known_beside", lambda known, real: "known")
    return judged


def test_each_row_of_quality_is_drawn_as_it_says_once_a_seed(sets, drawn):
    found, sheet = module.measure_sets.fn(
        trial(quality_images=11, k=2, features=lambda images: ("features", images))
    )
    assert list(found["quality"]) == [
        "held-out neighbors",
        "held-out neighbors, guided",
        "learned null",
        "trained without neighbors",
        "return the neighbour",
        "random database images",
    ]
    assert sheet["held-out images"] == ("a", "b", "c") and len(sheet) == 7
    null = found["quality"]["learned null"]["fd"]
    assert null["mean"] == 0.5 and null["count"] == 2
    assert found[SHARP]["of"]["grain"]["mean"] == 6
    for seed in (0, 1):
        held, guided, null, twin = drawn[4 * seed : 4 * seed + 4]
        seeds = [10_000 * (seed + 1) + i for i in range(3)]
        assert held[1].asked == guided[1].asked == ([0, 1, 2], 2)
        assert (held[0], *held[2:]) == ("run", seeds, 5, 1.0)
        assert (guided[0], *guided[2:]) == ("run", seeds, 5, 2.5)
        assert (null[0], *null[2:]) == ("run", seeds, 5, 1.0) and null[1].vectors == ["run"] * 3
        assert (twin[0], *twin[2:]) == ("twin", seeds, 5, 1.0) and twin[1].vectors == ["twin"] * 3
        of_seed = [one for one in sets if one[3] == seed]
        assert {(real, known) for _, real, known, _ in of_seed} == {("held out", "known")}
        returned, randomly = (one[0][1] for one in of_seed[-2:])
        assert returned == (4, 6, 8), "the nearest of each"
        assert len(set(randomly)) == 3 and set(randomly) <= set(range(50))
    assert sets[5][0] != sets[11][0], "other random images every seed"
    again, _ = module.measure_sets.fn(trial(features=lambda images: ("features", images)))
    assert [one[0] for one in sets[4:6]] == [one[0] for one in sets[16:18]], "the same every time"


def test_a_model_that_reads_the_images_own_vectors_draws_with_them(sets, drawn):
    for reads in (Reads(), Reads(query=True)):
        run = opened("run")
        run.model.reads = reads
        drawn.clear()
        module.measure_sets.fn(trial(run=run, quality_images=11, features=lambda images: images))
        assert [one[1].with_query for one in drawn[:2]] == [reads.query] * 2


def test_what_is_the_same_for_every_seed_is_computed_once(sets, drawn, monkeypatch):
    decoded, thresholds = [], []

    def images(database, rows):
        decoded.append(rows.tolist())
        return tuple(rows.tolist())

    def beside(known, real):
        thresholds.append(known)
        return "known"

    monkeypatch.setattr(module, "database_images", images)
    monkeypatch.setattr(trials, "known_beside", beside)
    module.measure_sets.fn(trial(features=lambda images: ("features", images)))
    assert decoded.count([4, 6, 8]) == 1 and len(decoded) == 3, "random ones are others each seed"
    assert thresholds == ["known images"]


def test_without_a_twin_or_images_of_the_database_their_rows_are_left_out(sets, drawn):
    asked = trial(alone=True, database=a_database(images=False))
    found, sheet = module.measure_sets.fn(asked)
    rows = ["held-out neighbors", "held-out neighbors, guided", "learned null"]
    assert list(found["quality"]) == rows and len(drawn) == 6
    assert list(sheet) == ["held-out images", *rows]


# Grain and edges


def noisy(level, side=16, count=3):
    """Grey pictures with coloured noise of a level: uint8 [count, side, side, 3]."""
    noise = np.random.default_rng(1).normal(0, 1, (count, side, side, 3))
    return np.clip(128 + level * noise, 0, 255).astype(np.uint8)


def test_grain_and_edges_are_shares_of_the_held_out_images_and_of_the_database():
    sets = {"held-out neighbors": noisy(20), "random database images": noisy(5, side=32)}
    found = module.sharpness_of(sets, noisy(10))
    assert list(found) == ["held-out images", *sets]
    held = found["held-out images"]
    assert held["grain / held-out"] == held["edges / held-out"] == 1
    drawn = found["held-out neighbors"]
    assert drawn["grain"] == pytest.approx(2 * held["grain"], rel=0.05)
    assert drawn["grain / held-out"] == pytest.approx(drawn["grain"] / held["grain"])
    # The database's images are twice the size: halved, they have a part of their noise.
    random = found["random database images"]
    assert random["grain / database"] == 1 and random["grain"] < 0.8 * noisy_grain(5)
    assert drawn["grain / database"] == pytest.approx(drawn["grain"] / random["grain"])
    without = module.sharpness_of({"held-out neighbors": noisy(20)}, noisy(10))
    assert not [name for name in without["held-out neighbors"] if "database" in name]


def noisy_grain(level):
    return module.sharpness(noisy(level))["grain"]


def test_grey_pictures_have_no_grain_to_be_a_share_of():
    grey = noisy(10).mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8)
    found = module.sharpness_of({"held-out neighbors": noisy(20)}, grey)
    assert set(found["held-out neighbors"]) == {"grain", "edges", "edges / held-out"}
    by_seed = [{"grain": 1.0, "grain / database": 2.0}, {"grain": 3.0}]
    assert list(module.over_seeds(by_seed)) == ["grain"], "of every seed or of none"


def test_the_contact_sheet_has_a_line_for_each_of_the_first_images():
    one = noisy(10, count=9)
    sheet = module.contact_sheet({"held-out images": one, "held-out neighbors": one, "other": one})
    assert sheet.shape[0] > 3.9 * sheet.shape[1], "eight lines of two columns"


def test_no_image_is_scaled_that_the_contact_sheet_does_not_show(monkeypatch):
    scaled, whole = [], module.fitted
    monkeypatch.setattr(module, "fitted", lambda image: scaled.append(image) or whole(image))
    many = noisy(10, count=30)
    module.contact_sheet({"held-out images": many, "held-out neighbors": many})
    assert len(scaled) == 2 * module.LINES_SHOWN
