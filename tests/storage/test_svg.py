"""SVG of others: what is refused before it is drawn, and a renderer that may hang or fail."""

import os
import signal
import struct
import time

import pytest
from drawn_icons import CORNER, DISC

from storage import svg as module
from storage.svg import CannotDraw, Drawer, check_svg

XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(body, more=XLINK):
    return f'<svg xmlns="http://www.w3.org/2000/svg" {more} viewBox="0 0 16 16">{body}</svg>'


@pytest.fixture(scope="module")
def drawer():
    with Drawer() as drawing:
        yield drawing


def size_of(png):
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("side", [16, 128, 512])
def test_a_drawing_is_a_png_of_the_side_that_is_asked_for(drawer, side):
    png = drawer.draw(svg(DISC), side)
    assert png.startswith(b"\x89PNG") and size_of(png) == (side, side)
    assert struct.unpack(">BB", png[24:26]) == (8, 6), "RGBA"


@pytest.mark.parametrize("side", [15, 513, 0, -1])
def test_another_side_is_refused(drawer, side):
    with pytest.raises(ValueError, match=f"side_pixels is {side}, must be 16 to 512"):
        drawer.draw(svg(DISC), side)


@pytest.mark.parametrize(
    "body",
    [
        '<defs><path id="a" d="M0 0h8v8z"/></defs><use href="#a"/><use xlink:href="#a" x="4"/>',
        '<linearGradient id="b"><stop stop-color="red"/></linearGradient>'
        '<rect width="8" height="8" fill="url(#b)"/>',
        '<clipPath id="c"><circle r="8"/></clipPath><g clip-path="url( \'#c\' )">' + DISC + "</g>",
        '<filter id="f"><feGaussianBlur stdDeviation="1"/></filter>'
        '<g filter="url(#f)" opacity=".5" class="x">' + DISC + "</g>",
        '<mask id="m"><rect width="8" height="8" fill="#fff"/></mask>'
        '<g mask="url(#m)">' + DISC + "</g>",
        '<symbol id="s" viewBox="0 0 8 8">' + CORNER + '</symbol><use href="#s"/>',
        '<use href="#nowhere"/>' + DISC,
        DISC.replace("<circle", '<circle xmlns="http://www.w3.org/2000/svg"'),
    ],
)
def test_what_icons_are_made_of_is_drawn(drawer, body):
    assert size_of(drawer.draw(svg(body), 32)) == (32, 32)


def nested_uses(levels):
    """2 ** levels circles, in a few lines."""
    parts = ['<g id="x0"><circle r="1"/></g>']
    for level in range(1, levels + 1):
        uses = f'<use href="#x{level - 1}"/>' * 2
        parts.append(f'<g id="x{level}">{uses}</g>')
    return "".join(parts)


def chained(links, depth):
    """Groups that refer to one another, each with many groups around the reference."""
    parts = []
    for link in range(links):
        inner = f'<use href="#c{link + 1}"/>'
        parts.append(f'<g id="c{link}">{"<g>" * depth}{inner}{"</g>" * depth}</g>')
    return "".join(parts)


ENTITIES = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("hostile", "told"),
    [
        (ENTITIES + svg("<title>&b;</title>"), "declarations"),
        (OUTSIDE + svg("<title>&a;</title>"), "declarations"),
        ('<?xml-stylesheet href="a.css"?>' + svg(DISC), "declarations"),
        (svg("<!-- x -->" + DISC), "declarations"),
        (svg("<![CDATA[x]]>"), "declarations"),
        (svg("&b;"), "no XML"),
        (svg("<g>"), "no XML"),
        ("", "no XML"),
        (svg("\ud800"), "no XML"),
        ('<html xmlns="http://www.w3.org/1999/xhtml"/>', "no SVG but"),
        ("<svg/>", "no SVG but svg"),
        (svg('<image href="https://example.org/a.png"/>'), "an element image"),
        (svg('<image href="data:image/png;base64,AAAA"/>'), "an element image"),
        (svg('<foreignObject><p xmlns="x"/></foreignObject>'), "an element foreignObject"),
        (svg("<style>g{fill:url(https://example.org)}</style>"), "an element style"),
        (svg("<script>1</script>"), "an element script"),
        (svg("<text>a</text>"), "an element text"),
        (svg('<filter id="f"><feImage href="/etc/passwd"/></filter>'), "an element feImage"),
        (svg('<filter id="f"><feTurbulence numOctaves="999"/></filter>'), "an element feTurb"),
        (svg('<pattern id="p"/>'), "an element pattern"),
        (svg("<svg/>"), "an element svg"),
        (svg('<g xmlns="elsewhere"/>'), "an element {elsewhere}g"),
        (svg('<use href="https://example.org/a.svg#a"/>'), "leads out: https://example.org"),
        (svg('<use xlink:href="/etc/passwd"/>'), "leads out: /etc/passwd"),
        (svg('<use href="file:a.svg#a"/>'), "leads out: file:a.svg"),
        (svg('<g fill="url(https://example.org/a.svg#a)"/>'), "leads out: url"),
        (svg('<g fill="url(#a) URL(file:///etc/passwd)"/>'), "leads out: url"),
        (svg('<g style="fill:red"/>'), "a style sheet in an attribute"),
        (svg('<g id="a"><use href="#a"/></g>'), "refers to itself"),
        (svg('<mask id="m"><g mask="url(#m)"/></mask>'), "refers to itself"),
        (svg('<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>'), "refers to itself"),
        (svg(nested_uses(15)), "more than 20,000 elements"),
        (svg("<g/>" * 20_000), "more than 20,000 elements"),
        (svg(nested_uses(30)), "more than 20,000 elements"),
        (svg("<g>" * 64 + "</g>" * 64), "more than 64 elements inside each other"),
        (svg("<g>" * 50_000 + "</g>" * 50_000), "more than 64 elements inside each other"),
        (svg(chained(40, 50)), "more than 64 elements inside each other"),
        (svg(f'<path d="{"M0 0 " * 120_000}"/>'), "more than 524,288 bytes"),
    ],
)
def test_a_hostile_drawing_is_refused_before_it_is_drawn(drawer, hostile, told, monkeypatch):
    start = time.monotonic()
    with pytest.raises(CannotDraw, match=told.replace("(", r"\(").replace("{", r"\{")) as refused:
        check_svg(hostile)
    assert time.monotonic() - start < 5
    assert len(str(refused.value)) < 200 and str(refused.value).isprintable()
    monkeypatch.setattr(Drawer, "_start", None)
    with pytest.raises(CannotDraw), Drawer() as another:
        another.draw(hostile, 32)


def test_what_the_renderer_refuses_is_told_and_the_next_one_is_drawn(drawer):
    # No box: the renderer knows no size.
    nothing = '<svg xmlns="http://www.w3.org/2000/svg" width="-1" height="0"/>'
    with pytest.raises(CannotDraw, match="."):
        drawer.draw(nothing, 32)
    assert size_of(drawer.draw(svg(DISC), 32)) == (32, 32)


def test_a_drawing_that_takes_too_long_is_ended_and_the_next_one_is_drawn():
    layers = '<rect width="16" height="16" fill="red" opacity=".01"/>' * 9_000
    with Drawer(seconds=1) as drawer:
        start = time.monotonic()
        with pytest.raises(CannotDraw, match="not drawn within 1 seconds"):
            drawer.draw(svg(layers), 512)
        assert time.monotonic() - start < 15
        drawer.seconds = 30
        assert size_of(drawer.draw(svg(DISC), 32)) == (32, 32)


def test_a_renderer_that_ends_with_a_fault_is_told_and_the_next_one_is_drawn():
    with Drawer() as drawer:
        drawer.draw(svg(DISC), 32)
        os.kill(drawer._process.pid, signal.SIGSEGV)
        with pytest.raises(CannotDraw, match="ended with a fault"):
            drawer.draw(svg(DISC), 32)
        assert size_of(drawer.draw(svg(DISC), 32)) == (32, 32)
        process = drawer._process
    assert process.poll() is not None, "it ends with the block"


def test_a_renderer_that_does_not_start_is_told_with_a_cure(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with (
        pytest.raises(module.SourceError, match="does not start.*pip install resvg-py"),
        Drawer() as one,
    ):
        one.draw(svg(DISC), 32)
