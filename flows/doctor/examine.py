"""All checks at once, each for itself: one that fails or hangs is a line of its own."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.doctor import disks, gpus, host, installation, network, orchestrator, packages
from flows.doctor.findings import (
    FAILS,
    FINE,
    NOTE,
    Finding,
    Findings,
    Machine,
    Mark,
    passwords_in,
    without_words,
)
from flows.run.terminal import Answer, FailingAnswer

SECONDS = 9.0
"""What the checks get together, unless they are given more."""
IN_WORDS: dict[Mark, str] = {FINE: "fine", NOTE: "worth knowing", FAILS: "will fail"}


@dataclass(frozen=True)
class Check:
    """One question to the machine."""

    topic: str
    look: Callable[[Machine], Findings]
    if_silent: Mark = NOTE
    cure_if_silent: str = (
        "Wait longer, by --seconds 60. The same again: a disk hangs; df and dmesg say which"
    )


HANGING_MOUNT = "A mount hangs: df and dmesg say which. Choose another folder"
CHECKS = (
    Check("python", installation.python),
    Check("installation", installation.one_installation),
    Check("names", installation.names_taken),
    Check("packages", packages.packages),
    Check("gpu", gpus.torch_and_gpus),
    Check("root", disks.root, FAILS, f"{HANGING_MOUNT} by --root"),
    Check("temporary", disks.temporary, FAILS, f"{HANGING_MOUNT} by TMPDIR"),
    Check("cache", disks.caches, NOTE, f"{HANGING_MOUNT} by HF_HOME"),
    Check("memory", host.memory),
    Check("cores", host.cores),
    Check("limits", host.limits),
    Check("locale", host.text),
    Check("user", host.user, NOTE, "The home hangs, on a server that is away: HOME=/elsewhere"),
    Check("proxy", network.proxies),
    Check("certificates", network.certificates),
    Check("hub", network.hub, NOTE, "The name server does not answer: see /etc/resolv.conf"),
    Check("prefect", orchestrator.settings),
    Check("server", orchestrator.server),
    Check("npm", installation.npm),
)


def doctor(
    environment: Mapping[str, str],
    root: Path,
    offline: bool = False,
    seconds: float = SECONDS,
    checks: Sequence[Check] = CHECKS,
) -> Answer:
    """Every finding in lines, and as data. Raises FailingAnswer with the same where one says that
    something will fail.

    `environment` is as the user has set it; `offline` leaves out what asks the network, but for
    Prefect's server.
    """
    machine = Machine(environment, root, time.monotonic() + seconds, offline)
    secrets = passwords_in(environment)
    findings = [without_words(one, secrets) for one in examine(machine, seconds, checks)]
    counts = Counter(finding.mark for finding in findings)
    value = {
        "findings": [asdict(finding) for finding in findings],
        "counts": {IN_WORDS[mark]: counts[mark] for mark in IN_WORDS},
    }
    text = in_lines(findings)
    if counts[FAILS]:
        raise FailingAnswer(text, value)
    return text, value


def examine(machine: Machine, seconds: float, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What all checks find until the machine's deadline, in their order; `seconds` is how long that
    was, for those that say nothing.
    """
    found: list[list[Finding]] = [[] for _ in checks]
    threads = []
    for check, findings in zip(checks, found, strict=True):
        # A daemon: what hangs in the kernel must not keep the command from ending.
        thread = threading.Thread(target=_look, args=(check, machine, findings), daemon=True)
        thread.start()
        threads.append(thread)
    told: list[Finding] = []
    for check, thread, findings in zip(checks, threads, found, strict=True):
        thread.join(max(0.0, machine.deadline - time.monotonic()))
        told += findings
        if thread.is_alive():
            silence = f"no answer within {seconds:g} s"
            told.append(Finding(check.if_silent, check.topic, silence, check.cure_if_silent))
    return told


def in_lines(findings: Sequence[Finding]) -> str:
    """A line each, its cure below it, and how many of each kind there are."""
    width = max((len(finding.topic) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.mark:<2}  {finding.topic:<{width}}  {finding.found}")
        if finding.cure:
            lines.append(f"{'':<{width + 6}}cure: {finding.cure}")
    counts = Counter(finding.mark for finding in findings)
    lines.append(", ".join(f"{counts[mark]} {words}" for mark, words in IN_WORDS.items()))
    return "\n".join(lines)


def _look(check: Check, machine: Machine, findings: list[Finding]) -> None:
    """In its thread: what the check finds, as it finds it."""
    try:
        for finding in check.look(machine):
            findings.append(finding)
    except (Exception, SystemExit) as error:
        what = f"this check ended with {type(error).__name__}: {error}"
        cure = "Nothing is known to be wrong; tell the authors this line, with rdm doctor --json"
        findings.append(Finding(NOTE, check.topic, what, cure))
