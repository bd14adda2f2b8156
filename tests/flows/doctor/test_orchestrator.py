"""Prefect as it is set up, and what follows from what its server says."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.doctor import orchestrator
from flows.doctor.orchestrator import Deployed, hurtful, judged, settings, versions
from flows.run import environment
from flows.run.deployments import FLOW_OF

URL = "http://127.0.0.1:4200/api"


@pytest.fixture
def mine(monkeypatch, tmp_path):
    """An environment of one's own, with a home and without Prefect's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    monkeypatch.setattr(environment.os, "environ", kept | {"HOME": str(tmp_path)})
    monkeypatch.setattr(environment, "_address_in_use", lambda: None)
    monkeypatch.chdir(tmp_path)
    return environment.os.environ


def test_no_server_is_fine(mine, machine, told):
    ((mark, text),) = told(settings(machine()))
    assert mark == "ok" and "no profile of yours; no server is configured" in text
    assert list(orchestrator.server(machine())) == [], "and Prefect is not imported"


def test_where_the_address_stands_is_told_without_its_password(mine, machine, told, tmp_path):
    mine["PREFECT_API_URL"] = "http://me:hush@host/api?token=hush"
    ((mark, text),) = told(settings(machine()))
    assert mark == "ok" and "PREFECT_API_URL=http://...@host/api?..., by the environment" in text
    del mine["PREFECT_API_URL"]
    (tmp_path / ".prefect").mkdir()
    profiles = tmp_path / ".prefect" / "profiles.toml"
    profiles.write_text(f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{URL}"\n')
    ((_, text),) = told(settings(machine()))
    assert f"PREFECT_API_URL={URL}, by the profile 'a' of {profiles}" in text
    Path("prefect.toml").write_text('[api]\nurl = "http://other/api"\n')
    assert "http://other/api, by prefect.toml" in told(settings(machine()))[0][1]


def test_a_profile_that_is_not_there_and_a_server_that_is_required_are_told(mine, machine, told):
    mine |= {"PREFECT_PROFILE": "gone", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
    profile, required = told(settings(machine()))
    assert profile[0] == "!" and "prefect profile use" in profile[1]
    assert required[0] == "x" and "every stage is refused" in required[1]


def test_a_home_that_cannot_be_written_fails_where_a_server_is_used(
    mine, machine, told, monkeypatch
):
    monkeypatch.setattr(orchestrator.os, "access", lambda *_: False)
    assert told(settings(machine()))[-1][0] == "!"
    mine["PREFECT_API_URL"] = URL
    mark, text = told(settings(machine()))[-1]
    assert mark == "x" and "export PREFECT_HOME" in text


def test_versions_are_one_where_major_and_minor_are():
    assert [one.mark for one in versions("3.8.8", "3.8.2")] == ["ok"]
    (one,) = versions("3.8.8", "3.7.9")
    assert one.mark == "!" and "3.7.9" in one.found and "prefect deploy --all" in one.cure


def current(**changes):
    """Prefect's settings as far as they are looked at, as this project sets them."""
    values = {"test_mode": False, "max_retries": 10, "flows": 0, "tasks": 0}
    values |= {"enabled": True, "allow": {"rdm"}, "deny": None} | changes
    return SimpleNamespace(
        testing=SimpleNamespace(test_mode=values["test_mode"]),
        client=SimpleNamespace(max_retries=values["max_retries"]),
        flows=SimpleNamespace(default_retries=values["flows"]),
        tasks=SimpleNamespace(default_retries=values["tasks"]),
        plugins=SimpleNamespace(**{name: values[name] for name in ("enabled", "allow", "deny")}),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_mode": True}, "unset PREFECT_TEST_MODE"),
        ({"max_retries": 0}, "export PREFECT_CLIENT_MAX_RETRIES=10"),
        ({"flows": 3}, "unset PREFECT_FLOWS_DEFAULT_RETRIES"),
        ({"tasks": 3}, "unset PREFECT_TASKS_DEFAULT_RETRIES"),
        ({"enabled": False}, "export PREFECT_PLUGINS_ENABLED=true"),
        ({"allow": {"theirs"}}, "PREFECT_PLUGINS_ALLOW=rdm"),
        ({"deny": {"rdm"}}, "rdm's plugin of Prefect is off"),
    ],
)
def test_settings_that_work_against_runs_are_told(changes, said, told):
    assert list(hurtful(current())) == list(hurtful(current(allow=None))) == []
    ((mark, text),) = told(hurtful(current(**changes)))
    assert mark == "!" and said in text


WHOLE = {"pool_type": "rdm", "workers": ("one",), "deployments": tuple(FLOW_OF)}


def topics(findings):
    return {one.topic: (one.mark, f"{one.found} | {one.cure}") for one in findings}


def test_a_server_with_everything_is_fine():
    found = topics(judged(Deployed(**WHOLE, scheduled=("gc",))))
    assert {mark for mark, _ in found.values()} == {"ok"}
    assert "switched on: gc" in found["schedules"][1] and "one" in found["worker"][1]


@pytest.mark.parametrize(
    ("changes", "topic", "mark", "said"),
    [
        ({"pool_type": None}, "pool", "!", "prefect work-pool create rdm --type rdm"),
        ({"pool_type": "process"}, "pool", "!", "prefect work-pool delete rdm"),
        ({"paused": True}, "pool", "!", "prefect work-pool resume rdm"),
        ({"workers": (), "lost_workers": ("old",)}, "worker", "x", "(once there: old)"),
        ({"workers": (), "deployments": ()}, "worker", "!", "prefect worker start --pool rdm"),
        ({"deployments": ()}, "deployed", "!", "none of prefect.yaml"),
        ({"deployments": tuple(FLOW_OF)[1:]}, "deployed", "!", f"not {tuple(FLOW_OF)[0]}"),
        ({"elsewhere": ("gc",)}, "deployed", "!", "another work pool than rdm: gc"),
    ],
)
def test_what_a_server_lacks_is_told(changes, topic, mark, said):
    found = topics(judged(Deployed(**(WHOLE | changes))))
    assert found[topic][0] == mark and said in found[topic][1]


def test_a_server_that_is_away_fails_within_seconds(machine, told, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = f"http://me:hush@127.0.0.1:{free.getsockname()[1]}/api"
    monkeypatch.setenv("PREFECT_API_URL", away)
    monkeypatch.setattr(orchestrator, "server_is_configured", lambda: True)
    ((mark, text),) = told(orchestrator.server(machine(seconds=60)))
    assert mark == "x" and "Connection refused" in text and "hush" not in text
    assert "prefect server start" in text


def test_a_server_that_does_not_answer_is_not_waited_for(machine, told, monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}/api")
        monkeypatch.setattr(orchestrator, "server_is_configured", lambda: True)
        ((mark, text),) = told(orchestrator.server(machine(seconds=4)))
    assert mark == "x" and "did not answer in time" in text and "/health" in text


def test_a_server_is_asked_for_what_this_project_has_there(recorded, machine, monkeypatch):
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.schedules import CronSchedule

    found = topics(orchestrator.server(machine(seconds=60)))
    assert found["pool"][0] == "!" and found["deployed"][1].startswith("none of prefect.yaml")
    with get_client(sync_client=True) as client:
        pool = client.create_work_pool(WorkPoolCreate(name="rdm", type="process"))
        flow = client.create_flow_from_name("gc")
        schedule = {"schedule": CronSchedule(cron="0 2 * * 0"), "active": True}
        deployment = client.create_deployment(
            flow, "gc", work_pool_name=pool.name, schedules=[schedule]
        )
        try:
            found = topics(orchestrator.server(machine(seconds=60)))
        finally:
            client.delete_deployment(deployment)
            client.delete_work_pool("rdm")
    assert found["server"][0] in ("ok", "!") and "of the type process" in found["pool"][1]
    assert found["worker"][0] == "x" and "switched on: gc" in found["schedules"][1]
    assert "gc" not in found["deployed"][1].partition(" | ")[0].split(", ")
