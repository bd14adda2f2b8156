"""Prefect as it is set up here: profile, home, address; and what its server says. `python -m` this
module is the part that imports Prefect.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from flows.doctor.apart import found_apart, say_all
from flows.doctor.disks import existing
from flows.doctor.findings import Findings, Machine, fails, fine, note
from flows.run.deployments import FLOW_OF
from flows.run.environment import (
    prefect_home,
    prefect_profile,
    server_is_configured,
    server_is_required,
    stated_in_prefect,
)
from flows.run.terminal import shown_address
from rdm_core.importing import large_import

POOL = "rdm"
URL = "PREFECT_API_URL"
PLUGIN = "rdm"
FEWEST_TRIES = 5
SECONDS_A_REQUEST = "5"
SET_UP = "prefect server start, and export PREFECT_API_URL=http://127.0.0.1:4200/api"


def settings(machine: Machine) -> Findings:
    """Without importing Prefect: where its settings are from, and whether its home can be used."""
    profile = prefect_profile()
    told = f"{version('prefect')}, "
    if profile is None:
        told += "no profile of yours"
    else:
        told += f"profile {profile.name!r} of {profile.path}"
        if profile.settings is None:
            what = f"the active profile {profile.name!r} is not in {profile.path}"
            cure = "prefect profile ls, then prefect profile use NAME; or unset PREFECT_PROFILE"
            yield note("prefect", what, cure)
    address = stated_in_prefect(URL)
    if server_is_configured():
        assert address is not None, "it is configured"
        shown = shown_address(address.value)
        yield fine("prefect", f"{told}; {URL}={shown}, by {address.where}")
    elif server_is_required():
        what = f"{told}; no server is configured, and PREFECT_SERVER_ALLOW_EPHEMERAL_MODE is off:"
        cure = f"{SET_UP}; or unset the former"
        yield fails("prefect", f"{what} every stage is refused", cure)
    else:
        told += "; no server is configured, so stages run in the command itself and are recorded"
        yield fine("prefect", f"{told} nowhere; rdm run, schedules and workers need one")
    yield from _home()


def _home() -> Findings:
    """Whether Prefect can write where it keeps its files."""
    try:
        home = prefect_home()
    except RuntimeError:
        yield note("prefect", "nobody knows its home", "export PREFECT_HOME=FOLDER")
        return
    if not os.access(existing(home), os.W_OK | os.X_OK):
        what = f"its home {home} cannot be written"
        cure = "chown it, or export PREFECT_HOME=FOLDER"
        failing = server_is_configured()
        yield fails("prefect", what, cure) if failing else note("prefect", what, cure)


def server(machine: Machine) -> Findings:
    """In a process of its own, and only where a server is configured."""
    if not server_is_configured():
        return
    address = stated_in_prefect(URL)
    where = shown_address(address.value) if address else "its address"
    cure = f"See whether it is well ({where}/health), and whether a proxy stands between"
    silent = fails("server", f"{where} did not answer in time", cure)
    broken = fails("server", "Prefect cannot be used", "See the packages above")
    quick = [("PREFECT_API_REQUEST_TIMEOUT", SECONDS_A_REQUEST)]
    yield from found_apart("flows.doctor.orchestrator", machine, silent, broken, quick)


def look() -> Findings:
    """In that process: what the server says of itself and of what this project needs there."""
    from flows.run.server import ServerFailed, connected

    try:
        with large_import():
            connected()
    except ServerFailed as error:
        yield fails("server", error.what, error.cure)
        return
    from prefect import get_client
    from prefect.settings import get_current_settings

    yield from hurtful(get_current_settings())
    with get_client(sync_client=True) as client:
        yield from versions(client.client_version(), client.api_version())
        yield from judged(asked(client))


def versions(ours: str, theirs: str) -> Findings:
    """Prefect's own and the server's."""
    if ours.split(".")[:2] == theirs.split(".")[:2]:
        yield fine("server", f"it answers, and is of {theirs}")
    else:
        what = f"it is of {theirs}, and this machine's Prefect of {ours}"
        cure = "Bring both to one version, the server first; then prefect deploy --all"
        yield note("server", what, cure)


def hurtful(current: Any) -> Findings:
    """Settings of Prefect's that work against this project."""
    if current.testing.test_mode:
        what = "PREFECT_TEST_MODE is on: it is for Prefect's own tests"
        yield note("server", what, "unset PREFECT_TEST_MODE")
    if current.client.max_retries < FEWEST_TRIES:
        what = f"PREFECT_CLIENT_MAX_RETRIES={current.client.max_retries}: a busy server answers"
        yield note(
            "server", f"{what} 503, and runs end of it", "export PREFECT_CLIENT_MAX_RETRIES=10"
        )
    for name, retries in (
        ("FLOWS", current.flows.default_retries),
        ("TASKS", current.tasks.default_retries),
    ):
        if retries:
            what = f"PREFECT_{name}_DEFAULT_RETRIES={retries}: what is refused is tried again, too"
            yield note("server", what, f"unset PREFECT_{name}_DEFAULT_RETRIES")
    plugins = current.plugins
    allowed = plugins.allow is None or PLUGIN in plugins.allow
    if not (plugins.enabled and allowed) or PLUGIN in (plugins.deny or ()):
        what = "rdm's plugin of Prefect is off: `prefect deployment run train-rdm` wants both names"
        cure = "export PREFECT_PLUGINS_ENABLED=true PREFECT_PLUGINS_ALLOW=rdm; or write"
        yield note("server", what, f"{cure} train-rdm/train-rdm, or use rdm run")


@dataclass(frozen=True)
class Deployed:
    """What a server has of this project."""

    pool_type: str | None
    """None: there is no work pool of the name."""
    paused: bool = False
    workers: Sequence[str] = ()
    """Those that are alive."""
    lost_workers: Sequence[str] = ()
    deployments: Sequence[str] = ()
    elsewhere: Sequence[str] = ()
    """Deployments of another work pool."""
    scheduled: Sequence[str] = ()
    """Deployments with a schedule that is switched on."""


def asked(client: Any) -> Deployed:
    """Asks the server; a few short requests."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    names = DeploymentFilter(name=DeploymentFilterName(any_=list(FLOW_OF)))
    found = client.read_deployments(deployment_filter=names)
    facts: dict[str, Any] = {
        "deployments": sorted({one.name for one in found}),
        "elsewhere": sorted({one.name for one in found if one.work_pool_name != POOL}),
        "scheduled": sorted({one.name for one in found if _scheduled(one)}),
    }
    try:
        pool = client.read_work_pool(POOL)
    except ObjectNotFound:
        return Deployed(None, **facts)
    workers = client.read_workers_for_work_pool(POOL)
    alive = [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]
    lost = [worker.name for worker in workers if worker.status != WorkerStatus.ONLINE]
    return Deployed(pool.type, pool.is_paused, alive, lost, **facts)


def _scheduled(deployment: Any) -> bool:
    return not deployment.paused and any(one.active for one in deployment.schedules)


def judged(has: Deployed) -> Findings:
    """What follows. A server that only records runs needs neither pool nor deployments."""
    create = f"prefect work-pool create {POOL} --type rdm"
    if has.pool_type is None:
        what = f"no work pool {POOL}: what is deployed there cannot run"
        yield note("pool", what, f"{create}, in the project's directory prefect deploy --all")
    elif has.pool_type != "rdm":
        what = f"the work pool {POOL} is of the type {has.pool_type}: lost runs are not found"
        cure = f"prefect work-pool delete {POOL}, then {create} and prefect deploy --all"
        yield note("pool", what, cure)
    elif has.paused:
        what = f"the work pool {POOL} is paused: nothing of it starts"
        yield note("pool", what, f"prefect work-pool resume {POOL}")
    else:
        yield fine("pool", f"{POOL}, of the type {has.pool_type}")
    if has.pool_type is not None:
        yield from _workers(has)
    yield from _deployments(has)


def _workers(has: Deployed) -> Findings:
    if has.workers:
        yield fine("worker", f"alive: {', '.join(has.workers)}")
        return
    last = f" (once there: {', '.join(has.lost_workers)})" if has.lost_workers else ""
    what = f"no worker of the pool {POOL} is alive{last}"
    cure = f"prefect worker start --pool {POOL}"
    if has.deployments:
        yield fails("worker", f"{what}: what is started there waits for ever", cure)
    else:
        yield note("worker", what, cure)


def _deployments(has: Deployed) -> Findings:
    absent = [name for name in FLOW_OF if name not in has.deployments]
    again = "in the project's directory, prefect deploy --all"
    if absent:
        told = "none of prefect.yaml" if len(absent) == len(FLOW_OF) else f"not {', '.join(absent)}"
        yield note("deployed", told, again)
    else:
        yield fine("deployed", f"all {len(FLOW_OF)} of prefect.yaml")
    if has.elsewhere:
        what = f"for another work pool than {POOL}: {', '.join(has.elsewhere)}"
        yield note("deployed", what, again)
    if has.deployments:
        yield fine("schedules", f"switched on: {', '.join(has.scheduled) or 'none'}")


if __name__ == "__main__":
    say_all(look)
