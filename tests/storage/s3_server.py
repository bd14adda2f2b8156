"""As much of S3 as our client uses, over real HTTP on loopback, in memory, with switches for what
goes wrong out there.
"""

import base64
import socket
import threading
import time
import xml.etree.ElementTree as ET
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

KEY = "tester"


@dataclass
class Switches:
    """What goes wrong with the next requests; each number counts down."""

    busy: int = 0
    """Requests answered 503 SlowDown."""
    busy_every: int = 0
    """Every n-th request is answered 503 SlowDown."""
    cut_get: int = 0
    """GETs of an object whose body ends half way, the connection with it."""
    cut_put: int = 0
    """PUTs whose connection is closed after half of the body was read."""
    lost_answers: int = 0
    """PUTs that are carried out and never answered."""
    wrong: int = 0
    """GETs of a data object answered with one flipped bit."""
    seconds: float = 0
    """Every answer waits so long."""
    trickle: float = 0
    """Seconds between one byte of a GET's body and the next."""


@dataclass
class S3:
    """The state of a server: objects by "bucket/key", the requests it saw, and its switches."""

    url: str = ""
    buckets: set = field(default_factory=lambda: {"bucket"})
    objects: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    """(method, "bucket/key"), in order of arrival; LIST for a listing, COPY for a server-side
    copy.
    """
    switches: Switches = field(default_factory=Switches)
    before_put: object = None
    """Called with "bucket/key" before anything is stored."""
    page: int = 1000
    knows_if_none_match: bool = True
    uploads: dict = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, name):
        """Whether this request is one of those that a switch counts."""
        with self.lock:
            # Several requests come at once: one switch counts one of them.
            left = getattr(self.switches, name)
            setattr(self.switches, name, max(0, left - 1))
            return left > 0

    def names(self, method):
        """The objects asked for by a method, in order."""
        return [name for asked, name in self.log if asked == method]


@contextmanager
def serving():
    """A running server."""
    state = S3()

    class Bound(Handler):
        s3 = state

    server = Server(("127.0.0.1", 0), Bound)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms between its head and its body
    s3: S3

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.handled("GET")

    def do_HEAD(self):
        self.handled("HEAD")

    def do_PUT(self):
        self.handled("PUT")

    def do_POST(self):
        self.handled("POST")

    def do_DELETE(self):
        self.handled("DELETE")

    def handled(self, method):
        parts = urlsplit(self.path)
        name = unquote(parts.path).lstrip("/")
        query = {
            key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        bucket, _, key = name.partition("/")
        shown = (
            "LIST"
            if method == "GET" and not key
            else "COPY"
            if "x-amz-copy-source" in self.headers
            else method
        )
        with self.s3.lock:
            self.s3.log.append((shown, name if key else f"{name}/{query.get('prefix', '')}"))
            number = len(self.s3.log)
        if self.s3.switches.seconds:
            time.sleep(self.s3.switches.seconds)
        body = self.body(method)
        if body is None:
            return
        if (
            self.s3.take("busy")
            or self.s3.switches.busy_every
            and number % self.s3.switches.busy_every == 0
        ):
            self.refuse(503, "SlowDown")
        elif f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self.refuse(403, "InvalidAccessKeyId")
        elif bucket not in self.s3.buckets:
            self.refuse(404, "NoSuchBucket")
        else:
            getattr(self, f"{shown.lower()}_object" if shown != "LIST" else "listing")(
                name, query, body
            )

    def body(self, method):
        """The request's body, or None when the line is cut."""
        length = int(self.headers.get("Content-Length") or 0)
        if method == "PUT" and length and self.s3.take("cut_put"):
            self.rfile.read(length // 2)
            self.cut()
            return None
        return self.rfile.read(length)

    def cut(self):
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body)

    def send_body(self, body):
        is_object = self.command == "GET" and "?" not in self.path
        if is_object and self.s3.take("cut_get"):
            self.wfile.write(body[: len(body) // 2])
            self.cut()
        elif is_object and self.s3.switches.trickle:
            for number in range(len(body)):
                self.wfile.write(body[number : number + 1])
                time.sleep(self.s3.switches.trickle)
        else:
            self.wfile.write(body)

    def refuse(self, status, code, extra=""):
        text = f"<Error><Code>{code}</Code><Message>{code} for {KEY}</Message>{extra}</Error>"
        self.answer(status, text.encode(), Content_Type="application/xml")

    def get_object(self, name, query, body):
        data = self.s3.objects.get(name)
        if data is None:
            self.refuse(404, "NoSuchKey")
            return
        if not name.endswith((".json", "current")) and self.s3.take("wrong"):
            data = bytes([data[0] ^ 1]) + data[1:]
        status, headers = 200, {"ETag": '"x"'}
        asked = self.headers.get("Range", "")
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            if int(start) >= len(data):
                self.refuse(416, "InvalidRange")
                return
            status, data = 206, data[int(start) : int(end) + 1 if end else None]
            headers["Content_Range"] = (
                f"bytes {start}-{int(start) + len(data) - 1}/{len(self.s3.objects[name])}"
            )
        self.answer(status, data, **headers)

    head_object = get_object

    def put_object(self, name, query, body):
        if not self.is_what_was_sent(body):
            self.refuse(400, "BadDigest")
            return
        if self.s3.before_put:
            self.s3.before_put(name)
        if "uploadId" in query:
            self.s3.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self.answer(200, ETag=f'"{query["partNumber"]}"')
            return
        with self.s3.lock:
            there = (
                name in self.s3.objects
                and self.s3.knows_if_none_match
                and "If-None-Match" in self.headers
            )
            if not there:
                self.s3.objects[name] = body
        if there:
            self.refuse(412, "PreconditionFailed", "<Condition>If-None-Match</Condition>")
        elif self.s3.take("lost_answers"):
            self.cut()
        else:
            self.answer(200, ETag='"x"')

    def is_what_was_sent(self, body):
        stated = self.headers.get("x-amz-checksum-crc32")
        return stated is None or base64.b64decode(stated) == zlib.crc32(body).to_bytes(4, "big")

    def copy_object(self, name, query, body):
        source = self.s3.objects.get(unquote(self.headers["x-amz-copy-source"]).lstrip("/"))
        if source is None:
            self.refuse(404, "NoSuchKey")
            return
        if self.s3.before_put:
            self.s3.before_put(name)
        self.s3.objects[name] = source
        self.answer(
            200,
            b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>",
            Content_Type="application/xml",
        )

    def delete_object(self, name, query, body):
        if "uploadId" in query:
            self.s3.uploads.pop(query["uploadId"], None)
        else:
            self.s3.objects.pop(name, None)
        self.answer(204)

    def post_object(self, name, query, body):
        if "uploads" in query:
            number = str(len(self.s3.uploads) + 1)
            self.s3.uploads[number] = {}
            text = (
                "<InitiateMultipartUploadResult>"
                f"<UploadId>{number}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        else:
            pieces = self.s3.uploads.pop(query["uploadId"])
            data = b""
            # The namespace is left open: clients write it or leave it out.
            for number in ET.fromstring(body).iterfind(".//{*}PartNumber"):
                data += pieces[int(number.text)]
            self.s3.objects[name] = data
            text = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        self.answer(200, text.encode(), Content_Type="application/xml")

    def listing(self, name, query, body):
        bucket, prefix, delimiter = (
            name.strip("/"),
            query.get("prefix", ""),
            query.get("delimiter", ""),
        )
        entries = {}  # what to list -> its size, or None for a folder
        for full in sorted(self.s3.objects):
            key = full.partition("/")[2]
            if full.startswith(f"{bucket}/") and key.startswith(prefix):
                # With a delimiter all keys of one folder become one entry: what ends at the slash.
                end = key.find(delimiter, len(prefix)) if delimiter else -1
                if end < 0:
                    entries[key] = len(self.s3.objects[full])
                else:
                    entries[key[: end + 1]] = None
        # A page ends with the key that the next one continues after.
        after = [item for item in entries.items() if item[0] > query.get("continuation-token", "")]
        page, rest = after[: self.s3.page], after[self.s3.page :]
        text = ""
        for key, size in page:
            if size is None:
                text += f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            else:
                text += f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size>"
                text += "<ETag>x</ETag></Contents>"
        more = (
            f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if rest else ""
        )
        text += f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>"
        text += f"<KeyCount>{len(page)}</KeyCount>{more}"
        self.answer(
            200,
            f"<ListBucketResult>{text}</ListBucketResult>".encode(),
            Content_Type="application/xml",
        )
