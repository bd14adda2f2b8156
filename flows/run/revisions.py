"""The revision of each stage: a fix that changes bytes rebuilds what it spoiled.

Raise the number of a kind whenever the code that makes it gives other bytes for the same
parameters and inputs, and they were wrong before: a reader, the decoder, the drawing. Not for what
is faster, for rounding in the last bits, or for a new parameter whose default changes nothing.
Then the next run of the stage builds a new version, part by part; old versions stay readable and
are used as inputs, and what is made from parts whose bytes did not change is kept.
"""

from collections.abc import Mapping
from typing import Any

from storage.manifest import REVISION, Plan

REVISIONS = {
    "shards": 2,  # 2: ICC profiles, odd metadata, bit depths, transparent pixels; lost rows
    "embeddings": 1,
    "index": 1,
    "neighbors": 1,
    "autoencoders": 1,
    "latents": 1,
    "runs": 1,
    "samples": 2,  # 2: as many steps as asked for, from the first one on; ICC of given images
    # 2: as samples; 3: grain and edges, who judged, what is left out; 4: other prompts are others;
    # 5: a model that reads the images' own vectors is given them
    "evaluations": 5,
    "reports": 2,  # 2: grain and edges, who judged, what is left out; licences of what was searched
}
"""Kind -> revision of the stage that makes it. A plan that says nothing is of revision 1."""


def revision_of(kind: str) -> dict[str, int]:
    """What the plan of a stage says of its revision, and what each of its parts is made from,
    beside everything else.
    """
    return {REVISION: REVISIONS[kind]} if REVISIONS[kind] > 1 else {}


def plan_of(kind: str, name: str, parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> Plan:
    """The plan of a stage in its present revision."""
    # Parameters may come from the plan of an older artifact, which says the revision of its time.
    asked = dict(parameters)
    asked.pop(REVISION, None)
    return Plan(kind, name, asked | revision_of(kind), inputs)
