"""What the licences of the images behind some samples ask for: told, or refused."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.config.sample import SampleRDM
from flows.run.progress import say
from rdm_core.errors import RequestError
from storage.licences import IN_WORDS, asked_by, terms_of


def look_at_licences(config: SampleRDM, records: Sequence[Mapping[str, Any]]) -> None:
    """Tell in one line what the licences of the neighbors in these records ask for, each image
    counted once; nothing where they ask for no more than a name.

    Raises RequestError, before anything is drawn, for what `refuse_licences` names.
    """
    licence_of: dict[str, str | None] = {}
    for record in records:
        licence_of |= zip(record["neighbor_keys"], record["licences"], strict=True)
    asked = asked_by(licence_of.values())
    if not asked:
        return
    told = []
    for term, stated in asked.items():
        told.append(f"{sum(stated.values()):,} {IN_WORDS[term]} ({', '.join(stated)})")
    behind = f"of {len(licence_of):,} images behind the samples {', '.join(told)}"
    refused = [term for term in config.refuse_licences if term in asked]
    if not refused:
        say("sample", config.name, behind)
        return
    free = set()
    for licence in licence_of.values():
        if licence is not None and not terms_of(licence) & set(refused):
            free.add(licence.replace("'", "''"))
    cure = "Allow them, or take others: --where \"licence IN ('CC0-1.0', ...)\"."
    if free:
        listed = ", ".join(f"'{licence}'" for licence in sorted(free))
        cure = f'Allow them, or take others: --where "licence IN ({listed})".'
    raise RequestError(f"refuse_licences {', '.join(refused)}", behind, cure)
