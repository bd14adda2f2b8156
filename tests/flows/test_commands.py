"""Every word of a command line reaches the parameter that it names, and the flow that it belongs
to.
"""

import json
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from building import build_all

from flows import cli
from flows.commands import answers, drawing, looking, making, running, upkeep

TRAIN = ["train", "--name", "n", "--latents", "l", "--neighbors", "t", "--database", "d"]
CASES = {
    "demo --set scale=0.5": ("flows.judge.demo", "demo", {"scale": 0.5}),
    "import folder pictures --name n": (
        "flows.data.import_images",
        "import_images",
        {"source": "folder", "path": Path("pictures"), "name": "n"},
    ),
    "build --name n --shards s": (
        "flows.data.build_database",
        "build_database",
        {"name": "n", "shards": "s"},
    ),
    "embed --name n --shards s": (
        "flows.data.build_database",
        "embed_images",
        {"name": "n", "shards": "s"},
    ),
    "neighbors --name n --queries q --database d": (
        "flows.data.find_neighbors",
        "find_neighbors",
        {"name": "n", "queries": "q", "database": "d"},
    ),
    "autoencoder --name n --shards s": (
        "flows.model.train_autoencoder",
        "train_autoencoder",
        {"name": "n", "shards": "s"},
    ),
    "encode --name n --shards s": (
        "flows.data.encode_latents",
        "encode_latents",
        {"name": "n", "shards": "s"},
    ),
    " ".join(TRAIN): (
        "flows.model.train_rdm",
        "train_rdm",
        {"name": "n", "latents": "l", "neighbors": "t", "database": "d"},
    ),
    "sample --run r --name n --database d --text a --text b --image c": (
        "flows.model.sample",
        "sample_rdm",
        {
            "run": "r",
            "name": "n",
            "database": "d",
            "texts": ("a", "b"),
            "images": (Path("c"),),
            "classes": (),
        },
    ),
    "sample --run r --class a --class b": (
        "flows.model.sample",
        "sample_rdm",
        {"name": "samples", "classes": ("a", "b"), "texts": ()},
    ),
    "edit --run r --image p.png --text a --strength 3.5 --database d": (
        "flows.model.sample",
        "sample_rdm",
        {
            "run": "r",
            "name": "edits",
            "edit": Path("p.png"),
            "images": (),
            "texts": ("a",),
            "database": "d",
            "draw": {"guidance_scale": 3.5},
        },
    ),
    "infill --run r --image p.png --mask m.png --text a": (
        "flows.model.sample",
        "sample_rdm",
        {
            "run": "r",
            "name": "infilled",
            "inpaint": Path("p.png"),
            "mask": Path("m.png"),
            "texts": ("a",),
        },
    ),
    "caption --run r --image p.png --database d --set k=1": (
        "flows.model.sample",
        "sample_rdm",
        {
            "run": "r",
            "name": "captions",
            "caption": Path("p.png"),
            "images": (Path("p.png"),),
            "context": None,
            "database": "d",
            "k": 1,
            "template": None,
        },
    ),
    "acquire coco --path c --set unpack=true": (
        "flows.data.acquire",
        "acquire",
        {"source": "coco", "path": Path("c"), "unpack": True, "splits": ("train", "val")},
    ),
    "acquire urls list.csv --contact me@example.org": (
        "flows.data.acquire",
        "acquire",
        {"urls": Path("list.csv"), "contact": "me@example.org", "path": Path("datasets/urls")},
    ),
    "plan coco-256 --images 7 --set steps=3": (
        "flows.model.outlook",
        "outlook",
        {"preset": "coco-256", "images": 7, "steps": 3},
    ),
    "caption --run r --image p.png --text a___b": (
        "flows.model.sample",
        "sample_rdm",
        {"caption": Path("p.png"), "texts": (), "template": "a___b", "k": None},
    ),
    "convert a.ckpt --layout vq-f4 --out o": (
        "flows.model.convert",
        "convert_original",
        {"files": (Path("a.ckpt"),), "layout": "vq-f4", "out": Path("o"), "name": "vq-f4"},
    ),
    "convert a.npz b.npz --layout embeddings --name n": (
        "flows.model.convert",
        "convert_original",
        {"files": (Path("a.npz"), Path("b.npz")), "name": "n", "out": None},
    ),
    "average --name n --run r --length 0.2": (
        "flows.model.average",
        "average_run",
        {"name": "n", "run": "r", "length": 0.2},
    ),
    "evaluate --name n --run r --baseline b --set heldout_latents=h "
    "--set heldout_neighbors=h --set swaps={}": (
        "flows.judge.evaluate",
        "evaluate_rdm",
        {"name": "n", "run": "r", "baseline": "b", "heldout_latents": "h"},
    ),
    "evaluate --name n --run r --database d --set heldout_latents=h --set heldout_neighbors=h": (
        "flows.judge.evaluate",
        "evaluate_rdm",
        {"baseline": None, "database": "d", "swaps": {}, "judge": None},
    ),
    "report --name n --run r --baseline b --evaluation e --set samples=[] --set artifacts=[]": (
        "flows.judge.report",
        "write_report",
        {"name": "n", "run": "r", "baseline": "b", "evaluation": "e"},
    ),
    "remove --database d --keys k --missing-ok": (
        "flows.data.remove",
        "remove_keys",
        {"database": "d", "keys_file": Path("k"), "missing_ok": True},
    ),
    "remove --database d --keys k": ("flows.data.remove", "remove_keys", {"missing_ok": False}),
    "search --database d --text a --image b --key c --vectors v --k 3 --out o.html": (
        "flows.look.search",
        "search",
        {
            "database": "d",
            "texts": ("a",),
            "images": (Path("b"),),
            "keys": ("c",),
            "vectors": Path("v"),
            "k": 3,
        },
    ),
    "map --database d --rows 70 --out o.html": (
        "flows.look.map_database",
        "map_database",
        {"database": "d", "rows": 70, "out": Path("o.html")},
    ),
    "compare a b": ("flows.look.compare", "compare", {"one": "a", "other": "b"}),
    "duplicates --database d --other o --cap 0.9 --out p.png": (
        "flows.look.duplicates",
        "duplicates",
        {"database": "d", "other": "o", "cap": 0.9, "out": Path("p.png")},
    ),
    "duplicates --database d --keys k.txt": (
        "flows.look.duplicates",
        "duplicates",
        {"keys": Path("k.txt")},
    ),
}
"""Command line -> module, flow, parameters."""


def ask(line, root="r"):
    options = cli.parser().parse_args([*line.split(), "--root", str(root)])
    return options.command(options)


def instead(monkeypatch, staged, looked=None):
    """Nothing is run by any subcommand: these are called."""
    for module in (drawing, looking, making, upkeep):
        monkeypatch.setattr(module, "stage", staged, raising=False)
        monkeypatch.setattr(module, "looked", looked, raising=False)


@pytest.fixture
def started(monkeypatch):
    """What would have been started: (module, flow, parameters)."""
    calls = []

    def staged(options, config, module, flow, told):
        assert callable(getattr(import_module(module), flow)) and callable(told)
        calls.append((module, flow, config))
        return "", {}

    def looked(options, config, look):
        calls.append((look.__module__, look.__name__, config))
        return "", {}

    instead(monkeypatch, staged, looked)
    return calls


@pytest.mark.parametrize("line", CASES)
def test_every_word_reaches_the_flow_and_the_parameter_that_it_names(line, started):
    module, flow, parameters = CASES[line]
    ask(line)
    ((of, name, config),) = started
    assert (of, name) == (module, flow)
    given = {key: getattr(config, key) for key in parameters}
    assert given == parameters and config.root == Path("r")


def test_every_command_that_has_parameters_is_among_the_cases():
    actions = cli.parser()._subparsers._group_actions[0].choices
    without = {"run", "show", "who", "check", "log", "doctor", "gc", "query"}
    assert {line.split()[0] for line in CASES} | without == set(actions)


def holds(found, value):
    """Whether a parameter is what a preset says, or holds all that it says."""
    if isinstance(value, dict):
        return all(holds(getattr(found, key), one) for key, one in value.items())
    return (list(found) if isinstance(found, tuple) else found) == value


def test_a_preset_gives_every_part_and_set_changes_one_value_of_it(started):
    from flows.config.presets import PRESETS

    ask(" ".join([*TRAIN, "--preset", "imagenet-2022", "--set", "context.k=7"]))
    config = started[0][2]
    preset, kept = PRESETS["imagenet-2022"], deepcopy(PRESETS)
    for part, values in preset.items():
        for key, value in values.items():
            found = getattr(getattr(config, part), key)
            assert holds(found, value), key
    assert config.context.k == 7
    ask(" ".join([*TRAIN, "--preset", "shapes", "--set", "model.denoiser.depth=9"]))
    assert started[1][2].model.denoiser.depth == 9
    assert preset == kept["imagenet-2022"] and kept == PRESETS, "the table itself stays as it is"
    assert "k" not in preset["context"] and PRESETS["shapes"]["model"]["denoiser"]["depth"] == 4


def test_what_is_built_is_told_with_all_that_a_machine_wants_to_know(tmp_path):
    artifact = build_all(tmp_path)
    text, value = answers.facts(artifact)
    assert text == value["directory"] == str(artifact.directory)
    assert {key: value[key] for key in ("kind", "name", "id", "fingerprint", "rows")} == {
        "kind": "shards",
        "name": "paintings",
        "id": artifact.id,
        "fingerprint": artifact.fingerprint,
        "rows": 6,
    }
    assert value["counts"] == {"ok": 4, "rejected: too small": 2} and value["measured"] == {
        "seconds": 1.5
    }
    assert answers.counts(artifact)[0].splitlines()[1:] == [
        "         4  ok",
        "         2  rejected: too small",
    ]
    told, value = answers.sampled(artifact)
    assert told.startswith("6 images, each beside its neighbors: ") and value["grid"].endswith(
        "/grid.png"
    )
    told, value = answers.report(artifact)
    assert told == f"report: {artifact.directory}/report.html" and value["report"] in told
    assert answers.converted(Path("folder")) == ("folder", {"directory": "folder"})
    assert answers.converted(artifact) == answers.facts(artifact)


def test_a_stage_runs_with_its_parameters_and_a_dry_run_starts_nothing(monkeypatch, tmp_path):
    seen = []
    flow = SimpleNamespace(run=lambda config: seen.append(config) or "made")
    monkeypatch.setitem(__import__("sys").modules, "a_flow", flow)
    config = SimpleNamespace(model_dump=lambda mode: {"k": 3})
    options = SimpleNamespace(root=tmp_path, dry_run=False)
    assert running.stage(options, config, "a_flow", "run", lambda made: (made, {})) == (
        "made",
        {},
    )
    assert seen == [config]
    options.dry_run = True
    text, value = running.stage(options, config, "a_flow", "run", None)
    assert json.loads(text) == value == {"k": 3} and len(seen) == 1
    assert running.looked(options, config, None)[1] == {"k": 3}
    options.dry_run = False
    assert running.looked(options, config, lambda asked: asked) is config


def test_pictures_are_copied_where_they_are_asked_for(monkeypatch, tmp_path):
    (tmp_path / "made").mkdir()
    for name in ("00000.png", "grid.png", "samples.parquet"):
        (tmp_path / "made" / name).write_text(name)
    value = {"directory": str(tmp_path / "made")}
    instead(monkeypatch, lambda *_: ("told", value))
    out = tmp_path / "a" / "b"
    assert ask(f"sample --run r --text a --out {out}") == ("told", value)
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "grid.png"]
    assert (out / "grid.png").read_text() == "grid.png"
    ask(f"sample --run r --text a --out {tmp_path / 'dry'} --dry-run")
    assert not (tmp_path / "dry").exists()
    ask("sample --run r --text a")


@pytest.mark.parametrize(
    ("words", "keep", "unfinished", "dry"),
    [
        ("", 2, "", False),
        ("--keep 5", 5, "", False),
        ("--unfinished all", None, "all", False),
        ("--unfinished runs/a --keep 1", 1, "runs/a", False),
        ("--dry-run", 2, "", True),
    ],
)
def test_gc_keeps_two_unless_told_otherwise_and_none_is_counted_where_builds_alone_are_dropped(
    words, keep, unfinished, dry, monkeypatch
):
    asked = []
    monkeypatch.setattr("flows.look.show.collected", lambda *given: asked.append(given) or ("", {}))
    ask(f"gc {words}")
    assert asked == [(Path("r"), keep, unfinished, dry)]


def test_show_takes_a_picture_an_artifact_or_nothing(monkeypatch):
    for name in (
        "image_record",
        "one_artifact",
        "table_of_artifacts",
        "checked_artifacts",
        "log_of",
    ):
        monkeypatch.setattr(f"flows.look.show.{name}", lambda *given, name=name: (name, given))
    assert ask("show") == ("table_of_artifacts", (Path("r"),))
    assert ask("show a/B.PNG") == ("image_record", (Path("a/B.PNG"),))
    assert ask("show shards/a") == ("one_artifact", (Path("r"), "shards/a"))
    assert ask("check") == ("checked_artifacts", (Path("r"), None))
    assert ask("check shards/a") == ("checked_artifacts", (Path("r"), "shards/a"))
    assert ask("log a") == ("log_of", (Path("r"), "a"))


def test_a_deployment_is_started_with_what_is_changed_and_told_where_to_look(monkeypatch):
    asked = []
    started = {
        "deployment": "train-rdm/train-rdm",
        "name": "red-fox",
        "id": "7",
        "url": "http://here",
    }
    monkeypatch.setattr(
        "flows.run.deployments.run_deployed", lambda *given: asked.append(given) or started
    )
    told, value = ask("run train-rdm --set training.steps=7")
    assert asked == [("train-rdm", {"training": {"steps": 7}})] and value == started
    assert told == "train-rdm/train-rdm: started red-fox (7)\nhttp://here"
    started["url"] = ""
    assert ask("run train-rdm")[0] == "train-rdm/train-rdm: started red-fox (7)"
    assert json.loads(ask("run train-rdm --set a=1 --dry-run")[0]) == {"a": 1} and len(asked) == 2


def test_rows_of_a_query_are_told_and_saved(monkeypatch):
    saved = []
    found = SimpleNamespace(text="table", rows=lambda: [{"n": 1}], save=saved.append)
    monkeypatch.setattr(
        "storage.query.query", lambda root, sql: (root, sql) == (Path("r"), "SELECT") and found
    )
    assert ask("query SELECT") == ("table", {"rows": [{"n": 1}]}) and saved == []
    ask("query SELECT --out o.csv")
    assert saved == [Path("o.csv")]


def test_an_evaluation_is_told_with_its_figures_and_a_demo_with_its_report_too(
    monkeypatch, tmp_path
):
    def facts(artifact):
        return "", {"of": artifact.name}

    (tmp_path / "evaluation.json").write_text('{"copies": {"samples": 0.5}}')
    made = SimpleNamespace(name="made", file=lambda name: tmp_path / name)
    monkeypatch.setattr(answers, "facts", facts)
    text, value = answers.evaluated(made)
    assert "samples" in text and "50" in text
    assert value == {"of": "made", "evaluation": {"copies": {"samples": 0.5}}}
    text, value = answers.demo_result((made, SimpleNamespace(name="page", file=made.file)))
    assert "samples" in text and text.endswith(f"--full\nreport: {tmp_path}/report.html")
    assert value["of"] == "made" and value["report"] == f"{tmp_path}/report.html"
