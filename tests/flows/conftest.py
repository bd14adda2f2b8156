"""One small world built once: every stage of the pipeline on 96 drawn images, for the tests of
flows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from flows.config.judge import Demo
from flows.run import environment
from rdm_core.config import ContextConfig, ReportingConfig, TrainingConfig
from storage.artifact import Artifact

LICENCES = ("CC0-1.0", "CC-BY-4.0", None)
"""Of the small world's images, in turn."""


@pytest.fixture(scope="session", autouse=True)
def without_a_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Surroundings as the command line prepares them; a server only for the tests that ask for one
    (`recorded`).
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", "")
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        environment.prepare(tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one Prefect server for all tests that need one."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

    database = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('server') / 'prefect.db'}"
    server = SubprocessASGIServer()
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: database}):
        server.start(timeout=120)
    yield server.api_url
    server.stop()


@pytest.fixture
def recorded(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Stages are flow runs of a server, whose address this is."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # Each flow run waits up to a second for the thread that sends them; nobody reads them here.
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setattr("prefect.flow_engine._send_heartbeats", lambda engine, **_: nullcontext())
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield prefect_server


@dataclass(frozen=True)
class SmallWorld:
    """Where it lies, and the run trained on it."""

    root: Path
    run: Artifact


def with_credits_of_its_own(drawn: Callable[..., Any]) -> Callable[..., Any]:
    """The drawn world says the same of every image: where nothing differs, no order can be
    wrong.
    """

    def sample(index: int, config: Any) -> Any:
        made = drawn(index, config)
        credits = {"licence": LICENCES[index % 3], "author": f"{config.split} author {index}"}
        credits |= {"source_url": f"https://example.org/{config.split}/{index}"}
        return replace(made, record=replace(made.record, **credits))

    return sample


@pytest.fixture(scope="session")
def small_world(
    tmp_path_factory: pytest.TempPathFactory, in_one_process: Callable[..., Any]
) -> SmallWorld:
    """Shapes through every stage up to a run of six steps."""
    from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
    from flows.config.images import ImportImages
    from flows.config.train import TrainRDM
    from flows.data.build_database import build_database
    from flows.data.encode_latents import encode_latents
    from flows.data.find_neighbors import find_neighbors
    from flows.data.import_images import import_images
    from flows.model.train_rdm import train_rdm

    root = tmp_path_factory.mktemp("world")
    for name, styles in {"shapes": (), "sketches": ("sketch",)}.items():
        drawn = {
            "size": 32,
            "encoding": "png",
            "count": 96,
            "split": name,
            "styles": styles,
            "images_per_part": 40,
        }
        with pytest.MonkeyPatch.context() as patch:
            module = import_module("flows.data.import_images")
            credited = with_credits_of_its_own(module.shapes_sample)
            patch.setattr(module, "shapes_sample", credited)
            import_images(ImportImages(root=root, name=name, source="shapes", **drawn))
        build_database(
            BuildDatabase(
                root=root, name=name, shards=name, encoder="rdm-shapes", weights="built-in"
            )
        )
    find_neighbors(FindNeighbors(root=root, name="shapes", queries="shapes", database="shapes"))
    encode_latents(EncodeLatents(root=root, name="shapes", shards="shapes"))
    config = TrainRDM(**_small_training(root, "small"))
    return SmallWorld(root, in_one_process(train_rdm, config))


@pytest.fixture(scope="session")
def entity_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with entities: the images `known`, which a training may see, and `all`, those of a
    database, each with embeddings, index and latents; and a table `words` of the first in the
    second, searched by words.
    """
    from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
    from flows.config.images import ImportImages
    from flows.data.build_database import build_database
    from flows.data.encode_latents import encode_latents
    from flows.data.find_neighbors import find_neighbors
    from flows.data.import_images import import_images

    root = tmp_path_factory.mktemp("entities")
    encoder = {"encoder": "rdm-shapes", "weights": "built-in"}
    for name, count in {"known": 40, "all": 120}.items():
        drawn = {"size": 16, "encoding": "png", "images_per_part": 50, "count": count}
        drawn |= {"entities": name, "split": "database"}
        import_images(ImportImages(root=root, name=name, source="entities", **drawn))
        build_database(BuildDatabase(root=root, name=name, shards=name, **encoder))
        encode_latents(EncodeLatents(root=root, name=name, shards=name))
    asked = {"queries": "known", "database": "all", "k": 4, "search": "words"}
    find_neighbors(FindNeighbors(root=root, name="words", **asked))
    return root


@dataclass(frozen=True)
class SmallDemo:
    """The demo's parameters in small, and the evaluation and report it ended with."""

    config: Demo
    made: tuple[Artifact, Artifact]


@contextmanager
def small_networks() -> Iterator[None]:
    """The demo's presets with a tiny network; the study's networks are as small."""
    from flows.judge import demo

    network = {
        "network": "transformer",
        "channels": [32],
        "depth": 1,
        "head_channels": 16,
        "patch": 2,
        "remove_means": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        small = {
            name: demo.PRESETS[name]
            | {"model": demo.PRESETS[name]["model"] | {"denoiser": network}}
            for name in ("shapes", "shapes-unet")
        }
        patch.setattr(demo, "PRESETS", demo.PRESETS | small)
        yield


@pytest.fixture(scope="session")
def made_demo(
    tmp_path_factory: pytest.TempPathFactory, in_one_process: Callable[..., Any]
) -> SmallDemo:
    """The demo, once."""
    from flows.judge import demo

    config = Demo(root=tmp_path_factory.mktemp("demo"), scale=0.02, steps=4)
    with small_networks():
        return SmallDemo(config, in_one_process(demo.demo, config))


@pytest.fixture(scope="module")
def small_demo(made_demo: SmallDemo) -> Iterator[SmallDemo]:
    """The demo, and its presets as small as they were: other modules look at the presets too."""
    with small_networks():
        yield made_demo


@pytest.fixture(scope="session")
def small_training() -> Callable[..., dict]:
    """Makes the parameters of a run that takes seconds: (root, name, **settings of any part)."""
    return _small_training


PARTS = {"context": ContextConfig, "training": TrainingConfig, "reporting": ReportingConfig}


def _small_training(root: Path, name: str, **changes: object) -> dict:
    settings = {
        "steps": 6,
        "batch": 8,
        "checkpoint_steps": 3,
        "snapshot_steps": 3,
        "log_steps": 1,
        "random_k": True,
        "k": 3,
    } | changes
    network = {
        "network": "transformer",
        "channels": [32],
        "depth": 1,
        "head_channels": 16,
        "patch": 4,
    }
    inputs = {"latents": "shapes", "neighbors": "shapes", "database": "shapes"}
    parts: dict[str, dict] = {part: {} for part in PARTS}
    for key, value in settings.items():
        part = next(part for part, kind in PARTS.items() if key in kind.__dataclass_fields__)
        parts[part][key] = value
    return {
        "root": root,
        "name": name,
        **inputs,
        "model": {"denoiser": network, "noise": {"process": "flow"}},
        **parts,
        "device": "cpu",
    }


@pytest.fixture(scope="session")
def in_one_process() -> Callable[..., Any]:
    """in_one_process(function, ...) calls it, and trains in this process instead of one of its
    own.
    """
    from importlib import import_module

    from flows.model.train_worker import main

    def called(function: Callable[..., Any], *arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            train = import_module("flows.model.train_rdm")
            patch.setattr(train, "launch_training", lambda run, *_: main(run))
            patch.setenv("ACCELERATE_USE_CPU", "true")
            return function(*arguments)

    return called
