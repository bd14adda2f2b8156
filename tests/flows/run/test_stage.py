"""What every stage shares: how parts are grouped, and which downloads are counted."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from prefect import flow

from flows.data import encoders
from flows.run import stage
from storage.errors import StorageError


@pytest.mark.parametrize(
    ("parts", "at_least", "sizes"),
    [
        (3, 1, [1, 1, 1]),
        (3, 4, [3]),
        (9, 4, [4, 4, 1]),
        (450, 1, [3] * 150),
        (450, 2, [3] * 150),
        (0, 4, []),
    ],
)
def test_consecutive_parts_share_a_task_run_when_they_are_many_or_asked_to(parts, at_least, sizes):
    wanted = {f"{number:05d}": "origin" for number in range(parts)}
    made = stage.groups(wanted, at_least)
    assert [len(group) for group in made] == sizes
    assert [name for group in made for name in group] == list(wanted)


def test_only_what_a_run_fetches_is_counted_as_a_download(recorded, monkeypatch):
    counted = []
    monkeypatch.setattr(
        "flows.run.recorded.concurrency", lambda name: counted.append(name) or nullcontext()
    )
    monkeypatch.setattr(encoders, "load_encoder", lambda *asked: len(counted))

    def load(weights, number):
        return encoders.encoder_of(f"an encoder that is not loaded yet {number}", weights)

    with monkeypatch.context() as alone:
        alone.setattr(stage, "is_recorded", lambda: False)
        assert load("openai", 0) == 0, "without a server there is nobody to ask"
    in_a_run = flow(load, name="load")
    assert [in_a_run(weights, 1) for weights in ("random", "built-in", str(Path(__file__)))] == [
        0,
        0,
        0,
    ]
    assert in_a_run("openai", 2) == 1 and counted == [stage.DOWNLOADS]
    assert in_a_run("", 3) == 2, "a hub's repository has no other weights"


def caused(error, *causes):
    """The error, each raised from the next."""
    inner = error
    for cause in causes:
        inner.__cause__ = cause
        inner = cause
    return error


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (ConnectionResetError("by peer"), True),
        (TimeoutError("no answer"), True),
        (caused(RuntimeError("it failed"), ValueError("half an answer"), ConnectionError()), True),
        (type("ReadError", (Exception,), {"__module__": "httpx.something"})(), True),
        (StorageError("shards/a", "is damaged", "Build it again."), False),
        (PermissionError("not yours"), False),
        (caused(RuntimeError("it failed"), KeyError("a mistake of ours")), False),
    ],
    ids=str,
)
def test_only_what_the_network_did_is_tried_again(error, passing):
    assert stage.may_pass_if_repeated(error) is passing


def test_tasks_that_fetch_are_tried_again_by_that_rule():
    from flows.data import build_database, find_neighbors, import_images
    from flows.model import train_rdm

    retries = stage.Retries(stage.may_pass_if_repeated, (5.0, 10.0, 20.0))
    tasks = [stage.look_up, import_images.import_group, find_neighbors.search_group]
    for task in (*tasks, build_database.embed_group, train_rdm.look_ahead):
        assert task.retries == retries, task.name


@pytest.mark.parametrize(("passes", "tries"), [(True, 3), (False, 1)])
def test_without_a_server_a_task_is_tried_again_as_with_one(passes, tries, monkeypatch):
    """Told, waited for, and given up after the last try."""
    waited, tried = [], []
    monkeypatch.setattr(stage.time, "sleep", waited.append)

    @stage.stage_task(name="fetch", retries=stage.Retries(lambda error: passes, (5.0, 10.0)))
    def fetch(value):
        tried.append(value)
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        fetch({"a": 1})
    assert tried == [{"a": 1}] * tries
    assert len(waited) == tries - 1 and all(
        s <= w <= 2 * s for s, w in zip((5, 10), waited, strict=False)
    )
    tried.clear()
    with pytest.raises(ConnectionError):
        fetch.once()(1)
    assert len(tried) == 1


def test_what_is_cached_is_told_apart_and_returned_as_it_is():
    @stage.stage_flow("kept")
    def keeps(config):
        return stage.Cached([config])

    assert keeps(3) == [3] and keeps.fn(3) == stage.Cached([3])
