"""What the user has set already, whatever it is: it is used as it is, or mended, and never
guessed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.run import environment
from flows.run.environment import (
    prefect_profile,
    prepare,
    server_is_configured,
    server_is_required,
    stated_in_prefect,
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """Surroundings of one's own, with a home; Prefect is not looked at."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    for name in [name for name in mine if name.lower().endswith("_proxy")]:
        del mine[name]
    (tmp_path / "user").mkdir()
    monkeypatch.setattr(environment.os, "environ", mine | {"HOME": str(tmp_path / "user")})
    monkeypatch.chdir(tmp_path)


def profiles(tmp_path, text, encoding="utf-8"):
    (tmp_path / "user" / ".prefect").mkdir(parents=True)
    (tmp_path / "user" / ".prefect" / "profiles.toml").write_text(text, encoding=encoding)


URL = 'PREFECT_API_URL = "http://127.0.0.1:4200/api"'


@pytest.mark.parametrize(
    "where",
    [
        "environment",
        "lower case",
        "profile",
        "named profile",
        "prefect.toml",
        "pyproject.toml",
        ".env",
        "profiles_path",
    ],
)
def test_a_configured_server_is_found_wherever_prefect_finds_it(where, tmp_path):
    mine = environment.os.environ
    if where == "environment":
        mine["PREFECT_API_URL"] = "http://127.0.0.1:4200/api"
    elif where == "profile":
        profiles(tmp_path, f'active = "mine"\n[profiles.mine]\n{URL}\n')
    elif where == "named profile":
        profiles(tmp_path, f'active = "other"\n[profiles.other]\n[profiles.mine]\n{URL}\n')
        mine["PREFECT_PROFILE"] = "mine"
    elif where == "lower case":
        mine["prefect_api_url"] = "http://127.0.0.1:4200/api"
    elif where == ".env":
        Path(".env").write_text('export PREFECT_API_URL="http://127.0.0.1:4200/api"\n')
    elif where == "profiles_path":
        Path("theirs.toml").write_text(f'active = "mine"\n[profiles.mine]\n{URL}\n')
        Path("prefect.toml").write_text('profiles_path = "theirs.toml"\n')
    elif where == "prefect.toml":
        Path("prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:4200/api"\n')
    else:
        Path("pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://127.0.0.1:4200/api"\n')
    assert server_is_configured()


@pytest.mark.parametrize(
    "text", ["", "active = 3", "[[", f'active = "gone"\n[profiles.b]\n{URL}', "[profiles]\nb = 1"]
)
def test_a_profile_without_a_server_is_none(text, tmp_path):
    profiles(tmp_path, text)
    assert not server_is_configured()


def test_a_profile_in_another_encoding_is_none(tmp_path):
    profiles(tmp_path, f'active = "ü"\n[profiles."ü"]\n{URL}', encoding="latin-1")
    assert not server_is_configured()


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_address_is_no_server_whatever_the_profile_says(empty, tmp_path):
    profiles(tmp_path, f'active = "mine"\n[profiles.mine]\n{URL}\n')
    environment.os.environ["PREFECT_API_URL"] = empty
    assert not server_is_configured()


def test_where_a_setting_stands_is_known(tmp_path):
    profiles(tmp_path, f'active = "mine"\n[profiles.mine]\n{URL}\n')
    path = tmp_path / "user" / ".prefect" / "profiles.toml"
    found = stated_in_prefect("PREFECT_API_URL")
    assert found == ("http://127.0.0.1:4200/api", f"the profile 'mine' of {path}")
    Path("pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://a/api"\n')
    found = stated_in_prefect("PREFECT_API_URL")
    assert found == ("http://a/api", "pyproject.toml of this directory")
    assert stated_in_prefect("PREFECT_SERVER_EPHEMERAL_ENABLED") is None


def test_the_active_profile_is_known_even_where_no_file_has_it(tmp_path):
    assert prefect_profile() is None
    environment.os.environ["PREFECT_PROFILE"] = "gone"
    path = tmp_path / "user" / ".prefect" / "profiles.toml"
    assert prefect_profile() == ("gone", path, None)
    profiles(tmp_path, f"[profiles.gone]\n{URL}\n")
    assert prefect_profile().settings == {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}


@pytest.mark.parametrize(
    ("stated", "required"),
    [("false", True), ("0", True), ("OFF", True), ("true", False), ("", False)],
)
def test_whoever_forbids_to_run_without_a_server_is_heard(stated, required):
    environment.os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = stated
    assert server_is_required() is required


OFF = 'PREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "false"'


@pytest.mark.parametrize("where", ["other name", "lower case", "profile", ".env", "prefect.toml"])
def test_it_is_heard_wherever_prefect_would_hear_it(where, tmp_path):
    mine = environment.os.environ
    if where == "other name":
        mine["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"
    elif where == "lower case":
        mine["prefect_server_allow_ephemeral_mode"] = "0"
    elif where == "profile":
        profiles(tmp_path, f'active = "mine"\n[profiles.mine]\n{OFF}\n')
    elif where == ".env":
        Path(".env").write_text(OFF.replace(" ", ""))
    else:
        Path("prefect.toml").write_text("[server.ephemeral]\nenabled = false\n")
    assert server_is_required()


def test_the_environment_is_heard_before_any_file(tmp_path):
    profiles(tmp_path, f'active = "mine"\n[profiles.mine]\n{URL}\n{OFF}\n')
    environment.os.environ |= {"PREFECT_API_URL": "", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    assert not server_is_configured() and not server_is_required()


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\x00", b"'"])
def test_a_dotenv_that_cannot_be_read_sets_nothing(data):
    Path(".env").write_bytes(data)
    assert not server_is_configured() and not server_is_required()


def test_an_address_that_a_program_has_set_for_a_while_is_one():
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        assert server_is_configured() and environment.is_recorded()


def test_what_the_user_has_set_is_left_alone(tmp_path):
    mine = environment.os.environ
    mine |= {
        "PREFECT_CLIENT_MAX_RETRIES": "3",
        "OMP_WAIT_POLICY": "ACTIVE",
        "OMP_NUM_THREADS": "4,2",
    }
    prepare(tmp_path / "data")
    assert (
        mine["PREFECT_CLIENT_MAX_RETRIES"],
        mine["OMP_WAIT_POLICY"],
        mine["OMP_NUM_THREADS"],
    ) == ("3", "ACTIVE", "4,2")
    assert mine["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false" and mine["HOME"] == str(
        tmp_path / "user"
    )
    assert not (tmp_path / "data").exists(), "a command that only looks makes no folder"


@pytest.mark.parametrize(
    "name", ["HTTP_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"]
)
def test_this_machine_is_never_reached_through_a_proxy(name, tmp_path):
    mine = environment.os.environ
    mine |= {name: "http://127.0.0.1:9", "no_proxy": "example.org, localhost"}
    prepare(tmp_path)
    assert mine["NO_PROXY"] == mine["no_proxy"] == "example.org,localhost,127.0.0.1,::1,0.0.0.0"
    prepare(tmp_path)
    assert mine["NO_PROXY"] == "example.org,localhost,127.0.0.1,::1,0.0.0.0", "once is enough"


def test_without_a_proxy_nothing_is_exempted_from_one(tmp_path):
    prepare(tmp_path)
    assert "NO_PROXY" not in environment.os.environ


def test_who_exempts_everything_keeps_that(tmp_path):
    environment.os.environ |= {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "*"}
    prepare(tmp_path)
    assert environment.os.environ["NO_PROXY"] == "*"


@pytest.mark.parametrize("threads", ["auto", "", "-1", "two", "4;2"])
def test_a_number_of_threads_that_is_none_is_as_if_it_were_not_set(threads, tmp_path):
    environment.os.environ["OMP_NUM_THREADS"] = threads
    prepare(tmp_path)
    assert "OMP_NUM_THREADS" not in environment.os.environ


@pytest.mark.parametrize("home", [None, "", "/nonexistent/home", "/dev/null", "/" + "a" * 3000])
def test_a_user_without_a_home_is_at_home_in_the_root(home, tmp_path, monkeypatch):
    mine = environment.os.environ
    mine.pop("HOME") if home is None else mine.update(HOME=home)
    monkeypatch.setattr(
        Path,
        "home",
        classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("no passwd entry"))),
    )
    prepare(tmp_path / "data")
    assert mine["HOME"] == str(tmp_path / "data" / ".home") and Path(mine["HOME"]).is_dir()


def test_a_home_that_cannot_be_written_is_kept_for_the_weights_that_lie_there(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(environment.os, "access", lambda path, mode: not str(path).endswith("user"))
    (tmp_path / "user" / ".cache").mkdir()
    prepare(tmp_path / "data")
    assert environment.os.environ["HOME"] == str(tmp_path / "user")
    (tmp_path / "user" / ".cache").rmdir()
    prepare(tmp_path / "data")
    assert environment.os.environ["HOME"] == str(tmp_path / "data" / ".home"), (
        "as HOME=/ of any uid in a container"
    )


def test_a_home_that_may_not_be_looked_at_is_none(tmp_path, monkeypatch):
    mine = environment.os.environ
    mine["HOME"] = "/root/somebody"

    def refused(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refused)
    prepare(tmp_path / "data")
    assert mine["HOME"] != "/root/somebody"


def test_a_root_that_cannot_be_written_gets_a_home_elsewhere(tmp_path, monkeypatch):
    environment.os.environ["HOME"] = "/nonexistent"
    monkeypatch.setattr(environment.os, "access", lambda path, mode: False)
    prepare(tmp_path / "data")
    home = environment.os.environ["HOME"]
    assert not home.startswith(str(tmp_path / "data")) and Path(home).is_dir()


def test_a_user_whom_nobody_knows_has_a_name(tmp_path, monkeypatch):
    mine = environment.os.environ
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        mine.pop(name, None)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    prepare(tmp_path)
    assert mine["USER"] == mine["LOGNAME"] == f"uid-{os.getuid()}"


def test_a_process_that_we_start_takes_nothing_from_the_folder_it_is_started_in(tmp_path):
    for name in ("random", "queue", "flows"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user ran')")
    asked = [sys.executable, "-m", "json.tool", "--help"]
    alone = {"cwd": tmp_path, "env": environment.for_child(), "capture_output": True}
    done = subprocess.run(asked, timeout=60, **alone)
    assert done.returncode == 0, done.stderr
