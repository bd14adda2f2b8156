"""Which Prefect server is used: the user's, wherever it is named; otherwise a temporary one at home in the root."""

import os
from pathlib import Path

import pytest

from flows import environment


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PREFECT")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(environment.os, "environ", dict(os.environ))


def profiles(tmp_path, text):
    (tmp_path / "user" / ".prefect").mkdir(parents=True)
    (tmp_path / "user" / ".prefect" / "profiles.toml").write_text(text)


def test_without_a_server_prefect_lives_in_the_root(tmp_path):
    environment.prepare(tmp_path / "data")
    assert environment.os.environ["PREFECT_HOME"] == str(tmp_path / "data" / ".prefect")
    assert environment.os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_a_configured_server_is_used_as_it_is(where, tmp_path):
    if where == "environment":
        environment.os.environ["PREFECT_API_URL"] = "http://127.0.0.1:4200/api"
    else:
        profiles(tmp_path, 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:4200/api"\n')
    environment.prepare(tmp_path / "data")
    assert "PREFECT_HOME" not in environment.os.environ and not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["", "active = 3", "[[", 'active = "a"\n[profiles.b]\nPREFECT_API_URL = "x"'])
def test_a_profile_without_a_server_is_none(text, tmp_path):
    profiles(tmp_path, text)
    assert not environment.server_is_configured()


def test_what_the_user_has_set_is_left_alone(tmp_path):
    environment.os.environ |= {"PREFECT_HOME": "/elsewhere", "OMP_WAIT_POLICY": "ACTIVE"}
    environment.prepare(tmp_path / "data")
    assert environment.os.environ["PREFECT_HOME"] == "/elsewhere" and environment.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_root_that_cannot_be_written_gets_a_prefect_home_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.os, "access", lambda path, mode: False)
    environment.prepare(tmp_path / "data")
    home = environment.os.environ["PREFECT_HOME"]
    assert not home.startswith(str(tmp_path / "data")) and Path(home).is_dir()
