"""A server on loopback that answers as it is told: files with ranges and ETags, and every way to
fail.
"""

import hashlib
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What one path answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    type: str = "application/octet-stream"
    ranges: bool = True
    etag: str | None = "auto"
    cut_after: int | None = None
    """Bytes after which the connection is closed, once `cuts` times."""
    cuts: int = 1
    first: tuple[int, dict[str, str]] | None = None
    """Status and headers of the first `firsts` answers."""
    firsts: int = 1
    seconds_between: float = 0.0
    """Before every KB."""
    header_seconds: float = 0.0
    """Before every byte of its headers."""
    claimed: int | None = None
    """Its Content-Length, where it is another than the body's."""


class Site:
    """Pages by path, what was asked, and by whom."""

    def __init__(self, server):
        self.server = server
        self.pages: dict[str, Page] = {}
        self.asked: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def add(self, path: str, body: bytes = b"", **facts) -> str:
        self.pages[path] = Page(body, **facts)
        return self.url(path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server.site
        path = self.path
        with site.lock:
            site.asked[path] += 1
            site.requests.append((path, dict(self.headers)))
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
            page = site.pages.get(path)
            first = None
            if page and page.first and page.firsts > 0:
                page.firsts -= 1
                first = page.first
        try:
            self._answer(page, first)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with site.lock:
                site.at_once -= 1

    def _answer(self, page, first):
        if page is None:
            return self._send(404, {}, b"", "text/plain")
        if first:
            return self._send(first[0], first[1], b"later", "text/plain")
        etag = page.etag
        if etag == "auto":
            etag = f'"{hashlib.sha256(page.body).hexdigest()[:12]}"'
        headers = dict(page.headers)
        if etag:
            headers["ETag"] = etag
        if page.status == 200 and etag and self.headers.get("If-None-Match") == etag:
            return self._send(304, headers, b"", page.type)
        wanted = self.headers.get("Range")
        fresh = self.headers.get("If-Range") in (None, etag, headers.get("Last-Modified"))
        if wanted and page.ranges and fresh and page.status == 200:
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(begin), min(int(end or len(page.body)), len(page.body) - 1)
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(page.body)}"
            return self._send(206, headers, page.body[begin : end + 1], page.type, page)
        return self._send(page.status, headers, page.body, page.type, page)

    def _send(self, status, headers, body, kind, page=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        claimed = page.claimed if page and page.claimed is not None else len(body)
        if claimed != len(body):
            self.close_connection = True
        if claimed >= 0:
            self.send_header("Content-Length", str(claimed))
        else:  # it never says how much, and closes at the end
            self.send_header("Connection", "close")
            self.close_connection = True
        if page and page.header_seconds:
            self._send_headers_slowly(page.header_seconds)
        else:
            self.end_headers()
        if status == 304:
            return
        cut = None
        if page and page.cut_after is not None and page.cuts > 0 and len(body) > page.cut_after:
            page.cuts -= 1
            cut = page.cut_after
        for start in range(0, len(body), 1024):
            piece = body[start : start + 1024]
            if cut is not None and start + len(piece) > cut:
                self.wfile.write(piece[: cut - start])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            if page and page.seconds_between:
                time.sleep(page.seconds_between)
            self.wfile.write(piece)

    def _send_headers_slowly(self, seconds):
        headers = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer = []
        for byte in headers:
            time.sleep(seconds)
            self.wfile.write(bytes([byte]))


@contextmanager
def serving():
    """A site on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # that a client went away is what is tested
    server.site = Site(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        server.server_close()


def png(colour=(200, 30, 30), side=24) -> bytes:
    """A small picture."""
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(sink, "png")
    return sink.getvalue()
