"""The temporary server of one command: it answers, through no proxy, and ends with the command
whatever ends that.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.request

import httpx
import psutil
import pytest
from operating import BIN

from flows import local_server
from flows.local_server import LocalServer, ServerFailed


def clean(folder, **more):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    return environment | {"OMP_NUM_THREADS": "1", "PREFECT_HOME": str(folder / "home")} | more


def shapes(folder, count, **pipes):
    """An import of drawn images by the command line, as a child process."""
    command = [
        str(BIN / "rdm"),
        "import",
        "shapes",
        "--name",
        "a",
        "--set",
        f"count={count}",
        "--set",
        "size=32",
    ]
    return subprocess.Popen(command, cwd=folder, env=clean(folder), **pipes)


def test_a_killed_command_leaves_no_process_behind(tmp_path):
    rdm = shapes(tmp_path, 200_000, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("data/shards/a/*/plan.json")):
        assert time.monotonic() < deadline and rdm.poll() is None
        time.sleep(0.1)
    started = psutil.Process(rdm.pid).children(recursive=True)
    assert any("uvicorn" in " ".join(process.cmdline()) for process in started)
    rdm.send_signal(signal.SIGKILL)
    rdm.wait(10)
    _, alive = psutil.wait_procs(started, timeout=15)
    assert alive == []


def test_a_command_whose_readers_have_gone_ends_its_work(tmp_path):
    rdm = shapes(tmp_path, 40, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    rdm.stdout.close()
    rdm.stderr.close()
    assert rdm.wait(120) == 0
    assert (tmp_path / "data/shards/a/current").is_file()


def test_it_answers_where_proxies_are_set_that_lead_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server = LocalServer()
    server.wait()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    assert opener.open(f"{server.url}/health", timeout=5).read() == b"true"
    server.stop()
    with pytest.raises(OSError):
        opener.open(f"{server.url}/health", timeout=5)


def test_prefects_own_client_reaches_it_past_a_proxy_and_what_was_exempt_stays_so(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "")
    with local_server.local_server() as server:
        server.wait()
        assert httpx.get(f"{server.url}/health", timeout=5).status_code == 200
        assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"


def test_a_server_that_cannot_start_is_told_with_its_exit_code(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ServerFailed, match="ended with exit code 1"):
        LocalServer().wait()


def test_a_server_that_never_answers_is_told_within_the_time(monkeypatch, tmp_path):
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nsleep 30\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(local_server, "SECONDS_TO_START", 1)
    server = LocalServer()
    with pytest.raises(ServerFailed, match="did not answer within 1 s"):
        server.wait()
    server.stop()
