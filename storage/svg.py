"""SVG of others drawn as PNG: looked through first, then drawn by resvg in another process.

What is refused before any renderer sees it: declarations (and with them entities), every element
but shapes, groups, gradients, masks and the filters that drawings of icons use, every reference
that leads out of the drawing, and drawings that grow without end by referring to their parts.
The renderer knows no limit of time, and deep or huge drawings end it with a fault: so it has a
process of its own, which is ended when it takes too long.
"""

import contextlib
import re
import resource
import signal
import subprocess
import sys
from collections import defaultdict
from multiprocessing.connection import Connection, Pipe
from xml.etree import ElementTree

from storage.errors import SourceError
from storage.text import on_one_line

MOST_SVG_BYTES = 512 * 2**10
MOST_ELEMENTS = 20_000
"""Of a drawing, each as often as it is referred to."""
MOST_LEVELS = 64
"""Elements inside each other, through references too; resvg fails at some hundreds."""
DRAW_SECONDS = 10.0
"""The time for one drawing."""
SIDES_PIXELS = (16, 512)
"""The smallest and the largest side of a picture."""

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_ELEMENTS = frozenset({
    "circle", "clipPath", "defs", "ellipse", "g", "line", "linearGradient", "mask", "path",
    "polygon", "polyline", "radialGradient", "rect", "stop", "symbol", "use",
    "filter", "feBlend", "feColorMatrix", "feComposite", "feFlood", "feGaussianBlur", "feMerge",
    "feMergeNode", "feOffset",
})  # fmt: skip
_LINKS = frozenset({"href", f"{_XLINK}href", "src"})
_INSIDE = re.compile(r"""url\(\s*["']?#([^"')\s]+)["']?\s*\)""")
_TOO_DEEP = f"more than {MOST_LEVELS} elements inside each other"
_START_SECONDS = 60.0
_MOST_PNG_BYTES = 4 * 2**20  # RGBA of the largest side has 1 MiB
_MOST_MEMORY_BYTES = 2 * 2**30
_DRAWN, _REFUSED = b"+", b"-"


class CannotDraw(Exception):
    """An SVG that is refused, or that the renderer cannot draw; the message says why."""


def check_svg(svg: str) -> None:
    """Raise CannotDraw unless an SVG is small, whole and made of shapes of its own alone."""
    if len(svg.encode("utf-8", "surrogatepass")) > MOST_SVG_BYTES:
        raise CannotDraw(f"more than {MOST_SVG_BYTES:,} bytes of SVG")
    # Before it is parsed: entities of entities grow without end while they are.
    if "<!" in svg or "<?" in svg:
        raise CannotDraw("declarations, comments or instructions in the SVG")
    try:
        root = ElementTree.fromstring(svg)
    except (ElementTree.ParseError, ValueError) as error:
        raise CannotDraw(f"no XML: {error}") from error
    if root.tag != f"{_SVG}svg":
        raise CannotDraw(f"no SVG but {_short(root.tag)}")
    by_id = _elements_by_id(root)
    elements, levels = _Expanded(by_id).size_of(root)
    if elements > MOST_ELEMENTS:
        raise CannotDraw(f"more than {MOST_ELEMENTS:,} elements, each as often as it is used")
    if levels > MOST_LEVELS:
        raise CannotDraw(_TOO_DEEP)


def _elements_by_id(root: ElementTree.Element) -> dict[str, list[ElementTree.Element]]:
    """The elements by their ids. Raises CannotDraw for one that may not be there, or lies too
    deep.
    """
    by_id: defaultdict[str, list[ElementTree.Element]] = defaultdict(list)
    level, levels = [root], 0
    while level:
        levels += 1
        if levels > MOST_LEVELS:
            raise CannotDraw(_TOO_DEEP)
        below: list[ElementTree.Element] = []
        for element in level:
            if element is not root and element.tag.removeprefix(_SVG) not in _ELEMENTS:
                raise CannotDraw(f"an element {_short(element.tag)}")
            by_id[element.get("id", "")].append(element)
            below += element
        level = below
    return by_id


def _references(element: ElementTree.Element) -> list[str]:
    """The ids that an element's attributes refer to. Raises CannotDraw for what leads out."""
    ids = []
    for name, value in element.items():
        if name == "style":
            raise CannotDraw("a style sheet in an attribute")
        if name in _LINKS:
            if not value.startswith("#"):
                raise CannotDraw(f"a reference that leads out: {_short(value)}")
            ids.append(value[1:])
            continue
        inside = _INSIDE.findall(value)
        if len(inside) != value.lower().count("url("):
            raise CannotDraw(f"a reference that leads out: {_short(value)}")
        ids += inside
    return ids


class _Expanded:
    """How large a drawing is where every part counts as often as it is referred to."""

    def __init__(self, by_id: dict[str, list[ElementTree.Element]]) -> None:
        self.by_id = by_id
        self.known: dict[ElementTree.Element, tuple[int, int] | None] = {}

    def size_of(self, element: ElementTree.Element, level: int = 1) -> tuple[int, int]:
        """(elements, levels inside each other) of an element that lies so many levels deep. Raises
        CannotDraw for what refers to itself.
        """
        if level > MOST_LEVELS:
            raise CannotDraw(_TOO_DEEP)
        if element in self.known:
            known = self.known[element]
            if known is None:  # it is being counted
                raise CannotDraw("an element that refers to itself")
            return known
        self.known[element] = None
        parts = list(element)
        for target in _references(element):
            parts += self.by_id.get(target, ())
        elements, levels = 1, 0
        for part in parts:
            inside, below = self.size_of(part, level + 1)
            elements, levels = elements + inside, max(levels, below)
        self.known[element] = elements, levels + 1
        return elements, levels + 1


def _short(text: str) -> str:
    return on_one_line(text.removeprefix(_SVG))[:60]


# In another process


class Drawer:
    """Draws one SVG after another, as a context manager: its process ends with the block.

    An SVG that takes longer than `seconds`, or that ends the process, is told as CannotDraw, and
    the next one has a new process.
    """

    def __init__(self, seconds: float = DRAW_SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Drawer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def draw(self, svg: str, side_pixels: int) -> bytes:
        """An SVG as a PNG with side_pixels a side, transparent where nothing is drawn.

        Raises CannotDraw, ValueError for a side outside SIDES_PIXELS, and SourceError where the
        renderer does not start.
        """
        least, most = SIDES_PIXELS
        if not least <= side_pixels <= most:
            raise ValueError(f"side_pixels is {side_pixels}, must be {least} to {most}")
        check_svg(svg)
        connection = self._connection or self._start()
        try:
            connection.send_bytes(side_pixels.to_bytes(4, "big") + svg.encode())
            if not connection.poll(self.seconds):
                self._stop()
                raise CannotDraw(f"not drawn within {self.seconds:g} seconds")
            answer = connection.recv_bytes(_MOST_PNG_BYTES)
        except (EOFError, OSError) as error:
            self._stop()
            raise CannotDraw("the renderer ended with a fault") from error
        if answer[:1] != _DRAWN:
            raise CannotDraw(_short(answer[1:].decode("utf-8", "replace")))
        return answer[1:]

    def _start(self) -> Connection:
        """A process that waits for drawings."""
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "storage.svg", str(theirs.fileno())]
        # No fork of this one: it may have threads, and hold much memory.
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=nothing, pass_fds=[theirs.fileno()]
        )
        self._connection = ours
        theirs.close()
        try:
            if ours.poll(_START_SECONDS) and ours.recv_bytes() == _DRAWN:
                return ours
        except (EOFError, OSError):
            pass
        self._stop()
        raise SourceError("resvg-py", "the renderer does not start", "Run `pip install resvg-py`.")

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._connection = self._process = None


def _serve(connection: Connection) -> None:
    """Answer with PNGs until nobody asks any more."""
    import resvg_py

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked is interrupted, and ends this one
    for limit, most in ((resource.RLIMIT_AS, _MOST_MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
            resource.setrlimit(limit, (most, most))
    connection.send_bytes(_DRAWN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            asked = connection.recv_bytes()
            side, svg = int.from_bytes(asked[:4], "big"), asked[4:].decode()
            try:
                png = resvg_py.svg_to_bytes(
                    svg_string=svg, width=side, height=side, skip_system_fonts=True
                )
                answer = _DRAWN + bytes(png)
            except BaseException as error:  # a fault of Rust is no Exception
                answer = _REFUSED + str(error).encode()
            connection.send_bytes(answer)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
