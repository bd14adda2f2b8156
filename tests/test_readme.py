"""The README cannot lie: its commands run, in order, and its claims about make exist."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli import main
from rdm_core.shapes.oracle import load_oracle

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
QUICKER = {
    "--set count=2000": "--set count=64",
    "--set count=500": "--set count=64",
    "--set training.steps=600": "--set training.steps=20",
}
"""What is made smaller of its commands: too few images and steps for pictures, in a tenth of the
time. A long test runs the six as they are.
"""
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines() if line]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory in which a reader follows the README."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server for all but the first command, which starts one of its own as a reader's
    would: that takes 10 s.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = str(tmp_path_factory.mktemp("server"))
    environment = os.environ | {"PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [str(Path(sys.executable).parent / "prefect"), "server", "start", "--port", str(port)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        url, deadline = f"http://127.0.0.1:{port}/api", time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield url
        started.terminate()


def run(
    command: str, workplace: Path, kind: str = "sh", server: str = ""
) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    environment |= {"PREFECT_API_URL": server} if server else {}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    start = ["bash", "-ec", command] if kind == "sh" else [sys.executable, "-c", command]
    return subprocess.run(
        start, cwd=workplace, env=environment, capture_output=True, text=True, timeout=600
    )


def test_every_block_is_of_a_kind_that_is_tested_here():
    # bash: tests/flows/run/test_deployments.py
    assert {kind for kind, _ in BLOCKS} <= {"sh", "python", "text", "bash"}
    assert len(COMMANDS) > 12


def test_every_make_target_it_names_exists_and_would_run():
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test"} <= targets
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == 0, f"make {target}: {done.stderr}"


def test_every_link_and_picture_leads_to_a_file():
    places = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert places and all((REPOSITORY / place).is_file() for place in places), places


def test_no_placeholder_is_left():
    assert not re.findall(r"@[A-Z_]+@", README)


def test_commands_that_need_the_network_or_large_files_name_parameters_that_exist(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    # It would ask the servers.
    asked = "flows.data.acquire.rehearsed"
    monkeypatch.setattr(asked, lambda config: (config.model_dump_json(), {}))
    told = [
        line
        for kind, body in BLOCKS
        if kind == "text"
        for line in body.splitlines()
        if line.startswith("rdm ")
    ]
    told += re.findall(r"`(rdm (?:average|train|build) [^`]*)`", README)
    assert len(told) > 5
    for line in told:
        main([*shlex.split(line, comments=True)[1:], "--dry-run"])
        assert json.loads(capsys.readouterr().out), line


def test_its_commands_run_in_order_and_its_code_reads_what_they_built(workplace, server):
    first = COMMANDS[2]
    assert first.startswith("rdm import")
    done = run(quicker(first), workplace)
    assert done.returncode == 0, done.stderr[-2000:]
    for kind, body in BLOCKS:
        if kind == "python":
            done = run(body, workplace, kind)
            assert done.returncode == 0 and done.stdout.strip(), f"{body}\n{done.stderr[-2000:]}"
        elif kind == "sh" and "make " not in body:
            done = run(quicker(body), workplace, server=server)
            assert done.returncode == 0, f"{body}\n{done.stderr[-2000:]}"
    assert len(list((workplace / "samples").glob("0*.png"))) == 4
    again = run(quicker(first), workplace, server=server)
    assert " kept " in again.stderr and " built " not in again.stderr, (
        "a second identical run does no work and says so"
    )


def quicker(body: str) -> str:
    """A block as it is run here; a reader sets PATH, which stands in our surroundings."""
    body = body.replace("export PATH=.venv/bin:$PATH\n", "")
    for asked, smaller in QUICKER.items():
        body = body.replace(asked, smaller)
    return body


def test_what_is_made_smaller_is_in_its_commands():
    assert all(any(asked in command for command in COMMANDS) for asked in QUICKER)


@pytest.mark.long
def test_its_six_commands_end_in_pictures_of_what_was_asked_for(tmp_path):
    (six,) = [body for _, body in BLOCKS if body.startswith("export PATH")]
    done = run(six.replace("export PATH=.venv/bin:$PATH\n", ""), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    made = sorted((tmp_path / "samples").glob("0*.png"))
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in made])
    shown = load_oracle().predict(images)
    assert list(shown["colour"]) == ["red"] * 4
    assert (shown["shape"] == "circle").sum() >= 3


NEEDS = re.findall(
    r"^\| (\S+) \| (\d+) x (\d+) x \d+ \| (\S+) M \| (\S+) GB \| (\S+) GB \|$", README, re.MULTILINE
)


@pytest.mark.long
@pytest.mark.parametrize("row", NEEDS)
def test_the_table_of_needs_is_what_the_estimate_says(row):
    """A GPU need not be there: the training is followed on tensors without bytes."""
    import torch

    from flows.config.presets import PRESETS
    from flows.config.train import TrainRDM
    from rdm_core.families.facts import Shape
    from rdm_core.needs import memory_needed

    preset, channels, side, *stated = row
    found = []
    for pieces in (1, 4):
        names = dict.fromkeys(("name", "latents", "neighbors", "database"), "a")
        config = TrainRDM(**names, **PRESETS[preset], execution={"accumulate": pieces})
        shape = Shape(int(channels), int(side), 512)
        asked = (config.model, config.training, config.execution, config.context.k, shape)
        needed = memory_needed(*asked, torch.device("cuda"))
        found += [] if found else [f"{needed.parameters / 1e6:.1f}"]
        found.append(f"{needed.peak_bytes / 1e9:.1f}")
    assert found == stated
