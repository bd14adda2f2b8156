"""An unfinished training goes on with the versions it began with, or is refused.

It is never begun anew in silence.
"""

import json
import shutil
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from launching import steps_of
from PIL import Image

from flows.config.database import Rebuild
from flows.config.train import TrainRDM
from flows.data.rebuild import rebuild
from flows.model.resume import begun_alike, inputs_begun_with
from flows.model.train_rdm import learned, train_rdm, training_inputs, training_plan
from storage.artifact import artifacts, open_artifact
from storage.atomic import write_json
from storage.collect import collect
from storage.errors import ArtifactDamaged, ArtifactMismatch, BuildRefused
from storage.manifest import Plan
from storage.runs import latest_step
from storage.unfinished import has_finished_work, unfinished

WEIGHTS = "weights/network/diffusion_pytorch_model.safetensors"
NAMED = ("latents", "neighbors", "database")
ROLES = {"latents": "latents", "neighbors": "neighbors", "database": "embeddings", "index": "index"}


def draw(folder, number):
    colour = (number * 20, 255 - number * 20, 90)
    Image.new("RGB", (18, 20), colour).save(folder / f"{number:02d}.png")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, small_training, in_one_process):
    """A training stopped after three of six steps, then a rebuild with one image more."""
    place = tmp_path_factory.mktemp("interrupted")
    (place / "images").mkdir()
    for number in range(9):
        draw(place / "images", number)
    root = place / "root"
    settings = small_training(root, "run") | dict.fromkeys(NAMED, "a")
    world = SimpleNamespace(root=root, settings=settings, images=place / "images")
    in_one_process(interrupt, world)
    return world


def interrupt(world):
    rebuild(rebuilt(world))
    world.first = training_plan(TrainRDM(**world.settings))
    world.began = {role: open_artifact(world.root, kind, "a") for role, kind in ROLES.items()}
    module = sys.modules["flows.model.train_rdm"]
    whole_launch = module.launch_training

    def dies_after_three_steps(run, *more):
        settings = json.loads((run / "config.json").read_text())
        shorter = settings | {"training": settings["training"] | {"steps": 3}}
        (run / "config.json").write_text(json.dumps(shorter))
        whole_launch(run, *more)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "launch_training", dies_after_three_steps)
        train_rdm(TrainRDM(**world.settings))
    draw(world.images, 10)
    rebuild(rebuilt(world))


def rebuilt(world, root=None):
    images = {"source": "folder", "path": world.images, "size": 16, "encoding": "png"}
    encoder = {"encoder": "rdm-shapes", "weights": "built-in"}
    return Rebuild(root=root or world.root, name="a", images=images, k=3, **encoder)


@pytest.fixture
def root(interrupted, tmp_path):
    """A copy of it: runs/run stands at step 3 of 6."""
    copy = shutil.copytree(interrupted.root, tmp_path / "root")
    (left,) = unfinished(copy, "runs")
    assert latest_step(left) == 3 and left.name == interrupted.first.id
    return copy


def config_of(world, root, **changes):
    return TrainRDM(**world.settings | {"root": root} | changes)


def trained(in_one_process, config):
    return in_one_process(train_rdm, config)


def names_begun_with(interrupted):
    """Role -> name@id of the version that the interrupted run was begun with."""
    return {role: f"a@{interrupted.began[role].id}" for role in NAMED}


def references(inputs):
    return {role: artifact.reference for role, artifact in inputs.items()}


def fingerprints(inputs):
    return {role: artifact.fingerprint for role, artifact in inputs.items()}


def test_it_goes_on_with_what_it_began_with_says_so_and_ends_as_if_nothing_had_happened(
    interrupted, root, in_one_process, capfd
):
    config = config_of(interrupted, root)
    newer = training_inputs(config)
    assert fingerprints(newer) != dict(interrupted.first.inputs)
    run = trained(in_one_process, config)
    said = capfd.readouterr().err
    assert (run.id, dict(run.inputs)) == (interrupted.first.id, fingerprints(interrupted.began))
    versions = ", ".join(f"{role} a@{one.id}" for role, one in interrupted.began.items())
    cure = "To train on those instead: rdm gc --unfinished runs/run\n"
    told = f"continues on the versions it began with: {versions}; newer ones are there. {cure}"
    assert told in said
    assert "continues from step 3 of 6\n" in said
    rows = interrupted.began["database"].rows
    card = run.file("weights/README.md").read_text()
    assert rows < newer["database"].rows and f"| not stated | {rows} |\n" in card
    for role, one in interrupted.began.items():
        assert f"| {role} | a | {one.id} | {one.fingerprint} |" in card
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    named = names_begun_with(interrupted)
    unbroken = trained(in_one_process, config_of(interrupted, root, name="unbroken", **named))
    assert unbroken.file(WEIGHTS).read_bytes() == run.file(WEIGHTS).read_bytes()
    after = trained(in_one_process, config)
    assert dict(after.inputs) == fingerprints(newer), "nothing is unfinished any more"


def test_with_nothing_newer_it_says_only_where_it_goes_on(interrupted, root, in_one_process, capfd):
    (interrupted.images / "10.png").rename(interrupted.images.parent / "10.png")
    try:
        in_one_process(rebuild, rebuilt(interrupted, root))
    finally:
        (interrupted.images.parent / "10.png").rename(interrupted.images / "10.png")
    capfd.readouterr()
    run = trained(in_one_process, config_of(interrupted, root))
    said = capfd.readouterr().err
    assert run.id == interrupted.first.id and "continues from step 3 of 6" in said
    assert "it began with" not in said


def test_once_it_is_dropped_the_training_begins_on_the_newer_ones(
    interrupted, root, in_one_process, capfd
):
    collect(root, None, unfinished_of="runs/run")
    config = config_of(interrupted, root)
    run = trained(in_one_process, config)
    assert dict(run.inputs) == fingerprints(training_inputs(config))
    assert "continues" not in capfd.readouterr().err


def test_without_a_checkpoint_it_begins_on_the_newer_ones(interrupted, root, in_one_process):
    (left,) = unfinished(root, "runs")
    shutil.rmtree(left / "checkpoints")
    config = config_of(interrupted, root)
    run = trained(in_one_process, config)
    assert dict(run.inputs) == fingerprints(training_inputs(config))
    assert not left.exists()


def test_what_is_wrong_with_newer_versions_does_not_stand_in_its_way(
    interrupted, root, in_one_process, capfd
):
    newer = open_artifact(root, "index", "a")
    newer.file("norms.npy").write_bytes(b"cut")
    config = config_of(interrupted, root)
    with pytest.raises(ArtifactDamaged, match="norms.npy"):
        training_inputs(config)
    capfd.readouterr()
    assert trained(in_one_process, config).id == interrupted.first.id
    assert "; newer ones are there." in capfd.readouterr().err, "three of the four are"


def test_what_has_no_newer_versions_goes_on_without_a_word_of_them(interrupted, root, capfd):
    config = config_of(interrupted, root, **names_begun_with(interrupted))
    (run,) = begun_alike(config, learned(config))
    inputs_begun_with(config, run)
    told = capfd.readouterr().err
    assert "continues on the versions it began with" in told and "newer" not in told


@pytest.mark.parametrize("role", ["latents", "neighbors", "database", "index"])
def test_what_is_gone_or_damaged_is_told_with_the_run_what_it_was_on_and_the_choice(
    role, interrupted, root, in_one_process
):
    one, (left,) = interrupted.began[role], unfinished(root, "runs")
    there = root / ROLES[role] / "a" / one.id
    file = next(path for path in there.iterdir() if path.suffix in (".npy", ".parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BuildRefused) as damaged:
        trained(in_one_process, config_of(interrupted, root))
    assert f"{role} a@{one.id}, which is damaged ({file.name} has " in str(damaged.value)
    shutil.rmtree(there)
    with pytest.raises(BuildRefused) as gone:
        trained(in_one_process, config_of(interrupted, root))
    told = str(gone.value)
    assert told.startswith(f"runs/run: the unfinished run {left.name}, step 3 of 6, was begun on ")
    assert f"{role} {one.fingerprint}, which is no longer under this root" in told
    others = [other for name, other in interrupted.began.items() if name != role]
    assert all(f"a@{other.id}" in told for other in others)
    assert "take another --name, or drop it" in told and "rdm gc --unfinished runs/run" in told
    assert has_finished_work(left), "nothing was changed"
    assert len(artifacts(root, "runs")) == 0


def test_what_it_did_not_begin_with_is_not_trained_on_under_its_name_in_silence(
    interrupted, root, in_one_process
):
    newer = open_artifact(root, "latents", "a")
    with pytest.raises(BuildRefused, match=f"while a@{newer.id} is asked for"):
        trained(in_one_process, config_of(interrupted, root, latents=f"a@{newer.id}"))
    older = interrupted.began["latents"]
    run = trained(in_one_process, config_of(interrupted, root, latents=f"a@{older.id}"))
    assert run.id == interrupted.first.id


def test_other_parameters_are_refused_as_ever(interrupted, root, in_one_process):
    training = interrupted.settings["training"] | {"steps": 7}
    with pytest.raises(BuildRefused, match=r"training\.steps=6 \(now 7\)"):
        trained(in_one_process, config_of(interrupted, root, training=training))


def test_what_is_told_and_kept_on_the_way_can_be_changed_in_the_middle_of_a_run(
    interrupted, root, in_one_process, capfd
):
    (left,) = unfinished(root, "runs")
    changed = {"log_steps": 2, "checkpoint_steps": 1}
    before = interrupted.settings["reporting"]
    assert all(before[name] != value for name, value in changed.items())
    # with nothing newer, and with newer versions there
    for current in (False, True):
        named = names_begun_with(interrupted) if current else {}
        config = config_of(interrupted, root, reporting=changed, **named)
        alike = config_of(interrupted, root, **named)
        assert learned(config) == learned(alike)
        assert training_plan(config).id == training_plan(alike).id
    run = trained(in_one_process, config)
    assert run.id == left.name == interrupted.first.id
    assert "continues from step 3 of 6" in capfd.readouterr().err
    told = steps_of(run)
    assert told == [1, 2, 3, 4, 5, 6], "before as it was, after with a line at every checkpoint"
    assert sorted(path.name for path in (run.directory / "checkpoints").iterdir())[0] == "00000005"
    again = trained(in_one_process, config_of(interrupted, root, **named))
    assert again.id == run.id and again.created_at == run.created_at, "done is done"


def test_a_run_in_the_middle_of_which_other_things_were_reported_has_equal_weights(
    interrupted, root, in_one_process
):
    named = names_begun_with(interrupted)
    reporting = {"log_steps": 100, "checkpoint_steps": 100}
    run = trained(in_one_process, config_of(interrupted, root, reporting=reporting, **named))
    told = steps_of(run)
    assert told == [1, 2, 3, 6]
    unbroken = config_of(interrupted, root, name="unbroken", **named)
    assert trained(in_one_process, unbroken).file(WEIGHTS).read_bytes() == (
        run.file(WEIGHTS).read_bytes()
    )


def test_of_several_the_one_that_has_come_furthest_goes_on(interrupted, root, in_one_process):
    """As an earlier program left them, which began anew after each rebuild."""
    (left,) = unfinished(root, "runs")
    first = interrupted.first
    other = Plan("runs", "run", first.parameters, dict(first.inputs) | {"index": "0" * 16})
    for step, directory in {2: other.id, 5: "0" * 12}.items():
        copy = shutil.copytree(left, left.with_name(directory))
        write_json(copy / "plan.json", asdict(other))
        (copy / "checkpoints" / "00000003").rename(copy / "checkpoints" / f"{step:08d}")
    config = config_of(interrupted, root)
    alike = begun_alike(config, learned(config))
    assert [(run.directory.name, run.step) for run in alike] == [(left.name, 3), (other.id, 2)]
    assert trained(in_one_process, config).id == left.name


def test_a_training_that_begins_in_the_middle_of_a_rebuild_takes_versions_that_belong_together(
    tmp_path, capsys, monkeypatch, in_one_process
):
    """The order of a rebuild: shards, embeddings and index, latents, neighbors; after each of the
    first three.
    """
    from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
    from flows.config.images import ImportImages
    from flows.config.train import TrainRDM
    from flows.data.build_database import build_database
    from flows.data.encode_latents import encode_latents
    from flows.data.find_neighbors import find_neighbors
    from flows.data.import_images import import_images
    from flows.model.train_rdm import train_rdm, training_inputs

    here = {"root": tmp_path, "name": "a"}

    def stages(count):
        yield import_images(
            ImportImages(**here, source="shapes", size=32, encoding="png", count=count)
        )
        yield build_database(
            BuildDatabase(**here, shards="a", encoder="rdm-shapes", weights="built-in")
        )
        yield encode_latents(EncodeLatents(**here, shards="a"))
        yield find_neighbors(FindNeighbors(**here, queries="a", database="a"))

    list(stages(40))
    network = {
        "network": "transformer",
        "channels": [32],
        "depth": 1,
        "head_channels": 16,
        "patch": 4,
    }
    config = TrainRDM(
        root=tmp_path, name="run", latents="a", neighbors="a", database="a",
        model={"denoiser": network, "noise": {"process": "flow"}},
        context={"k": 3}, training={"steps": 2, "batch": 8}, device="cpu",
    )  # fmt: skip
    before = references(training_inputs(config))
    rebuild = stages(48)
    for _ in range(3):
        next(rebuild)
        assert references(training_inputs(config)) == before
    # what was made in another way, or with images that were removed since, is no older version of
    # the same
    with monkeypatch.context() as patch:
        patch.setattr(
            "flows.model.train_rdm.artifacts",
            lambda *asked: [replace(a, parameters={}) for a in artifacts(*asked)],
        )
        with pytest.raises(ArtifactMismatch, match="Make it again"):
            training_inputs(config)
    capsys.readouterr()
    run = in_one_process(train_rdm, config)
    told = [line for line in capsys.readouterr().err.splitlines() if "was made from" in line]
    assert (
        len(told) == 1
        and before["latents"].split("/")[1] in told[0]
        and before["database"].split("/")[1] in told[0]
    )
    next(rebuild)
    after = training_inputs(config)
    assert all(one.reference != before[role] for role, one in after.items())
    assert in_one_process(train_rdm, config).id != run.id
