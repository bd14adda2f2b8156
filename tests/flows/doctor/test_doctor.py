"""The whole command in the surroundings that users have: it ends in time, with a line for each
trouble and its cure, and never with a traceback.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
LINE = re.compile(r"^(ok|!|x) +[a-z]+ +\S")
MOST_SECONDS = 40
"""Told to wait 25, as these tests run beside others."""


def doctor(folder, *arguments, before=(), **changes):
    """Its exit code, lines and errors, in a folder with its own home, offline."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "RDM", "HF_")) and not name.lower().endswith("proxy")
    }
    wanted = kept | {"HOME": str(folder), "PATH": f"{BIN}:{kept['PATH']}"} | changes
    environment = {name: value for name, value in wanted.items() if value is not None}
    began = time.monotonic()
    done = subprocess.run(
        [*before, str(BIN / "rdm"), "doctor", "--offline", "--seconds", "25", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    assert time.monotonic() - began < MOST_SECONDS
    said = done.stdout.decode("utf-8", "replace")
    assert "Traceback" not in said and not done.stderr, done.stderr.decode()
    return done.returncode, said.splitlines()


def about(lines, topic):
    """The lines of a topic, each with its cure."""
    found = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(rf"^\S+ +{topic} ", line):
            cure = after.strip() if after.startswith("      ") else ""
            found.append((line.split()[0], line, cure))
    return found


def test_every_line_has_its_mark_and_every_trouble_its_cure(tmp_path):
    code, lines = doctor(tmp_path)
    assert re.fullmatch(r"\d+ fine, \d+ worth knowing, \d+ will fail", lines[-1])
    for line, after in zip(lines[:-1], lines[1:], strict=True):
        if line.startswith("      "):
            assert line.strip().startswith("cure: ")
        else:
            assert LINE.match(line), line
            assert after.startswith("      ") == (not line.startswith("ok")), line
    assert code == (0 if lines[-1].endswith(", 0 will fail") else 1)


def test_the_same_as_data(tmp_path):
    code, lines = doctor(tmp_path, "--json", SSL_CERT_FILE="/gone", HTTP_PROXY="http://a:hush/@b")
    value = json.loads("\n".join(lines))
    assert code == 1 and value["counts"]["will fail"] >= 2
    (one,) = [one for one in value["findings"] if one["topic"] == "certificates"]
    assert one["mark"] == "x" and one["cure"].startswith("unset SSL_CERT_FILE")
    assert "hush" not in str(value)


def test_behind_a_proxy_that_leads_nowhere(tmp_path):
    proxies = {"HTTPS_PROXY": "http://me:hush@127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}
    _, lines = doctor(tmp_path, **proxies)
    ((mark, line, cure),) = about(lines, "proxy")
    assert mark == "!" and "HTTPS_PROXY=http://127.0.0.1:9" in line and "NO_PROXY" in cure
    assert "hush" not in "\n".join(lines)


@pytest.mark.parametrize("home", [None, "/nonexistent/home"])
def test_without_a_home(home, tmp_path):
    if home is None and os.getuid() != 0 and not shutil.which("unshare"):
        pytest.skip("this user has a home by passwd")
    _, lines = doctor(tmp_path, HOME=home, XDG_CACHE_HOME=None)
    found = about(lines, "user")
    if home:
        assert found[0][0] == "!" and "is not there" in found[0][1]
        assert found[0][2].startswith("cure: export HOME")
    assert about(lines, "torch")[0][0] == "ok"


def test_as_a_user_that_no_passwd_knows(tmp_path):
    apart = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
    if (
        not shutil.which("unshare")
        or subprocess.run([*apart, "true"], capture_output=True).returncode
    ):
        pytest.skip("no user namespaces here")
    _, lines = doctor(tmp_path, before=apart, HOME=None)
    found = about(lines, "user")
    assert [mark for mark, *_ in found] == ["!", "!"] and "uid 12345 is in no passwd" in found[0][1]
    assert "HOME is not set" in found[1][1] and ".home is used" in found[1][1]


def test_as_another_user_who_may_not_write_the_root(tmp_path):
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    apart = ("setpriv", "--reuid", "23456", "--regid", "23456", "--clear-groups")
    if subprocess.run(
        [*apart, sys.executable, "-c", "import flows"], capture_output=True
    ).returncode:
        pytest.skip("another user cannot read this environment")
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    code, lines = doctor(Path("/"), "--root", str(root), before=apart, HOME="/nonexistent")
    mark, line, cure = about(lines, "root")[-1]
    assert (code, mark) == (1, "x") and "Permission denied" in line and "chown" in cure


@pytest.mark.parametrize("changes", [{"LANG": "C", "LC_ALL": None}, {"LC_ALL": "xx_XX.UTF-8"}])
def test_in_a_locale_that_is_not_utf8_or_not_there(changes, tmp_path):
    coerced = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_CTYPE": None}
    _, lines = doctor(tmp_path, **coerced, **changes)
    ((mark, line, cure),) = about(lines, "locale")
    assert mark == "!" and list(changes.values())[0] in line and "LC_ALL=C.UTF-8" in cure


def test_in_a_project_with_a_flows_folder_of_its_own(tmp_path):
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").touch()
    (tmp_path / "storage.py").write_text("raise SystemExit('a file of the user ran')")
    _, lines = doctor(tmp_path)
    ((mark, line, cure),) = about(lines, "names")
    assert mark == "!" and "flows/, storage.py" in line and "PYTHONSAFEPATH=1" in cure
    assert about(lines, "installation")[0][0] == "ok" and about(lines, "torch")[0][0] == "ok"


def test_with_settings_that_prefect_refuses_and_a_server_that_is_away(tmp_path):
    code, lines = doctor(tmp_path, PREFECT_API_URL="http://me:hush@127.0.0.1:9/api")
    ((mark, line, cure),) = about(lines, "server")
    assert (code, mark) == (1, "x") and "Connection refused" in line and "server start" in cure
    code, lines = doctor(
        tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES="many"
    )
    ((mark, line, _),) = about(lines, "server")
    assert (code, mark) == (1, "x") and "cannot be used" in line


def test_a_time_that_is_none_is_refused(tmp_path):
    for seconds in ("0", "-1", "nan", "1e9"):
        done = subprocess.run(
            [str(BIN / "rdm"), "doctor", f"--seconds={seconds}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and "give more than 0" in done.stderr
