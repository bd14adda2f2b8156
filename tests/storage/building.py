"""A small artifact of two parts, built as a flow builds one."""

import pytest

from storage.build import begin
from storage.manifest import Plan

PLAN = Plan("shards", "paintings", {"size": 64, "crop": "center"}, {"source": "aa"})
PART_NAMES = ("00000", "00001")
NEXT = Plan("shards", "paintings", PLAN.parameters, {"source": "bb"})
"""The same request after the source changed."""


def writer(part_name, content=None):
    """Two files a part, one of them in a folder."""

    def write(scratch):
        (scratch / f"{part_name}.tar").write_bytes(
            f"images of {content or part_name}".encode() * 50
        )
        (scratch / "more").mkdir()
        (scratch / "more" / f"{part_name}.txt").write_text(content or part_name)
        return 3, {"ok": 2, "rejected: too small": 1}

    return write


def build_all(root, plan=PLAN, contents=PART_NAMES, written=None):
    """What a flow does: keep a finished build, keep whole parts, write the others, commit.

    Part i is made from contents[i]; the names of those that had to be written are added to
    `written`.
    """
    with begin(root, plan) as build:
        if build.finished:
            return build.finished
        parts = []
        for number, content in enumerate(contents):
            name = f"{number:05d}"
            # As in a flow: what an earlier run or version made is not made again.
            part = build.existing_part(name, content)
            if part is None:
                part = build.write_part(name, content, writer(name, content))
                if written is not None:
                    written.append(name)
            parts.append(part)
        return build.commit(parts, {"seconds": 1.5})


def stop_after(root, plan, *names):
    """A build that is interrupted when those parts are written; its directory."""
    with pytest.raises(KeyboardInterrupt), begin(root, plan) as build:
        for name in names:
            build.write_part(name, name, writer(name))
        raise KeyboardInterrupt
    return build.directory


def keys_of(numbers):
    """The keys of the samples that the fixture `sample` makes of these numbers."""
    return [f"folder-{number}-00" for number in numbers]


def files_under(directory):
    """The paths of the files below a directory, from there, sorted."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sorted(file.relative_to(directory).as_posix() for file in files)
