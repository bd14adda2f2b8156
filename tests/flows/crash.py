"""The crash test: SIGKILL at a random moment, start again, and compare with a run that nobody
killed.

    python tests/flows/crash.py --kills 200 --seed 0

One process, the nursery, imports every flow once and forks a child for each attempt: a child has
run nothing before, as a fresh `rdm` has, but need not import for ten seconds. It leads a process
group and runs one stage, or the demo in small. The harness kills the group at a moment drawn
uniformly from the unbroken run's duration and starts the next attempt on the same root at once,
while a training that lost its parent may still be dying. The last attempt of a round runs to its
end; then the root must equal the unbroken run's file by file.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from crash_roots import (
    PHASES,
    Kill,
    differences,
    is_published,
    landed,
    made_by,
)
from crash_stages import (
    CHAIN,
    ON_THE_DEMO,
    STAGES,
)
from nursery import (
    Attempt,
    CrashTestFailed,
    Nursery,
    environment,
    marked,
)

from storage.artifact import Artifact

SECONDS_TO_DIE = 20.0
"""What a training has to notice that its parent is gone."""
MOST_IN_A_ROW = 3
MISSES = 30
"""Attempts in a row that may end before their kill comes, before we call the test broken."""
HEAD, FOOT = "<!-- crash-test -->", "<!-- /crash-test -->"


@dataclass
class Result:
    """What was done and found."""

    kills: list[Kill] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    """Stage -> attempts, the last one of each round included."""
    equal: dict[str, int] = field(default_factory=dict)
    """Stage -> roots that ended equal to the unbroken one after one kill or more."""
    repeats: int = 0
    """Roots that ended before their kill came, and were equal too."""
    unbroken: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds of the run that nobody killed."""
    outlived: list[float] = field(default_factory=list)
    """Seconds that trainings lived on after a kill."""

    def of(self, stage: str) -> list[Kill]:
        """The kills of one stage."""
        return [kill for kill in self.kills if kill.stage == stage]


class CrashTest:
    """`kills` kills over all stages; everything lies under `work`."""

    def __init__(
        self,
        kills: int,
        seed: int,
        work: Path,
        nursery: Nursery,
        say: Callable[[str], None] = print,
    ) -> None:
        self.result = Result()
        self._kills, self._seed, self._work = kills, seed, work
        self._nursery, self._say = nursery, say
        self._stopped = threading.Event()
        self._watches: dict[str, list[threading.Thread]] = {stage: [] for stage in STAGES}
        self._duration: dict[str, float] = {}
        self._survivors: dict[str, list[str]] = {stage: [] for stage in STAGES}
        for folder in ("logs", "inputs", "unbroken", "rounds"):
            (work / folder).mkdir(parents=True)

    def run(self) -> Result:
        """All of it, the demo beside the stages. Raises CrashTestFailed at the first difference."""
        self._nursery.get_ready()
        demo_is_there: Future[Path] = Future()
        with ThreadPoolExecutor(2) as pool:
            lanes = (
                pool.submit(self._lane, self._demo, demo_is_there),
                pool.submit(self._lane, self._stages, demo_is_there),
            )
        # The one that failed, rather than the one that stopped because of it.
        because_of_the_other = None
        for lane in lanes:
            error = lane.exception()
            if error and not isinstance(error, _Stopped | InvalidStateError):
                raise error
            because_of_the_other = because_of_the_other or error
        if because_of_the_other:
            raise because_of_the_other
        return self.result

    def _lane(self, act: Callable[[Future], None], demo_is_there: Future) -> None:
        try:
            act(demo_is_there)
        except BaseException:
            self._stopped.set()
            demo_is_there.cancel()
            raise

    def _demo(self, demo_is_there: Future) -> None:
        nothing = self._work / "inputs" / "nothing"
        nothing.mkdir()
        reference = self._unbroken("demo", nothing)
        demo_is_there.set_result(reference)
        self._killed("demo", nothing, reference)

    def _stages(self, demo_is_there: Future) -> None:
        inputs = self._work / "inputs" / "empty"
        inputs.mkdir()
        for stage in CHAIN:
            reference = self._unbroken(stage, inputs)
            self._killed(stage, inputs, reference)
            inputs = reference
        for stage in ON_THE_DEMO:
            inputs = self._work / "inputs" / stage
            shutil.copytree(
                demo_is_there.result(), inputs, ignore=shutil.ignore_patterns("checkpoints")
            )
            self._killed(stage, inputs, self._unbroken(stage, inputs))

    def _unbroken(self, stage: str, inputs: Path) -> Path:
        """The root as a run leaves it that nobody kills."""
        reference = self._work / "unbroken" / stage
        shutil.copytree(inputs, reference)
        attempt, started = self._start(stage, reference, f"{stage}-unbroken"), time.monotonic()
        self._finish(attempt, reference, 600)
        self.result.unbroken[stage] = self._duration[stage] = time.monotonic() - started
        self._say(f"{stage:<10} unbroken: {self.result.unbroken[stage]:.1f} s")
        return reference

    def _killed(self, stage: str, inputs: Path, reference: Path) -> None:
        """Rounds of one to three kills, until the stage has had its number."""
        rng = random.Random(f"{self._seed} {stage}")
        made, quota, misses = made_by(inputs, reference), quotas(self._kills)[stage], 0
        for number in range(10_000):
            left = quota - len(self.result.of(stage))
            if not left:
                return
            root = self._work / "rounds" / f"{stage}-{number:03d}"
            shutil.copytree(inputs, root)
            wanted = left if quota <= MOST_IN_A_ROW else min(left, rng.randint(1, MOST_IN_A_ROW))
            kills = self._round(stage, root, made, rng, wanted)
            self._compare(stage, reference, root)
            if kills:
                self.result.equal[stage] = self.result.equal.get(stage, 0) + 1
            else:
                self.result.repeats += 1
            misses = 0 if kills else misses + 1
            if misses == MISSES:
                raise CrashTestFailed(
                    f"{stage}: {MISSES} attempts in a row ended before their kill came"
                )

    def _round(
        self, stage: str, root: Path, made: list[Artifact], rng: random.Random, wanted: int
    ) -> int:
        """Up to `wanted` kills on one root, then an attempt to the end; how many there were."""
        duration = self._duration[stage]
        for number in range(wanted):
            before = sum(is_published(artifact, root) for artifact in made)
            moment = rng.uniform(0, duration)
            attempt, started = self._start(stage, root, f"{root.name}-{number}"), time.monotonic()
            if attempt.ends_within(moment):
                self._finish(attempt, root, 0)
                if number == 0:  # the machine has become faster
                    self._duration[stage] = time.monotonic() - started
                return number
            attempt.kill()
            self._watch(stage, attempt)
            if attempt.code() != -signal.SIGKILL:  # it ended by itself in the very last moment
                return number
            kill = landed(stage, made, root, attempt.pid, before, moment / duration)
            self.result.kills.append(kill)
            text = (
                f"killed after {moment:5.2f} s of {duration:.2f}, "
                f"{kill.phase}, {kill.done:.0%} done"
            )
            self._say(f"{len(self.result.kills):>3}/{self._kills} {root.name:<14} {text}")
            if kill.phase == PHASES[-1]:  # nothing left that another kill could meet
                break
        self._finish(self._start(stage, root, f"{root.name}-last"), root, 10 * duration + 120)
        return number + 1

    def _start(self, stage: str, root: Path, name: str) -> Attempt:
        if self._stopped.is_set():
            raise _Stopped
        self.result.attempts[stage] = self.result.attempts.get(stage, 0) + (
            not name.endswith("unbroken")
        )
        return self._nursery.start(stage, root, self._work / "logs" / f"{name}.log")

    def _finish(self, attempt: Attempt, root: Path, seconds: float) -> None:
        """Let an attempt run to its end, which must be a good one."""
        if not attempt.ends_within(seconds):
            attempt.kill()
            attempt.code()
            raise CrashTestFailed(
                f"{root}: did not end within {seconds:.0f} s. Log {attempt.log}:\n{attempt.tail()}"
            )
        code = attempt.code()
        if code:
            raise CrashTestFailed(
                f"{root}: ended with exit code {code}. Log {attempt.log}:\n{attempt.tail()}"
            )

    def _compare(self, stage: str, reference: Path, root: Path) -> None:
        for watch in self._watches[stage]:
            watch.join()
        self._watches[stage].clear()
        found = self._survivors[stage] + differences(reference, root)
        if found:
            text = "\n  ".join(found[:20])
            raise CrashTestFailed(
                f"{root} differs from {reference}, "
                f"logs {self._work / 'logs'}/{root.name}-*:\n  {text}"
            )
        shutil.rmtree(root)

    def _watch(self, stage: str, attempt: Attempt) -> None:
        """See that the trainings of a killed attempt end by themselves, beside whatever comes
        next.
        """
        killed_at = time.monotonic()

        def watch() -> None:
            left = marked(attempt.mark)
            while left and time.monotonic() - killed_at < SECONDS_TO_DIE:
                time.sleep(0.2)
                left = marked(attempt.mark)
            self.result.outlived.append(time.monotonic() - killed_at)
            for pid in left:
                text = (
                    f"process {pid} of {attempt.log.stem} lives "
                    f"{SECONDS_TO_DIE:.0f} s after its parent"
                )
                self._survivors[stage].append(text)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        if marked(attempt.mark):
            thread = threading.Thread(target=watch)
            thread.start()
            self._watches[stage].append(thread)


class _Stopped(Exception):
    """The other lane failed."""


def quotas(kills: int) -> dict[str, int]:
    """Kills of each stage: less than a tenth for the demo, the rest divided equally, what remains
    to the first stages.
    """
    demo = max(1, kills // 12)
    each, rest = divmod(kills - demo, len(STAGES) - 1)
    kills_of = {stage: each for stage in STAGES[:-1]}
    for stage in STAGES[:rest]:
        kills_of[stage] += 1
    return kills_of | {"demo": demo}


# -- the command


def table(result: Result) -> str:
    """A Markdown table, one row a stage."""
    lines = [
        "| Stage | Kills | In the middle of work | of these in a commit | Median moment "
        "| Median share done | Attempts | Ended equal to the unbroken run |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for stage in (*STAGES, "all"):
        kills = result.kills if stage == "all" else result.of(stage)
        if not kills:
            continue
        middle = sum(kill.in_the_middle for kill in kills)
        commits = sum(kill.phase == "in a commit" for kill in kills)
        attempts = sum(result.attempts.values()) if stage == "all" else result.attempts[stage]
        equal = sum(result.equal.values()) if stage == "all" else result.equal[stage]
        moment = statistics.median([kill.moment for kill in kills])
        done = statistics.median([kill.done for kill in kills])
        lines.append(
            f"| {stage} | {len(kills)} | {middle} | {commits} "
            f"| {moment:.0%} | {done:.0%} | {attempts} "
            f"| yes, {equal} of {equal} roots |"
        )
    return "\n".join(lines)


def written_into(page: str, text: str) -> str:
    """The page with the text between its two marks, at its end if it has none."""
    block = f"{HEAD}\n{text}\n{FOOT}"
    if HEAD not in page or FOOT not in page:
        return f"{page.rstrip()}\n\n{block}\n".lstrip()
    before, rest = page.split(HEAD, 1)
    return before + block + rest.split(FOOT, 1)[1]


def told(result: Result, seed: int, seconds: float) -> str:
    """The whole block of the page."""
    lived = f", the longest for {max(result.outlived):.1f} s" if result.outlived else ""
    return (
        f"{len(result.kills)} kills, seed {seed}, {seconds / 60:.0f} minutes (`make crash-test`)."
        f"\n\n{table(result)}\n\n"
        "*Moment*: of the unbroken run's duration. *Share done*: parts, or training steps up to "
        "the newest checkpoint, that the next attempt found finished. "
        f"{result.repeats} more roots ended before their kill came; they were equal too. "
        f"Trainings outlived a killed parent {len(result.outlived)} times{lived}: "
        "the next attempt had begun by then."
    )


def main() -> int:
    """The command."""
    options = argparse.ArgumentParser(
        description="Kill every stage at random moments and compare with unbroken runs."
    )
    options.add_argument(
        "--kills", type=int, default=200, help="over all stages and the demo (default: 200)"
    )
    options.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options.add_argument(
        "--into", type=Path, default=Path("docs/reliability.md"), help="page that takes the table"
    )
    chosen = options.parse_args()
    work, started = Path(tempfile.mkdtemp(prefix="rdm-crash-")), time.monotonic()
    print(f"{chosen.kills} kills, seed {chosen.seed}, in {work}", flush=True)
    try:
        forks = Nursery(environment())
        try:
            result = CrashTest(
                chosen.kills, chosen.seed, work / "test", forks, partial(print, flush=True)
            ).run()
        finally:
            forks.close()
    except CrashTestFailed as failure:
        print(f"FAILED, kept in {work}: {failure}", file=sys.stderr)
        return 1
    text = told(result, chosen.seed, time.monotonic() - started)
    print(f"\n{text}")
    page = chosen.into.read_text(encoding="utf-8") if chosen.into.exists() else "# Reliability\n"
    chosen.into.parent.mkdir(parents=True, exist_ok=True)
    chosen.into.write_text(written_into(page, text), encoding="utf-8")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
