"""After the pictures of emoji: a database of each style, and a run that draws from them."""

import pytest
from drawn_icons import false_npm, publish_emoji

from flows.commands.answers import acquired
from flows.config.acquire import acquisition
from flows.config.database import Rebuild
from flows.config.sample import SampleRDM
from flows.data.acquire import acquire
from flows.data.emoji_databases import copy_run, install_run
from flows.data.rebuild import rebuild
from flows.model.sample import sample_rdm
from flows.run.progress import Clock
from flows.run.revisions import plan_of
from flows.run.stage import building, published
from rdm_core import emoji
from rdm_core.families import read_facts
from storage.artifact import open_artifact
from storage.samples import read_samples


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Two styles of three concepts; one of them cannot be drawn in one style."""
    publish_emoji(false_npm(tmp_path, monkeypatch), monkeypatch)
    return acquisition(
        source="emoji", path=tmp_path / "e", styles=["noto", "openmoji"], pixels=64,
        root=tmp_path / "data",
    )  # fmt: skip


def test_each_style_becomes_a_database_and_the_run_draws_from_it(config):
    record = acquire(config)
    assert list(record["databases"]) == ["noto", "openmoji", "emoji"]
    text, _ = acquired(record)
    assert "databases: noto, openmoji" in text
    assert 'rdm sample --run emoji --text "a red apple" --database openmoji' in text
    for style, rows in (("noto", 3), ("openmoji", 2)):
        embeddings = open_artifact(config.root, "embeddings", style)
        assert embeddings.rows == rows and embeddings.parameters["of"] == "document"
        shards = open_artifact(config.root, "shards", style)
        assert shards.measured["acquired"]["source"] == "emoji"
    request = SampleRDM(
        root=config.root, name="drawn", run="emoji", texts=("a grinning face",), count=1,
        database="openmoji", draw={"steps": 2},
    )  # fmt: skip
    drawn = sample_rdm(request)
    row = read_samples(drawn)[0]
    assert row["neighbor_keys"][0] == "emoji-openmoji-1f600-00"
    assert row["authors"][0] == "Ada Lovelace, A. Painter"
    again = acquire(config)
    assert again["databases"] == record["databases"] and again["images"]["drawn"] == 0


def test_the_run_says_what_it_was_trained_on_and_never_saw_the_style_for_databases(tmp_path):
    run = install_run(tmp_path)
    assert run.name == "emoji" and install_run(tmp_path).id == run.id
    facts = read_facts(emoji.RUN)
    assert facts.encoder["model"] == "rdm-emoji" and facts.space_path == "rdm-emoji-kl"
    assert set(facts.trained_on) >= {"latents", "neighbors", "database"}
    size = sum(file.stat().st_size for file in emoji.RUN.parent.rglob("*") if file.is_file())
    assert size < 24e6


def test_a_run_of_that_name_that_was_trained_here_stays(tmp_path, capsys):
    with building(tmp_path, plan_of("runs", "emoji", {"training": {"steps": 1}}, {})) as build:
        theirs = published(build, copy_run(build), Clock())
    assert install_run(tmp_path) is None
    assert "was trained here, and stays" in capsys.readouterr().err
    assert open_artifact(tmp_path, "runs", "emoji").id == theirs.id


def test_a_rebuild_makes_its_own_database_alone(config):
    images = {"source": "emoji", "path": config.path, "style": "noto", "size": 64}
    encoder = {"encoder": "rdm-emoji", "weights": "built-in", "autoencoder": "rdm-emoji-kl"}
    rebuilt = Rebuild(
        root=config.root, name="mine", images=images, acquire=config, k=2, **encoder
    )  # fmt: skip
    assert rebuild(rebuilt).rows == 3
    assert [folder.name for folder in (config.root / "embeddings").iterdir()] == ["mine"]
    assert not (config.root / "runs").exists()
