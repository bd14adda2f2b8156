"""The path of a new user, for real: server, work pool, deploy, worker, run, cancel; and what stands
in prefect.yaml.
"""

import json
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from operating import REPOSITORY, Project, processes_naming, run_id_in, sets
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.config.acquire import acquisition
from flows.config.autoencoder import TrainAutoencoder
from flows.config.database import Rebuild
from flows.config.judge import EvaluateRDM
from flows.config.presets import PRESETS
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.upkeep import CollectVersions
from flows.run.deployments import FLOW_OF, merged
from flows.run.short_names import complete
from storage.artifact import artifacts
from storage.runs import latest_checkpoint

FILE = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
README_BLOCK = re.search(
    r"^```bash\n(.*?)^```", (REPOSITORY / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL
)[1]
README_COMMANDS = [
    line.split() for line in README_BLOCK.splitlines() if not line.startswith("export")
]
DEPLOYMENTS = {deployment["name"]: deployment for deployment in FILE["deployments"]}
CONFIG = {
    "acquire": lambda **values: acquisition(**values),
    "rebuild": Rebuild,
    "train-autoencoder": TrainAutoencoder,
    "train-rdm": TrainRDM,
    "sample-rdm": SampleRDM,
    "evaluate-rdm": EvaluateRDM,
    "gc": CollectVersions,
}
TINY = {
    "name": "tiny",
    "latents": "pics",
    "neighbors": "pics",
    "database": "pics",
    "device": "cpu",
    "preview": 2,
    "model": {
        "denoiser": {
            "network": "transformer",
            "channels": [32],
            "depth": 1,
            "head_channels": 16,
            "patch": 4,
        },
        "noise": {"process": "flow"},
    },
    # all that is deployed otherwise: what `rdm run` does not name stays as deployed
    "context": {"k": 3, "random_k": False},
    "training": {
        "steps": 20,
        "batch": 8,
        "learning_rate": 1e-4,
        "warmup_steps": 100,
        "precision": "fp32",
    },
    "reporting": {"checkpoint_steps": 10, "log_steps": 2},
    "upstream": {
        "images": {
            "source": "shapes",
            "path": None,
            "size": 32,
            "encoding": "png",
            "count": 96,
            "images_per_part": 40,
        },
        "encoder": "rdm-shapes",
        "weights": "built-in",
        "autoencoder": "pixels",
    },
}


# What stands in the file


def test_the_deployments_are_those_that_were_promised_and_their_short_names_lead_to_their_flows():
    assert set(DEPLOYMENTS) == {
        "acquire",
        "rebuild-openimages",
        "rebuild-wikiart",
        "rebuild-coco",
        "train-autoencoder",
        "train-rdm",
        "train-smoke",
        "sample-rdm",
        "evaluate-rdm",
        "gc",
    }
    for name, deployment in DEPLOYMENTS.items():
        module, _, function = deployment["entrypoint"].rpartition(".")
        assert getattr(import_module(module), function).name == FLOW_OF[name]
    assert set(FLOW_OF) == set(DEPLOYMENTS)


@pytest.mark.parametrize("name", FLOW_OF)
def test_the_parameters_of_every_deployment_are_ones_its_flow_takes(name):
    config = CONFIG[FLOW_OF[name]](**DEPLOYMENTS[name]["parameters"]["config"])
    assert DEPLOYMENTS[name]["tags"][0] == "rdm" and config.root == Path("data")


@pytest.mark.parametrize("name", FLOW_OF)
def test_what_the_form_of_the_ui_sends_is_accepted_whole_and_with_one_parameter_changed(name):
    """The form shows every parameter, and sends back all of them."""
    module, _, function = DEPLOYMENTS[name]["entrypoint"].rpartition(".")
    flow = getattr(import_module(module), function)
    schema = parameter_schema(flow).model_dump_for_openapi()
    deployed = DEPLOYMENTS[name]["parameters"]["config"]
    shown = json.loads(CONFIG[FLOW_OF[name]](**deployed).model_dump_json())
    for changed in (shown, shown | {"root": "elsewhere"}):
        assert validate({"config": changed}, schema, raise_on_error=True) == []
        assert flow.validate_parameters({"config": changed})["config"].root == Path(changed["root"])
    with pytest.raises(ValidationError):
        validate({"config": shown | {"rot": "data"}}, schema, raise_on_error=True)


@pytest.mark.parametrize("name, preset", [("train-rdm", "coco-256"), ("train-smoke", "coco-smoke")])
def test_what_is_deployed_to_train_is_a_preset(name, preset):
    given = DEPLOYMENTS[name]["parameters"]["config"]
    names = {key: given[key] for key in ("name", "latents", "neighbors", "database")}
    of_preset = TrainRDM(root="data", **names, **PRESETS[preset])
    assert TrainRDM(**given | {"preview": 0}) == of_preset


def test_schedules_are_inactive_and_know_their_time_zone():
    schedules = []
    for deployment in DEPLOYMENTS.values():
        schedules += deployment.get("schedules", [])
    assert len(schedules) == 4
    for schedule in schedules:
        assert schedule["active"] is False and schedule["timezone"] and schedule["cron"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("prefect deployment run train-rdm", "prefect deployment run train-rdm/train-rdm"),
        (
            "prefect deployment run rebuild-coco --watch",
            "prefect deployment run rebuild/rebuild-coco --watch",
        ),
        (
            "prefect deployment run --param train-rdm x/y",
            "prefect deployment run --param train-rdm x/y",
        ),
        ("prefect deployment run other", "prefect deployment run other"),
        (
            "prefect deployment run train-rdm/train-rdm",
            "prefect deployment run train-rdm/train-rdm",
        ),
        ("prefect deployment inspect train-rdm", "prefect deployment inspect train-rdm/train-rdm"),
        (
            "prefect deployment schedule resume gc 7e43",
            "prefect deployment schedule resume gc/gc 7e43",
        ),
        ("prefect deployment ls", "prefect deployment ls"),
        ("prefect work-pool inspect gc", "prefect work-pool inspect gc"),
    ],
)
def test_the_short_form_is_completed_and_nothing_else_is_touched(typed, meant):
    arguments = typed.split()
    complete(arguments)
    assert arguments == meant.split()


def test_changes_reach_into_deployed_parameters():
    deployed = {"training": {"steps": 5, "batch": 8}, "name": "a"}
    assert merged(deployed, {"training": {"steps": 9}}) == {
        "training": {"steps": 9, "batch": 8},
        "name": "a",
    }
    assert deployed["training"]["steps"] == 5


# The path itself


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    yield made
    made.stop()


def test_a_new_user_deploys_runs_cancels_and_runs_again(project):
    # set up, as the README says
    server, pool, deploy, worker, run = README_COMMANDS
    assert server == ["prefect", "server", "start"], "started by the fixture, on a free port"
    for command in (pool, deploy):
        project.typed(*command)
    names = {deployment["name"] for deployment in project.asked("/deployments/filter", {})}
    assert names == set(FLOW_OF)
    project.start("worker", *worker)

    # the user's own words; everything upstream is missing and gets built
    assert run == ["prefect", "deployment", "run", "train-rdm"]
    typed = project.typed(*run, "--param", f"config={json.dumps(TINY)}")
    first = run_id_in(typed)
    project.ends(first, "COMPLETED")
    root = project.folder / "data"
    assert {a.kind for a in artifacts(root)} == {
        "shards",
        "latents",
        "embeddings",
        "index",
        "neighbors",
        "runs",
        "samples",
    }
    shown = {artifact["key"]: artifact for artifact in project.asked("/artifacts/filter", {})}
    assert {"runs-tiny-progress", "runs-tiny-loss", "samples-tiny-preview-images"} <= set(shown)
    assert shown["runs-tiny-progress"]["data"] == 100.0
    assert len(json.loads(shown["runs-tiny-loss"]["data"])) >= 10
    lines = project.messages(first)
    assert any(
        re.fullmatch(r"step 20 of 20 \(100 %\): loss \d\.\d{4}, [\d.]+ images a second", line)
        for line in lines
    )
    for line in lines:
        assert not line.startswith("{") and "hook" not in line and "do not exist" not in line

    # the same again, by our own short form: nothing is done, and the UI says so
    again = run_id_in(project.typed("rdm", "run", "train-rdm", *sets(TINY)))
    project.ends(again, "COMPLETED")
    assert project.asked(f"/flow_runs/{again}")["state"]["name"] == "Cached"

    # a slip of the finger
    wrong = subprocess.run(
        ["rdm", "run", "trian-rdm"],
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert wrong.returncode == 1 and "Did you mean train-rdm?" in wrong.stderr

    # a long one, cancelled: its processes are gone within seconds and what it had learned is kept
    long = TINY | {
        "name": "long",
        "training": TINY["training"] | {"steps": 100_000},
        "reporting": TINY["reporting"] | {"checkpoint_steps": 50_000},
    }
    third = run_id_in(project.typed("rdm", "run", "train-rdm", *sets(long)))
    project.wait(
        lambda: any(root.glob("runs/long/*/metrics.jsonl")), 90, "the long training did not start"
    )
    project.typed("prefect", "flow-run", "cancel", third)
    project.ends(third, "CANCELLED", 60)
    assert processes_naming(root) == []
    step, _ = latest_checkpoint(next(root.glob("runs/long/*")))
    assert 0 < step < 50_000, "a state between two checkpoints, saved when it was asked to stop"
