"""What a lost run is resumed as, and what each run and task inside it is told."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, Pending, Running

from flows.run import lost_runs
from flows.run.lost_runs import (
    GONE,
    LostRuns,
    ended_by_signal,
    failed_without_server,
    times_resumed,
)
from flows.run.whereabouts import whereabouts_of

ID = UUID(int=7)
NO_SERVER = "Flow run encountered an exception: "
GONE_PROCESS = str(whereabouts_of(2**22 - 1))


class Client:
    """Answers for one run with some inside, and notes what it is asked to do."""

    def __init__(self, run, inside=(), tasks=(), error=None):
        self.run, self.inside, self.tasks, self.error = run, inside, tasks, error
        self.created, self.states, self.looked = [], [], []

    async def read_flow_run(self, run_id):
        return self.run

    async def read_flow(self, flow_id):
        return SimpleNamespace(id=flow_id)

    async def read_flow_runs(self, flow_run_filter, work_pool_filter=None):
        self.looked.append((flow_run_filter, work_pool_filter))
        if work_pool_filter is not None:
            return [self.run]
        parents = flow_run_filter.parent_flow_run_id.any_
        return [run for run in self.inside if run.parent in parents]

    async def read_task_runs(self, flow_run_filter, task_run_filter):
        return [task for task in self.tasks if task.run in flow_run_filter.id.any_]

    async def create_flow_run_from_deployment(self, deployment, **how):
        if self.error:
            raise self.error
        self.created.append((deployment, how))
        return SimpleNamespace(name=how["name"])

    async def set_flow_run_state(self, run_id, state, force):
        self.states.append((run_id, state.type, state.message, force))

    async def set_task_run_state(self, task_id, state, force):
        self.states.append((task_id, state.type, state.message, force))


@pytest.fixture
def told(monkeypatch):
    """Whom flows.run.notify was told of."""
    noted = []
    monkeypatch.setattr(lost_runs, "tell", lambda flow, run, state: noted.append((run.name, state)))
    return noted


def a_run(**changes):
    facts = {"id": ID, "name": "otter", "state": Running(), "tags": ["rdm", "resume:2"]}
    facts |= {"flow_id": UUID(int=1), "deployment_id": UUID(int=2), "idempotency_key": None}
    facts |= {"parameters": {"config": {"a": 1}}, "job_variables": {"env": {"B": "2"}}}
    return SimpleNamespace(**facts | {"infrastructure_pid": GONE_PROCESS} | changes)


def ended(client, why=GONE):
    asyncio.run(LostRuns(client, "rdm").ended(client.run, why))
    return client


def http_error(code):
    request = httpx.Request("POST", "http://here")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(code))


# Resumed as


@pytest.mark.parametrize(
    ("key", "name", "number"),
    [
        (None, "otter", 1),
        ("asked for by somebody", "otter", 1),
        (f"rdm-resumed:1:badger:{UUID(int=3)}", "badger", 2),
        (f"rdm-resumed:1:a:b:{UUID(int=3)}", "a:b", 2),
    ],
)
def test_a_lost_run_is_resumed_with_all_it_had_under_a_name_and_a_key_that_count(
    told, key, name, number
):
    client = ended(Client(a_run(idempotency_key=key)))
    assert client.created == [
        (
            UUID(int=2),
            {
                "parameters": {"config": {"a": 1}},
                "job_variables": {"env": {"B": "2"}},
                "name": f"{name}-{number + 1}",
                "tags": ["rdm", "resume:2"],
                "idempotency_key": f"rdm-resumed:{number}:{name}:{ID}",
            },
        )
    ]
    resumed = SimpleNamespace(idempotency_key=client.created[0][1]["idempotency_key"])
    assert times_resumed(resumed) == number
    message = "Its process is gone: it was killed, or its worker or its machine was stopped. "
    message += f"Resumed as {name}-{number + 1} ({number} of at most 2 times)."
    assert client.states == [(ID, StateType.CRASHED, message, True)]
    assert [(run, state.type, state.message) for run, state in told] == [
        ("otter", StateType.CRASHED, message)
    ]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"idempotency_key": f"rdm-resumed:2:otter:{UUID(int=3)}"},
            None,
            "Not resumed: it was 2 times already. Run it again: it continues where it stopped.",
        ),
        (
            {"tags": ["rdm"]},
            None,
            "Not resumed: its deployment has no tag resume:N. "
            "Run it again: it continues where it stopped.",
        ),
        ({"deployment_id": None}, None, "It belongs to no deployment, so nothing resumes it."),
        ({}, ObjectNotFound(KeyError()), "Not resumed: its deployment was deleted."),
        ({}, http_error(404), "Not resumed: its deployment was deleted."),
        (
            {},
            http_error(409),
            "Not resumed: its deployment does not take its parameters any more (409). "
            "Run it again with those of today: it continues.",
        ),
    ],
)
def test_a_run_that_is_not_resumed_says_why_and_what_to_do(told, changes, error, said):
    client = ended(Client(a_run(**changes), error=error), "its worker was stopped")
    assert client.created == []
    assert client.states == [(ID, StateType.CRASHED, f"Its worker was stopped. {said}", True)]


@pytest.mark.parametrize("state", [Completed(), Failed(message="by itself"), Cancelled()])
def test_a_run_that_could_tell_its_end_is_left_as_it_is(told, state):
    client = ended(Client(a_run(state=state)))
    assert client.created == client.states == told == []


def test_a_run_that_crashed_by_its_own_word_is_resumed_and_not_told_again(told):
    client = ended(Client(a_run(state=Crashed(message="aborted"))))
    assert len(client.created) == len(client.states) == 1 and told == []


# What is inside


def test_everything_inside_a_run_ends_with_it_and_says_of_what_it_was_part(told):
    child = SimpleNamespace(id=UUID(int=20), name="child", parent=ID)
    grandchild = SimpleNamespace(id=UUID(int=30), name="grandchild", parent=child.id)
    tasks = [
        SimpleNamespace(id=UUID(int=40 + number), run=run)
        for number, run in enumerate((ID, child.id, UUID(int=99)))
    ]
    for state, name in ((Running(), "Crashed"), (Cancelling(), "Cancelled")):
        client = ended(Client(a_run(state=state, tags=[]), (child, grandchild), tasks))
        kind = StateType[name.upper()]
        assert {(one, type_, forced) for one, type_, _, forced in client.states} == {
            (one, kind, True) for one in (ID, child.id, grandchild.id, tasks[0].id, tasks[1].id)
        }
        messages = {one: message for one, _, message, _ in client.states}
        part = "which it is part of, has ended: "
        assert messages[child.id] == f"otter, {part}{name}."
        assert messages[grandchild.id] == f"child, {part}{name}."
        assert messages[tasks[0].id] == f"Its flow run has ended: {name}."
        assert client.created == [], "neither is resumed: it has no tag, or was to be cancelled"
    assert messages[ID] == "Cancelled as asked; what was done is kept."


def test_only_what_has_not_ended_inside_is_looked_for(told):
    client = ended(Client(a_run()))
    (inside, pool) = client.looked[0]
    unfinished = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    assert pool is None and inside.state.type.any_ == unfinished


# Which runs are lost


def looked(run, mine=(), beats=False):
    client = Client(run)
    looks = LostRuns(client, "rdm")

    async def heard(run, since):
        return beats

    looks._beats = heard
    asyncio.run(looks.look(set(mine)))
    (found, pool) = client.looked[0]
    assert pool.name.any_ == ["rdm"] and len(found.state.type.any_) == 3
    return [(type_, message) for _, type_, message, _ in client.states]


def aged(state, seconds):
    return state.model_copy(update={"timestamp": datetime.now(UTC) - timedelta(seconds=seconds)})


def test_a_run_that_never_began_waits_again_after_two_minutes(told):
    back = (StateType.SCHEDULED, "Its worker was gone before it began; it waits for the next one.")
    for place in (None, GONE_PROCESS):
        young, old = (aged(Pending(), seconds) for seconds in (110, 125))
        assert looked(a_run(state=young, infrastructure_pid=place)) == []
        assert looked(a_run(state=old, infrastructure_pid=place)) == [back]


def test_a_run_elsewhere_is_given_five_minutes_and_twice(told):
    for seconds in (290, 310):
        run = a_run(state=aged(Running(), seconds), infrastructure_pid="elsewhere:1:7")
        assert looked(run) == [], "once may be a server that was away"


def test_a_run_of_this_worker_is_left_to_it(told):
    assert looked(a_run(), mine=[ID]) == []
    assert [type_ for type_, _ in looked(a_run())] == [StateType.CRASHED]


# How it ended


@pytest.mark.parametrize(
    ("message", "away"),
    [
        (f"{NO_SERVER}ConnectError: All connection attempts failed", True),
        (f"{NO_SERVER}ConnectError: [Errno 111] Connection refused", True),
        (f"{NO_SERVER}RuntimeError: Failed to reach API at http://x", True),
        (f"{NO_SERVER}ConnectError: [Errno -2] Name or service not known", False),
        ("Task run encountered an exception: RuntimeError: Failed to reach API at x", False),
        (None, False),
    ],
)
def test_a_run_failed_without_its_server_only_where_prefects_own_call_says_so(message, away):
    assert failed_without_server(Failed(message=message)) is away
    assert not failed_without_server(Crashed(message=message))
    assert not failed_without_server(None)


def test_a_run_was_asked_to_end_only_where_it_crashed_saying_so():
    said = "Execution was aborted by a termination signal."
    assert ended_by_signal(Crashed(message=said))
    for state in (Failed(message=said), Crashed(message="else"), Crashed(message=None), None):
        assert not ended_by_signal(state)
