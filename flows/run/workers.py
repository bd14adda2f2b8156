"""Where the task runs of a stage go: threads of this process, or a Dask cluster. One setting
chooses: RDM_DASK.

unset            threads of the flow's own process
local            a cluster of one process a core, started and ended by each flow
tcp://host:8786  the running scheduler there
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from rdm_core.errors import RequestError

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner

SETTING = "RDM_DASK"
_pool: ContextVar["Pool | None"] = ContextVar("pool", default=None)
"""Of the stage that runs, where none is recorded."""


class Pool:
    """Takes the tasks of one stage; made when the first one comes."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._executor: Executor | None = None
        self.client: Any = None
        """Of a Dask cluster, once it is asked for."""

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A future of what the function returns."""
        if os.environ.get(SETTING):
            return self.cluster().submit(function, *args, pure=False, **kwargs)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads or cores())
        return self._executor.submit(copy_context().run, function, *args, **kwargs)

    def close(self) -> None:
        """Wait for what has begun; what has not is dropped."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        if self.client is not None:
            self.client.close()
            if self.client.cluster is not None:
                self.client.cluster.close()

    def cluster(self) -> Any:
        """The client of the Dask cluster."""
        if self.client is None:
            address = dask_address()
            import distributed

            self.client = distributed.Client(
                address or distributed.LocalCluster(threads_per_worker=1)
            )
        return self.client


@contextmanager
def pool(threads: int | None) -> Iterator[None]:
    """Where `submitted` takes tasks to, until the block ends; `threads` as in `task_runner`."""
    made = Pool(threads)
    token = _pool.set(made)
    try:
        yield
    finally:
        _pool.reset(token)
        made.close()


def submitted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A future of a call in the pool of the stage that runs."""
    running = _pool.get()
    assert running is not None, "a task is submitted inside a stage"
    return running.submit(function, *args, **kwargs)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def dask_address() -> str | None:
    """The scheduler that RDM_DASK names; None for a cluster of our own.

    Raises RequestError for what is no address, and ImportError with the cure when Dask is not
    installed.
    """
    cluster = os.environ[SETTING]
    refuse_no_address(cluster)
    try:
        import distributed  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ImportError(
            f"{SETTING}={cluster}: Dask is not installed. Run: pip install 'rdm[dask]'"
        ) from error
    return None if cluster == "local" else cluster


def refuse_no_address(cluster: str) -> None:
    """Raise RequestError for a setting that is neither `local` nor the address of a scheduler."""
    if cluster != "local" and not re.fullmatch(r"([a-z]+://)?[^\s/]+:\d+/?", cluster):
        what = "it is neither local nor the address of a scheduler"
        raise RequestError(
            f"{SETTING}={cluster}", what, "Write it like tcp://host:8786, or unset it."
        )


def task_runner(threads: int | None = None) -> "TaskRunner[Any]":
    """Prefect's runner of a stage's tasks; `threads` is how many of them this machine's cores can
    take at once.

    1: one already uses every core or the whole device. None: one a core. Raises ImportError with
    the cure when a cluster is asked for and prefect-dask is not installed, RequestError for what is
    no address.
    """
    from prefect.task_runners import ThreadPoolTaskRunner

    cluster = os.environ.get(SETTING)
    if not cluster:
        return ThreadPoolTaskRunner(max_workers=threads or cores())
    refuse_no_address(cluster)
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise ImportError(
            f"{SETTING}={cluster}: Dask is not installed. Run: pip install 'rdm[dask]'"
        ) from error
    if cluster == "local":
        return DaskTaskRunner(cluster_kwargs={"threads_per_worker": 1})
    return DaskTaskRunner(address=cluster)


@contextmanager
def a_device_each() -> Iterator[None]:
    """Task runs submitted inside take a GPU each, on a cluster whose workers declare theirs.

    Start one worker a device: CUDA_VISIBLE_DEVICES=0 dask worker ADDRESS --nthreads 1 --resources
    GPU=1
    """
    client = _client() if os.environ.get(SETTING) else None
    with _one_gpu() if client is not None and declares_gpus(client) else nullcontext():
        yield


def _client() -> Any:
    """Of the cluster that the stage that runs sends its tasks to."""
    running = _pool.get()
    if running is not None:
        return running.cluster()
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return getattr(context.task_runner, "client", None) if context else None


def declares_gpus(client: Any) -> bool:
    """Whether a worker of a Dask client's cluster was started with --resources GPU=..."""
    workers_info = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get("GPU") for worker in workers_info)


def _one_gpu() -> Any:
    import dask

    return dask.annotate(resources={"GPU": 1})
