"""What this machine, or the container, lends a process: memory, cores, limits, text, a user."""

import codecs
import locale
import os
import pwd
import resource
from pathlib import Path

from flows.doctor.findings import Findings, Machine, fails, fine, note

GB = 10**9
LEAST_BYTES, LITTLE_BYTES = 0.6 * GB, 3 * GB
"""Of memory: what the smallest commands take, and the demo."""
CGROUPS = Path("/sys/fs/cgroup")
LEAST_OPEN_FILES, FEW_OPEN_FILES = 128, 1024
SHARED = Path("/dev/shm")
LITTLE_SHARED_BYTES = 0.25 * GB
RLIM_INFINITY = resource.RLIM_INFINITY
LOCALE_SETTINGS = ("LC_ALL", "LC_CTYPE", "LANG")
"""The first of them that is set counts."""


def memory(machine: Machine) -> Findings:
    """Of the machine or within the container's limit, as the preflight of a training reads it."""
    import psutil

    from rdm_core.memory import within_container

    whole = psutil.virtual_memory()
    total = within_container(whole.total)
    free = whole.available
    told = f"{total / GB:.1f} GB"
    if total < whole.total:
        free = min(free, max(0, total - used_in_container()))
        told += f" by the container's limit, of {whole.total / GB:.1f}"
    told += f"; {free / GB:.1f} GB available"
    cure = "End other programs, or raise the container's limit; rdm train --dry-run says what"
    cure += " a training needs"
    if free < LEAST_BYTES:
        yield fails("memory", told, cure)
    elif free < LITTLE_BYTES:
        yield note("memory", f"{told}, less than the {LITTLE_BYTES / GB:g} GB of the demo", cure)
    else:
        yield fine("memory", told)


def used_in_container(cgroups: Path = CGROUPS) -> int:
    """Bytes that count against its limit and cannot be had back at once; 0 where nobody says."""
    used = _number(cgroups / "memory.current") or _number(
        cgroups / "memory" / "memory.usage_in_bytes"
    )
    for path in (cgroups / "memory.stat", cgroups / "memory" / "memory.stat"):
        for line in _text(path).splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file") and used:
                return max(0, used - int(value))
    return used or 0


def cores(machine: Machine) -> Findings:
    """Those this process may use, and how much of them the container gets."""
    allowed = len(os.sched_getaffinity(0))
    quota = quota_of_cores()
    told = f"{allowed} of {os.cpu_count()}"
    stated = machine.environment.get("OMP_NUM_THREADS")
    if stated is not None and not stated.replace(",", "").strip().isdigit():
        what = f"OMP_NUM_THREADS={stated} is no number: all {allowed} cores are taken"
        yield note("cores", what, "unset OMP_NUM_THREADS")
        stated = None
    if quota is not None and quota < allowed:
        told += f", and of these the time of {quota:g} by the container's quota"
        threads = max(1, int(quota))
        if stated is None:
            what = f"{told}: more threads than that only wait for each other"
            yield note("cores", what, f"export OMP_NUM_THREADS={threads}")
            return
    yield fine("cores", told + (f"; OMP_NUM_THREADS={stated}" if stated else ""))


def quota_of_cores(cgroups: Path = CGROUPS) -> float | None:
    """By version 2 or 1 of cgroups; None where there is none."""
    stated = _text(cgroups / "cpu.max").split()
    if not stated:
        stated = [_text(cgroups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(text) for text in stated)
    except ValueError:  # "max", or nothing
        return None
    return quota / period if quota > 0 and period > 0 else None


def limits(machine: Machine) -> Findings:
    """Open files, address space, and the memory that processes share."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != RLIM_INFINITY and soft < FEW_OPEN_FILES:
        raised = "unlimited" if hard == RLIM_INFINITY else str(min(hard, 65536))
        cure = f"ulimit -n {raised}"
        if hard != RLIM_INFINITY and hard <= soft:
            cure = "Have the hard limit raised: /etc/security/limits.conf, LimitNOFILE of systemd"
        told = f"open files: {soft}"
        few = soft < LEAST_OPEN_FILES
        yield fails("limits", told, cure) if few else note("limits", told, cure)
    else:
        yield fine("limits", f"open files: {'unlimited' if soft == RLIM_INFINITY else soft}")
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != RLIM_INFINITY:
        what = f"address space: {space / GB:.1f} GB, of which CUDA alone reserves more than a GPU"
        yield note("limits", what, "ulimit -v unlimited")
    yield from _shared_memory()


def _shared_memory() -> Findings:
    if not os.access(SHARED, os.W_OK | os.X_OK):
        what = f"{SHARED} cannot be written: processes of one training share nothing"
        yield fails("limits", what, f"mount -t tmpfs -o mode=1777 tmpfs {SHARED}, as root")
        return
    seen = os.statvfs(SHARED)
    free = seen.f_bavail * seen.f_frsize
    told = f"{SHARED}: {free / GB:.2f} GB free"
    if free < LITTLE_SHARED_BYTES:
        what = f"{told}: little for a training on several GPUs, whose processes share it"
        cure = "Start the container with --shm-size=2g or --ipc=host; else see what lies there"
        yield note("limits", what, cure)
    else:
        yield fine("limits", told)


def text(machine: Machine) -> Findings:
    """The encoding of names and of what is shown."""
    environment = machine.environment
    named = next((name for name in LOCALE_SETTINGS if environment.get(name)), None)
    told = f"{named}={environment[named]}" if named else "none is set"
    cure = "export LC_ALL=C.UTF-8"
    if named and not locale_is_there():
        yield note("locale", f"{told}: this machine has no such locale", cure)
    elif not _is_utf8(locale.getencoding()):
        what = f"{told}: {locale.getencoding()}. rdm starts itself again in UTF-8; your own"
        yield note("locale", f"{what} scripts read its names and texts as something else", cure)
    else:
        yield fine("locale", f"{told}: {locale.getencoding()}")


def locale_is_there() -> bool:
    """Whether the C library knows the locale that is set."""
    try:
        locale.setlocale(locale.LC_CTYPE, "")  # as Python did at its start
    except locale.Error:
        return False
    return True


def user(machine: Machine) -> Findings:
    """Who this is, and whether they have a home."""
    number = os.getuid()
    try:
        entry = pwd.getpwuid(number)
    except KeyError:
        entry = None
        what = f"uid {number} is in no passwd: rdm calls it uid-{number}; other programs may end"
        yield note("user", what, "Start the container with a user that it has, or export USER=me")
    stated = machine.environment.get("HOME") or (entry.pw_dir if entry else "")
    used = os.environ.get("HOME", "")
    instead = f"{used or 'another one'} is used, and what was fetched before is not found"
    cure = "export HOME=FOLDER, one of your own that stays"
    if not stated:
        yield note("user", f"HOME is not set: {instead}", cure)
    elif not Path(stated).is_dir():
        yield note("user", f"the home {stated} is not there: {instead}", cure)
    elif not os.access(stated, os.W_OK | os.X_OK):
        yield note("user", f"the home {stated} cannot be written: weights and settings", cure)
    else:
        yield fine("user", f"{entry.pw_name if entry else f'uid {number}'}, at home in {stated}")


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    digits = _text(path)
    return int(digits) if digits.isdigit() else 0
