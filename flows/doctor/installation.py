"""Python, the environment, and whether everything called rdm is one installation."""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import Distribution, distributions
from pathlib import Path
from shlex import quote
from urllib.parse import unquote, urlsplit

from flows.doctor.findings import Findings, Machine, fails, fine, note
from flows.doctor.packages import needed_directly

PACKAGES = ("flows", "rdm_core", "storage")
COMMANDS = ("rdm", "prefect")
"""Commands that must be of this environment when they are typed."""
MOST_NAMES_TOLD = 5


def python(machine: Machine) -> Findings:
    """Its version, and whether it is an environment of its own."""
    from packaging.specifiers import SpecifierSet

    version = ".".join(map(str, sys.version_info[:3]))
    rdm = next(iter(installed()), None)
    wanted = SpecifierSet((rdm.metadata["Requires-Python"] if rdm else None) or "")
    kind = environment_kind()
    if not wanted.contains(version):
        cure = "Make the environment with another one: make install PYTHON=python3.12"
        yield fails("python", f"{version} of {sys.prefix}; rdm wants {wanted}", cure)
    elif kind is None:
        cure = "An environment of its own: python3 -m venv .venv, and install rdm by .venv/bin/pip"
        where = f"{version} of {sys.prefix}, which other programs share"
        yield note("python", f"{where}: their packages and rdm's can undo each other", cure)
    else:
        yield fine("python", f"{version} in the {kind} {sys.prefix}")
    other = machine.environment.get("VIRTUAL_ENV")
    if other and not _same(Path(other), Path(sys.prefix)):
        what = f"VIRTUAL_ENV is {other}: pip and python typed here are of that environment"
        activate = Path(sys.prefix) / "bin" / "activate"
        cure = f"source {activate}" if activate.is_file() else "deactivate"
        yield note("python", what, cure)


def environment_kind() -> str | None:
    """What this Python is called where packages do not mix with other programs'; None elsewhere."""
    if sys.prefix != sys.base_prefix:
        return "virtual environment"
    return "conda environment" if (Path(sys.prefix) / "conda-meta").is_dir() else None


def installed() -> list[Distribution]:
    """Every installation of rdm that this Python finds; the first one counts."""
    return list(distributions(name="rdm"))


def one_installation(machine: Machine) -> Findings:
    """Whether the three packages, their metadata and the typed commands belong together."""
    folders = {name: folder_of(name) for name in PACKAGES}
    again = f"{quote(sys.executable)} -m pip install --editable FOLDER-OF-RDM"
    if len(set(folders.values())) > 1:
        told = ", ".join(f"{name} of {folder}" for name, folder in folders.items())
        cure = "Take the folder that is not rdm's out of PYTHONPATH, or rename what is in it"
        yield fails("installation", f"the packages are of different places: {told}", cure)
        return
    folder = folders["flows"]
    found = installed()
    if not found:
        cure = again.replace("FOLDER-OF-RDM", quote(str(folder)))
        yield note("installation", f"rdm is not installed; its code is imported of {folder}", cure)
    elif not _same(declared := folder_declared(found[0]), folder):
        cure = "Take the other one out of PYTHONPATH, or install the one that is meant: "
        what = f"rdm {found[0].version} is installed of {declared}, but imported of {folder}"
        yield note("installation", what, cure + again)
    else:
        yield fine("installation", f"rdm {found[0].version}: {', '.join(PACKAGES)} of {folder}")
    yield from typed_commands(machine)


def folder_of(package: str) -> Path:
    """The folder in which an imported package lies."""
    module = import_module(package)
    place = Path(module.__file__ or list(module.__path__)[0]).resolve()
    return place.parent.parent if place.name == "__init__.py" else place.parent


def folder_declared(distribution: Distribution) -> Path:
    """The folder whose packages an installation means: of an editable one its source."""
    said = json.loads(distribution.read_text("direct_url.json") or "{}")
    if said.get("dir_info", {}).get("editable"):
        return Path(unquote(urlsplit(said["url"]).path)).resolve()
    return Path(str(distribution.locate_file(""))).resolve()


def typed_commands(machine: Machine) -> Findings:
    """Whether the commands, typed here, are this environment's."""
    scripts = Path(sysconfig.get_path("scripts"))
    absent = []
    for command in COMMANDS:
        found = shutil.which(command, path=machine.environment.get("PATH", ""))
        if found is None:
            absent.append(command)
        elif not _same(Path(found).resolve().parent, scripts):  # a link to ours is ours
            what = f"typed here, {command} is {found}, of another environment"
            yield note("installation", what, f"{_on_path(scripts)}, and hash -r")
    if absent:
        yield note("installation", f"not on PATH: {', '.join(absent)}", _on_path(scripts))


def _on_path(scripts: Path) -> str:
    return f"export PATH={quote(str(scripts))}:$PATH"


def names_taken(machine: Machine) -> Findings:
    """Files and folders of the user that Python would import in place of ours or its own."""
    try:
        here = Path.cwd()
    except FileNotFoundError:
        yield fails("names", "the working directory was deleted", "cd to a folder that is there")
        return
    ours = folder_of("flows")
    safe = bool(machine.environment.get("PYTHONSAFEPATH"))
    stated = machine.environment.get("PYTHONPATH", "").split(os.pathsep)
    for folder in dict.fromkeys([here, *(Path(path).absolute() for path in stated if path)]):
        is_here = folder == here
        taken = [] if _same(folder, ours) or (is_here and safe) else sorted(names_in(folder))
        if not taken:
            continue
        told = ", ".join(taken[:MOST_NAMES_TOLD])
        told += f" and {len(taken) - MOST_NAMES_TOLD} more" if taken[MOST_NAMES_TOLD:] else ""
        if is_here:
            what = f"{folder} holds {told}: notebooks, scripts and python -m started here import"
            what += " that in place of the module of this name; rdm does not"
            yield note("names", what, "export PYTHONSAFEPATH=1, or start in another folder")
        else:
            what = f"PYTHONPATH names {folder}, which holds {told}, in place of the modules of"
            cure = f"Take {folder} out of PYTHONPATH, or rename these"
            yield note("names", f"{what} these names", cure)
    if safe:
        yield fine("names", "PYTHONSAFEPATH is set: nothing of the working directory is imported")
    elif not names_in(here) or _same(here, ours):
        yield fine("names", f"nothing in {here} is imported in place of a module")


def names_in(folder: Path) -> set[str]:
    """Modules and packages there that are named like ours, Python's or what we need."""
    known = {*PACKAGES, *sys.stdlib_module_names}
    known |= {name.lower().replace("-", "_") for name in needed_directly()}
    return {name for name in _importable(folder) if name.removesuffix(".py").strip("/") in known}


def _importable(folder: Path) -> Iterator[str]:
    """`queue.py` and `flows/` of a folder; nothing of one that cannot be listed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.endswith(".py"):
            yield entry.name
        elif os.path.isfile(os.path.join(entry.path, "__init__.py")):  # noqa: PTH113, PTH118
            yield f"{entry.name}/"


def npm(machine: Machine) -> Findings:
    """Fetches emoji."""
    found = shutil.which("npm", path=machine.environment.get("PATH", ""))
    if found:
        yield fine("npm", found)
    else:
        cure = "Install Node.js, if emoji are wanted; nothing else uses it"
        yield note("npm", "not on PATH: rdm acquire emoji cannot fetch them", cure)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
