"""Runs of a deployment on a Prefect server, to be lost by the tests."""

import asyncio
from dataclasses import replace
from uuid import uuid4

from prefect import flow, get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Pending

from flows.run.whereabouts import Process, whereabouts_of

POOL = "lost"


@flow(name="anything")
def anything(config: dict | None = None) -> None:
    """Never run here."""


async def deployed(client, tags=("resume:2",)):
    """A pool of ours and a deployment in it."""
    if not await _has_pool(client):
        from prefect.client.schemas.actions import WorkPoolCreate

        await client.create_work_pool(WorkPoolCreate(name=POOL, type="rdm"))
    flow_id = await client.create_flow(anything)
    return await client.create_deployment(
        flow_id,
        f"d-{uuid4()}",
        work_pool_name=POOL,
        tags=list(tags),
        enforce_parameter_schema=False,
    )


async def _has_pool(client):
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_work_pool(POOL)
    except ObjectNotFound:
        return None


async def a_run(client, deployment, state, place, **options):
    run = await client.create_flow_run_from_deployment(
        deployment, parameters={"config": {"a": 1}}, name="otter", **options
    )
    await client.set_flow_run_state(run.id, Pending(), force=True)
    if state.type != StateType.PENDING:
        await client.set_flow_run_state(run.id, state, force=True)
    if place:
        await client.update_flow_run(run.id, infrastructure_pid=place)
    return await client.read_flow_run(run.id)


def of_a_gone_worker(process_id):
    """The place of a living process whose worker is not there any more."""
    return str(replace(whereabouts_of(process_id), worker=Process(2**22 - 1, "1")))


def looked(work):
    """Run an async test with a client."""

    async def with_client():
        async with get_client() as client:
            await work(client)

    asyncio.run(with_client())


async def others(client, deployment, run):
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    chosen = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    return [r for r in await client.read_flow_runs(deployment_filter=chosen) if r.id != run.id]
