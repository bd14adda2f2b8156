"""What a host's /.well-known/tdmrep.json says: of which of its files texts and data may be mined.

By TDMRep of the W3C's community group (w3c.github.io/tdm-reservation-protocol/spec), sections "TDM
File on the Origin Server" and "Processing priority":

- It is an array of rules: a location, a pattern of paths as in robots.txt (* is anything, $ at its
  end is the path's end), and tdm-reservation, 1 where the rights are reserved and 0 where not. A
  tdm-policy, where a licence can be had, changes neither.
- The first rule that fits counts. Where none does, and where its value is another one, nothing is
  said.
- A host without the file does not take part. Neither does one whose file is no such array, or is
  larger than what is read of it.
- The header tdm-reservation of an answer supersedes the file, a 0 as well as a 1.
"""

import json
import re
from dataclasses import dataclass
from urllib.parse import quote

from storage.web.manners import fits

PATH = b"/.well-known/tdmrep.json"
_SAFE = "/%!$&'()*+,;=:@?#[]"
"""What has a meaning in an address: there %XX is another thing than the sign itself."""


@dataclass(frozen=True)
class Reservations:
    """The rules of one host, in their order."""

    rules: tuple[tuple[str, bool], ...]
    """Pattern of paths, and whether they are reserved."""

    @classmethod
    def of(cls, text: str) -> "Reservations":
        """Read a tdmrep.json; what cannot be read says nothing, and neither does what is no
        rule.
        """
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        rules = []
        for rule in found if isinstance(found, list) else []:
            location = rule.get("location") if isinstance(rule, dict) else None
            if isinstance(location, str) and location:
                value = rule.get("tdm-reservation")
                # A no in quotes is a no; true is a mistake, and means nothing.
                is_reserved = value in (1, "1") and value is not True
                rules.append((_pattern(location), is_reserved))
        return cls(tuple(rules))

    def refusal(self, path: str) -> str | None:
        """Why a path, with its query, is not to be fetched for a training, or None."""
        path = _as_compared(path).replace("$", "%24").replace("*", "%2A")
        for pattern, is_reserved in self.rules:
            if fits(pattern, path):
                no = f"tdmrep.json: tdm-reservation: 1 for {pattern[:80]}"
                return no if is_reserved else None
        return None


def _pattern(location: str) -> str:
    """A location as paths are compared with: of its $ only one at its end is a sign."""
    end = "$" if location.endswith("$") else ""
    return _as_compared(location.removesuffix("$")).replace("$", "%24") + end


def _as_compared(path: str) -> str:
    """A path in which letters, digits, - . _ and ~ stand for themselves, and all else that means
    nothing in an address as %XX.
    """
    path = re.sub("%[0-9A-Fa-f]{2}", _unpacked, path)
    return quote(path, safe=_SAFE, errors="surrogatepass")


def _unpacked(found: re.Match[str]) -> str:
    """The sign that a %XX is of, where it stands for itself."""
    sign = chr(int(found[0][1:], 16))
    return sign if re.fullmatch(r"[\w.~-]", sign, re.ASCII) else found[0].upper()
