"""What an evaluation compares with what: each figure from the run, the images and the seeds that
its name says.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from flows import evaluate as module
from flows.config import EvaluateRDM
from rdm_core.retrieve import STRATEGIES
from storage.errors import ArtifactMismatch, ArtifactMissing

WISHES = [{"colour": "red", "shape": "star"}, {"colour": "blue", "shape": "ring"}]


def config(**changes):
    names = {"run": "run", "baseline": "twin", "heldout_latents": "h", "heldout_neighbors": "n"}
    asked = {"swaps": {}, "prompts": 2, "seeds": 2, "k": 3, "steps": 5, "guidance_scale": 2.5}
    return EvaluateRDM(name="x", **names | asked | changes)


def opened(name, k=4, **facts):
    """A run that stands for itself."""
    denoiser = SimpleNamespace(of=name, dimension=8, settings={"query_token": False})
    same = {"denoiser": {"depth": 1}, "noise": {}, "space": {}}
    training = {"steps": 6, "neighbor_dropout": 0.1, "posthoc_ema": False}
    artifact = SimpleNamespace(name=name, parameters=same | {"training": training})
    facts = {"k": k, "neighbor_dropout": 0.1} | facts
    return SimpleNamespace(
        artifact=artifact,
        denoiser=denoiser,
        process=f"{name} process",
        space=f"{name} space",
        facts=facts,
    )


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

    def losses(denoiser, process, space, data, k, *, null=False, shuffled=False):
        assert (process, space) == (f"{denoiser.of} process", f"{denoiser.of} space")
        asked.append((data, k))
        return np.asarray(LOSSES[denoiser.of, shuffled, null])

    monkeypatch.setattr(module, "denoising_losses", losses)
    monkeypatch.setattr(
        module, "heldout_data", lambda config, run: f"held out for {run.artifact.name}"
    )
    found = module.measure_loss.fn(config(**changes), opened("run"), opened("twin"), None)
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


def test_prompts_name_every_pair_once_before_any_comes_twice():
    pairs = [(wish["colour"], wish["shape"]) for wish in module.prompts_of(config(prompts=200))]
    every = len(module.world.COLOURS) * len(module.world.SHAPES)
    assert len(pairs) == 200 and len(set(pairs[:every])) == every < 200
    assert pairs[every:] == pairs[: 200 - every]
    first = module.prompts_of(config())[0]
    assert first["prompt"] == f"a {first['colour']} {first['shape']}"


def test_agreement_is_counted_by_factor_and_averaged_over_seeds_before_prompts():
    seen = [
        {"colour": np.array(["red", "blue"]), "shape": np.array(["star", "star"])},
        {"colour": np.array(["red", "red"]), "shape": np.array(["ring", "star"])},
    ]
    found = module.judged(seen, WISHES)
    assert (found["colour"]["mean"], found["shape"]["mean"]) == (0.75, 0.25)
    assert found["colour"]["count"] == found["shape"]["count"] == 2, "prompts are the unit"
    assert found["colour"]["low"] == 0.5 and found["shape"]["high"] == 0.5


def test_chance_is_one_in_as_many_values_as_there_are():
    found = module.chance()
    assert set(found) == {"colour", "shape"}
    for factor, row in found.items():
        assert row["mean"] == row["low"] == row["high"] == 1 / len(module.world.VALUES[factor])


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: (network, context, seeds, steps, guidance)."""
    calls = []

    def draw(run, context, seeds, steps, guidance):
        calls.append((run.artifact.name, context, list(seeds), steps, guidance.scale))
        return f"image {len(calls)}"

    monkeypatch.setattr(module, "draw", draw)
    return calls


def test_every_context_is_drawn_with_the_same_seeds_and_the_null_without_guidance(drawn):
    retrieved = SimpleNamespace(context="context")
    assert module.draws(config(), opened("run"), retrieved) == ["image 1", "image 2"]
    module.draws(config(), opened("twin"), None)
    assert drawn[:2] == [
        ("run", "context", [10_000, 10_001], 5, 2.5), ("run", "context", [20_000, 20_001], 5, 2.5),
    ]  # fmt: skip
    for given, null in zip(drawn[:2], drawn[2:], strict=True):
        assert (null[0], null[2], null[4]) == ("twin", given[2], 0.0)
        assert null[1].vectors.shape[0] == 2, "one null a prompt"


def test_each_row_of_prompts_is_drawn_by_its_network_from_its_context(monkeypatch, small_world):
    from flows.opening import open_database, open_run

    run = open_run(small_world.root, "small")
    database = open_database(small_world.root, "shapes", run)
    seen = {}

    def draws(config, of, retrieved):
        seen[len(seen)] = (of, retrieved)
        return len(seen) - 1

    monkeypatch.setattr(module, "draws", draws)
    table = module.draw_prompts.fn(config(prompts=4), run, "the twin", database)
    queries = module.text_queries(
        run, [wish["prompt"] for wish in module.prompts_of(config(prompts=4))]
    )
    wanted = {
        name: strategy(queries, database.database, 3) for name, strategy in STRATEGIES.items()
    }
    for name, retrieved in wanted.items():
        of, given = seen[table[f"text, context {name}"]]
        assert of is run and np.array_equal(given.vectors, retrieved.vectors), name
    _, wrong = seen[table["another prompt's context"]]
    own = wanted["query+neighbors"].vectors
    np.testing.assert_allclose(wrong.vectors, own[[2, 3, 0, 1]], atol=1e-6)
    assert [seen[table[name]] for name in ("learned null", "trained without neighbors")] == [
        (run, None), ("the twin", None),
    ]  # fmt: skip
    (nearest,) = table["return the neighbour"]
    keys = [credit["key"] for credit in database.credits(wanted["neighbors"].rows[:, 0].tolist())]
    images = database.images(keys)
    assert all(np.array_equal(nearest[i], module.decode(images[key])) for i, key in enumerate(keys))
    assert len(set(keys)) > 1


# Swaps, copies, scores


def test_a_swap_tells_the_style_drawn_from_each_database_and_what_the_prompt_still_decides(
    monkeypatch,
):
    styles = {"sketches": ["sketch", "photograph"], "photographs": ["photograph", "photograph"]}

    def draws(config, run, retrieved):
        return [retrieved, retrieved]

    def predict(name):
        colours = np.array(["red", "red" if name == "sketches" else "blue"])
        return {
            "style": np.array(styles[name]),
            "colour": colours,
            "shape": np.array(["star", "star"]),
        }

    monkeypatch.setattr(module, "draws", draws)
    monkeypatch.setattr(module, "text_queries", lambda run, texts: texts)
    monkeypatch.setattr(
        module, "prompts_of", lambda config: [{"prompt": "a", **wish} for wish in WISHES]
    )
    monkeypatch.setattr(module, "load_oracle", lambda: SimpleNamespace(predict=predict))
    monkeypatch.setitem(module.STRATEGIES, "neighbors", lambda queries, database, k: database)
    swaps = {name: SimpleNamespace(database=name) for name in styles}
    found = module.measure_swaps.fn(config(), "run", swaps)
    shares = {name: {s: e["mean"] for s, e in row["styles"].items()} for name, row in found.items()}
    assert shares["sketches"]["sketch"] == shares["sketches"]["photograph"] == 0.5
    assert shares["photographs"] == {"photograph": 1.0, "oil painting": 0.0, "sketch": 0.0}
    assert found["sketches"]["styles"]["sketch"]["count"] == 4, "every image of every seed"
    assert (found["sketches"]["colour"]["mean"], found["photographs"]["colour"]["mean"]) == (
        0.5,
        1.0,
    )
    assert found["sketches"]["shape"]["mean"] == 0.5


def test_copies_are_counted_among_prompted_samples_and_returned_neighbors(monkeypatch):
    monkeypatch.setattr(
        module, "load_oracle", lambda: SimpleNamespace(features=lambda images: images)
    )
    monkeypatch.setattr(module, "heldout_images", lambda config: "held out")
    monkeypatch.setattr(
        module, "known_images", lambda config, run, database: f"{run} and {database}"
    )
    counted = {}

    def rate(samples, real, known):
        assert (real, known) == ("held out", "run and database")
        counted[samples.tolist()[0]] = len(samples)
        return samples.tolist()[0] / 10

    monkeypatch.setattr(module, "copy_rate", rate)
    drawn = {"text, context query+neighbors": [np.array([1]), np.array([2])]}
    drawn |= {module.RETURNED: [np.array([7])], "learned null": [np.array([5])]}
    found = module.measure_copies.fn(config(), "run", "database", drawn)
    assert found == {"samples": 0.1, module.RETURNED: 0.7, "held-out images, by definition": 0.01}
    assert counted == {1: 2, 7: 1}


def test_a_clip_score_is_the_cosine_of_each_image_with_its_own_prompt(monkeypatch):
    texts = np.array([[1.0, 0], [0, 1.0]])
    judge = SimpleNamespace(
        encode_texts=lambda prompts: (texts, None),
        encode_images=lambda images: (np.stack(images), None),
    )
    monkeypatch.setattr(module, "another_clip", lambda name, run: judge)
    assert module.measure_clip_scores.fn(config(), None, {"a": []}) == {}
    drawn = {"right": [texts, 0 * texts], "swapped": [texts[::-1], texts[::-1]]}
    found = module.measure_clip_scores.fn(config(judge_clip="a:b"), None, drawn)
    assert {name: row["mean"] for name, row in found.items()} == {"right": 0.5, "swapped": 0.0}
    assert found["right"]["count"] == 2


# Quality


def test_each_row_of_quality_is_drawn_as_it_says_once_a_seed(monkeypatch, drawn):
    class Data:
        neighbor_rows = np.array([[4, 5], [6, 7], [8, 9]])

        def __len__(self):
            return 3

        def neighbors(self, rows, k):
            return "near", rows.tolist(), k

    judged = []

    def quality(features, real, known, seed):
        judged.append((features, real, known, seed))
        return dict.fromkeys(module.MEASURES, float(seed))

    monkeypatch.setattr(module, "quality", quality)
    monkeypatch.setattr(module, "load_features", lambda name: lambda images: (name, images))
    monkeypatch.setattr(module, "heldout_images", lambda config: "held out")
    monkeypatch.setattr(module, "known_images", lambda *of: "known")
    monkeypatch.setattr(module, "heldout_data", lambda config, run: Data())
    monkeypatch.setattr(module, "database_images", lambda database, rows: tuple(rows.tolist()))
    database = SimpleNamespace(database=SimpleNamespace(rows=50))
    found = module.measure_quality.fn(
        config(quality_images=11, k=2), opened("run"), opened("twin"), database
    )
    assert set(found) == set(module.QUALITY_ROWS)
    assert found["learned null"]["fd"]["mean"] == 0.5 and found["learned null"]["fd"]["count"] == 2
    near = ("near", [0, 1, 2], 2)
    for seed in (0, 1):
        held, guided, null, twin = drawn[4 * seed : 4 * seed + 4]
        seeds = [10_000 * (seed + 1) + i for i in range(3)]
        assert held == ("run", near, seeds, 5, 1.0) and guided == ("run", near, seeds, 5, 2.5)
        assert (null[0], null[2:]) == ("run", (seeds, 5, 0.0))
        assert (twin[0], twin[2:]) == ("twin", (seeds, 5, 0.0))
        of_seed = [one for one in judged if one[3] == seed]
        assert {real[1] for _, real, _, _ in of_seed} == {"held out"}
        assert {known[1] for _, _, known, _ in of_seed} == {"known"}
        returned, randomly = (one[0][1] for one in of_seed[-2:])
        assert returned == (4, 6, 8), "the nearest of each"
        assert len(set(randomly)) == 3 and set(randomly) <= set(range(50))
    assert judged[5][0] != judged[11][0], "other random images every seed"


# Twins


@pytest.mark.parametrize(
    ("changed", "dropout", "fits"),
    [
        ({}, 1, True),
        ({"training": {"steps": 6, "neighbor_dropout": 1.0, "posthoc_ema": True}}, 1, True),
        ({"training": {"steps": 7, "neighbor_dropout": 1.0, "posthoc_ema": False}}, 1, False),
        ({"denoiser": {"depth": 2}}, 1, False),
        ({"noise": {"process": "flow"}}, 1, False),
        ({"space": {"autoencoder": "x"}}, 1, False),
        ({}, 0.5, False),
    ],
)
def test_a_baseline_is_the_same_network_and_training_that_never_saw_a_neighbor(
    changed, dropout, fits
):
    run, twin = opened("run"), opened("twin", neighbor_dropout=dropout)
    twin.artifact.parameters |= changed
    refused = pytest.raises(ArtifactMismatch, match="runs/run and runs/twin: .*neighbor_dropout=1")
    with nullcontext() if fits else refused:
        module.same_but_for_neighbors(run, twin)


# Images


def test_held_out_known_and_nearest_images_are_those_of_their_shards(small_world):
    from flows.opening import open_database, open_run

    root, run = small_world.root, open_run(small_world.root, "small")
    database, sketches = (open_database(root, name, run) for name in ("shapes", "sketches"))
    asked = config(root=root, heldout_latents="shapes")
    held = module.heldout_images(asked)
    assert held.shape == (96, 32, 32, 3)
    both = module.known_images(asked, run, sketches)
    assert len(both) == 2 * 96 and np.array_equal(both[96:], held), (
        "the database's, then the training's"
    )
    assert len(module.known_images(asked, run, database)) == 96, "none twice"
    rows = np.array([7, 3])
    assert np.array_equal(module.database_images(database, rows), held[rows])
    with pytest.raises(
        ArtifactMissing, match="no shards have the fingerprint 0000. Import them again"
    ):
        module.images_of(root, "0000")
