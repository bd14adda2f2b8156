"""The command line: what is wrong is named, before anything runs."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows import cli
from storage.build import begin
from storage.manifest import Plan

TRAINING = ("--name", "r", "--latents", "a", "--neighbors", "a", "--database", "a")


@pytest.fixture
def rdm(capsys, tmp_path, monkeypatch):
    """rdm("show", ...) -> (exit code, standard output, standard error), with a root of its own."""
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def run(*arguments):
        command, *rest = arguments
        try:
            code = cli.main([command, "--root", str(tmp_path), *rest])
        except SystemExit as exit_:
            code = exit_.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["import", "coco", "--name", "x"],
            "path: is needed. Give it with its flag, or --set path=",
        ),
        (
            ["import", "shapes", "--name", "x", "--set", "coun=3"],
            "coun: there is no such parameter",
        ),
        (
            ["import", "shapes", "--name", "x", "--set", "count=many"],
            "count: Input should be a valid integer",
        ),
        (["import", "shapes", "--name", "../x"], "name: "),
        (["import", "shapes"], "name: is needed"),
        (["import", "shapes", "--name", "x", "--set", "count"], "write KEY=VALUE"),
        (
            ["train", "--name", "x", "--preset", "shpes"],
            "--preset shpes: there is no such preset. Presets: shapes",
        ),
        (["train", "--name", "x", "--set", "training.stepz=3"], "stepz"),
        (["train", *TRAINING, "--set", "training.k=3"], "context.k and upstream.k are some"),
        (
            ["sample", "--run", "r", "--set", "steps=Infinity"],
            "steps: is Infinity, must be a number",
        ),
        (
            ["sample", "--run", "r", "--text", "a", "--class", "b"],
            "texts and classes: classes stand alone",
        ),
        (["sample", "--run", "r", "--set", "context=query"], "'query' needs texts or images"),
        (
            ["import", "shapes", "--name", "x", "--set", "name.x=3"],
            "'name' has no parameters inside",
        ),
        (
            ["import", "shapes", "--name", "x", "--set", 'styles=["sketh"]'],
            "styles: 'sketh' is not one of",
        ),
        (["import", "shapes", "--name", "x", "--set", "size=8"], "size: "),
        (
            ["import", "folder", "/tmp", "--name", "x", "--set", "count=64"],
            "count: is for the sources 'shapes', 'entities', this is",
        ),
        (
            ["import", "wikiart", "/tmp", "--name", "x", "--set", 'styles=["sketch"]'],
            "styles: is for the source 'shapes' alone, this is 'wikiart', which knows source, size",
        ),
        (
            ["import", "coco", "/tmp", "--name", "x", "--set", "author=me"],
            "author: is for the source 'folder' alone",
        ),
        (
            ["import", "shapes", "--name", "x", "--set", "licence=mine"],
            "licence: is for the source 'folder' alone",
        ),
        (["import", "shapes", "/tmp", "--name", "x"], "path: is not for shapes"),
        (
            ["import", "folder", "/tmp", "--name", "x", "--set", "frame=300"],
            "frame: is for crop=random",
        ),
        (
            [
                "import",
                "coco",
                "/tmp",
                "--name",
                "x",
                "--set",
                "encoding=png",
                "--set",
                "quality=9",
            ],
            "quality: is for enc",
        ),
        (
            ["search", "--database", "x", "--text", "a", "--out", "/tmp/a  b/c.txt"],
            "out: /tmp/a  b/c.txt ends with n",
        ),
        (["import", "shapes", "--name", "x", "--set", "split=../x"], "split: "),
        (
            ["import", "coco", "/tmp", "--name", "x", "--set", "split=tran"],
            "split: Input should be 'all', 'train' or 'val' (given: 'tran')",
        ),
        (["train", "--name", "x", "--set", "training.steps=0"], "training.steps: "),
        (
            ["train", "--name", "x", "--set", "context.neighbor_dropout=7"],
            "context.neighbor_dropout: ",
        ),
        (
            ["train", *TRAINING, "--set", "training.batch=9", "--set", "processes=2"],
            "batch: 9 cannot be divided over 2",
        ),
        (["sample", "--run", "r", "--class", "b", "--set", "context=query+neighbors"], "context: "),
        (["sample", "--run", "r", "--set", "seed=-1"], "seed: "),
        (["import", "floppy", "--name", "x"], "source: Input should be one of 'shapes', 'coco', "),
        (["log"], "NAME"),
        (["gc", "--keep", "0"], "--keep 0: keep 1 or more"),
        (["gc", "--keep", "many"], "invalid int value"),
        (["remove", "--keys", "k"], "database: is needed"),
        (["remove", "--database", "x"], "keys_file: is needed"),
        (["remove", "--database", "x@0123456789ab", "--keys", "k"], "database: "),
    ],
)
def test_a_wrong_argument_is_named_and_exits_with_2(rdm, arguments, said, tmp_path):
    code, out, err = rdm(*arguments)
    assert code == 2 and said in err and not out
    assert "Traceback" not in err and not list(tmp_path.iterdir()), "nothing ran"


def test_set_reaches_inside_and_dry_run_shows_what_would_run(rdm):
    code, out, _ = rdm(
        "train",
        "--dry-run",
        "--preset",
        "shapes",
        "--name",
        "r",
        "--latents",
        "a",
        "--neighbors",
        "a",
        "--database",
        "a",
        "--set",
        "training.steps=7",
        "--set",
        "model.denoiser.depth=2",
    )
    shown = json.loads(out)
    assert code == 0
    assert shown["training"]["steps"] == 7 and shown["model"]["denoiser"]["depth"] == 2
    assert shown["model"]["denoiser"]["network"] == "transformer", "the rest of the preset stays"


def test_every_preset_is_a_valid_set_of_parameters(rdm):
    from flows.config.presets import PRESETS

    for preset in PRESETS:
        assert rdm("train", "--dry-run", "--preset", preset, *TRAINING)[0] == 0


def test_show_lists_what_was_built_and_explains_one(rdm, tmp_path):
    assert "nothing has been built" in rdm("show")[1]
    with begin(tmp_path, Plan("shards", "mine", {"size": 32})) as build:
        part = build.write_part(
            "00000", "", lambda scratch: ((scratch / "a").write_bytes(b"abc"), {"ok": 3})
        )
        made = build.commit([part], {})
    code, out, _ = rdm("show", "--json")
    assert code == 0 and json.loads(out)["artifacts"][0]["id"] == made.id
    assert "size: 32" in rdm("show", "shards/mine")[1]
    assert "1 artifacts, 1 files" in rdm("check")[1]


def test_versions_are_told_and_old_ones_go(rdm, tmp_path):
    for size in (1, 2, 3):
        with begin(tmp_path, Plan("shards", "mine", {"size": size})) as build:
            part = build.write_part(
                "00000", "", lambda scratch: ((scratch / "a").write_bytes(b"abc"), {})
            )
            build.commit([part], {})
    with pytest.raises(KeyboardInterrupt), begin(tmp_path, Plan("runs", "left", {})) as build:
        build.write_part("00000", "", lambda scratch: ((scratch / "a").write_bytes(b"abc"), {}))
        raise KeyboardInterrupt
    seen = [
        version["version"] for version in json.loads(rdm("log", "mine", "--json")[1])["versions"]
    ]
    assert seen == [1, 2, 3] and "shards/mine version 3 (current)" in rdm("log", "shards/mine")[1]
    assert "1 would be removed" in rdm("gc", "--dry-run")[1]
    assert "1 were removed" in rdm("gc", "--unfinished", "runs/left")[1], "the build alone"
    assert [one["version"] for one in json.loads(rdm("gc", "--json")[1])["removed"]] == [1], (
        "2 stay unless told otherwise"
    )
    assert [
        one["version"] for one in json.loads(rdm("gc", "--keep", "1", "--json")[1])["removed"]
    ] == [2]


def test_a_removal_is_rehearsed_with_its_flags_and_refused_as_it_would_be(rdm, monkeypatch):
    code, out, err = rdm("remove", "--database", "x", "--keys", "k.txt", "--dry-run")
    assert code == 1 and "there is no artifact embeddings/x" in err and not out
    rehearsed = lambda config: ("", config.model_dump(mode="json"))  # noqa: E731
    monkeypatch.setattr("flows.data.rehearse.rehearse", rehearsed)
    words = ("--database", "x", "--keys", "k.txt", "--missing-ok", "--dry-run", "--json")
    shown = json.loads(rdm("remove", *words)[1])
    assert (shown["database"], shown["keys_file"], shown["missing_ok"]) == ("x", "k.txt", True)


def test_an_evaluation_without_its_inputs_says_what_makes_them(rdm):
    code, _, err = rdm("evaluate", "--name", "e", "--run", "r", "--baseline", "b")
    assert code == 2 and "heldout_latents: is needed" in err and "rdm demo makes these" in err
    assert "rdm demo" not in rdm("evaluate", "--name", "e", "--set", "seedz=3")[2].splitlines()[0]


def test_bad_data_exits_with_1_and_one_message(rdm, tmp_path):
    wrong = (
        ["show", "shards/none"],
        ["show", "none"],
        ["show", "no.png"],
        ["check", "shards/none"],
        ["log", "none"],
    )
    for arguments in (*wrong, ["gc", "--unfinished", "shards/none"]):
        code, out, err = rdm(*arguments)
        assert code == 1 and err.startswith("rdm: ") and "Traceback" not in err and not out
    with begin(tmp_path, Plan("shards", "mine", {})) as build:
        part = build.write_part(
            "00000", "", lambda scratch: ((scratch / "a").write_bytes(b"abc"), {})
        )
        build.commit([part], {}).file("a").write_bytes(b"abd")
    code, _, err = rdm("check")
    assert code == 1 and "a has other bytes" in err


def test_every_command_is_in_the_manual_and_has_help(rdm):
    from pathlib import Path

    manual = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    actions = cli.parser()._subparsers._group_actions[0]
    for name, command in actions.choices.items():
        assert command.description, name
        assert f"rdm {name}" in manual or f"make {name}" in manual, name


def test_the_vocabulary_of_the_parameters_is_the_worlds():
    from flows.config.images import VOCABULARY
    from rdm_core.shapes import world

    assert {world.RESTRICTIONS[name]: known for name, known in world.VALUES.items()} == VOCABULARY


def test_the_groups_of_entities_of_the_parameters_are_the_worlds():
    from typing import get_args

    from flows.config.images import EntityGroup
    from rdm_core.shapes import entities

    assert get_args(EntityGroup) == entities.GROUPS


DROPPED = """
import gc, os, signal, sys, time, weakref
from flows import cli
from flows.commands import looking

class Thing: pass

def ask_to_end(_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)

def looked(options):
    thing = Thing()
    seen = weakref.ref(thing, ask_to_end)
    del thing
    for _ in range(1000):  # what is asked a second time is heard between two calls
        time.sleep(0.01)
    return "it went on", {}

looking.run_show = looked
sys.exit(cli.main(["show"]))
"""


def test_a_signal_that_comes_while_the_interpreter_is_in_a_callback_is_not_lost(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DROPPED], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == cli.INTERRUPTED and "interrupted; the same command" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_what_json_has_no_words_for_is_null_and_no_other_number_changes(rdm, monkeypatch):
    told = {
        "a": [float("nan"), float("-inf")],
        "b": {"c": 0.1, "d": 2**70, "e": Path("x")},
        "f": (1, None),
    }
    monkeypatch.setattr("flows.commands.looking.run_show", lambda options: ("", told))
    code, out, _ = rdm("show", "--json")
    assert code == 0 and "NaN" not in out and "Infinity" not in out
    assert json.loads(out) == {
        "a": [None, None],
        "b": {"c": 0.1, "d": 2**70, "e": "x"},
        "f": [1, None],
    }


def test_a_command_may_be_called_in_a_thread(tmp_path, capsys):
    ended = []
    called = threading.Thread(
        target=lambda: ended.append(cli.main(["show", "--root", str(tmp_path)]))
    )
    called.start()
    called.join()
    assert ended == [0] and "nothing has been built" in capsys.readouterr().out
