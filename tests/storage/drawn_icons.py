"""Sets of icons in Iconify's form, of our own drawing, as packages that a false npm hands out."""

import io
import json
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from storage import emoji
from storage.npm import Package, integrity_of

DISC = '<circle cx="8" cy="8" r="7" fill="#fc0"/>'
SQUARE = '<rect x="1" y="1" width="14" height="14" fill="#08c"/>'
CORNER = '<path d="M0 0h8v8H0z" fill="#c00"/>'
"""The upper left quarter."""
INFO = {
    "author": {"name": "A. Painter", "url": "https://example.org/painter"},
    "license": {"title": "CC BY 4.0", "spdx": "CC-BY-4.0"},
}
CONCEPTS = {
    "1f600": ("grinning face", ["grin", "smile", "grin"], 0, 0),
    "2639-fe0f": ("frowning face", ["sad"], 0, 0),
    "1f34e": ("red apple", ["fruit"], 4, 46),
    "1f1e6-1f1f9": ("flag: austria", [], 9, 98),
    "1f3fb": ("light skin tone", [], 2, 32),
}
"""Code points -> name, keywords, group, subgroup."""
GROUPS = {
    "groups": {"0": "smileys-emotion", "2": "component", "4": "food-drink", "9": "flags"},
    "subgroups": {"0": "face-smiling", "32": "skin-tone", "46": "food-fruit", "98": "country-flag"},
}
NPM = """#!{python}
import os, pathlib, shutil, subprocess, sys, time
here = pathlib.Path({here!r})
with (here / "asked").open("a") as asked:
    asked.write(sys.argv[2] + chr(10))
assert sys.argv[1] == "pack" and "--ignore-scripts" in sys.argv, sys.argv
folder = pathlib.Path(sys.argv[sys.argv.index("--pack-destination") + 1])
file = sys.argv[2].lstrip("@").replace("/", "-").replace("@", "-") + ".tgz"
if (here / "says").exists():
    sys.stderr.write((here / "says").read_text())
    sys.exit(1)
if (here / "hangs").exists():
    child = subprocess.Popen(["sleep", "600"])
    (here / "hangs").write_text(str(child.pid))
    child.wait()
if not (here / file).exists():
    sys.stderr.write("npm error code ETARGET" + chr(10))
    sys.stderr.write("npm error notarget No matching version found for " + sys.argv[2] + chr(10))
    sys.stderr.write("npm error A complete log of this run can be found in: /x" + chr(10))
    sys.exit(1)
shutil.copy(here / file, folder / file)
print(file)
"""


def archive_of(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """A .tgz with members under the names as they are given."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def package_of(folder: Path, name: str, version: str, files: dict[str, object]) -> Package:
    """A package as the registry keeps it: everything in package/, values as JSON or text."""
    members = {}
    for path, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        members[f"package/{path}"] = text.encode()
    file = f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    path = archive_of(folder / file, members)
    return Package(name, version, path, integrity_of(path))


def icon_files(icons: dict[str, object], chars: dict[str, str], **more: object) -> dict:
    """The files of a set; icons: name -> body, or all that is said of it."""
    said = {name: {"body": icon} if isinstance(icon, str) else icon for name, icon in icons.items()}
    body = {"prefix": "x", "icons": said, "aliases": {}, "width": 16, "height": 16} | more
    return {"icons.json": body, "chars.json": chars, "info.json": INFO}


def name_files(concepts: dict = CONCEPTS) -> dict:
    """emojibase-data with these concepts, and a letter of flags that is in no group."""
    rows = [{"label": "regional indicator A", "hexcode": "1F1E6"}]
    for code_points, (name, tags, group, subgroup) in concepts.items():
        row = {"label": name, "hexcode": code_points.upper(), "tags": tags}
        skins = [{"label": f"{name}: light skin tone", "hexcode": "1F600-1F3FB"}]
        rows.append(row | {"group": group, "subgroup": subgroup, "skins": skins})
    return {"en/data.json": rows, "meta/groups.json": GROUPS}


def false_npm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages the npm on the PATH hands out, and nothing else; it notes in the file
    `asked` what it is asked for, ends as `says` says, and `hangs` where there are such files.
    """
    registry, programs = folder / "registry", folder / "bin"
    registry.mkdir()
    programs.mkdir()
    script = programs / "npm"
    script.write_text(NPM.format(python=sys.executable, here=str(registry)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return registry


def asked_of(registry: Path) -> list[str]:
    """What a false npm was asked for, in this order."""
    return (registry / "asked").read_text().split() if (registry / "asked").exists() else []


def publish_emoji(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put two styles, `noto` and `openmoji`, and the names into a registry, in place of the real
    ones.
    """

    def pinned(pin: emoji.Pin, files: dict) -> emoji.Pin:
        package = package_of(registry, pin.name, pin.version, files)
        return replace(pin, integrity=package.integrity)

    chars = {"1f600": "grin", "2639": "frown", "1f34e": "apple", "1f1e6-1f1f9": "flag"}
    noto = icon_files({"grin": DISC, "frown": SQUARE, "apple": CORNER, "flag": SQUARE}, chars)
    # Its apple cannot be drawn, and it has no flag.
    icons = {"grin": SQUARE, "frown": DISC, "apple": "<image href='https://example.org/a.png'/>"}
    del chars["1f1e6-1f1f9"]
    openmoji = icon_files(icons, chars)
    authors = "hexcode,openmoji_author\n1F600,Ada Lovelace\n2639-FE0F,\n"
    monkeypatch.setattr(emoji, "NAMES", pinned(emoji.NAMES, name_files()))
    styles = {
        "noto": pinned(emoji.STYLES["noto"], noto),
        "openmoji": pinned(emoji.STYLES["openmoji"], openmoji),
    }
    people = {"openmoji": pinned(emoji.AUTHORS["openmoji"], {"data/openmoji.csv": authors})}
    for name in ("storage.emoji", "flows.data.emoji_pictures"):
        monkeypatch.setattr(f"{name}.NAMES", emoji.NAMES)
        monkeypatch.setattr(f"{name}.STYLES", styles)
        monkeypatch.setattr(f"{name}.AUTHORS", people)
