"""How many faults do the tests notice? Small faults, one at a time, each tried against the tests
that run its line.

    make mutants                       # 150 of each package, seed 0
    python tests/mutants.py storage --sample 150 --seed 0
    python tests/mutants.py storage --survivors      # all but those that were killed the last time

The faults are mutmut's: a number one larger, a comparison or an operator turned, an argument
dropped or None, a default or an assigned value None, a condition negated. One is drawn as often as
another, wherever it lies: in a function, decorated or not, or at the level of a module or class.
Not drawn is what changes no behaviour by its nature:

- docstrings and type annotations;
- prose, that is strings of several words and what is put into them: messages, causes, cures, help;
- what is only logged or printed (see TOLD);
- the same string once in capitals and once in small letters: each string is spoiled once.

A copy of the tree is mutated, never the tree itself. First the tests run once, and coverage notes
which lines each of them, and each fixture that it shares with others, runs; this is kept in
.mutants/ and renewed for test files that changed. Then a process that has imported the libraries,
and nothing of ours, forks a child for each fault. The child runs the tests of that line, quickest
first, up to MOST_SECONDS, and stops at the first that fails. A fault is killed where a test fails,
where nothing can be imported any more, or where the time runs out.
"""

import argparse
import ast
import contextlib
import difflib
import gc
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import coverage
import libcst as cst
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.mutation.pragma_handling import IgnoredCode

REPOSITORY = Path(__file__).resolve().parent.parent
KEPT = REPOSITORY / ".mutants"
PACKAGES = ("storage", "rdm_core", "flows")
LONG = (
    "average",
    "convert",
    "demo",
    "deployments",
    "lost_runs",
    "resume",
    "study_benchmark",
    "workers",
)
"""Test files of flows that take minutes: what they run is noted last."""
OURS = {*PACKAGES, "tests", "conftest", "building", "operating"}
SLOW = ("crash", "operations", "real_data")
"""Test files that are not tried: they start servers and processes of their own, or want the real
data.
"""
SCRIPTS = ("train_clip.py", "train_oracle.py")
"""They made the built-in weights once; no command runs them."""
TOLD = {"print", "info", "warning", "debug", "error", "exception", "add_argument"}
"""Calls whose arguments are read by people; add_argument's only as far as they are prose."""
MOST_SECONDS = 30.0
"""Of tests tried on one fault, by their durations without it."""
MOST_TESTS = 300
HARNESS_FAILED = 70
SECONDS_BETWEEN_KEEPINGS = 120


@dataclass(frozen=True)
class Mutant:
    """One fault: its file, the lines it touches, and the file with it in."""

    path: str
    lines: range
    number: int
    before: str
    after: str

    @property
    def name(self) -> str:
        return f"{self.path}:{self.lines.start} ({self.number})"

    def diff(self) -> str:
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), n=0, lineterm=""
        )
        return "\n".join([self.name, *list(lines)[2:]])


# Which faults there are


def prose(node: cst.CSTNode) -> bool:
    """Whether it is a string of several words, and neither a pattern nor a query nor markup."""
    if not isinstance(node, cst.SimpleString | cst.FormattedString | cst.ConcatenatedString):
        return False
    text = cst.Module([]).code_for_node(node)
    raw = re.match(r"[fbFB]*[rR]", text)
    return (
        bool(re.search(r"[\w,.;:)}] +[\w({]", text))
        and not raw
        and not re.search(r"SELECT|FROM|CREATE|<\w", text)
    )


class Faults(MutationVisitor):
    """mutmut's faults of one file, in decorated functions too, without those that only change what
    is told.
    """

    def __init__(self) -> None:
        operators = [
            (kind, _first(operator) if operator is operator_string else operator)
            for kind, operator in mutation_operators
        ]
        super().__init__(operators, IgnoredCode(set(), set(), set()))

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        if prose(node) or isinstance(node, cst.Call) and _called(node) in TOLD - {"add_argument"}:
            return True
        return super()._skip_node_and_children(node)

    def _create_mutations(self, node: cst.CSTNode) -> None:
        before = len(self.mutations)
        super()._create_mutations(node)
        if isinstance(node, cst.Assign | cst.AnnAssign) and node.value and prose(node.value):
            del self.mutations[before:]
        if isinstance(node, cst.Call):
            told = [argument.value for argument in node.args if prose(argument.value)]
            mutated = self.mutations[before:]
            self.mutations[before:] = [
                m for m in mutated if all(_has(m.mutated_node, t) for t in told)
            ]


def _first(operator: Callable[[Any], Iterable[Any]]) -> Callable[[Any], Iterable[Any]]:
    return lambda node: list(operator(node))[:1]


def _called(call: cst.Call) -> str:
    function = call.func
    return (
        function.attr.value
        if isinstance(function, cst.Attribute)
        else getattr(function, "value", "")
    )


def _has(node: cst.CSTNode, wanted: cst.CSTNode) -> bool:
    return isinstance(node, cst.Call) and any(argument.value is wanted for argument in node.args)


def faults(path: str, text: str) -> list[Callable[[], Mutant | None]]:
    """One function a fault of the file, which makes it; None where it is no Python."""
    wrapper = MetadataWrapper(cst.parse_module(text))
    visitor = Faults()
    module = wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)

    def made(number: int) -> Mutant | None:
        mutation = visitor.mutations[number]
        after = module.deep_replace(mutation.original_node, mutation.mutated_node).code
        place = positions.get(mutation.original_node)
        lines = range(place.start.line, place.end.line + 1) if place else range(0)
        try:
            compile(after, path, "exec")
        except SyntaxError:
            return None
        return Mutant(path, lines, number, text, after)

    return [lambda number=number: made(number) for number in range(len(visitor.mutations))]


def sampled(package: str, sample: int, seed: int) -> tuple[list[Mutant], int]:
    """The faults drawn, and how many there were to draw from."""
    every = []
    for file in sorted((REPOSITORY / package).rglob("*.py")):
        if file.name in SCRIPTS:
            continue
        every += faults(file.relative_to(REPOSITORY).as_posix(), file.read_text(encoding="utf-8"))
    order = random.Random(seed).sample(range(len(every)), len(every))
    drawn: list[Mutant] = []
    for number in order:
        if len(drawn) == sample:
            break
        mutant = every[number]()
        if mutant and mutant.lines:
            drawn.append(mutant)
    return drawn, len(every)


# Which tests run which lines


class Recorder:
    """A pytest plugin: coverage's context is the test, or the fixture of a session or module while
    it is set up.
    """

    def __init__(
        self, measured: coverage.Coverage, keep: Callable[["Recorder", set[str]], None]
    ) -> None:
        self.measured, self.keep, self.now, self.kept_at = measured, keep, "", time.monotonic()
        self.in_fixtures: dict[str, float] = Counter()
        self.tests: dict[str, dict[str, Any]] = {}
        self.done: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        file = nodeid.split("::")[0]
        if self.now and not self.now.startswith(f"{file}::"):
            self.done.add(self.now.split("::")[0])
            if time.monotonic() - self.kept_at > SECONDS_BETWEEN_KEEPINGS:
                self.keep(self, self.done)
                self.kept_at = time.monotonic()
        self.now = nodeid
        self.measured.switch_context(nodeid)

    def pytest_runtest_setup(self, item: Any) -> None:
        fixtures = list(getattr(item, "fixturenames", ()))
        self.tests[item.nodeid] = {
            "seconds": 0.0,
            "fixtures": fixtures,
            "passed": True,
            "failed": False,
        }

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        if fixturedef.scope == "function":
            return (yield)
        self.measured.switch_context(f"fixture {fixturedef.argname}")
        started = time.monotonic()
        try:
            return (yield)
        finally:
            self.in_fixtures[self.now] += time.monotonic() - started
            self.measured.switch_context(self.now)

    def pytest_runtest_logreport(self, report: Any) -> None:
        test = self.tests.get(report.nodeid)
        if test:
            own = self.in_fixtures[report.nodeid] if report.when == "setup" else 0
            test["seconds"] += max(0.0, report.duration - own)
            test["passed"] &= report.outcome == "passed"
            test["failed"] |= report.outcome == "failed"


def record(
    tree: Path, hashes: dict[str, str], stale: list[str], kept: dict[str, Any], kept_file: Path
) -> None:
    """In a child: run the stale files' tests and keep what each runs, every few minutes what is
    done so far.
    """
    measured = coverage.Coverage(
        data_file=None, config_file=False, source=[str(tree / p) for p in PACKAGES]
    )

    def keep(recorder: Recorder, done: set[str]) -> None:
        contexts: dict[str, dict[str, list[int]]] = {}
        data = measured.get_data()
        for file in data.measured_files():
            name = Path(file).relative_to(tree).as_posix()
            for line, runners in data.contexts_by_lineno(file).items():
                for runner in runners:
                    contexts.setdefault(runner, {}).setdefault(name, []).append(line)
        kept["contexts"] |= contexts
        known = {n: t for n, t in kept["tests"].items() if n.split("::")[0] not in stale}
        kept["tests"] = known | {
            n: t for n, t in recorder.tests.items() if n.split("::")[0] in done
        }
        kept["files"] |= {file: hashes[file] for file in done}
        kept_file.write_text(json.dumps(kept))

    recorder = Recorder(measured, keep)
    measured.start()
    pytest.main(["-m", "not long", *stale], plugins=[recorder])
    measured.stop()
    keep(recorder, set(stale))


def test_files(package: str) -> list[str]:
    """The package's test files that are tried, those that take minutes last."""
    found = sorted((REPOSITORY / "tests" / package).rglob("test_*.py"))
    found.sort(key=lambda file: file.stem.removeprefix("test_") in LONG)
    slow = {f"test_{name}.py" for name in SLOW}
    return [file.relative_to(REPOSITORY).as_posix() for file in found if file.name not in slow]


def recorded(tree: Path, package: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Tests and contexts of the package, from .mutants/ where neither the test file nor what is
    tested changed.
    """
    kept_file = KEPT / f"{package}.json"
    kept = json.loads(kept_file.read_text()) if kept_file.is_file() else {}
    run_by_them = PACKAGES if package == "flows" else (package,)
    sources = _hash(tree / p / f for p in run_by_them for f in sorted((tree / p).rglob("*.py")))
    if kept.get("sources") != sources:
        kept = {"sources": sources, "files": {}, "tests": {}, "contexts": {}}
    hashes = {file: _hash([tree / file]) for file in test_files(package)}
    stale = [file for file in hashes if kept["files"].get(file) != hashes[file]]
    if stale:
        print(f"{package}: notes what the tests of {len(stale)} files run", flush=True)
        KEPT.mkdir(exist_ok=True)
        _in_child(tree, lambda: record(tree, hashes, stale, kept, kept_file), seconds=2 * 3600)
        kept = json.loads(kept_file.read_text())
    tests = {name: test for name, test in kept["tests"].items() if name.split("::")[0] in hashes}
    for name in [name for name, test in tests.items() if test.get("failed")]:
        print(f"left out, as it fails without a fault: {name}")
    return {name: test for name, test in tests.items() if test["passed"]}, kept["contexts"]


def _hash(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def tests_of(
    mutant: Mutant, tests: dict[str, dict[str, Any]], contexts: dict[str, Any]
) -> list[str]:
    """Tests that run its lines; of its function where none does; of its file where it is run by the
    import.
    """
    wanted = _enclosing(mutant)

    def runs(context: str, lines: range) -> bool:
        run = contexts.get(context, {}).get(mutant.path, ())
        return any(line in lines for line in run)

    for lines in (mutant.lines, wanted) if wanted else (range(1, 10**6),):
        shared = {
            c.removeprefix("fixture ")
            for c in contexts
            if c.startswith("fixture ") and runs(c, lines)
        }
        found = [
            name
            for name, test in tests.items()
            if runs(name, lines) or shared & set(test["fixtures"])
        ]
        if found:
            break
    mirrored = f"test_{Path(mutant.path).stem}.py::"
    found.sort(key=lambda name: (mirrored not in name and not wanted, tests[name]["seconds"]))
    seconds = 0.0
    for count, name in enumerate(found):
        seconds += tests[name]["seconds"]
        if count and seconds > MOST_SECONDS:
            return found[: min(count, MOST_TESTS)]
    return found[:MOST_TESTS]


def _enclosing(mutant: Mutant) -> range | None:
    """The lines of the innermost function around it, without its head; None at the level of a
    module or class.
    """
    found = None
    for node in ast.walk(ast.parse(mutant.before)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
            if mutant.lines.start in body and (found is None or body.start >= found.start):
                found = body
    return found


# Trying them


@contextlib.contextmanager
def copied_tree() -> Iterator[Path]:
    """The files of the repository that git knows or would know, in a folder of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        for name in listed.splitlines():
            if (REPOSITORY / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, tree / name)
        yield tree


def _in_child(
    tree: Path, work: Callable[[], Any], seconds: float, temporary: str = "tmp"
) -> int | None:
    """Exit status of `work` in a process group of its own that starts in the tree; None where the
    time ran out.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = HARNESS_FAILED
        with contextlib.suppress(BaseException):
            os.setsid()
            output = os.open(tree.parent / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(tree)
            sys.path[:0] = [str(tree)]
            for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
                del sys.modules[name]  # a library's plugins may have imported them from elsewhere
            os.environ |= {"PYTHONPATH": str(tree), "TMPDIR": str(tree.parent / temporary)}
            (tree.parent / temporary).mkdir(exist_ok=True)
            tempfile.tempdir = None
            status = int(work() or 0)
            sys.stdout.flush()
        os._exit(status)
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        shutil.rmtree(tree.parent / "tmp", ignore_errors=True)


def run_tests(tree: Path, names: Iterable[str], seconds: float) -> tuple[int | None, str]:
    """pytest's exit status in a child, None where the time ran out, and the first test that
    failed.
    """

    def work() -> int:
        if "prefect" in sys.modules:
            from prefect.server.api.server import SubprocessASGIServer

            forked = lambda server: ForkedServer(server)  # noqa: E731 - a function, to be a method
            SubprocessASGIServer._run_uvicorn_command = forked
        return int(pytest.main(["-x", "-q", "--no-header", *names]))

    status = _in_child(tree, work, seconds)
    output = (tree.parent / "output").read_text(encoding="utf-8", errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - |$)", output, re.M)
    if status == pytest.ExitCode.USAGE_ERROR and "while loading conftest" not in output:
        files = sorted({name.split("::")[0] for name in names})  # the fault has renamed a case
        return run_tests(tree, files, seconds) if files != sorted(names) else (status, "")
    if status in (HARNESS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"the tests could not be run:\n{output[-2000:]}")
    return status, failed[1] if failed else ""


def tried(tree: Path, mutant: Mutant, names: list[str], seconds: float) -> tuple[str, str]:
    """killed, timed out, survived, or untested where no test runs it; and the test that killed
    it.
    """
    if not names:
        return "untested", ""
    (tree / mutant.path).write_text(mutant.after, encoding="utf-8")
    try:
        status, killer = run_tests(tree, names, seconds)
    finally:
        (tree / mutant.path).write_text(mutant.before, encoding="utf-8")
    return "timed out" if status is None else "killed" if status else "survived", killer


class Libraries:
    """A pytest plugin: runs one test and writes which modules were imported by then, and with which
    environment.
    """

    def __init__(self, listed: Path, test: str) -> None:
        self.listed, self.test = listed, test

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid == self.test]

    def pytest_sessionfinish(self) -> None:
        found = {"modules": list(sys.modules), "environment": dict(os.environ)}
        self.listed.write_text(json.dumps(found))


def import_libraries(tree: Path, files: list[str], tests: dict[str, dict[str, Any]]) -> None:
    """Import here, once, every library that the tests import: what is ours stays out, as it will be
    mutated.
    """
    listed, quickest = tree.parent / "modules", min(tests, key=lambda name: tests[name]["seconds"])
    _in_child(tree, lambda: pytest.main(files, plugins=[Libraries(listed, quickest)]), 600, "kept")
    found = json.loads(listed.read_text())
    for name, value in found["environment"].items():
        if name.startswith("PREFECT_"):  # its settings are read when it is imported
            os.environ[name] = value
    for name in found["modules"]:
        if name.split(".")[0] not in {*OURS, "__main__"}:
            with contextlib.suppress(Exception):
                import_module(name)
    gc.freeze()  # else every child collects and copies all of it, twice


class ForkedServer:
    """Prefect's temporary server as a fork of a process that has imported it: a second instead of
    ten.
    """

    def __init__(self, temporary: Any) -> None:
        from prefect.server.api.server import create_app

        def serve() -> None:
            import uvicorn

            os.environ |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
            os.environ["PREFECT_UI_ENABLED"] = "0"
            uvicorn.run(create_app(), host="127.0.0.1", port=temporary.port, log_level="error")

        self.process = multiprocessing.get_context("fork").Process(target=serve)
        self.process.start()
        self.pid, self.stdout, self.stderr = self.process.pid, None, None
        self.terminate, self.kill = self.process.terminate, self.process.kill

    def poll(self) -> int | None:
        """As a Popen's."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """As a Popen's."""
        self.process.join(timeout)
        return self.process.exitcode


def measure(package: str, sample: int, seed: int, only_survivors: bool) -> bool:
    """Try a sample and print what came of it; whether at least 85 of a hundred were killed."""
    started, results_file = time.monotonic(), KEPT / f"{package}-{seed}-results.json"
    drawn, of = sampled(package, sample, seed)
    results: dict[str, list[str]] = json.loads(results_file.read_text()) if only_survivors else {}
    with copied_tree() as tree:
        tests, contexts = recorded(tree, package)
        import_libraries(tree, test_files(package), tests)

        def try_all() -> None:
            for count, mutant in enumerate(drawn):
                if results.get(mutant.name, [""])[0] in ("killed", "timed out"):
                    continue
                names = tests_of(mutant, tests, contexts)
                began, seconds = (
                    time.monotonic(),
                    120 + 10 * sum(tests[name]["seconds"] for name in names),
                )
                results[mutant.name] = [*tried(tree, mutant, names, seconds)]
                outcome, took = results[mutant.name][0], time.monotonic() - began
                print(
                    f"{count + 1:4d} {outcome:9s} {took:5.1f} s {len(names):3d} tests  "
                    f"{mutant.name}",
                    flush=True,
                )
                results_file.write_text(json.dumps(results))

        try_all()
        while failing := failing_without_a_fault(
            tree, {killer for _, killer in results.values() if killer in tests}
        ):
            print(f"taken back, as it fails here without a fault: {failing}", flush=True)
            del tests[failing]
            results = {name: one for name, one in results.items() if one[1] != failing}
            try_all()
    gc.unfreeze()  # else libraries complain at the end of what they have not freed
    minutes = (time.monotonic() - started) / 60
    return told(
        package, drawn, results, f"Drawn from {of:,} with seed {seed}; {minutes:.0f} minutes."
    )


def failing_without_a_fault(tree: Path, killers: set[str]) -> str:
    """The first of the tests that killed that fails on the code as it is, "" where none does."""
    return run_tests(tree, sorted(killers), 3600)[1] if killers else ""


def told(package: str, drawn: list[Mutant], results: dict[str, list[str]], how: str) -> bool:
    """Print the survivors and the figures; whether they are enough."""
    outcomes = Counter(results[mutant.name][0] for mutant in drawn)
    for mutant in drawn:
        if results[mutant.name][0] in ("survived", "untested"):
            print(f"\n{results[mutant.name][0]}: {mutant.diff()}")
    killed = outcomes["killed"] + outcomes["timed out"]
    print(
        f"\n{package}: {killed} of {len(drawn)} killed ({killed / len(drawn):.0%}), "
        f"{outcomes['timed out']} of them by the clock; "
        f"{outcomes['survived']} survived, {outcomes['untested']} no test runs. {how}",
        flush=True,
    )
    return killed >= 0.85 * len(drawn)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="mutation test")
    parser.add_argument(
        "packages", nargs="*", default=PACKAGES, help=f"of {', '.join(PACKAGES)}; all by default"
    )
    parser.add_argument("--sample", type=int, default=150, help="faults drawn from each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--survivors", action="store_true", help="leave out those that were killed the last time"
    )
    asked = parser.parse_args()
    sys.dont_write_bytecode = True
    os.environ |= {
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    os.environ.setdefault("RDM_TEST_DATA", str(REPOSITORY.parent / "shared" / "data"))
    os.nice(15)
    enough = True
    for package in asked.packages:
        enough &= measure(package, asked.sample, asked.seed, asked.survivors)
    sys.exit(0 if enough else 1)


if __name__ == "__main__":
    main()
