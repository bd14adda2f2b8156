"""Whether the installed packages are those that rdm's own metadata asks for, and what these ask
for in turn: nothing is listed here twice.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from shlex import quote
from typing import TYPE_CHECKING

from flows.doctor.findings import Finding, Findings, Machine, fails, fine, note
from flows.run.environment import PROXIES

if TYPE_CHECKING:
    from packaging.requirements import Requirement

REASONS = {
    "sqlalchemy": "Prefect's scheduler fails at its bulk insert, and no schedule ever fires",
    "fastapi": "its server refuses what `prefect deploy` sends, and only the first is deployed",
    "numpy": "autofaiss fails with numpy 2",
    "faiss-cpu": "autofaiss fails on quantised indices",
    "torch": "torch.optim.Muon, which presets train with, came with 2.9",
    "torchvision": "its operators are built for one torch: importing open_clip fails",
    "pyarrow": "newer ones refuse the numpy that autofaiss needs",
    "socksio": "without it httpx, and so Prefect's client and the hub's, fails at a socks proxy",
}
"""Package -> why its bounds are as they are, which metadata cannot say."""
OF_OTHERS = ("torchvision", "socksio")
"""Those whose reason holds for the bounds of another package than rdm."""
OF_NAME = "rdm"
DEVELOPMENT = "dev"
"""The extra that nobody but developers is told about."""


@dataclass(frozen=True)
class Unmet:
    """A requirement that is not met."""

    of: str
    """Whose it is."""
    requirement: str
    """As pip takes it."""
    name: str
    found: str | None
    """The version that is installed; None: nothing is."""


def packages(machine: Machine) -> Findings:
    """The packages that are there against what is asked for, and the extras."""
    try:
        unmet, met = compared()
    except PackageNotFoundError:
        cure = f"{quote(sys.executable)} -m pip install --editable FOLDER-OF-RDM"
        yield note("packages", "not compared: rdm has no metadata here, so no bounds", cure)
        return
    for one in unmet:
        yield _told(one, machine.environment)
    yield from labels_differ(met)
    if not unmet:
        known = ", ".join(f"{name} {met[name]}" for name in REASONS if name in met)
        yield fine("packages", f"{len(met)} as they ask of each other: {known}")
    here, absent = extras()
    told = f"here: {', '.join(here) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    yield fine("extras", told)


def compared() -> tuple[list[Unmet], dict[str, str]]:
    """What is not met, of rdm's requirements and those of what they ask for; and name -> version of
    all that are. Raises PackageNotFoundError where rdm itself is not installed.
    """
    from packaging.utils import canonicalize_name

    requires(OF_NAME)
    unmet: list[Unmet] = []
    met: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    open_ones: list[tuple[str, frozenset[str]]] = [(OF_NAME, frozenset())]
    while open_ones:
        of, wanted_extras = open_ones.pop()
        for requirement in requirements_of(of, wanted_extras):
            name = canonicalize_name(requirement.name)
            found = _version(requirement.name)
            if found is None or not requirement.specifier.contains(found, prereleases=True):
                asked = f"{requirement.name}{requirement.specifier}"
                unmet.append(Unmet(of, asked, name, found))
            else:
                met[name] = found
            key = (name, frozenset(requirement.extras))
            if found is not None and key not in seen:
                seen.add(key)
                open_ones.append(key)
    unmet.sort(key=lambda one: (one.of != OF_NAME, one.name))
    return unmet, met


def requirements_of(name: str, extras_wanted: frozenset[str]) -> Iterator["Requirement"]:
    """Those that hold on this machine for the package and these extras of it."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requires(name) or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # of an old package; pip skips it as well
            continue
        marker = requirement.marker
        asked = extras_wanted or {""}
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in asked):
            yield requirement


def needed_directly() -> list[str]:
    """The packages that rdm's own metadata names, extras aside; none where there is none."""
    try:
        return [requirement.name for requirement in requirements_of(OF_NAME, frozenset())]
    except PackageNotFoundError:
        return []


def labels_differ(met: Mapping[str, str]) -> Findings:
    """Wheels of torch and torchvision of different builds (+cpu, +cu126) do not fit, whatever their
    numbers.
    """
    of_torch, of_torchvision = met.get("torch", ""), met.get("torchvision", "")
    one, other = of_torch.partition("+")[2], of_torchvision.partition("+")[2]
    if one and other and one != other:
        what = f"torch {of_torch} and torchvision {of_torchvision} are of different builds"
        yield fails("packages", what, f"Install both anew: {reinstall('torch', 'torchvision')}")


def extras() -> tuple[list[str], list[str]]:
    """The extras of rdm whose packages are all there, and the others."""
    from packaging.requirements import Requirement

    members: dict[str, list[str]] = {}
    for text in requires(OF_NAME) or ():
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        if "extra == " in marker:
            members.setdefault(marker.split('"')[1], []).append(requirement.name)
    members.pop(DEVELOPMENT, None)
    here = [name for name, needed in members.items() if all(map(_version, needed))]
    return here, [name for name in members if name not in here]


def _told(one: Unmet, environment: Mapping[str, str]) -> Finding:
    """What of it: rdm's own bounds and the known reasons will fail, others may not."""
    key = one.of if (one.of, one.name) == ("torchvision", "torch") else one.name
    known = key in REASONS and (one.of == OF_NAME or key in OF_OTHERS)
    reason = f": {REASONS[key]}" if known else ""
    there = f"{one.name} {one.found}" if one.found else f"{one.name} is not installed"
    what = f"{there}; {one.of} asks for {one.requirement}{reason}"
    cure = f"{quote(sys.executable)} -m pip install {quote(one.requirement)}"
    if key == "torchvision":
        cure = reinstall("torch", "torchvision")
    harmless = key == "socksio" and not socks_proxies(environment)
    if harmless or not (known or one.of == OF_NAME):
        return note("packages", what, cure)
    return fails("packages", what, cure)


def socks_proxies(environment: Mapping[str, str]) -> list[str]:
    """The variables that name a socks proxy."""
    named = []
    for name, address in environment.items():
        if name.lower() in PROXIES and address.lower().startswith("socks"):
            named.append(name)
    return sorted(named)


def reinstall(*names: str) -> str:
    """The command that installs packages anew, whatever is there."""
    return f"{quote(sys.executable)} -m pip install --upgrade --force-reinstall {' '.join(names)}"


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None
