"""What the demo asks of each stage, parameter by parameter: docs/results.md is of this."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
from asking import changed

from flows.config.judge import Demo
from flows.config.presets import DEMO_SOURCES
from flows.judge import demo

COLOURS_AND_SHAPES = ("a red circle", "a blue star", "a green heart", "a yellow cross")
COMMON = {"run": "shapes", "draw": {"guidance_scale": 2.0, "steps": 30}, "seed": 7}
SWAPPED = {"texts": COLOURS_AND_SHAPES, "count": 2, "context": "neighbors"}
REQUESTS = {
    "demo-text": {"texts": COLOURS_AND_SHAPES, "count": 2},
    "demo-photographs": SWAPPED | {"database": "shapes-photographs"},
    "demo-sketches": SWAPPED | {"database": "shapes-sketches"},
    "demo-class": {"classes": ("ring", "crescent"), "count": 3},
    "demo-unconditional": {"count": 6},
}
"""Name -> what differs from the parameters that all of them share, and from the defaults."""


@pytest.fixture
def config(tmp_path):
    """The demo as it is asked for, but for its seed."""
    return Demo(root=tmp_path, seed=7)


def test_a_text_two_swapped_databases_a_class_and_nothing_are_asked_for_and_no_more(config):
    asked = {request.name: request for request in demo.requests(config)}
    assert list(asked) == list(REQUESTS)
    for name, request in asked.items():
        here = {"root": config.root, "name": name}
        assert changed(request) == here | COMMON | REQUESTS[name], name


def test_each_set_of_images_is_drawn_small_and_centred_and_all_of_them_shrink_with_the_scale(
    config,
):
    counts = {
        "train": 5000,
        "database": 5000,
        "heldout": 500,
        "photographs": 1000,
        "sketches": 1000,
    }
    styles = {"photographs": ("photograph",), "sketches": ("sketch",)}
    assert list(DEMO_SOURCES) == [f"shapes-{split}" for split in counts]
    for scale in (1.0, 0.5):
        config = config.model_copy(update={"scale": scale})
        for split, count in counts.items():
            name = f"shapes-{split}"
            source = demo.shapes_source(config, name, DEMO_SOURCES[name])
            assert (source.root, source.name, source.source) == (config.root, name, "shapes")
            assert (source.size, source.encoding, source.seed) == (64, "png", 7)
            assert (source.count, source.split) == (int(count * scale), split)
            assert source.styles == styles.get(split, ())
            assert (source.positions, source.sizes) == (("centre",), ("large",))
            assert source.accessories == ("none",)
            assert source.backgrounds == source.colours == source.shapes == ()
    tiny = config.model_copy(update={"scale": 0.001})
    assert demo.shapes_source(tiny, "shapes-train", DEMO_SOURCES["shapes-train"]).count == 64


@pytest.mark.parametrize("preset", ["shapes", "shapes-unet"])
def test_a_training_is_the_preset_with_the_steps_and_the_seed_of_the_demo(config, preset):
    config = config.model_copy(update={"steps": 11})
    run = demo.training(config, "named", preset, batch=16)
    inputs = {"latents": "shapes-train", "neighbors": "shapes-train", "database": "shapes-database"}
    assert {role: getattr(run, role) for role in inputs} == inputs
    assert (run.root, run.name, run.threads) == (config.root, "named", None), "all cores"
    parts = demo.PRESETS[preset]
    training = parts["training"] | {"steps": 11, "seed": 7, "batch": 16}
    for part, values in (parts | {"training": training}).items():
        for name, value in values.items():
            found = getattr(getattr(run, part), name)
            if isinstance(value, dict):  # of the model: its own parts
                found = {key: asdict(found)[key] for key in value}
                value = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
            assert found == value, (part, name)


def test_a_training_is_of_the_transformer_unless_told_otherwise(config):
    run = demo.training(config, "shapes")
    assert run == demo.training(config, "shapes", "shapes")
    assert run.training.steps == config.steps == 1800


@pytest.mark.parametrize(
    ("scale", "prompts", "images"),
    [(1.0, 256, 200), (2.0, 256, 200), (0.5, 128, 100), (0.01, 8, 11)],
)
def test_the_evaluation_is_of_both_runs_on_what_neither_has_seen_and_shrinks_no_further_than_it_can(
    config, scale, prompts, images
):
    evaluation = demo.evaluation_of(config.model_copy(update={"scale": scale}))
    wanted = {
        "name": "shapes",
        "run": "shapes",
        "heldout_latents": "shapes-heldout",
        "heldout_neighbors": "shapes-heldout",
        "swaps": {"photograph": "shapes-photographs", "sketch": "shapes-sketches"},
        "prompts": prompts,
        "seeds": 2,
        "quality_images": images,
        "draw": {"steps": 12, "sampler": "dpm++"},
    }
    assert evaluation.root == config.root
    assert {name: getattr(evaluation, name) for name in wanted} == wanted
    assert changed(evaluation).keys() <= {"root", *wanted}


def test_the_report_is_over_everything_that_was_made(config):
    samples = [SimpleNamespace(name=name) for name in REQUESTS]
    report = demo.report_of(config, samples)
    names = ("train", "database", "heldout", "photographs", "sketches")
    made = []
    for name in names:
        made += [f"shards/shapes-{name}", f"embeddings/shapes-{name}", f"index/shapes-{name}"]
    for name in ("train", "heldout"):
        made += [f"neighbors/shapes-{name}", f"latents/shapes-{name}"]
    assert changed(report) == {
        "root": config.root,
        "name": "demo",
        "run": "shapes",
        "evaluation": "shapes",
        "samples": tuple(REQUESTS),
        "artifacts": tuple(made),
    }


def test_the_world_is_made_ready_with_what_training_and_evaluation_read_of_it(config, monkeypatch):
    imports, databases, tables, latents = [], [], [], []
    monkeypatch.setattr(demo.import_images, "ensured", imports.append)
    monkeypatch.setattr(demo, "ensured_database", databases.append)
    monkeypatch.setattr(demo.find_neighbors, "ensured", tables.append)
    monkeypatch.setattr(demo.encode_latents, "ensured", latents.append)
    demo.prepare_world(config)
    assert [asked.name for asked in imports] == list(DEMO_SOURCES)
    for asked, name in zip(databases, DEMO_SOURCES, strict=True):
        built = {"root": config.root, "name": name, "shards": name}
        by_clip = {"encoder": "rdm-shapes", "weights": "built-in", "precision": "float32"}
        assert changed(asked) == built | by_clip
    of_both = ("shapes-train", "shapes-heldout")
    for table, encoded, name in zip(tables, latents, of_both, strict=True):
        searched = {"root": config.root, "name": name, "queries": name}
        assert changed(table) == searched | {"database": "shapes-database"}
        behind = {"autoencoder": "rdm-shapes-kl"}
        assert changed(encoded) == {"root": config.root, "name": name, "shards": name} | behind
