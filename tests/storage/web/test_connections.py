"""Servers that send something now and then, and never all of it, hold nobody for long."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import httpcore
import pytest
from serving import png, serving

from storage.web.client import Manners, Web
from storage.web.files import RemoteFile, ask
from storage.web.images import fetch_image
from storage.web.outcomes import Failed

SECONDS = 0.5
"""In which an answer's headers are to come."""
LONG = 4.0
"""Less than the shortest of what is sent here byte by byte takes."""


@pytest.fixture
def site():
    with serving() as site:
        yield site


@pytest.fixture(autouse=True)
def no_time_is_wasted(monkeypatch):
    monkeypatch.setattr("storage.web.client.RULES_TRIES", 1)


def web_for(*hosts, **more):
    few = {"requests_per_second": 1000.0, "tries": 1, "timeout_seconds": SECONDS}
    return Web(Manners(**few | {"allow_hosts": frozenset(hosts)} | more))


@contextmanager
def too_slow(why="too slow"):
    began = time.monotonic()
    with pytest.raises(Failed, match=why):
        yield
    assert SECONDS * 0.9 < time.monotonic() - began < LONG


@contextmanager
def talking(say):
    """The port of a server that says what `say` does to a new connection, byte by byte."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def drip(connection):
        with connection:
            try:
                connection.settimeout(LONG)
                for byte in say(connection):
                    if stopped.wait(0.05):
                        return
                    connection.sendall(bytes([byte]))
            except OSError:
                pass  # it went away

    def serve():
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopped.set()
        listener.close()


def test_headers_byte_by_byte_end_in_time(site):
    url = site.add("/a.png", png(), type="image/png", header_seconds=0.05)
    with web_for(site.host) as web:
        with too_slow():
            fetch_image(web, url, 10_000)
        with too_slow():
            ask(web, RemoteFile(url, "a.png"))
        site.pages["/a.png"].header_seconds = 0
        assert fetch_image(web, url, 10_000).suffix == "png"


@pytest.mark.parametrize("path", ["/robots.txt", "/.well-known/tdmrep.json"])
def test_so_do_those_of_the_rules_of_a_host(site, monkeypatch, path):
    monkeypatch.setattr("storage.web.addresses.is_public", lambda number: True)
    site.add(path, b"", header_seconds=0.05)
    url = site.add("/a.png", png(), type="image/png")
    with web_for() as web, too_slow(f"{path.rpartition('/')[2]}: too slow"):
        fetch_image(web, url, 10_000)
    assert "/a.png" not in site.asked


def test_so_do_those_of_a_proxy(monkeypatch):
    with talking(lambda connection: b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200) as port:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for url in ("http://a.invalid/", "https://a.invalid/"):
            with web_for("a.invalid") as web, too_slow():
                fetch_image(web, url, 10_000)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10,
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_neither_other_answers_before_it_nor_lengths_without_bytes_hold_anybody(said):
    def say(connection):
        connection.recv(10_000)
        connection.sendall(said)
        return b"0" * 200

    with talking(say) as port, web_for("127.0.0.1") as web, too_slow("too slow|cut short"):
        fetch_image(web, f"http://127.0.0.1:{port}/", 10_000)


def test_a_handshake_byte_by_byte_ends_in_time(monkeypatch):
    monkeypatch.setattr("storage.web.client.CONNECT_SECONDS", SECONDS)
    with talking(lambda connection: b"\x16\x03\x03\x40\x00" + b"\x02" * 200) as port:
        with web_for("127.0.0.1", timeout_seconds=60.0) as web, too_slow():
            fetch_image(web, f"https://127.0.0.1:{port}/", 10_000)
        monkeypatch.setattr("storage.web.client.CONNECT_SECONDS", 60.0)
        with web_for("127.0.0.1") as web, too_slow():
            fetch_image(web, f"https://127.0.0.1:{port}/", 10_000)


def test_headers_over_tls_end_in_time(tmp_path, monkeypatch):
    at_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    at_server.load_cert_chain(*certificate(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))

    with serving() as site:
        site.server.socket = at_server.wrap_socket(site.server.socket, server_side=True)
        site.add("/a.png", png(), type="image/png", header_seconds=0.05)
        url = site.url("/a.png").replace("http:", "https:")
        with web_for(site.host) as web:
            with too_slow():
                fetch_image(web, url, 10_000)
            site.pages["/a.png"].header_seconds = 0
            assert fetch_image(web, url, 10_000).suffix == "png"


def certificate(folder):
    """Files of a certificate for 127.0.0.1 that vouches for itself, and of its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    number = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([number]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    return folder / "cert.pem", folder / "key.pem"


def test_a_host_of_many_dead_numbers_ends_in_time(monkeypatch):
    asked = []

    def nobody_answers(self, host, port, timeout=None, *_):
        asked.append(host)
        time.sleep(timeout)
        raise httpcore.ConnectTimeout("timed out")

    monkeypatch.setattr("storage.web.client.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", nobody_answers)
    manners = Manners(tries=1, timeout_seconds=SECONDS, allow_hosts=frozenset(["many.invalid"]))
    numbers = [f"192.0.2.{last}" for last in range(1, 60)]
    with Web(manners, lambda *_: numbers) as web, too_slow():
        fetch_image(web, "http://many.invalid/", 10_000)
    assert asked == numbers[:3]
