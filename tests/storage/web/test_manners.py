"""How an owner's no is heard."""

import httpx
import pytest

from storage.web.manners import SIGNS, Robots, header_refusal, user_agent


def refusal(text, path="/a/b.jpg", honour=SIGNS):
    return Robots.of(text).refusal(f"https://example.org{path}", path, honour)


@pytest.mark.parametrize(
    "text, refused",
    [
        ("", None),
        ("User-agent: *\nDisallow:", None),
        ("User-agent: *\nDisallow: /", "robots.txt"),
        ("User-agent: *\nDisallow: /a/", "robots.txt"),
        ("User-agent: *\nDisallow: /c", None),
        ("User-agent: *\nDisallow: /\n\nUser-agent: rdm\nAllow: /", None),
        ("User-agent: rdm\nDisallow: /\n\nUser-agent: *\nAllow: /", "robots.txt"),
        ("User-agent: *\nContent-Signal: search=yes, ai-train=no", "Content-Signal: ai-train=no"),
        ("User-agent: *\nContent-signal: search=yes,ai-train=no,use=reference\nAllow: /",
         "Content-Signal: ai-train=no"),
        ("User-agent: *\nContent-Signal: search=no, ai-train=yes", None),
        ("User-agent: *\nContent-Signal: ai-input=no", "Content-Signal: ai-input=no"),
        ("User-agent: other\nContent-Signal: ai-train=no\n\nUser-agent: *\nAllow: /", None),
        ("User-agent: a\nUser-agent: *\nContent-Signal: ai-train=no",
         "Content-Signal: ai-train=no"),
        ("User-agent: *\nAllow: /\n\nUser-agent: *\nContent-Signal: ai-train=no",
         "Content-Signal: ai-train=no"),
        ("User-agent: *\nContent-Usage: train-ai=n", "Content-Usage: train-ai=n"),
        ("User-agent: *\nContent-Usage: train-ai=n # no", "Content-Usage: train-ai=n"),
        ("User-agent: *\nContent-Usage: train-ai=y", None),
        ("User-agent: *\nContent-Usage: search=n", None),
        ("User-agent: *\nContent-Usage: /a/ train-ai=n", "Content-Usage: train-ai=n"),
        ("User-agent: *\nContent-Usage: /z/ train-ai=n", None),
        ("User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /a/ train-ai=y", None),
        ("User-agent: *\nContent-Usage: /a/ train-ai=y\nContent-Usage: /a/ train-ai=n",
         "Content-Usage: train-ai=n"),
        ("User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /a/*.png train-ai=y",
         "Content-Usage: train-ai=n"),
        ("User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /a/*.jpg$ train-ai=y", None),
        ("\x00\xff nonsense : : :\nDisallow", None),
    ],
)  # fmt: skip
def test_robots_txt_is_heard(text, refused):
    assert refusal(text) == refused


def test_only_the_signs_that_are_honoured_are_heard():
    text = "User-agent: *\nDisallow: /\nContent-Signal: ai-train=no\nContent-Usage: train-ai=n"
    assert refusal(text, honour=()) is None
    for sign in ("robots.txt", "Content-Signal", "Content-Usage"):
        assert refusal(text, honour=(sign,)).startswith(sign)


def test_a_delay_between_requests_is_known():
    assert Robots.of("User-agent: *\nCrawl-delay: 2.5").delay_seconds == 2.5
    assert Robots.of("").delay_seconds == 0


@pytest.mark.parametrize(
    "headers, refused",
    [
        ([("X-Robots-Tag", "noai")], "X-Robots-Tag: noai"),
        ([("x-robots-tag", "NoImageAI, nofollow")], "X-Robots-Tag: noimageai"),
        ([("X-Robots-Tag", "nofollow"), ("X-Robots-Tag", "noindex")], "X-Robots-Tag: noindex"),
        ([("X-Robots-Tag", "nofollow, noarchive")], None),
        ([("X-Robots-Tag", "otherbot: noai")], None),
        ([("X-Robots-Tag", "otherbot: nofollow, rdm: noai")], "X-Robots-Tag: noai"),
        ([("X-Robots-Tag", "otherbot: nofollow"), ("X-Robots-Tag", "noai")], "X-Robots-Tag: noai"),
        ([("X-Robots-Tag", "noindex, unavailable_after: 25 Jun 2027 15:00:00 PST")],
         "X-Robots-Tag: noindex"),
        ([("Content-Usage", "train-ai=n")], "Content-Usage: train-ai=n"),
        ([("Content-Usage", "search=y, train-ai=n;a=1")], "Content-Usage: train-ai=n;a=1"),
        ([("Content-Usage", "train-ai=y")], None),
        ([("TDM-Reservation", "1")], "tdm-reservation: 1"),
        ([("TDM-Reservation", "0")], None),
        ([], None),
    ],
)  # fmt: skip
def test_headers_are_heard(headers, refused):
    assert header_refusal(httpx.Headers(headers), SIGNS) == refused
    assert header_refusal(httpx.Headers(headers), ()) is None


def test_servers_are_told_who_asks_and_how_to_reach_them():
    assert user_agent("me@example.org") == "rdm/0.1 (+me@example.org)"
    assert user_agent(None) == "rdm/0.1"
