"""What a licence asks for, in the spellings in which data sets state it.

- SPDX identifiers: CC-BY-NC-SA-2.0, CC0-1.0, MIT, Apache-2.0 (spdx.org/licenses).
- Addresses of Creative Commons: http://creativecommons.org/licenses/by-nc/2.0/, and
  .../publicdomain/zero/1.0/ (creativecommons.org/share-your-work/cclicenses). Open Images states
  these.
- COCO's eight names, as the `licenses` of its annotations list them: "Attribution-NonCommercial-
  ShareAlike License", "No known copyright restrictions", "United States Government Work".
- What people write: "CC BY-SA 4.0".

It says what a licence's name says, and is no advice.
"""

import re
from collections.abc import Iterable
from typing import Literal, get_args

Term = Literal["NC", "ND", "SA", "unknown"]
"""Non-commercial, no derivatives, share-alike; or that nobody stated one that is known here."""
TERMS: tuple[Term, ...] = get_args(Term)
IN_WORDS: dict[Term, str] = {
    "NC": "non-commercial",
    "ND": "no derivatives",
    "SA": "share-alike",
    "unknown": "no licence that is known",
}
_COCO = {
    "attribution license": "by",
    "attribution-sharealike license": "by-sa",
    "attribution-noderivs license": "by-nd",
    "attribution-noncommercial license": "by-nc",
    "attribution-noncommercial-sharealike license": "by-nc-sa",
    "attribution-noncommercial-noderivs license": "by-nc-nd",
}
_FREE = frozenset(
    ("cc0", "cc0-1.0", "pdm", "public domain", "no known copyright restrictions",
     "united states government work", "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc",
     "unlicense", "ofl-1.1")
)  # fmt: skip
"""They ask for their text or a name beside the work at most. (OFL-1.1 is share-alike for fonts, not
for what is drawn with them.)
"""
_CODE = re.compile(r"(?:cc[ -]?)?(by(?:-(?:nc|nd|sa))*)(?:[ -]\d+(?:\.\d+)*)?(?:[ -][a-z]{2,3})?")
_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?creativecommons\.org/(?:licenses/(by[a-z-]*)|publicdomain/\w+)"
    r"(?:/[\w.-]*)*/?"
)


def terms_of(licence: str | None) -> frozenset[Term]:
    """What a licence asks for beyond naming the author; {"unknown"} for none, or one that is not
    known here.
    """
    code = _code_of(licence or "")
    if code is None:
        return frozenset({"unknown"})
    return frozenset(term for term in ("NC", "ND", "SA") if term.lower() in code.split("-"))


def _code_of(licence: str) -> str | None:
    """ "by-nc-sa", "" where it asks for nothing more; None where it is not known."""
    name = re.sub(r"\s+", " ", licence).strip().lower()
    if name in _FREE:
        return ""
    if name in _COCO:
        return _COCO[name]
    address = _ADDRESS.fullmatch(name)
    if address:
        return address[1] or ""
    # "CC BY-NC 4.0", "CC-BY-NC-4.0", "cc by nc"
    joined = re.sub(r"\b(by|nc|nd|sa) (?=nc\b|nd\b|sa\b)", r"\1-", name)
    code = _CODE.fullmatch(joined)
    return code[1] if code else None


def asked_by(licences: Iterable[str | None]) -> dict[Term, dict[str, int]]:
    """Term -> licence as it is stated -> how many of these state it; most first. Terms that none
    asks for are left out.
    """
    asked: dict[Term, dict[str, int]] = {}
    for licence in licences:
        for term in terms_of(licence):
            counts = asked.setdefault(term, {})
            stated = licence or "not stated"
            counts[stated] = counts.get(stated, 0) + 1
    ordered = {}
    for term in TERMS:
        if term in asked:
            ordered[term] = dict(sorted(asked[term].items(), key=lambda item: -item[1]))
    return ordered
