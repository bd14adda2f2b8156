"""The deployments of prefect.yaml by name, what they need on a server, and `rdm run`, which starts
one with some parameters changed.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any

from flows.run.environment import server_is_configured

FLOW_OF = {
    "acquire": "acquire",
    "rebuild-openimages": "rebuild",
    "rebuild-wikiart": "rebuild",
    "rebuild-coco": "rebuild",
    "train-autoencoder": "train-autoencoder",
    "train-rdm": "train-rdm",
    "train-smoke": "train-rdm",
    "sample-rdm": "sample-rdm",
    "evaluate-rdm": "evaluate-rdm",
    "gc": "gc",
}
"""Deployment -> flow. A test holds it equal to prefect.yaml."""


QUEUES = {"gpu": 1, "rebuild": 1}
"""Work queue -> runs at once, where `prefect deploy` makes it: a training of days must not hold the
weekly rebuild.
"""
LIMITS = {"downloads": 1}
"""Prefect's global limit -> tasks at once: polite to the hubs that weights are fetched from."""


class DeploymentFailed(RuntimeError):
    """A deployment could not be started; the message says why and what to do."""


def run_deployed(name: str, changes: Mapping[str, Any]) -> dict[str, str]:
    """Start a run of a deployment with some of its parameters changed, and return at once: run,
    name, url.

    Parameters inside parameters are merged: {"training": {"steps": 5}} leaves the rest of
    `training` as deployed. Raises DeploymentFailed when there is no such deployment, no server, or
    a parameter that the flow does not take.
    """
    if not server_is_configured():
        cure = (
            "prefect server start, and prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
        raise DeploymentFailed(
            f"{name}: no Prefect server is configured, and deployments live in one. Cure: {cure}"
        )
    import httpx
    from prefect import get_client
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.settings import PREFECT_UI_URL

    full_name = f"{FLOW_OF[name]}/{name}" if name in FLOW_OF else name
    if "/" not in full_name:
        near = get_close_matches(name, FLOW_OF, n=1)
        meant = f"Did you mean {near[0]}?" if near else f"There are {', '.join(FLOW_OF)}."
        raise DeploymentFailed(
            f"{name}: there is no such deployment. {meant} Others are named flow/deployment."
        )
    try:
        with get_client(sync_client=True) as client:
            deployed = client.read_deployment_by_name(full_name).parameters
        parameters = {"config": merged(deployed.get("config", {}), changes)}
        run: Any = run_deployment(full_name, parameters=parameters, timeout=0)
    except ObjectNotFound as error:
        raise DeploymentFailed(
            f"{name}: there is no deployment {full_name}. Make it: prefect deploy --name {name}"
        ) from error
    except PrefectHTTPStatusError as error:
        raise DeploymentFailed(
            f"{name}: {error.response.json().get('detail', error)}. See rdm COMMAND --help"
        ) from error
    except (OSError, httpx.TransportError) as error:
        raise DeploymentFailed(
            f"{name}: Prefect's server does not answer ({error}). Start it: prefect server start"
        ) from error
    url = f"{PREFECT_UI_URL.value()}/runs/flow-run/{run.id}" if PREFECT_UI_URL.value() else ""
    return {"deployment": full_name, "name": run.name, "id": str(run.id), "url": url}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mapping by mapping."""
    result = dict(base)
    for key, value in changes.items():
        inside = result.get(key)
        result[key] = (
            merged(inside, value)
            if isinstance(inside, Mapping) and isinstance(value, Mapping)
            else value
        )
    return result


def prepare_server(pool: str = "rdm") -> None:
    """Make what the deployments need on the server and is not there: the queues of the pool, the
    limit of downloads.

    A step of prefect.yaml, run by `prefect deploy`. What an operator has changed stays as it is.
    """
    from prefect import get_client

    client: Any  # whose `request` is typed for the paths that Prefect itself asks for
    with get_client(sync_client=True) as client:
        if not _is_there(client, f"/work_pools/{pool}"):
            return  # `prefect deploy` says so itself
        for queue, at_once in QUEUES.items():
            made = {"name": queue, "concurrency_limit": at_once}
            if not _is_there(client, f"/work_pools/{pool}/queues/{queue}"):
                client.request("POST", f"/work_pools/{pool}/queues", json=made)
        for limit, at_once in LIMITS.items():
            if not _is_there(client, f"/v2/concurrency_limits/{limit}"):
                client.request(
                    "POST", "/v2/concurrency_limits/", json={"name": limit, "limit": at_once}
                )


def _is_there(client: Any, path: str) -> bool:
    """Whether the server has something of that path."""
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        client.request("GET", path)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True
