"""Which runs are lost, and what is done about them: against a server, with processes of our own."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from losing import POOL, a_run, deployed, looked, of_a_gone_worker, others
from prefect.client.schemas.objects import StateType
from prefect.states import Cancelling, Crashed, Failed, Pending, Running

from flows.run import lost_runs
from flows.run.lost_runs import AWAY, STOPPED, LostRuns, end_process, times_allowed, times_resumed
from flows.run.whereabouts import process_of, this_system, whereabouts_of

pytestmark = pytest.mark.usefixtures("recorded")


@pytest.mark.parametrize(
    ("tags", "allowed"),
    [
        ([], 0),
        (["rdm", "resume:3"], 3),
        (["resume:0"], 0),
        (["resume:", "resume:x", "resume"], 0),
        (["resume:1", "resume:2"], 2),
    ],
)
def test_a_tag_says_how_often_a_lost_run_is_resumed(tags, allowed):
    assert times_allowed(SimpleNamespace(tags=tags)) == allowed


def test_a_resumed_run_knows_how_many_were_lost_before_it():
    assert times_resumed(SimpleNamespace(idempotency_key=None)) == 0
    assert times_resumed(SimpleNamespace(idempotency_key="scheduled 1 2")) == 0
    assert times_resumed(SimpleNamespace(idempotency_key=f"rdm-resumed:2:a:b-name:{uuid4()}")) == 2


def test_a_process_that_does_not_end_when_asked_is_killed_with_its_group(monkeypatch):
    monkeypatch.setattr(lost_runs, "SECONDS_TO_END", 0.5)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True
    )
    child.stdout.readline()
    began = time.monotonic()
    end_process(process_of(child.pid))
    assert child.wait(5) == -signal.SIGKILL and 0.4 < time.monotonic() - began < 10


# Against a server


def test_a_run_whose_process_is_gone_is_crashed_and_resumed_with_its_parameters_at_most_so_often():
    async def work(client):
        deployment = await deployed(client)
        run = await a_run(client, deployment, Running(), str(whereabouts_of(2**22 - 1)))
        looks = LostRuns(client, POOL)
        await looks.look(set())
        await looks.look(set())
        (resumed,) = await others(client, deployment, run)
        state = (await client.read_flow_run(run.id)).state
        assert state.type == StateType.CRASHED
        assert (
            state.message.endswith("Resumed as otter-2 (1 of at most 2 times).")
            and "\n" not in state.message
        )
        assert (resumed.name, resumed.parameters, set(resumed.tags)) == (
            "otter-2",
            {"config": {"a": 1}},
            {"resume:2"},
        )
        assert resumed.state.type == StateType.SCHEDULED
        # the same happens to it, and to the next
        for _ in range(2):
            lost = next(
                r
                for r in [*await others(client, deployment, run)]
                if r.state.type == StateType.SCHEDULED
            )
            await client.set_flow_run_state(lost.id, Running(), force=True)
            await client.update_flow_run(lost.id, infrastructure_pid=str(whereabouts_of(2**22 - 1)))
            await looks.look(set())
        names = {r.name: r.state for r in await others(client, deployment, run)}
        assert set(names) == {"otter-2", "otter-3"}
        assert "Not resumed: it was 2 times already" in names["otter-3"].message

    looked(work)


@pytest.mark.parametrize(
    ("message", "type_", "resumed"),
    [
        (
            "Flow run encountered an exception: ConnectError: All connection attempts failed",
            StateType.CRASHED,
            1,
        ),
        (
            "Flow run encountered an exception: ConnectError: [Errno 111] Connection refused",
            StateType.CRASHED,
            1,
        ),
        ("Flow run encountered an exception: EncoderError: a (ConnectError)", StateType.FAILED, 0),
        ("Flow run encountered an exception: ValueError: the loss is nan", StateType.FAILED, 0),
    ],
)
def test_a_run_that_failed_because_the_server_was_away_is_resumed_and_no_other(
    message, type_, resumed
):
    async def work(client):
        deployment = await deployed(client)
        run = await a_run(
            client, deployment, Failed(message=message), str(whereabouts_of(2**22 - 1))
        )
        await LostRuns(client, POOL).ended(run, AWAY)
        assert (await client.read_flow_run(run.id)).state.type == type_
        assert len(await others(client, deployment, run)) == resumed

    looked(work)


def test_a_run_whose_own_worker_lives_is_left_to_it_though_it_is_cancelled_or_its_process_gone():
    async def work(client):
        deployment = await deployed(client)
        worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        place = str(replace(whereabouts_of(2**22 - 1), worker=process_of(worker.pid)))
        runs = [
            await a_run(client, deployment, state, place) for state in (Running(), Cancelling())
        ]
        looks = LostRuns(client, POOL)
        await looks.look(set())
        types = [(await client.read_flow_run(run.id)).state.type for run in runs]
        assert types == [StateType.RUNNING, StateType.CANCELLING]
        worker.kill()
        worker.wait()
        await looks.look(set())
        types = [(await client.read_flow_run(run.id)).state.type for run in runs]
        assert types == [StateType.CRASHED, StateType.CANCELLED]

    looked(work)


def test_a_machine_that_was_restarted_has_none_of_its_runs_left():
    async def work(client):
        deployment = await deployed(client)
        host, machine, _, namespace = this_system().split("/")
        before = replace(whereabouts_of(os.getpid()), where=f"{host}/{machine}/0000/{namespace}")
        run = await a_run(client, deployment, Running(), str(before))
        await LostRuns(client, POOL).look(set())
        assert (await client.read_flow_run(run.id)).state.type == StateType.CRASHED

    looked(work)


def test_a_run_that_cannot_be_looked_after_hides_no_other_and_a_deleted_deployment_is_said():
    async def work(client):
        gone, there = await deployed(client), await deployed(client)
        lost = await a_run(client, gone, Running(), str(whereabouts_of(2**22 - 1)))
        other = await a_run(client, there, Running(), str(whereabouts_of(2**22 - 1)))
        await client.delete_deployment(gone)
        looks = LostRuns(client, POOL)
        ended = looks.ended

        async def breaks(run, why):
            if run.id == other.id:
                raise ValueError("something else")
            await ended(run, why)

        looks.ended = breaks
        await looks.look(set())
        looks.ended = ended
        await looks.look(set())
        assert (
            "Not resumed: its deployment was deleted"
            in (await client.read_flow_run(lost.id)).state.message
        )
        assert (await client.read_flow_run(other.id)).state.type == StateType.CRASHED

    looked(work)


def test_somebody_is_told_once_of_a_lost_or_cancelled_run_and_not_of_one_that_told_itself(
    monkeypatch,
):
    told = []
    monkeypatch.setattr(
        lost_runs, "tell", lambda flow, run, state: told.append((run.id, flow.name, state.type))
    )

    async def work(client):
        deployment = await deployed(client)
        lost = await a_run(client, deployment, Running(), str(whereabouts_of(2**22 - 1)))
        cancelled = await a_run(client, deployment, Cancelling(), of_a_gone_worker(2**22 - 1))
        itself = await a_run(
            client, deployment, Crashed(message="by itself"), str(whereabouts_of(2**22 - 1))
        )
        looks = LostRuns(client, POOL)
        for _ in range(2):
            await looks.look(set())
            await looks.cancelled(cancelled)
        await looks.ended(itself, STOPPED)
        wanted = {
            (lost.id, "anything", StateType.CRASHED),
            (cancelled.id, "anything", StateType.CANCELLED),
        }
        assert set(told) == wanted and len(told) == 2

    looked(work)


def test_without_the_tag_a_lost_run_is_told_and_not_resumed():
    async def work(client):
        deployment = await deployed(client, tags=())
        run = await a_run(client, deployment, Running(), str(whereabouts_of(2**22 - 1)))
        await LostRuns(client, POOL).look(set())
        assert (
            "Not resumed: its deployment has no tag resume:N"
            in (await client.read_flow_run(run.id)).state.message
        )
        assert await others(client, deployment, run) == []

    looked(work)


def test_runs_that_live_that_are_mine_or_that_have_just_begun_are_left_alone():
    async def work(client):
        deployment = await deployed(client)
        mine = await a_run(client, deployment, Running(), str(whereabouts_of(2**22 - 1)))
        fresh = await a_run(client, deployment, Pending(), None)
        elsewhere = await a_run(client, deployment, Running(), "elsewhere:1:7")
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        living = await a_run(client, deployment, Running(), str(whereabouts_of(child.pid)))
        await LostRuns(client, POOL).look({mine.id})
        types = [
            (await client.read_flow_run(run.id)).state.type
            for run in (mine, fresh, elsewhere, living)
        ]
        assert types == [StateType.RUNNING, StateType.PENDING, StateType.RUNNING, StateType.RUNNING]
        child.kill()
        child.wait()

    looked(work)


def test_a_run_that_never_began_goes_back_into_its_queue(monkeypatch):
    monkeypatch.setattr(lost_runs, "PENDING_SECONDS", 0.0)

    async def work(client):
        deployment = await deployed(client)
        run = await a_run(client, deployment, Pending(), None)
        await LostRuns(client, POOL).look(set())
        assert (await client.read_flow_run(run.id)).state.type == StateType.SCHEDULED
        assert await others(client, deployment, run) == []

    looked(work)


def test_a_cancelled_run_without_a_worker_is_cancelled_and_its_process_ended():
    async def work(client):
        deployment = await deployed(client)
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
        )
        run = await a_run(client, deployment, Running(), of_a_gone_worker(child.pid))
        await client.set_flow_run_state(run.id, Cancelling(), force=True)
        await LostRuns(client, POOL).look(set())
        assert (await client.read_flow_run(run.id)).state.type == StateType.CANCELLED
        assert child.wait(5) == -signal.SIGKILL
        assert await others(client, deployment, run) == [], "who cancels does not want it resumed"

    looked(work)


def test_a_run_of_another_machine_is_lost_after_two_looks_without_a_heartbeat_and_not_after_one(
    monkeypatch,
):
    monkeypatch.setattr(lost_runs, "HEARTBEATS_MISSED_SECONDS", 0.3)

    async def work(client):
        deployment = await deployed(client)
        run = await a_run(client, deployment, Running(), "elsewhere:1:7")
        looks = LostRuns(client, POOL)
        await asyncio.sleep(0.4)
        await looks.look(set())
        assert (await client.read_flow_run(run.id)).state.type == StateType.RUNNING, (
            "the server may have been away"
        )
        await asyncio.sleep(0.4)
        await looks.look(set())
        assert (await client.read_flow_run(run.id)).state.type == StateType.CRASHED

    looked(work)


def test_a_heartbeat_keeps_a_run_of_another_machine(monkeypatch):
    monkeypatch.setattr(lost_runs, "HEARTBEATS_MISSED_SECONDS", 0.3)

    async def work(client):
        deployment = await deployed(client)
        run = await a_run(client, deployment, Running(), "elsewhere:1:7")
        looks = LostRuns(client, POOL)
        since = []

        async def beats(asked, when):
            since.append(when)
            return asked.id == run.id

        monkeypatch.setattr(looks, "_beats", beats)
        for _ in range(3):
            await asyncio.sleep(0.35)
            await looks.look(set())
        assert (await client.read_flow_run(run.id)).state.type == StateType.RUNNING
        assert since and all(
            timedelta(0) < datetime.now(UTC) - when < timedelta(seconds=30) for when in since
        )

    looked(work)


def test_heartbeats_are_found_by_their_run():
    from prefect.events import emit_event

    async def work(client):
        deployment = await deployed(client)
        run = await a_run(client, deployment, Running(), "elsewhere:1:7")
        looks, since = LostRuns(client, POOL), datetime.now(UTC) - timedelta(minutes=1)
        assert not await looks._beats(run, since)
        emit_event(
            "prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
        )
        for _ in range(100):
            if await looks._beats(run, since):
                break
            await asyncio.sleep(0.2)
        assert await looks._beats(run, since)
        assert not await looks._beats(
            await a_run(client, deployment, Running(), "elsewhere:1:8"), since
        )

    looked(work)
