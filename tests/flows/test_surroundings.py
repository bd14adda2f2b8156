"""Commands and calls in the surroundings that users have: proxies, odd folders, no home, a
notebook's loop, files named like modules. Each does its work, or says in one message why not.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

BIN = Path(sys.executable).parent
SHAPES = ("import", "shapes", "--name", "a", "--set", "count=2", "--set", "size=16")


def clean(folder, **changes):
    """The surroundings of a user with a home and without a server; a value of None takes one
    out.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "RDM"))
    }
    wanted = kept | {"OMP_NUM_THREADS": "1", "HOME": str(folder)} | changes
    return {name: value for name, value in wanted.items() if value is not None}


def rdm(folder, *arguments, root="data", environment=None):
    command = [str(BIN / "rdm"), *arguments, "--root", str(root)]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment or clean(folder),
        capture_output=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def said(done):
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def assert_imported(done, root):
    assert done.returncode == 0 and "Traceback" not in said(done), said(done)
    assert (root / "shards" / "a" / "current").is_file()


NOWHERE = "http://127.0.0.1:9"
SURROUNDINGS = {
    "a proxy": {"HTTP_PROXY": NOWHERE, "https_proxy": NOWHERE, "all_proxy": NOWHERE},
    "a proxy by socks": {"ALL_PROXY": "socks5h://127.0.0.1:9", "NO_PROXY": "example.org"},
    "a proxy that is none": {"HTTP_PROXY": "::::", "ALL_PROXY": "socks4://x"},
    "no home": {"HOME": None},
    "a home that is not there": {"HOME": "/nonexistent/home"},
    "an empty address of a server": {"PREFECT_API_URL": ""},
    "a profile that is not there": {"PREFECT_PROFILE": "absent"},
    "a setting that Prefect refuses": {
        "PREFECT_LOGGING_LEVEL": "SHOUT",
        "PREFECT_SERVER_API_PORT": "many",
    },
    "no folder for temporary files": {"TMPDIR": "/nonexistent"},
    "a number of threads that is none": {"OMP_NUM_THREADS": "auto"},
    "no docstrings and no assertions": {"PYTHONOPTIMIZE": "2"},
    "a locale that is not there": {"LC_ALL": "xx_XX.UTF-8"},
    "a terminal of no width": {"COLUMNS": "0", "TERM": "dumb"},
    "nothing at all": {
        name: None for name in os.environ if name not in ("PATH", "LD_LIBRARY_PATH")
    },
}


@pytest.mark.parametrize("changes", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_a_command_works_with(changes, tmp_path):
    done = rdm(tmp_path, *SHAPES, environment=clean(tmp_path, **changes))
    assert_imported(done, tmp_path / "data")
    assert not (tmp_path / ".prefect").exists(), "nobody asked for Prefect"


@pytest.mark.parametrize(
    "names",
    [
        ("with space", "o'brien", 'q"uote', "$HOME", "a;b&c"),
        ("what?", "50% off", "a#b", "%20", "a:b@c"),
        ("[2024]", "st*r", "{x}", "~", "-rf"),
        ("naïve 日本", "back\\slash", "two\nlines", "tab\there", "x" * 200),
    ],
    ids=["a shell", "an address", "a pattern", "a line of text"],
)
def test_a_root_may_lie_in_folders_of_any_name_and_nothing_is_written_beside_it(names, tmp_path):
    """Names that would mean something else there, each in the one before."""
    root = tmp_path.joinpath("holds", *names, "data")
    root.parent.mkdir(parents=True)
    assert_imported(rdm(tmp_path, *SHAPES, root=root), root)
    asked = rdm(tmp_path, "query", "SELECT count(*) AS n FROM shards", "--json", root=root)
    assert json.loads(asked.stdout)["rows"] == [{"n": 2}], said(asked)
    for folder in root.relative_to(tmp_path).parents:
        assert len(list((tmp_path / folder).iterdir())) == 1, folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:9/api"}, "cannot be used: ConnectError"),
        (
            {"PREFECT_API_URL": "http://127.0.0.1:9/api", "HTTP_PROXY": NOWHERE},
            "cannot be used: ConnectError",
        ),
        (
            {"PREFECT_API_URL": "http://127.0.0.1:9/api", "ALL_PROXY": "socks5://127.0.0.1:9"},
            "cannot be used: ",
        ),
        ({"PREFECT_API_URL": "127.0.0.1:4200"}, "is no address of a server"),
        ({"PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}, "and no server is configured"),
        (
            {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "many"},
            "cannot be used: ",
        ),
    ],
    ids=[
        "away",
        "away behind a proxy",
        "away behind socks",
        "no address",
        "required",
        "a setting that is refused",
    ],
)
def test_a_server_that_cannot_be_used_is_one_message_within_seconds(changes, message, tmp_path):
    done = rdm(tmp_path, *SHAPES, environment=clean(tmp_path, **changes))
    assert done.returncode == 1 and "Traceback" not in said(done), said(done)
    line = done.stderr.decode().strip().splitlines()[-1]
    assert line.startswith("rdm: ") and message in line and "PREFECT_API_URL" in line


def test_a_folder_of_any_names_is_the_same_in_every_locale(tmp_path):
    folder = tmp_path / "café 日本"
    folder.mkdir()
    for name in ("naïve.png", "日本.png"):
        Image.fromarray(np.full((20, 20, 3), len(name), np.uint8)).save(folder / name)
    latin = tmp_path / "locales"
    latin.mkdir()
    define = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(latin / "en_US.ISO-8859-1")]
    made = subprocess.run(define, capture_output=True)
    if not (latin / "en_US.ISO-8859-1").exists():
        pytest.skip(f"no locale that is not UTF-8 can be made here: {made.stderr!r}")
    command = (
        "import",
        "folder",
        str(folder),
        "--name",
        "a",
        "--set",
        "size=16",
        "--set",
        "author=Zoë",
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for changes in ({}, {"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(latin)}, ascii_only):
        done = rdm(tmp_path, *command, environment=clean(tmp_path, **changes))
        assert_imported(done, tmp_path / "data")
    assert len(list((tmp_path / "data/shards/a").glob("*/manifest.json"))) == 1, (
        "kept in each of them"
    )


def test_files_of_the_user_that_are_named_like_modules_are_not_run(tmp_path):
    for name in ("random", "types", "queue", "datasets", "copy", "flows", "storage"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user ran')")
    (tmp_path / "rdm_core").mkdir()
    (tmp_path / "rdm_core" / "__init__.py").write_text(
        "raise SystemExit('a package of the user ran')"
    )
    assert_imported(rdm(tmp_path, *SHAPES), tmp_path / "data")


def test_several_first_commands_of_a_new_root_at_once_all_do_their_work(tmp_path):
    command = [str(BIN / "rdm"), *SHAPES[:3]]
    started = [
        subprocess.Popen(
            [*command, f"n{i}", *SHAPES[4:]],
            cwd=tmp_path,
            env=clean(tmp_path),
            stderr=subprocess.PIPE,
        )
        for i in range(4)
    ]
    for number, one in enumerate(started):
        assert one.wait(120) == 0, one.stderr.read()
        assert (tmp_path / f"data/shards/n{number}/current").is_file()
        one.stderr.close()


def shapes(folder, count, **pipes):
    """A longer import as a child process."""
    command = [
        str(BIN / "rdm"),
        "import",
        "shapes",
        "--name",
        "a",
        "--set",
        f"count={count}",
        "--set",
        "size=32",
    ]
    return subprocess.Popen(
        command, cwd=folder, env=clean(folder), preexec_fn=hang_up_ends_it, **pipes
    )


def hang_up_ends_it():
    """As in a terminal of one's own, whatever the tests are run under (nohup says to ignore it)."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("sign", [signal.SIGHUP, signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_is_ended_leaves_no_process_behind(sign, tmp_path):
    with shapes(tmp_path, 200_000, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        deadline = time.monotonic() + 90
        while not list(tmp_path.glob("data/shards/a/*/.build/*.part.json")):
            assert time.monotonic() < deadline and started.poll() is None
            time.sleep(0.1)
        children = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(sign)
        started.wait(60)
        _, alive = psutil.wait_procs(children, timeout=15)
        assert alive == []


def test_a_command_whose_readers_have_gone_ends_its_work(tmp_path):
    with shapes(tmp_path, 40, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        started.stdout.close()
        started.stderr.close()
        assert started.wait(120) == 0
    assert (tmp_path / "data/shards/a/current").is_file()


CALL = """
from pathlib import Path
from flows.config.images import ImportImages
from flows.data.import_images import import_images
def call():
    print(import_images(ImportImages(root=Path("data"), name="a", source="shapes", \
count=2, size=16)).rows)
"""
CALLS = {
    "in a script": "call()",
    "in a thread": "import threading\nt = threading.Thread(target=call)\nt.start()\nt.join()",
    "in a running loop": "import asyncio\nasync def main():\n    call()\nasyncio.run(main())",
    "beside others": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(2) as pool:\n    list(pool.map(lambda _: call(), range(2)))",
    "in a process that was forked": "import os\npid = os.fork()\n"
    "if pid == 0:\n    call()\n    os._exit(0)\n"
    "assert os.waitpid(pid, 0)[1] == 0",
}


@pytest.mark.parametrize("code", CALLS.values(), ids=CALLS)
def test_a_stage_is_one_call_from_python(code, tmp_path):
    command = [sys.executable, "-c", CALL + code]
    called = subprocess.run(
        command, cwd=tmp_path, env=clean(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert called.returncode == 0 and "Traceback" not in called.stderr, called.stderr
    assert set(called.stdout.split()) <= {"2"} and (tmp_path / "data/shards/a/current").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "nothing in the home directory"
