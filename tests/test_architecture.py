"""What must hold for the whole code base: arrows run downward only, imports stay light, functions
stay short.
"""

import ast
import os
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "rdm_core", "storage")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
TREES = {
    path.relative_to(REPOSITORY).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in FILES
}
MOST_LINES_IN_A_FILE = 400
MOST_LINES_IN_A_FUNCTION = 60
STORIES = {("rdm_core/train.py", "train")}
"""The functions that may be longer: each is told in one go."""
HEAVY = {
    "torch",
    "torchvision",
    "diffusers",
    "open_clip",
    "faiss",
    "autofaiss",
    "prefect",
    "accelerate",
    "webdataset",
    "PIL",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def report(violations):
    """Fail with every violation on its own line."""
    told = sorted(violations)
    assert not told, "\n" + "\n".join(told)


def test_every_folder_of_tests_is_a_folder_of_the_packages():
    for package in PACKAGES:
        for file in (REPOSITORY / "tests" / package).rglob("test_*.py"):
            folder = file.parent.relative_to(REPOSITORY / "tests")
            assert (REPOSITORY / folder).is_dir(), f"{file}: there is no folder {folder}"


def run_python(code, *arguments):
    """A fresh interpreter in the repository; its output."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PREFECT_API_URL": ""}
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_there_is_code_to_look_at():
    assert {path.split("/")[0] for path in TREES} == set(PACKAGES)
    assert ("rdm_core/train.py", "train") in {
        (path, f.name) for path, tree in TREES.items() for f in functions(tree)
    }


# Imports


def test_arrows_run_downward_only():
    """The contracts of import-linter in pyproject.toml."""
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    assert f"{len(contracts)} kept, 0 broken" in ended.stdout


def test_no_module_of_storage_loads_a_model_library_or_the_orchestrator():
    code = """
import importlib, pkgutil, sys
import storage
names = ["storage", \
*(module.name for module in pkgutil.walk_packages(storage.__path__, "storage."))]
for name in names:
    importlib.import_module(name)
print(*names)
print(*sys.modules)
"""
    names, loaded = run_python(code).splitlines()
    assert {"storage.artifact", "storage.sources.coco", "storage.neighbors"} <= set(names.split())
    report(HEAVY & set(loaded.split()))


def imports_of_storage(tree):
    """(module of storage, node) of each import in the tree, deferred or for type checking only."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in STORAGE else node.module for name in whole]
        yield from ((name, node) for name in names if name in STORAGE)


def module_name(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


STORAGE = {module_name(path): tree for path, tree in TREES.items() if path.startswith("storage/")}


def circle(graph):
    """Some modules that import one another in a circle, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_modules_of_storage_import_one_another_in_a_circle():
    """Deferred imports and those for type checking only count too."""
    graph = {
        name: {other for other, _ in imports_of_storage(tree)} for name, tree in STORAGE.items()
    }
    assert {"storage.manifest", "storage.layout"} <= graph["storage.artifact"], "imports are seen"
    assert circle(graph) is None
    assert circle(graph | {"storage.layout": {"storage.artifact"}}) is not None


def test_no_module_of_storage_defers_the_import_of_another():
    report(
        f"{name}:{node.lineno}: import of {other} inside {function.name}"
        for name, tree in STORAGE.items()
        for function in functions(tree)
        for other, node in imports_of_storage(function)
    )


def test_the_records_of_an_artifact_know_only_the_layers_below():
    known = {name for name, _ in imports_of_storage(STORAGE["storage.manifest"])}
    assert known == {"storage.atomic", "storage.errors", "storage.layout"}


def imported_at_module_level(tree):
    """Top packages imported when the module is, those in `if` and `try` included, for type checking
    only excluded.
    """
    found, open_nodes = set(), list(tree.body)
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            open_nodes += node.orelse
        elif not isinstance(node, Function):
            open_nodes += ast.iter_child_nodes(node)
    return found


def test_no_flow_imports_torch_pyarrow_or_faiss_itself():
    forbidden = {"torch", "torchvision", "pyarrow", "faiss", "autofaiss"}
    report(
        f"{path}: imports {', '.join(sorted(forbidden & imported_at_module_level(tree)))} "
        "at module level"
        for path, tree in TREES.items()
        if path.startswith("flows/") and forbidden & imported_at_module_level(tree)
    )


HELP = """
import sys
from flows.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *sys.modules)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]], ids=" ".join)
def test_help_loads_neither_the_orchestrator_nor_a_model_library(arguments):
    text, _, loaded = run_python(HELP, *arguments).rpartition("loaded:")
    assert "usage: rdm" in text
    of_parameters = {"pydantic"} if len(arguments) > 1 else set()
    report((HEAVY | {"pyarrow", "pydantic", "numpy"}) - of_parameters & set(loaded.split()))


COMPILER = {
    "torch._dynamo",
    "torchvision",
    "open_clip",
    "timm",
    "diffusers",
    "accelerate",
    "autofaiss",
    "pandas",
}
LOADED_BY = {
    "flows.look.show": HEAVY - {"PIL"},
    "storage.query": HEAVY,
    "flows.doctor.examine": HEAVY | COMPILER,
    "flows.data.import_images": HEAVY - {"PIL"},
    "flows.data.remove": HEAVY - {"PIL", "torch", "faiss"} | COMPILER,
    "flows.look.search": COMPILER | {"prefect"},
    "flows.data.build_database": COMPILER | {"prefect"},
    "flows.data.find_neighbors": COMPILER | {"prefect"},
    "flows.data.encode_latents": COMPILER | {"prefect"},
    "flows.model.sample": COMPILER | {"prefect"},
    "flows.model.train_autoencoder": COMPILER | {"prefect"},
    "flows.model.train_rdm": {"open_clip", "prefect", "autofaiss"},
}
"""Module -> what it must not load before it is known to be needed. Somebody waits: each takes half
a second to two.
"""


IMPORTED = """
import sys
for module in sys.argv[1:]:
    __import__(module)
    print(module, *sys.modules)
"""


ALIKE = {}
"""What must not be loaded -> the modules that must not load it."""
for _module, _forbidden in LOADED_BY.items():
    ALIKE.setdefault(frozenset(_forbidden), []).append(_module)


@pytest.mark.parametrize(("forbidden", "modules"), ALIKE.items(), ids=map(" ".join, ALIKE.values()))
def test_a_command_loads_no_more_than_it_answers_with(forbidden, modules):
    """One interpreter for those that are alike; the first one that loads too much is told."""
    for line in run_python(IMPORTED, *modules).splitlines():
        module, *loaded = line.split()
        report(f"{module} loads {name}" for name in forbidden & set(loaded))


def test_a_stage_runs_without_the_orchestrator_where_no_server_is_configured(tmp_path):
    code = """
import sys
from flows.cli import main
assert main(["import", "shapes", "--root", sys.argv[1], "--name", "a", \
"--set", "count=2", "--set", "size=16"]) == 0
print("loaded:", *sys.modules)
"""
    loaded = run_python(code, str(tmp_path)).rpartition("loaded:")[2]
    report((HEAVY - {"PIL"}) & set(loaded.split()))


def test_only_what_records_a_run_imports_the_orchestrator():
    theirs = {
        f"flows/run/{name}.py"
        for name in ("lost_runs", "notify", "recorded", "short_names", "work_pool")
    }
    assert {
        path for path, tree in TREES.items() if "prefect" in imported_at_module_level(tree)
    } == theirs


LOOKING = "flows.look.duplicates, flows.look.map_database, flows.look.compare, flows.data.rehearse"


def test_what_only_looks_loads_neither_the_orchestrator_nor_an_encoder_before_it_needs_one():
    code = f"import sys, {LOOKING}; from flows.run.progress import say; say('a', 'b', 'c')"
    loaded = run_python(f"{code}; print(*sys.modules)").split()
    report({"prefect", "diffusers", "open_clip", "torchvision", "accelerate"} & set(loaded))


def is_true(keyword):
    return isinstance(keyword.value, ast.Constant) and keyword.value.value is True


def test_nothing_reads_or_writes_a_pickle():
    """But for tensors: torch.load(weights_only=True) runs no code."""
    violations = []
    for path, tree in TREES.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        tensors = {
            call.func
            for call in calls
            if any(k.arg == "weights_only" and is_true(k) for k in call.keywords)
        }
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [] if node in tensors else [ast.unparse(node)]
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                names = (
                    []
                    if isinstance(node.value, ast.Constant) and node.value.value is False
                    else ["allow_pickle"]
                )
            banned = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
            banned |= {
                "torch.load",
                "torch.save",
                "allow_pickle",
                "pandas.read_pickle",
                "pd.read_pickle",
            }
            violations += [f"{path}:{node.lineno}: {name}" for name in names if name in banned]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                said = any(keyword.arg == "allow_pickle" for keyword in node.keywords)
                violations += (
                    [] if said else [f"{path}:{node.lineno}: np.load without allow_pickle=False"]
                )
    report(violations)


TEXT_METHODS = {"read_text", "write_text", "open", "fdopen", "NamedTemporaryFile", "TextIOWrapper"}
PROCESSES = {"run", "Popen", "check_output", "check_call", "call"}
BYTES = {"os.open", "Image.open", "tarfile.open", "archive.open", "opener.open"}
BYTES |= {"distribution.read_text"}  # importlib.metadata's, always of UTF-8
"""Calls named like those that read text."""


def text_without_encoding(call):
    """Whether a call reads or writes text in whatever encoding the locale names."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named or ast.unparse(call.func) in BYTES:
        return False
    if name in PROCESSES:
        return bool({"text", "universal_newlines", "errors"} & set(named))
    if name not in TEXT_METHODS:
        return False
    given = call.args[1:] if ast.unparse(call.func) in ("open", "os.fdopen") else call.args
    values = [a.value for a in [*given, named.get("mode")] if isinstance(a, ast.Constant)]
    modes = [value for value in values if isinstance(value, str)]
    if name == "NamedTemporaryFile":  # bytes unless a mode says otherwise
        return any("b" not in mode for mode in modes)
    return not any("b" in mode for mode in modes)


def test_text_is_read_and_written_in_an_encoding_that_is_said():
    """In a locale that is not UTF-8 what one command wrote would otherwise be another text to the
    next.
    """
    violations = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and text_without_encoding(node):
                violations.append(f"{path}:{node.lineno}: {ast.unparse(node)[:80]}")
    report(violations)


@pytest.mark.parametrize(
    "code, silent",
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("open(path)", True),
        ("path.write_text(text)", True),
        ("path.open()", True),
        ("path.open('rb')", False),
        ("open(path, 'wb')", False),
        ("os.fdopen(descriptor, 'w')", True),
        ("open('b')", True),
        ("path.open(mode='a')", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
        ("subprocess.Popen(command, encoding='utf-8')", False),
        ("os.open(path, os.O_RDONLY)", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("tempfile.NamedTemporaryFile()", False),
    ],
)
def test_a_call_whose_encoding_is_left_to_the_locale_is_noticed(code, silent):
    assert text_without_encoding(ast.parse(code, mode="eval").body) == silent


# Size


def test_no_file_is_too_long():
    lengths = {
        path: len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for path in TREES
    }
    report(
        f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MOST_LINES_IN_A_FILE
    )


def test_no_function_is_too_long():
    lengths = [
        (path, f.name, f.end_lineno - f.lineno + 1)
        for path, tree in TREES.items()
        for f in functions(tree)
    ]
    report(
        f"{path}::{name}: {lines} lines"
        for path, name, lines in lengths
        if lines > MOST_LINES_IN_A_FUNCTION and (path, name) not in STORIES
    )


# Told


def public_definitions(tree):
    """(qualified name, node) of the module's public functions, classes and methods."""
    for node in tree.body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                methods = [
                    n for n in node.body if isinstance(n, Function) and not n.name.startswith("_")
                ]
                yield from ((f"{node.name}.{method.name}", method) for method in methods)


def test_every_module_and_every_public_function_and_class_says_what_it_is_for():
    silent = [path for path, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    silent += [
        f"{path}::{name}"
        for path, tree in TREES.items()
        for name, node in public_definitions(tree)
        if not ast.get_docstring(node)
    ]
    report(silent)


def test_every_parameter_is_annotated():
    violations = []
    for path, tree in TREES.items():
        for function in functions(tree):
            spec = function.args
            parameters = [
                *spec.posonlyargs,
                *spec.args,
                *spec.kwonlyargs,
                *filter(None, (spec.vararg, spec.kwarg)),
            ]
            violations += [
                f"{path}:{function.lineno}: {function.name}({parameter.arg})"
                for parameter in parameters
                if parameter.annotation is None and parameter.arg not in ("self", "cls")
            ]
            violations += (
                [] if function.returns else [f"{path}:{function.lineno}: {function.name} -> ?"]
            )
    report(violations)
