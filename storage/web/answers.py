"""What an answer means before its body is read: where it leads, when to ask again, what failed."""

import email.utils
import time

import httpx

from storage.web.addresses import checked
from storage.web.outcomes import Failed, Refused

REDIRECTS = (301, 302, 303, 307, 308)
WAITING = (429, 503)
"""What a server answers that is to be asked later."""
MAY_PASS = (408, 425, 500, 502, 504)


def next_of(response: httpx.Response) -> httpx.URL:
    """Where a redirect leads. Raises Refused where nothing is fetched from."""
    target = response.headers.get("location", "")
    if not target:
        raise Failed(f"status {response.status_code}", "it redirects nowhere")
    try:
        joined = str(response.request.url.join(target))
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused("not an address", f"a redirect to {target[:200]!r}") from error
    return checked(joined)


def waiting(response: httpx.Response, attempt: int) -> float | None:
    """Seconds after which a server wants to be asked again; None where it answered."""
    if response.status_code not in WAITING + MAY_PASS:
        return None
    after = response.headers.get("retry-after", "").strip()
    if after.isascii() and after.isdigit():
        return float(after[:9])
    try:
        date = email.utils.parsedate_to_datetime(after).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 2.0**attempt
    return max(0.0, date - time.time())


def length_of(response: httpx.Response) -> int | None:
    """The bytes that a body is said to have."""
    length = response.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def in_words(error: httpx.HTTPError) -> tuple[str, str]:
    """Reason and detail of a failed connection."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.PoolTimeout):
        return "too slow", type(error).__name__
    if isinstance(error, httpx.RemoteProtocolError):
        return "cut short", str(error)
    return "no connection", str(error) or type(error).__name__
