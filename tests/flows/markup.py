"""Reads a page back: each element with its attributes, its text, and the elements inside."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"img", "meta"}


@dataclass
class Element:
    """One element; its text is all the text inside it."""

    tag: str
    attributes: dict[str, str]
    inside: list["Element"] = field(default_factory=list)
    text: str = ""

    def every(self, tag: str) -> Iterator["Element"]:
        """Each element of that kind inside, in the order of the page."""
        for one in self.inside:
            if one.tag == tag:
                yield one
            yield from one.every(tag)

    def texts(self, tag: str) -> list[str]:
        """The text of each element of that kind inside."""
        return [element.text for element in self.every(tag)]

    def of_class(self, tag: str, class_: str) -> list["Element"]:
        """Each element of that kind and class inside."""
        return [one for one in self.every(tag) if one.attributes.get("class") == class_]

    def numbers(self, *names: str) -> tuple[float, ...]:
        """Some of its attributes."""
        return tuple(float(self.attributes[name]) for name in names)


class _Reader(HTMLParser):
    """Refuses what is not closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        for one in self.open:
            one.text += data


def read(markup: str) -> Element:
    """The elements of some markup, inside one without a name."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    assert len(reader.open) == 1, "something is not closed"
    return reader.open[0]
