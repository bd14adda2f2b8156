"""docs/analysis.md cannot lie: every block in it runs on a small database, in order."""

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import main

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "analysis.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]
PYTHON = [body for kind, body in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A directory with data/: 40 shapes as the page names them, their neighbors, and a folder with a broken file."""
    place = tmp_path_factory.mktemp("reader")
    own = place / "own"
    own.mkdir()
    (own / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        world = ["--set", "count=40", "--set", "size=32", "--set", "encoding=png"]
        built_in = ["--set", "encoder=rdm-shapes", "--set", "weights=built-in"]
        assert main(["import", "shapes", "--name", "mine", *world]) == 0
        assert main(["build", "--name", "mine", "--shards", "mine", *built_in]) == 0
        assert main(["neighbors", "--name", "mine", "--queries", "mine", "--database", "mine", "--set", "k=5"]) == 0
        assert main(["import", "folder", "own", "--name", "own"]) == 0
        yield place


def test_every_block_is_of_a_kind_that_is_run_here():
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"} and len(COMMANDS) >= 9 and len(PYTHON) == 4


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[1:4]))
def test_its_commands_answer(reader, command, capsys):
    program, *words = shlex.split(command)
    assert program == "rdm"
    assert main(words) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("code", PYTHON, ids=["duckdb", "polars", "pandas", "numpy"])
def test_its_code_reads_the_files_without_this_project(reader, code, capsys):
    assert "flows" not in code and "rdm" not in code
    exec(code, {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    "words, answer",
    [
        ("GROUP BY reason", "truncated|damaged|not an image"),
        ("count(*) AS retrieved", r"shapes-all-\d{6}-00"),
        ("GROUP BY ALL", "CC0-1.0 *│ +40"),
    ],
)
def test_the_answers_are_right(reader, capsys, words, answer):
    (command,) = [command for command in COMMANDS if words in command]
    assert main(shlex.split(command)[1:]) == 0
    assert re.search(answer, capsys.readouterr().out)
