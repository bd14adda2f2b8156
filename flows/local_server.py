"""The temporary Prefect server of one command, where none is configured: on loopback, and gone when
the command is.

Prefect would start one itself, after its imports and in a process that outlives a killed parent.
This one starts beside the imports, and hangs on a leash: it ends when our end of its standard input
closes, whatever closed it.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS_TO_START = 120
SECONDS_TO_STOP = 5
_HANDLERS: list[urllib.request.BaseHandler] = [
    urllib.request.ProxyHandler({})
]  # never through a proxy


class ServerFailed(RuntimeError):
    """The temporary server did not start; the message says why and what to do."""


@contextmanager
def local_server() -> Iterator["LocalServer"]:
    """Start the server and lead Prefect to it; it answers once `wait` has returned. Stopped when
    the block ends.
    """
    server = LocalServer()
    os.environ["PREFECT_API_URL"] = server.url
    for name in ("NO_PROXY", "no_proxy"):  # for Prefect's client, and the processes that we start
        stated = os.environ.get(name) or os.environ.get("NO_PROXY", "")
        os.environ[name] = ",".join([*filter(None, [stated]), "127.0.0.1", "localhost"])
    try:
        yield server
    finally:
        server.stop()
        os.environ.pop("PREFECT_API_URL", None)


class LocalServer:
    """A server process on a port of its own."""

    def __init__(self) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        prefect = importlib.util.find_spec("prefect")
        assert prefect is not None and prefect.origin is not None, "a requirement of this project"
        command = [
            sys.executable,
            "-P",
            "-m",
            "flows.leash",
            "uvicorn",
        ]  # -P: ours, whatever lies in this directory
        command += ["--app-dir", str(Path(prefect.origin).parent.parent)]
        command += ["--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--log-level", "error", "--lifespan", "on"]
        environment = os.environ | {"PREFECT_UI_ENABLED": "0", "PREFECT_SERVER_UI_ENABLED": "0"}
        environment |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        environment.pop("PREFECT_API_URL", None)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, start_new_session=True
        )

    def wait(self) -> None:
        """Wait until it answers. Raises ServerFailed when it ends first, or takes SECONDS_TO_START.
        """
        opener = urllib.request.build_opener(*_HANDLERS)
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            code = self._process.poll()
            if code is not None:
                cure = "Its output stands above. Or: prefect server start, and set PREFECT_API_URL"
                raise ServerFailed(
                    f"Prefect's temporary server at {self.url} ended with exit code {code}. {cure}"
                )
            try:
                with opener.open(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise ServerFailed(
            f"Prefect's temporary server at {self.url} did not answer within {SECONDS_TO_START} s"
        )

    def stop(self) -> None:
        """End it; what it was told is of no use to anybody."""
        self._process.terminate()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
