"""What each command that builds something answers: its lines, and the same for a machine."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from building import build_all, writer

from flows import cli
from storage.build import begin
from storage.manifest import Plan

FACTS = {
    "import shapes --name n": ("flows.data.import_images", "import_images"),
    "build --name n --shards s": ("flows.data.build_database", "build_database"),
    "embed --name n --shards s": ("flows.data.build_database", "embed_images"),
    "neighbors --name n --queries q --database d": ("flows.data.find_neighbors", "find_neighbors"),
    "encode --name n --shards s": ("flows.data.encode_latents", "encode_latents"),
    "average --name n --run r": ("flows.model.average", "average_run"),
    "convert a.ckpt --layout vq-f4": ("flows.model.convert", "convert_original"),
    "train --name n --latents l --neighbors t --database d": ("flows.model.train_rdm", "train_rdm"),
    "sample --run r --text a": ("flows.model.sample", "sample_rdm"),
}
"""Command that tells the facts of the one artifact it made -> module and flow."""
MEASURED = {"copies": {"samples": 0.25}}


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """answer(line, module, flow, made): what the command says where the flow made that."""
    monkeypatch.setattr("flows.model.launch.get_ready", lambda config: None)

    def ask(line, module, flow, made):
        asked = []
        patched = SimpleNamespace(**{flow: lambda config: asked.append(config) or made})
        monkeypatch.setitem(sys.modules, module, patched)
        options = cli.parser().parse_args([*line.split(), "--root", str(tmp_path / "root")])
        answered = options.command(options)
        assert len(asked) == 1, "once"
        return answered

    return ask


@pytest.fixture
def made(tmp_path):
    """What a flow has made."""
    return build_all(tmp_path / "made")


def facts_of(artifact):
    return {
        "kind": "shards",
        "name": "paintings",
        "id": artifact.id,
        "fingerprint": artifact.fingerprint,
        "rows": 6,
        "counts": {"ok": 4, "rejected: too small": 2},
        "directory": str(artifact.directory),
        "measured": {"seconds": 1.5},
    }


def with_file(root, name, content, file):
    """An artifact of one part that has this file too."""

    def write(scratch):
        (scratch / file).write_text(content)
        return writer("00000")(scratch)

    with begin(root, Plan("evaluations", name, {})) as build:
        return build.commit([build.write_part("00000", "", write)], {})


@pytest.mark.parametrize("line", FACTS)
def test_what_was_made_is_told_with_all_its_facts(line, answer, made):
    module, flow = FACTS[line]
    given = (None, made) if flow == "build_database" else made
    text, value = answer(line, module, flow, given)
    lines = {
        "import_images": f"{made.directory}\n         4  ok\n         2  rejected: too small",
        "sample_rdm": f"6 images, each beside its neighbors: {made.directory}/grid.png",
    }
    more = {"grid": f"{made.directory}/grid.png"} if flow == "sample_rdm" else {}
    assert (text, value) == (lines.get(flow, str(made.directory)), facts_of(made) | more)


def test_an_autoencoder_that_was_converted_is_told_by_its_folder(answer):
    line = "convert a.ckpt --layout vq-f4 --out o"
    told = answer(line, "flows.model.convert", "convert_original", Path("o"))
    assert told == ("o", {"directory": "o"})


def test_a_removal_is_told_as_it_tells_itself(answer, tmp_path):
    done = SimpleNamespace(answer=lambda: ("3 rows taken out", {"rows_removed": 3}))
    (tmp_path / "keys").write_text("k\n")
    line = f"remove --database d --keys {tmp_path}/keys"
    assert answer(line, "flows.data.remove", "remove_keys", done) == (
        "3 rows taken out",
        {"rows_removed": 3},
    )


def test_a_report_is_told_by_its_page(answer, made):
    line = "report --name n --run r --baseline b --evaluation e --set samples=[] --set artifacts=[]"
    text, value = answer(line, "flows.judge.report", "write_report", made)
    page = f"{made.directory}/report.html"
    assert (text, value) == (f"report: {page}", facts_of(made) | {"report": page})


def test_a_demo_is_told_with_the_figures_it_ended_with_and_its_page(answer, made, tmp_path):
    from flows.judge.summary import summary

    evaluation = with_file(tmp_path / "made", "shapes", json.dumps(MEASURED), "evaluation.json")
    text, value = answer("demo", "flows.judge.demo", "demo", (evaluation, made))
    page = f"{made.directory}/report.html"
    where = "all figures: rdm show evaluations/shapes --full"
    assert text == f"{summary(MEASURED)}\n\n{where}\nreport: {page}"
    assert "25.0 %" in summary(MEASURED)
    assert value == {
        "kind": "evaluations",
        "name": "shapes",
        "id": evaluation.id,
        "fingerprint": evaluation.fingerprint,
        "rows": 3,
        "counts": {"ok": 2, "rejected: too small": 1},
        "directory": str(evaluation.directory),
        "measured": {},
        "evaluation": MEASURED,
        "report": page,
    }


def test_a_dry_run_of_each_answers_with_its_parameters_and_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.commands.making._say_needs", lambda config: None)
    for line in FACTS:
        words = [*line.split(), "--dry-run", "--root", str(tmp_path / "root")]
        options = cli.parser().parse_args(words)
        text, value = options.command(options)
        assert json.loads(text) == value and value["root"] == str(tmp_path / "root"), line
        assert not (tmp_path / "root").exists(), line


def test_what_is_printed_is_the_text_or_with_json_the_value(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flows.cli.signal.signal", lambda *_: None)
    value = {"a": ["é", None, 1.5], "b": {"c": True}}
    monkeypatch.setattr("flows.commands.looking.run_show", lambda options: ("two\nlines é", value))
    assert cli.main(["show", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "two\nlines é\n"
    assert cli.main(["show", "--json", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == value and printed.isascii()
    assert printed.splitlines()[1] == '  "a": [' and printed.endswith("}\n")
