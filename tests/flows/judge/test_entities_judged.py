"""An evaluation on entities, with a run that reads texts and neighbors whole: a stand-in records
what it is given.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from evaluating import config
from reporting import EVALUATION, both

from flows.data.database import searchable
from flows.judge import measures, trial
from flows.judge.summary import full_table
from flows.judge.tables import prompts_table
from flows.model.opening import OpenRun
from rdm_core.context import NEIGHBOR, NO_TOKEN
from rdm_core.families.facts import Reads, RunFacts
from rdm_core.latents import load_latent_space
from rdm_core.shapes import entities
from storage.artifact import open_artifact
from storage.errors import ArtifactMismatch

WHOLE = Reads(captions=True, references=True)


@pytest.fixture(scope="module")
def asked(entity_world):
    return config(
        root=entity_world, heldout_latents="known", heldout_neighbors="words", prompts=6, k=2
    )


@pytest.fixture
def on_trial(entity_world, asked, monkeypatch):
    """Two runs of the stand-in, and what they were asked to draw: (run, context, guidance)."""
    embeddings = open_artifact(entity_world, "embeddings", "all")
    space = load_latent_space("pixels")
    facts = RunFacts(
        "diffusion", {}, embeddings.parameters["encoder"], "image", "built-in", space.identity,
        "pixels", 16, 2, False, 0.1, 1, 1, search="words",
    )  # fmt: skip
    runs = []
    for name in ("run", "twin"):
        model = SimpleNamespace(reads=WHOLE, works_in=space)
        runs.append(OpenRun(SimpleNamespace(name=name), model, facts))
    drawn = []

    def draws_of(config, run, context, guidance_scale=None):
        drawn.append((run, context, guidance_scale))
        return len(drawn) - 1

    for module in (measures, trial):
        monkeypatch.setattr(module, "draws_of", draws_of)
    judge = trial.judge_of(asked, "entities", judge_features)
    database = searchable(entity_world, embeddings)
    shards = embeddings.inputs["shards"]
    one = trial.Trial(
        asked, *runs, database, judge, judge.wishes(6), judge_features, database_shards=shards
    )
    return one, drawn


def judge_features(images):
    return images


def test_the_wishes_are_the_captions_of_the_held_out_images(on_trial):
    one, _ = on_trial
    assert [entity.number for entity in one.judge.candidates] == list(range(450))
    assert len(one.wishes) == 6
    for wish in one.wishes:
        shows = wish.shows
        assert set(shows) == {"entity", "position", "background"}
        assert wish.prompt == entities.caption(
            shows["entity"], shows["position"], shows["background"]
        )


def test_more_prompts_than_held_out_captions_are_refused(asked):
    more = asked.model_copy(update={"prompts": 41})
    with pytest.raises(ArtifactMismatch, match="shards/known: 40 of its images have captions, 41"):
        trial.judge_of(more, "entities", judge_features)


def test_every_row_of_prompts_is_given_the_wishs_own_text(on_trial):
    one, drawn = on_trial
    table = measures.draw_prompts.fn(one)
    own = one.run.encoder.tokens(one.prompts)
    for name, place in table.items():
        if name == "return the neighbour":
            continue
        of, context, scale = drawn[place]
        np.testing.assert_array_equal(context.text, own, err_msg=name)
        assert of is (one.baseline if name == "trained without neighbors" else one.run)
        if name in ("learned null", "trained without neighbors"):
            assert scale == 1.0 and not context.mask.any()
            assert (context.neighbor_texts == NO_TOKEN).all()
    _, nearest, _ = drawn[table["text, context neighbors"]]
    assert nearest.references.shape[:2] == (6, 2)
    assert (nearest.slots == NEIGHBOR).any()
    _, others, _ = drawn[table["another prompt's context"]]
    np.testing.assert_array_equal(others.neighbor_texts, nearest.neighbor_texts[[3, 4, 5, 0, 1, 2]])


def test_prompts_are_looked_up_by_words_where_the_training_did(on_trial):
    one, drawn = on_trial
    table = measures.draw_prompts.fn(one)
    _, nearest, _ = drawn[table["text, context neighbors"]]
    queries, searched = measures.prompts_in(one, one.database)
    rows, scores = searched.words.search(queries.words, 2)
    np.testing.assert_allclose(nearest.scores, scores)
    np.testing.assert_array_equal(nearest.slots == NEIGHBOR, rows >= 0)


def test_no_more_neighbors_are_given_whole_than_the_run_was_trained_with(on_trial, asked):
    one, drawn = on_trial
    more = replace(one, config=asked.model_copy(update={"k": 4}))
    table = measures.draw_prompts.fn(more)
    _, nearest, _ = drawn[table["text, context neighbors"]]
    assert nearest.slots.shape == (6, 2)


def test_held_out_data_have_the_texts_and_latents_that_the_run_reads(on_trial, asked):
    one, _ = on_trial
    data = trial.heldout_data(asked, one.run, one.database)
    context = data.neighbors(np.arange(4), 2)
    assert context.text.shape == (4, 32) and context.references.shape[:2] == (4, 2)


def test_tables_show_every_factor_that_a_judge_knows():
    factors = ("entity", "position", "background")
    row = both(0.5, 0.5)["colour"]
    prompts = {name: dict.fromkeys(factors, row) for name in EVALUATION["prompts"]}
    measured = EVALUATION | {"prompts": prompts}
    text = full_table(measured)
    assert "prompt agreement                  background                  entity\n" in text
    assert "the same                          position\n" in text
    (_, shown, *_) = prompts_table(measured)
    for factor in factors:
        assert factor.capitalize() in str(shown)
