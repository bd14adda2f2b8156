"""A page in pieces: pure functions from values to HTML and SVG. Every text is escaped unless it
already is `Html`.

The page refers to nothing outside itself: images are data, charts are inline SVG, colours follow
the reader's scheme.
"""

import base64
import hashlib
import html
import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain, product

Point = tuple[float, float]
SavedEstimate = Mapping[str, float]
"""mean, low and high: a number and its 95 % interval."""

ABSENT = "–"
_VOID = ("img", "meta")  # elements that have no end tag
# A sign, digits, a unit and an interval in brackets; or the dash; or nothing.
_NUMBER = re.compile(r"[−+]?\d[\d,.]*( (%|s|min|h|B|kB|MB|GB|ms))?( \[.*\])?|–|")
# Nothing may be fetched, whatever text slipped through: the browser enforces what the tests check.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# The area of a chart between its axes, and the whole drawing, in units of the SVG.
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 46.0, 460.0, 10.0, 222.0, 480, 264
_MOST_POINTS = 500

# a backslash at the end of a line: in the page it and the next are one
STYLE = """
:root{color-scheme:light dark;--bg:#fdfdfb;--fg:#1b1f24;--soft:#59636e;--line:#d5dae0;\
--tint:#f1f3f5;
--a:#1d4ed8;--b:#b45309;--good:#15703a;--bad:#b42318}
@media(prefers-color-scheme:dark){:root{--bg:#13161a;--fg:#e7e9ec;--soft:#9da7b1;--line:#343b43;\
--tint:#1d2227;
--a:#8db4ff;--b:#f7b267;--good:#7fdc9f;--bad:#ff9c93}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:1.5rem 1.1rem 4rem;background:var(--bg);color:var(--fg);
font:1rem/1.55 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;text-size-adjust:100%}
h1{font-size:1.9rem;line-height:1.2;margin:.3em 0}\
h2{font-size:1.35rem;margin:2.8rem 0 .6rem;padding-top:.7rem;
border-top:1px solid var(--line)}h3{font-size:1.08rem;margin:1.9rem 0 .4rem}\
p,ul,ol{max-width:46rem;margin:.6rem 0}
.lead{font-size:1.12rem}.soft,caption,figcaption{color:var(--soft);font-size:.9rem}a{color:var(--a)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;list-style:none;font-size:.9rem;\
max-width:none}
.findings{list-style:none;padding:0;display:grid;gap:.7rem;max-width:none}
.findings li{border:1px solid var(--line);border-left:.35rem solid var(--soft);border-radius:.3rem;\
padding:.7rem 1rem}
.findings .yes{border-left-color:var(--good)}.findings .no{border-left-color:var(--bad)}
.findings p{margin:.25rem 0 0;max-width:none}bdi{color:var(--fg);font-weight:600}
.verdict{font-size:.74rem;letter-spacing:.06em;text-transform:uppercase;color:var(--soft)}
.yes .verdict{color:var(--good)}.no .verdict{color:var(--bad)}\
.findings strong{display:block;font-size:1.1rem}
.scroll{overflow-x:auto;margin:1rem 0}
table{min-width:17rem;border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
caption{text-align:left;padding:0 0 .4rem;caption-side:top}\
th,td{padding:.34rem .9rem .34rem 0;text-align:left;
border-bottom:1px solid var(--line);vertical-align:middle}\
thead th{font-weight:600;color:var(--soft);vertical-align:bottom}
tbody th{font-weight:400}td.n,th.n{text-align:right;white-space:nowrap}\
tr.total>*{font-weight:600;border-bottom:0}
figure{margin:0;min-width:0}.sets,.charts{display:grid;gap:1rem 1.5rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,27rem),1fr))}
.row{display:flex;flex-wrap:wrap;gap:.4rem;align-items:flex-start}\
.row div{font-size:.75rem;color:var(--soft);text-align:center}
.row img,.none{display:block;width:4.2rem;height:4.2rem;object-fit:cover;border-radius:.2rem;\
background:var(--tint)}
.row .drawn{margin-right:.55rem;padding-right:.95rem;border-right:1px solid var(--line);\
color:var(--fg)}
.row .drawn img{width:6rem;height:6rem}.none{display:grid;place-items:center;font-size:.65rem}\
.px{image-rendering:pixelated}
svg{display:block;max-width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}\
.axis{stroke:var(--line);stroke-width:1}
.s0{stroke:var(--a)}.s1{stroke:var(--b)}.s2{stroke:var(--good)}.s3{stroke:var(--bad)}\
polyline,.key{fill:none;stroke-width:2}
.raw{stroke-width:1;opacity:.3}.s1.mean,.s1.key{stroke-dasharray:7 3}\
.whisker{stroke:var(--a);stroke-width:2.5}
.dot{fill:var(--a)}.reference{stroke:var(--b);stroke-dasharray:2 2}.bar{width:9rem;min-width:6rem}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--a)}\
pre,code{font:.82rem/1.45 ui-monospace,Menlo,Consolas,monospace}
pre{background:var(--tint);padding:.8rem;border-radius:.3rem;white-space:pre-wrap;\
overflow-wrap:anywhere}
@media print{body{max-width:none;padding:0;font-size:10pt}nav{display:none}\
figure,tr,.findings li{break-inside:avoid}
h2,h3{break-after:avoid}.scroll{overflow:visible}*{print-color-adjust:exact}
details::details-content{content-visibility:visible;block-size:auto}}
"""


class Html(str):
    """Markup. Every other string is text and is escaped where it enters the page."""


def escape(value: object) -> Html:
    """Text as markup; markup as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """<tag attributes>content</tag>. A None attribute is left out; `class_` is class, `aria_label`
    is aria-label.
    """
    opening = tag
    for name, value in attributes.items():
        if value is not None:
            word = name.rstrip("_").replace("_", "-")
            opening += f' {word}="{html.escape(str(value))}"'
    if tag in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{''.join(map(escape, content))}</{tag}>")


def document(title: str, *body: object, script: str = "") -> Html:
    """The whole page; a script runs at its end, and no other can."""
    # The hash lets the browser run this script alone, whatever text slipped into the page.
    policy = _POLICY
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    scripts = [Html(f"<script>{script}</script>")] if script else []
    return Html(
        "<!doctype html>\n"
        + element("html", head, element("body", element("main", *body), *scripts), lang="en")
        + "\n"
    )


def as_bytes(page: Html) -> bytes:
    """The page as it is written: UTF-8, with an escape for a byte of a file name that is none."""
    return page.encode("utf-8", "backslashreplace")


def section(name: str, heading: str, *content: object) -> Html:
    """A part of the page that can be linked to by `name`."""
    return element("section", element("h2", heading), *content, id=name)


def contents(sections: Mapping[str, str]) -> Html:
    """Links to sections: name -> heading."""
    links = []
    for name, heading in sections.items():
        links.append(element("li", element("a", heading, href=f"#{name}")))
    return element("nav", element("ul", *links), aria_label="Contents")


def note(text: object) -> Html:
    """A quiet remark, or what stands where something is missing."""
    return element("p", text, class_="soft")


def details(summary: str, *content: object) -> Html:
    """Content that is folded away until the reader opens it."""
    return element("details", element("summary", summary), *content)


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], total: bool = False
) -> Html:
    """A table whose first column names the rows; columns of numbers are set flush right. `total`:
    the last row sums up.
    """

    classes, names = [], []
    for place, name in enumerate(head):
        class_ = _class_of_column(rows, place)
        classes.append(class_)
        names.append(element("th", name, class_=class_, scope="col"))
    lines = []
    for row in rows:
        cells = [element("th", row[0], scope="row")]
        for value, class_ in zip(row[1:], classes[1:], strict=True):
            cells.append(element("td", value, class_=class_))
        summed = "total" if total and row is rows[-1] else None
        lines.append(element("tr", *cells, class_=summed))
    parts = (
        element("caption", caption),
        element("thead", element("tr", *names)),
        element("tbody", *lines),
    )
    return element(
        "div",
        element("table", *parts),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def _class_of_column(rows: Sequence[Sequence[object]], place: int) -> str | None:
    """`n` for a column that holds numbers alone."""
    for row in rows:
        if not _NUMBER.fullmatch(str(row[place])):
            return None
    return "n" if rows else None


def picture(data: bytes, media_type: str, alt: str, small: bool) -> Html:
    """An image as data; `small` ones are magnified without smoothing."""
    return element("img", src=data_url(data, media_type), alt=alt, class_="px" if small else None)


def data_url(data: bytes, media_type: str) -> str:
    """Bytes as a URL that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def interval_bar(
    estimate: SavedEstimate | None, low: float, high: float, reference: float | None = None
) -> Html:
    """A dot with its interval between `low` and `high`, and a mark at the reference, for one cell
    of a table.
    """
    if not estimate or high <= low:
        return Html("")
    for name in ("mean", "low", "high"):
        if not math.isfinite(estimate[name]):
            return Html("")

    # The axis reaches from 5 to 155; what lies outside of it is drawn at its end.
    def place(value: float) -> str:
        return f"{5 + 150 * min(1.0, max(0.0, (value - low) / (high - low))):.1f}"

    drawn = [element("line", x1=5, x2=155, y1=9, y2=9, class_="axis")]
    if reference is not None and math.isfinite(reference):
        mark = place(reference)
        drawn.append(element("line", x1=mark, x2=mark, y1=1, y2=17, class_="reference"))
    left, right = place(estimate["low"]), place(estimate["high"])
    drawn.append(element("line", x1=left, x2=right, y1=9, y2=9, class_="whisker"))
    drawn.append(element("circle", cx=place(estimate["mean"]), cy=9, r=4, class_="dot"))
    return element("svg", *drawn, viewBox="0 0 160 18", class_="bar", aria_hidden="true")


def line_chart(
    title: str, series: Mapping[str, Sequence[Point]], x_label: str, y_label: str
) -> Html:
    """Lines over a logarithmic y: each series faint as it was measured and strong as its running
    mean.
    """
    lines = {name: _with_logarithm(line) for name, line in series.items()}
    points = list(chain.from_iterable(lines.values()))
    if not points:
        return note(f"{title}: nothing was recorded.")
    xs, ys = zip(*points, strict=True)
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if y_high <= y_low:  # a flat line still needs a range to lie in
        y_low, y_high = y_low / 2, y_high * 2

    def x_of(x: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (x - x_low) / ((x_high - x_low) or 1)

    def y_of(y: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * math.log(y / y_low) / math.log(y_high / y_low)

    def polyline(line: Sequence[Point], class_: str) -> Html:
        # Every so many points are drawn: more than these no eye can tell apart.
        thin = line[:: max(1, -(-len(line) // _MOST_POINTS))]
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in thin)
        return element("polyline", points=points, class_=class_)

    # Axes first: rules across for y, ticks below for x.
    drawn = [element("title", title)]
    for y in log_ticks(y_low, y_high):
        at, below = f"{y_of(y):.1f}", f"{y_of(y) + 4:.1f}"
        drawn.append(element("line", x1=_LEFT, x2=_RIGHT, y1=at, y2=at, class_="axis"))
        drawn.append(element("text", f"{y:g}", x=_LEFT - 6, y=below, text_anchor="end"))
    for x in linear_ticks(x_low, x_high):
        at = f"{x_of(x):.1f}"
        drawn.append(element("line", x1=at, x2=at, y1=_BOTTOM, y2=_BOTTOM + 5, class_="axis"))
        drawn.append(element("text", f"{x:,.10g}", x=at, y=_BOTTOM + 18, text_anchor="middle"))
    drawn.append(element("line", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM, class_="axis"))
    middle = (_LEFT + _RIGHT) / 2
    drawn.append(element("text", x_label, x=middle, y=_HEIGHT - 6, text_anchor="middle"))
    # Then the series.
    measured, means = [], []
    for i, line in enumerate(lines.values()):
        measured.append(polyline(line, f"s{i % 4} raw"))
        means.append(polyline(running_mean(line), f"s{i % 4} mean"))
    drawn += measured + means  # in this order, so that no faint line covers a mean
    # Last the legend, from the upper right corner down.
    for i, name in enumerate(lines):
        y = _TOP + 10 + 18 * i
        drawn.append(element("line", x1=_RIGHT - 28, x2=_RIGHT, y1=y, y2=y, class_=f"s{i % 4} key"))
        drawn.append(element("text", name, x=_RIGHT - 34, y=y + 4, text_anchor="end"))
    heading = element("strong", title)
    caption = element("figcaption", heading, " (logarithmic; strong: running mean)")
    label = f"{title}: {y_label} over {x_label} for {', '.join(lines)}"
    return element(
        "figure",
        caption,
        element("svg", *drawn, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label),
    )


def _with_logarithm(line: Sequence[Point]) -> list[Point]:
    """The points that a logarithmic axis can show."""
    return [(x, y) for x, y in line if math.isfinite(y) and y > 0]


def running_mean(line: Sequence[Point], share: float = 0.05) -> list[Point]:
    """The geometric mean over a window of about `share` of the points, centred: no lag, and fit for
    a logarithmic axis.
    """
    # Near its ends a line has fewer points around a point; the window is cut there.
    half = max(1, round(len(line) * share / 2))
    logs = [math.log(y) for _, y in line]
    means = []
    for place, (x, _) in enumerate(line):
        window = logs[max(0, place - half) : place + half + 1]
        means.append((x, math.exp(sum(window) / len(window))))
    return means


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most about `most` round numbers between low and high."""
    if not high > low:
        return [low]
    # The step is the smallest of 1, 2, 5, 10, 20, ... that gives no more ticks than wanted. The
    # small amounts below keep rounding errors from leaving out a step or the last tick.
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * 10
    for factor in (1, 2, 5):
        if power * factor >= rough * 0.999:
            step = power * factor
            break
    first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between low and high, with 2 and 5 times them when those are few; round numbers
    in a narrow range.
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        ticks = []
        for exponent, factor in product(exponents, factors):
            tick = factor * 10.0**exponent
            if low <= tick <= high:
                ticks.append(round(tick, 12))
        if len(ticks) >= 3:  # fewer would hardly be a scale
            return ticks
    return linear_ticks(low, high)


def number(value: float | None, digits: int = 4, signed: bool = False) -> str:
    """Fixed decimals, with a true minus sign; a dash where there is no number."""
    if value is None or not math.isfinite(value):
        return ABSENT
    rounded = round(value, digits) + 0.0  # which makes a zero of -0.00001, not a minus zero
    return f"{rounded:{'+' if signed else ''},.{digits}f}".replace("-", "−")


def estimate_text(estimate: SavedEstimate | None, digits: int = 4) -> str:
    """mean [low, high]."""
    if not estimate:
        return ABSENT
    return f"{number(estimate['mean'], digits)}{_interval(estimate, 1, digits)}"


def percent(value: float | SavedEstimate | None, digits: int = 1, signed: bool = False) -> str:
    """A share, or an estimated share with its interval, in per cent."""
    if isinstance(value, Mapping):
        return f"{percent(value['mean'], digits, signed)}{_interval(value, 100, digits, signed)}"
    text = number(None if value is None else 100 * value, digits, signed)
    return text if text == ABSENT else f"{text} %"


def bytes_text(count: int) -> str:
    """Bytes in the unit that suits them."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count} B"


def _interval(estimate: SavedEstimate, times: float, digits: int, signed: bool = False) -> str:
    """The range in brackets; none where there is no number."""
    low, high = estimate["low"], estimate["high"]
    if not math.isfinite(high - low):
        return ""
    return f" [{number(times * low, digits, signed)}, {number(times * high, digits, signed)}]"
