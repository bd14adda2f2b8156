"""docs/analysis.md cannot lie: every block in it runs on a small database, in order."""

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.cli import main

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "analysis.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]
PYTHON = [body for kind, body in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A directory with data/: 40 shapes as the page names them, in a second version; neighbors; a
    folder with a broken file.
    """
    place = tmp_path_factory.mktemp("reader")
    own = place / "own"
    own.mkdir()
    (own / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        world = ["--set", "size=64", "--set", "encoding=png"]
        built_in = ["--set", "encoder=rdm-shapes", "--set", "weights=built-in"]
        for count in ("32", "40"):
            assert (
                main(["import", "shapes", "--name", "mine", *world, "--set", f"count={count}"]) == 0
            )
            assert main(["build", "--name", "mine", "--shards", "mine", *built_in]) == 0
        assert (
            main(
                [
                    "neighbors",
                    "--name",
                    "mine",
                    "--queries",
                    "mine",
                    "--database",
                    "mine",
                    "--set",
                    "k=5",
                ]
            )
            == 0
        )
        assert main(["import", "folder", "own", "--name", "own"]) == 0
        yield place


def test_every_block_is_of_a_kind_that_is_run_here():
    assert (
        {kind for kind, _ in BLOCKS} == {"sh", "python"} and len(COMMANDS) >= 9 and len(PYTHON) == 6
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[1:4]))
def test_its_commands_answer(reader, command, capsys):
    program, *words = shlex.split(command)
    assert program == "rdm"
    assert main(words) == 0
    assert capsys.readouterr().out.strip()


def nearest():
    table = pq.read_table(current("embeddings") / "00000.parquet")
    vectors = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
    scores = vectors @ np.random.default_rng(0).standard_normal(64).astype(np.float32)
    return r"^\[\('" + table["key"][int(scores.argmax())].as_py()


def moved():
    first, last = sorted(
        Path("data/embeddings/mine").glob("*/manifest.json"),
        key=lambda p: json.loads(p.read_text())["version"],
    )
    tables = (pq.read_table(path.parent / "00000.parquet")["embedding"] for path in (first, last))
    means = [
        np.stack(table.to_numpy(zero_copy_only=False)).astype(np.float32).mean(axis=0)
        for table in tables
    ]
    distance = float(np.linalg.norm(means[1] - means[0]))
    assert distance > 0.01
    return f"moved by {str(distance)[:5]}"


def most_retrieved():
    keys = pq.read_table(current("neighbors") / "00000.parquet")["keys"].to_pylist()
    return str(Counter(key for near in keys for key in near if key).most_common(1)[0][1])


def current(kind):
    return Path("data") / kind / "mine" / Path("data", kind, "mine", "current").read_text().strip()


ANSWERS = {
    "duckdb": nearest, "rejected": lambda: r"\[\('(truncated|damaged|not an image)', 1\)\]",
    "thumbnails": lambda: r"shapes-all-000000-00.png \(64, 64\)", "polars": moved,
    "pandas": most_retrieved, "numpy": lambda: r"\(40, 64\) float16",
}  # fmt: skip


@pytest.mark.parametrize(("name", "code"), zip(ANSWERS, PYTHON, strict=True), ids=ANSWERS)
def test_its_code_reads_the_files_without_this_project(reader, name, code, capsys):
    assert "flows" not in code and "rdm" not in code
    exec(code, {})
    assert re.search(ANSWERS[name](), capsys.readouterr().out)


@pytest.mark.parametrize(
    "words, answer",
    [
        ("GROUP BY reason", "truncated|damaged|not an image"),
        ("count(*) AS retrieved", r"shapes-all-\d{6}-00"),
        ("GROUP BY ALL ORDER BY images", "CC0-1.0 *│ +40"),
        ("FROM pictures", r"00000.tar *│ +\d+ │ +\d+"),
    ],
)
def test_the_answers_are_right(reader, capsys, words, answer):
    (command,) = [command for command in COMMANDS if words in command]
    assert main(shlex.split(command)[1:]) == 0
    assert re.search(answer, capsys.readouterr().out)
