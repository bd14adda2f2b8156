"""Where the task runs of a stage go: threads of this process, or a Dask cluster. One setting chooses: RDM_DASK.

unset            threads of the flow's own process
local            a cluster of one process a core, started and ended by each flow
tcp://host:8786  the running scheduler there
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

SETTING = "RDM_DASK"


def workers(threads: int | None = None) -> TaskRunner[Any]:
    """The task runner of a stage; `threads` is how many of its task runs this machine's cores can take at once.

    1: one already uses every core or the whole device. None: one a core. Raises ImportError with the cure when a cluster
    is asked for and prefect-dask is not installed.
    """
    cluster = os.environ.get(SETTING)
    if not cluster:
        return ThreadPoolTaskRunner(max_workers=threads or len(os.sched_getaffinity(0)))
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise ImportError(f"{SETTING}={cluster}: Dask is not installed. Run: pip install 'rdm[dask]'") from error
    if cluster == "local":
        return DaskTaskRunner(cluster_kwargs={"threads_per_worker": 1})
    return DaskTaskRunner(address=cluster)


@contextmanager
def a_device_each() -> Iterator[None]:
    """Task runs submitted inside take a GPU each, on a cluster whose workers declare theirs.

    Start one worker a device: CUDA_VISIBLE_DEVICES=0 dask worker ADDRESS --nthreads 1 --resources GPU=1
    """
    context = FlowRunContext.get()
    client = getattr(context.task_runner, "client", None) if context else None
    with _one_gpu() if client is not None and declares_gpus(client) else nullcontext():
        yield


def declares_gpus(client: Any) -> bool:
    """Whether a worker of a Dask client's cluster was started with --resources GPU=..."""
    workers_info = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get("GPU") for worker in workers_info)


def _one_gpu() -> Any:
    import dask

    return dask.annotate(resources={"GPU": 1})
