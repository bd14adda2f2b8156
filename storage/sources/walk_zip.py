"""What lies inside a zip, as `walk` tells it of a folder: what the zip would unpack to."""

from collections import Counter
from pathlib import Path

from storage.sources.disk import open_zip
from storage.sources.source import names_inside, readable
from storage.sources.walk import Entry
from storage.sources.zips import Member

_OF_MACOS = "__MACOSX"  # the folder where macOS packs what is known of files


def walk_zip(path: Path, folder: str, notes: Counter[str], cure: str) -> list[Entry]:
    """The files inside a zip in the order of names, named as they would be under `folder`.

    A name whose steps lead through that folder is what follows it; where no name does, the zip is
    of its content, and names are as they are. Hidden files, files beside the folder and members
    that come twice are counted; links, names that lead out, and two members of one name that differ
    have a reason. cure: where to get the zip. Raises SourceError where it cannot be opened.
    """
    archive = open_zip(path, cure)
    notes["zip_members_twice"] += archive.twice
    walked: list[Entry] = []
    within: dict[str, Member] = {}
    beside: dict[str, Member] = {}
    for member in archive.members.values():
        names = names_inside(member.name, folder)
        if not names:
            why = f"its name leads out of the zip: {readable(member.name)!r}"
            walked.append(Entry(member.name, path, reason=why, member=member.name))
        elif _is_hidden(names[0]):
            notes["hidden"] += 1
        else:
            files = within if len(names) > 1 else beside
            # val2017/a.jpg and coco/val2017/a.jpg are one file too.
            before = files.get(names[-1])
            notes["zip_members_twice"] += before is not None
            files[names[-1]] = before.or_neither(member) if before else member
    if within:
        notes["zip_members_outside_the_folder"] += len(beside)
    for name, member in (within or beside).items():
        stamp = None if member.reason else member.stamp
        walked.append(Entry(name, path, stamp, member.reason, member=member.name))
    return sorted(walked, key=lambda entry: entry.name)


def _is_hidden(name: str) -> bool:
    steps = name.split("/")
    return steps[0] == _OF_MACOS or any(step.startswith(".") for step in steps)
