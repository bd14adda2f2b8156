"""A configured server that cannot be used is one message with its cause and cure, within
seconds.
"""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.run import server
from flows.run.server import ServerFailed, connected, lost


@pytest.fixture(autouse=True)
def unasked():
    connected.cache_clear()
    yield
    connected.cache_clear()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:4200",
        "ftp://a/api",
        "http://",
        "http://:4200/api",
        "http://a:port/api",
        "http://[::1/api",
        "4200",
    ],
)
def test_an_address_that_is_none_is_told_before_prefect_is_asked(url, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr(server, "_asked", lambda: pytest.fail("it was asked"))
    with pytest.raises(
        ServerFailed, match="is no address of a server.*http://127.0.0.1:4200/api"
    ) as caught:
        connected()
    assert repr(url) in str(caught.value)


def test_a_server_that_is_away_is_told_with_its_address(monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    refused = pytest.raises(
        ServerFailed, match="cannot be used.*ConnectError.*prefect server start"
    )
    with temporary_settings({PREFECT_API_URL: url}), refused as caught:
        connected()
    assert url in str(caught.value) and "\n" not in str(caught.value)


def test_a_page_that_is_no_server_of_prefects_is_told(monkeypatch):
    """As a portal or a gateway answers, whatever it is asked for: 200, in HTML."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    class Portal(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"<p/>")

        def log_message(self, *_):
            pass

    portal = HTTPServer(("127.0.0.1", 0), Portal)
    threading.Thread(target=portal.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{portal.server_port}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    refused = pytest.raises(
        ServerFailed, match="cannot be used.*Failed to reach API.*JSONDecodeError"
    )
    with portal, temporary_settings({PREFECT_API_URL: url}), refused:
        connected()
        portal.shutdown()


def test_a_server_that_never_answers_is_told_within_the_time(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setattr(server, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(server, "_asked", lambda: time.sleep(5))
    began = time.monotonic()
    with pytest.raises(ServerFailed, match=r"did not answer in 0\.2 s"):
        connected()
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "error", [SystemExit(1), ValueError("bad setting\nand more"), ImportError("no module")]
)
def test_whatever_prefect_says_at_its_start_is_one_line(error, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setattr(server, "_asked", lambda: error)
    with pytest.raises(ServerFailed, match=f"cannot be used: {type(error).__name__}") as caught:
        connected()
    assert "\n" not in str(caught.value) and str(caught.value).count("PREFECT_API_URL=") == 1


def test_proxies_are_named_as_they_may_be_the_cause(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setenv("All_Proxy", "http://me:secret@::::")
    monkeypatch.setattr(server, "_asked", lambda: ValueError("Invalid port: '::::'"))
    with pytest.raises(ServerFailed, match="Invalid port.*Proxies are set: .*All_Proxy") as caught:
        connected()
    assert "secret" not in str(caught.value)


def test_a_server_that_is_required_and_not_there_is_told(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "")
    with pytest.raises(ServerFailed, match="PREFECT_SERVER_ALLOW_EPHEMERAL_MODE is off"):
        connected()


def test_a_server_that_answers_is_asked_once(recorded, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", recorded)
    asked = []
    monkeypatch.setattr(server, "_asked", lambda: asked.append(1))
    connected()
    connected()
    assert asked == [1]


def test_a_server_that_goes_in_the_middle_of_the_work_is_told_wherever_it_was_noticed():
    import httpx

    def of(cause):
        error = RuntimeError("a task failed")
        error.__cause__ = cause
        return error

    assert "httpx" not in (told := lost(of(httpx.ConnectError("All connection attempts failed"))))
    assert "ConnectError: All connection attempts failed. What is finished is kept." in told
    assert lost(of(ValueError("our own"))) is None
