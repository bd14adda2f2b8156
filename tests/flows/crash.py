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
import ctypes
import hashlib
import importlib
import json
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from storage import layout
from storage.artifact import Artifact, artifacts, check, current_id, unreadable
from storage.errors import StorageError
from storage.unfinished import unfinished

FLOWS = {
    "import": ("flows.data.import_images", "import_images", "ImportImages"),
    "embed": ("flows.data.build_database", "embed_images", "BuildDatabase"),
    "index": ("flows.data.build_database", "index_embeddings", "BuildDatabase"),
    "neighbors": ("flows.data.find_neighbors", "find_neighbors", "FindNeighbors"),
    "encode": ("flows.data.encode_latents", "encode_latents", "EncodeLatents"),
    "train": ("flows.model.train_rdm", "train_rdm", "TrainRDM"),
    "sample": ("flows.model.sample", "sample_rdm", "SampleRDM"),
    "evaluate": ("flows.judge.evaluate", "evaluate_rdm", "EvaluateRDM"),
    "report": ("flows.judge.report", "write_report", "WriteReport"),
    "demo": ("flows.judge.demo", "demo", "Demo"),
}
"""Stage -> module, flow, parameters."""
_BUILD = {"name": "shapes", "shards": "shapes", "encoder": "rdm-shapes", "weights": "built-in"}
_NETWORK = {"network": "transformer", "channels": [32], "depth": 1, "head_channels": 16, "patch": 4}
_LEARNED = {
    "model": {"denoiser": _NETWORK, "noise": {"process": "flow"}},
    "context": {"random_k": True, "k": 3},
    "training": {"steps": 300, "batch": 8},
    "reporting": {"checkpoint_steps": 10, "log_steps": 5},
}
_MODEL = {"run": "shapes", "baseline": "shapes-without-neighbors"}
PARAMETERS: dict[str, dict[str, Any]] = {
    "import": {
        "name": "shapes",
        "source": "shapes",
        "size": 32,
        "encoding": "png",
        "count": 320,
        "images_per_part": 20,
    },
    "embed": _BUILD,
    "index": _BUILD | {"recipe": "autofaiss"},
    "neighbors": {"name": "shapes", "queries": "shapes", "database": "shapes", "k": 10},
    "encode": {"name": "shapes", "shards": "shapes"},
    "train": {
        "name": "shapes",
        "latents": "shapes",
        "neighbors": "shapes",
        "database": "shapes",
        **_LEARNED,
        "device": "cpu",
        "threads": 1,
    },
    "sample": {
        "name": "crash",
        "run": "shapes",
        "texts": ["a red circle", "a blue star"],
        "count": 4,
        "draw": {"steps": 40},
    },
    "evaluate": {
        "name": "crash",
        **_MODEL,
        "heldout_latents": "shapes-heldout",
        "heldout_neighbors": "shapes-heldout",
        "swaps": {"sketch": "shapes-sketches"},
        "prompts": 8,
        "seeds": 1,
        "draw": {"steps": 5},
    },
    "report": {
        "name": "crash",
        **_MODEL,
        "evaluation": "shapes",
        "samples": ["demo-text", "demo-class"],
        "artifacts": ["shards/shapes-train", "embeddings/shapes-train", "index/shapes-database"],
    },
    "demo": {"scale": 0.02, "steps": 12},
}
"""Small, but several parts or checkpoints each, so that a kill has something to land in."""
CHAIN = ("import", "embed", "index", "neighbors", "encode", "train")
"""Stages of which each works on what the one before it made."""
ON_THE_DEMO = ("sample", "evaluate", "report")
"""Stages that work on what the demo made."""
STAGES = (*CHAIN, *ON_THE_DEMO, "demo")
SECONDS_TO_DIE = 20.0
"""What a training has to notice that its parent is gone."""
MOST_IN_A_ROW = 3
MISSES = 30
"""Attempts in a row that may end before their kill comes, before we call the test broken."""
PR_SET_PDEATHSIG = 1
"""Linux: a child that dies with its parent, so that an interrupted harness leaves nothing at
work.
"""
MARK = "RDM_CRASH_ATTEMPT"
"""Environment variable by which the children of an attempt are known."""
PHASES = ("before the build", "in its parts", "between two builds", "in a commit", "after the last")
HEAD, FOOT = "<!-- crash-test -->", "<!-- /crash-test -->"
TIMINGS = (
    "seconds",
    "milliseconds_per_query",
    "p50_milliseconds",
    "p95_milliseconds",
    "targets_met",
)
"""What two runs measure differently."""


class CrashTestFailed(Exception):
    """A killed run did not end as the unbroken one did; the message says where it lies."""


# -- the nursery: a process that has imported everything and forks


def nursery() -> None:
    """Fork a child for each order on standard input, {"stage", "root", "log", "mark"}, or reap one,
    {"reap"}.

    The first order is {"warm up"}.
    """
    flows = {stage: _flow(stage) for stage in FLOWS}
    for line in sys.stdin:
        order = json.loads(line)
        if "warm up" in order:
            _import_what_is_imported_late()
            _answer(0)
            continue
        if "reap" in order:
            _answer(os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            _be_a_child(flows[order["stage"]], order)
        _answer(pid)


def _answer(value: int) -> None:
    print(json.dumps(value), flush=True)


def _import_what_is_imported_late() -> None:
    """What a stage imports when it uses it, so that no child does."""
    for name in ("autofaiss", "open_clip", "diffusers.models.autoencoders.autoencoder_kl"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import diffusers

    assert diffusers.PixArtTransformer2DModel and diffusers.UNet2DConditionModel


def _flow(stage: str) -> Callable[[Path], Any]:
    """Takes a root and runs the stage there."""
    module, flow, config = FLOWS[stage]
    flows = importlib.import_module(module)
    run = getattr(flows, flow)
    parameters = PARAMETERS[stage]
    if stage == "demo":
        _make_the_demo_smaller(importlib.import_module(module))

    def act(root: Path) -> None:
        given = getattr(flows, config)(root=root, **parameters)
        if stage == "index":
            from storage.artifact import open_artifact

            run(given, open_artifact(root, "embeddings", given.name))
        else:
            run(given)

    return act


def _make_the_demo_smaller(demo: Any) -> None:
    """A smaller network, fewer sampler steps and several checkpoints; every stage is still
    there.
    """
    requests, evaluation = demo.requests, demo.evaluation_of
    demo.requests = lambda config: [
        request.model_copy(update={"draw": request.draw | {"steps": 3}})
        for request in requests(config)
    ]
    demo.evaluation_of = lambda config: evaluation(config).model_copy(
        update={"seeds": 1, "draw": {"steps": 2}, "quality_images": 16}
    )
    demo.PRESETS["shapes"]["model"]["denoiser"] |= _NETWORK
    demo.PRESETS["shapes"]["reporting"]["checkpoint_steps"] = 3


def _be_a_child(act: Callable[[Path], Any], order: dict[str, str]) -> None:
    """Run the stage and never return."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.environ[MARK] = order["mark"]
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
            os.dup2(source, target)
        act(Path(order["root"]))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Attempt:
    """A forked child at work."""

    def __init__(self, pid: int, mark: str, log: Path, reap: Callable[[], int]) -> None:
        self.pid, self.mark, self.log, self._reap = pid, mark, log, reap
        # readable once it has ended; it is a zombie until it is reaped
        self._descriptor = os.pidfd_open(pid)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, but not longer."""
        watch = select.poll()
        watch.register(self._descriptor, select.POLLIN)
        return bool(watch.poll(max(0.0, seconds) * 1000))

    def kill(self) -> None:
        """SIGKILL to its whole group, and wait until it is gone."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # killed before it led a group
            os.kill(self.pid, signal.SIGKILL)
        self.ends_within(60)

    def code(self) -> int:
        """The exit code, of a child that has ended; negative: the signal."""
        os.close(self._descriptor)
        return self._reap()

    def tail(self) -> str:
        """The last lines of what it said."""
        return (
            "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            if self.log.exists()
            else ""
        )


class Nursery:
    """Starts attempts; used by several threads."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--nursery"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self._lock = threading.Lock()

    def start(self, stage: str, root: Path, log: Path) -> Attempt:
        """Fork a child that runs the stage."""
        mark = f"{os.getpid()}-{log.stem}"  # two crash tests on one machine know their own
        pid = self._ask({"stage": stage, "root": str(root), "log": str(log), "mark": mark})
        return Attempt(pid, mark, log, lambda: self._ask({"reap": pid}))

    def get_ready(self) -> None:
        """Import everything."""
        self._ask({"warm up": True})

    def close(self) -> None:
        """No more attempts."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _ask(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise CrashTestFailed("the process that forks the attempts has ended")
        return json.loads(answer)


# -- what a kill left, and whether the end is equal


@dataclass(frozen=True)
class Kill:
    """One SIGKILL and where it landed."""

    stage: str
    moment: float
    """Share of the unbroken run's duration."""
    phase: str
    done: float
    """Share of the work that the next attempt finds finished: parts, or steps up to the newest
    checkpoint.
    """

    @property
    def in_the_middle(self) -> bool:
        """Whether a build was open, or some of several were done."""
        return self.phase in PHASES[1:4]


def made_by(inputs: Path, reference: Path) -> list[Artifact]:
    """The artifacts that the stage adds."""
    before = {artifact.reference for artifact in artifacts(inputs)}
    return [artifact for artifact in artifacts(reference) if artifact.reference not in before]


def share_done(made: Artifact, root: Path) -> float:
    """How much of this artifact a resumed run finds; 1.0 once every part is there."""
    directory = layout.artifact_directory(root, made.kind, made.name, made.id)
    if layout.manifest_file(directory).is_file():
        return 1.0
    parts = sum(layout.part_record_file(directory, part.name).is_file() for part in made.parts)
    if parts < len(made.parts) and made.kind == "runs":
        steps = [
            int(path.parent.name)
            for path in layout.checkpoints_directory(directory).glob("[0-9]*/manifest.json")
        ]
        return min(0.99, max(steps, default=0) / made.parameters["training"]["steps"])
    return parts / len(made.parts)


def is_published(made: Artifact, root: Path) -> bool:
    """Whether nothing is left to do for it, not even to clear up."""
    directory = layout.artifact_directory(root, made.kind, made.name, made.id)
    whole = (
        layout.manifest_file(directory).is_file() and not layout.build_directory(directory).exists()
    )
    return whole and current_id(root, made.kind, made.name) == made.id


def landed(
    stage: str, made: list[Artifact], root: Path, pid: int, before: int, moment: float
) -> Kill:
    """Where the kill of that process landed; `before`: how many artifacts were published when the
    attempt began.
    """
    shares = [share_done(artifact, root) for artifact in made]
    done = sum(is_published(artifact, root) for artifact in made)
    held = [
        lock.parent.parent
        for lock in root.glob("*/*/*/.build/lock")
        if f"process {pid} " in lock.read_text()
    ]
    if done == len(made):
        phase = "after the last"
    elif held:
        committing = any(
            share == 1.0
            and layout.artifact_directory(root, artifact.kind, artifact.name, artifact.id) in held
            for artifact, share in zip(made, shares, strict=True)
        )
        phase = "in a commit" if committing else "in its parts"
    else:
        phase = (
            "between two builds"
            if done > before or (before and len(made) > 1)
            else "before the build"
        )
    return Kill(stage, moment, phase, statistics.mean(shares))


def differences(reference: Path, root: Path) -> list[str]:
    """What is not as the unbroken run left it; empty: nothing."""
    found = [f"unreadable: {error}" for error in unreadable(root)]
    found += [f"unfinished: {path}" for path in unfinished(root)]
    one, other = (
        {a.reference: a.fingerprint for a in artifacts(place)} for place in (reference, root)
    )
    found += [
        f"{name}: fingerprint {other.get(name)} instead of {one.get(name)}"
        for name in _unequal(one, other)
    ]
    for artifact in artifacts(root):
        try:
            check(artifact, hashes=True)
        except StorageError as error:
            found.append(str(error))
    one, other = (_contents(place) for place in (reference, root))
    found += [f"{path}: is left over" for path in sorted(other.keys() - one.keys())]
    found += [f"{path}: is missing" for path in sorted(one.keys() - other.keys())]
    return found + [
        f"{path}: has other content"
        for path in _unequal(one, other)
        if path in one and path in other
    ]


def _unequal(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _contents(root: Path) -> dict[str, str]:
    """Relative path -> hash of the content, without what says when, how fast and where it was
    made.
    """
    paths = (path for path in sorted(root.rglob("*")) if not path.is_dir())
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(_content(path, root)).hexdigest()
        for path in paths
    }


def _content(path: Path, root: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "manifest.json" and path.parents[3] == root:
        with contextlib.suppress(ValueError):  # one that cannot be read is compared as it is
            value = json.loads(data)
            value["measured"] = _without_timings(value["measured"])
            return json.dumps(value | {"created_at": ""}, sort_keys=True).encode()
    return data.replace(str(root.resolve()).encode(), b"") if path.suffix == ".json" else data


def marked(mark: str) -> list[int]:
    """Living processes that an attempt started: its forked child has the nursery's environment,
    theirs has the mark.
    """
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


# -- the test


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
        self._kills, self._seed, self._work, self._nursery, self._say = (
            kills,
            seed,
            work,
            nursery,
            say,
        )
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
            lanes = [
                pool.submit(self._lane, lane, demo_is_there) for lane in (self._demo, self._stages)
            ]
        errors = [error for lane in lanes if (error := lane.exception())]
        for error in sorted(
            errors, key=lambda error: isinstance(error, _Stopped | InvalidStateError)
        ):
            raise error
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


def _without_timings(facts: Any) -> Any:
    if isinstance(facts, list):
        return [_without_timings(fact) for fact in facts]
    if isinstance(facts, dict):
        return {key: _without_timings(fact) for key, fact in facts.items() if key not in TIMINGS}
    return facts


class _Stopped(Exception):
    """The other lane failed."""


def quotas(kills: int) -> dict[str, int]:
    """Kills of each stage: less than a tenth for the demo, the rest divided equally, what remains
    to the first stages.
    """
    demo = max(1, kills // 12)
    each, more = divmod(kills - demo, len(STAGES) - 1)
    return {stage: each + (place < more) for place, stage in enumerate(STAGES[:-1])} | {
        "demo": demo
    }


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
        middle = [kill for kill in kills if kill.in_the_middle]
        commits = sum(kill.phase == "in a commit" for kill in kills)
        attempts = sum(result.attempts.values()) if stage == "all" else result.attempts[stage]
        equal = sum(result.equal.values()) if stage == "all" else result.equal[stage]
        moment, done = (
            statistics.median(values)
            for values in ([k.moment for k in kills], [k.done for k in kills])
        )
        lines.append(
            f"| {stage} | {len(kills)} | {len(middle)} | {commits} "
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


def environment() -> dict[str, str]:
    """Of the nursery: no server, one thread, no GPU, so that every sum is taken in the same
    order.
    """
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return one | {"PREFECT_API_URL": "", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}


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
    options.add_argument("--nursery", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.nursery:
        nursery()
        return 0
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
