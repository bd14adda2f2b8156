"""Proxies, certificates and the hub: what is named, what is none, and what stands between."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from flows.doctor import network

NOWHERE = "http://127.0.0.1:9"


def test_no_proxy_is_fine(machine, told):
    assert told(network.proxies(machine(HTTP_PROXY=""))) == [("ok", "none is named | ")]


def test_a_proxy_for_this_machine_itself_is_told_and_no_password(machine, told):
    ((mark, text),) = told(network.proxies(machine(HTTPS_PROXY="http://me:hush@host:3128")))
    assert mark == "!" and "HTTPS_PROXY=http://host:3128" in text
    assert "export NO_PROXY=127.0.0.1,localhost" in text and "hush" not in text and text != "me"


def test_hosts_that_are_exempt_already_stay_so(machine, told):
    ((mark, text),) = told(network.proxies(machine(http_proxy=NOWHERE, NO_PROXY="b,localhost,a")))
    assert mark == "!" and "NO_PROXY=a,b,127.0.0.1,localhost no_proxy=a,b,127" in text


@pytest.mark.parametrize("exempt", ["*", "localhost, 127.0.0.1", "127.0.0.1,localhost,.example"])
def test_a_proxy_that_this_machine_is_exempt_from_is_fine(exempt, machine, told):
    ((mark, _),) = told(network.proxies(machine(all_proxy="me:hush@host:1", no_proxy=exempt)))
    assert mark == "ok"


@pytest.mark.parametrize(
    "address", ["::::", "socks4://x", "http://", "http://me:hush/x@host:1", "http://host:port"]
)
def test_a_proxy_that_is_none_will_fail(address, machine, told):
    ((mark, text),) = told(network.proxies(machine(HTTP_PROXY=address)))
    assert mark == "x" and "unset HTTP_PROXY" in text and "hush" not in text


def test_two_proxies_of_one_kind_are_told(machine, told):
    both = {"http_proxy": NOWHERE, "HTTP_PROXY": "http://127.0.0.1:8", "NO_PROXY": "*"}
    found = told(network.proxies(machine(**both)))
    assert [mark for mark, _ in found] == ["!", "ok"] and "differ" in found[0][1]


def test_certificates_that_are_not_there_will_fail(machine, told, tmp_path):
    assert told(network.certificates(machine()))[0][0] == "ok"
    (tmp_path / "ca.pem").touch()
    named = {"SSL_CERT_FILE": str(tmp_path / "ca.pem"), "SSL_CERT_DIR": f"/gone:{tmp_path}"}
    ((mark, text),) = told(network.certificates(machine(**named)))
    assert mark == "ok" and "SSL_CERT_FILE, SSL_CERT_DIR" in text
    for name in network.CERTIFICATES:
        ((mark, text),) = told(network.certificates(machine(**{name: "/gone/ca.pem"})))
        assert mark == "x" and f"unset {name}" in text


@pytest.fixture
def hub(monkeypatch):
    """A hub of our own; its status can be set, and what it was asked is kept."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(Hub.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    Hub.status = 200
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    yield Hub, asked
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_is_asked_once(hub, machine, told):
    ((mark, text),) = told(network.hub(machine()))
    assert mark == "ok" and "answers in" in text and len(hub[1]) == 1


def test_whoever_answers_for_the_hub_is_told(hub, machine, told):
    hub[0].status = 403
    ((mark, text),) = told(network.hub(machine()))
    assert mark == "!" and "403 Forbidden" in text and "HF_ENDPOINT" in text


def test_a_hub_that_is_not_to_be_asked_is_not(hub, machine, told):
    ((mark, text),) = told(network.hub(machine(offline=True)))
    assert mark == "ok" and "--offline" in text
    ((mark, text),) = told(network.hub(machine(HF_HUB_OFFLINE="TRUE")))
    assert mark == "!" and "unset HF_HUB_OFFLINE" in text
    assert hub[1] == []
    told(network.hub(machine(HF_HUB_OFFLINE="0")))
    assert len(hub[1]) == 1


def test_a_hub_behind_a_proxy_that_is_away_is_told(monkeypatch, machine, told):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://hub.example")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("http_proxy", proxy)
    ((mark, text),) = told(network.hub(machine(http_proxy=proxy)))
    assert mark == "!" and "ConnectError" in text and "the proxy is right: http_proxy" in text


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not installed"), "[socks]"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] failed"), "SSL_CERT_FILE"),
        (FileNotFoundError(2, "No such file"), "SSL_CERT_FILE"),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "resolv.conf"),
        (httpx.ConnectTimeout("timed out"), "See the network"),
        (httpx.InvalidURL("Invalid port"), "See the network"),
    ],
)
def test_the_cure_follows_from_what_went_wrong(error, cure, monkeypatch, machine, told):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(httpx, "head", fails)
    ((mark, text),) = told(network.hub(machine()))
    assert mark == "!" and cure in text.partition(" | ")[2] and "built in" in text
