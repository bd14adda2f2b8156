"""Whatever comes, goes, changes or breaks in a folder: a rebuild brings all up to date.

A training finds it so.
What must be there after each step is known from the folder alone.
"""

import itertools
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from flows.config.database import Rebuild, RemoveKeys
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.rebuild import rebuild
from flows.data.remove import remove_keys
from flows.data.upstream import make_missing
from flows.model.sample import sample_rdm
from flows.model.train_rdm import train_rdm, training_inputs, training_plan
from flows.model.training_data import open_training_data
from rdm_core.families.facts import Reads
from storage.artifact import artifacts, is_current, open_artifact
from storage.collect import collect
from storage.embeddings import read_columns
from storage.keys import key_of
from storage.latents import open_latents
from storage.layout import pointer_file
from storage.neighbors import read_neighbors
from storage.shards import read_sidecar

ENCODER = {"encoder": "rdm-shapes", "weights": "built-in"}
LEAST_WHOLE = 6
"""Images that can be read stay: a query needs its three neighbors."""


@dataclass
class Folder:
    """A folder of images that somebody works in."""

    path: Path
    dice: random.Random
    numbers: itertools.count = field(default_factory=itertools.count)
    whole: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Name -> bytes and time of the images that can be read."""
    broken: dict[str, tuple[bytes, int] | None] = field(default_factory=dict)
    """Name -> what it was before it broke, None for what never was an image."""
    away: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """What was taken away, to be put back as it was."""
    before: tuple | None = None
    """What the last step began with: these three, and every file with its time."""

    def add(self):
        name = f"{self.dice.choice('abcdefgh')}{next(self.numbers):03d}.png"
        self.draw(name)

    def draw(self, name):
        colour = tuple(self.dice.randrange(256) for _ in range(3))
        Image.new("RGB", (18, 20), colour).save(self.path / name)
        self.whole[name] = (self.path / name).read_bytes(), (self.path / name).stat().st_mtime_ns

    def change(self):
        self.draw(self.dice.choice(sorted(self.whole)))

    def remove(self):
        name = self.dice.choice(sorted(self.whole))
        self.away[name] = self.whole.pop(name)
        (self.path / name).unlink()

    def put_back(self):
        if self.away:
            name = self.dice.choice(sorted(self.away))
            self.restore(name, *self.away.pop(name))

    def restore(self, name, data, time):
        """The same bytes; and as after `mv` the same time, or as after `cp` another."""
        (self.path / name).write_bytes(data)
        if self.dice.random() < 0.7:
            os.utime(self.path / name, ns=(time, time))
        self.whole[name] = data, (self.path / name).stat().st_mtime_ns

    def damage(self):
        name = self.dice.choice(sorted(self.whole))
        self.broken[name] = self.whole.pop(name)
        (self.path / name).write_bytes(self.broken[name][0][: self.dice.choice((0, 20, 50))])

    def add_broken(self):
        name = f"{self.dice.choice('abcdefgh')}{next(self.numbers):03d}.png"
        (self.path / name).write_bytes(b"no image")
        self.broken[name] = None

    def mend(self):
        if self.broken:
            name = self.dice.choice(sorted(self.broken))
            before = self.broken.pop(name)
            if before is None:
                (self.path / name).unlink()
            else:
                self.restore(name, *before)

    def undo(self):
        """All as it was before the last step, to the nanosecond: as from a backup."""
        (self.whole, self.broken, self.away), files = self.before
        for path in self.path.iterdir():
            path.unlink()
        for name, (data, time) in files.items():
            (self.path / name).write_bytes(data)
            os.utime(self.path / name, ns=(time, time))

    def step(self):
        """Some things happen, or what happened last is taken back."""
        if self.before is not None and self.dice.random() < 0.4:
            self.undo()
            self.before = None
            return ["undo"]
        states = [dict(one) for one in (self.whole, self.broken, self.away)]
        paths = sorted(self.path.iterdir())
        files = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
        self.before = (states, files)
        return [self.act() for _ in range(self.dice.choice((1, 1, 1, 3)))]

    def act(self):
        """Something happens to one file."""
        growing = (self.add, self.change, self.put_back, self.mend, *[self.add_broken] * 2)
        shrinking = (self.remove, self.damage)
        may_shrink = len(self.whole) > LEAST_WHOLE
        act = self.dice.choice(growing + shrinking if may_shrink else growing)
        act()
        return act.__name__


def keys_of(names):
    return [key_of("folder", name, 0) for name in sorted(names)]


def everything(root):
    """Every version, when it was made, and which is current."""
    found = [(a.reference, a.created_at, is_current(root, a)) for a in artifacts(root)]
    names = {(a.kind, a.name) for a in artifacts(root)}
    return found, [pointer_file(root, *name).stat().st_mtime_ns for name in sorted(names)]


def is_as_the_folder(root, folder, gone):
    """Every artifact holds the images that can be read; in shards the others are rows too."""
    whole, searched = keys_of(folder.whole), sorted(set(keys_of(folder.whole)) - gone)
    shards, rows = open_artifact(root, "shards", "a"), []
    for part in shards.parts:
        rows += read_sidecar(shards, part.name, ["key", "status"]).to_pylist()
    assert [row["key"] for row in rows] == keys_of([*folder.whole, *folder.broken])
    assert [row["key"] for row in rows if row["status"] == "ok"] == whole
    assert open_latents(open_artifact(root, "latents", "a"))[0] == whole
    embedded = read_columns(open_artifact(root, "embeddings", "a"), ["key"])
    assert embedded["key"].to_pylist() == searched
    assert read_neighbors(open_artifact(root, "neighbors", "a"))[0] == searched


def can_be_trained_on(config, count):
    """What a training checks and joins before its first step; the plan it would have."""
    make_missing(config)
    inputs = training_inputs(config)
    references = {role: f"{artifact.name}@{artifact.id}" for role, artifact in inputs.items()}
    data = open_training_data(config.root, references, Reads(query=True))
    assert len(data.neighbor_rows) == len(data.query_vectors) == count
    return training_plan(config, inputs)


def forget_one(root, folder, gone):
    """Take one image out of the database for good."""
    key = folder.dice.choice([key for key in keys_of(folder.whole) if key not in gone])
    (root / "keys.txt").write_text(key)
    remove_keys(RemoveKeys(root=root, database="a", keys_file=root / "keys.txt"))
    gone.add(key)


def lives_through(tmp_path, small_training, seed, steps):
    """Steps of one seed; a training and samples of it in the middle and in the end."""
    dice = random.Random(seed)
    root, folder = tmp_path / "root", Folder(tmp_path / "images", dice)
    folder.path.mkdir()
    for _ in range(10):
        folder.add()
    images = {"source": "folder", "path": folder.path, "size": 16, "encoding": "png"}
    images |= {"images_per_part": dice.choice((1, 3, 4))} if seed % 3 else {}
    config = Rebuild(root=root, name="a", images=images, k=3, **ENCODER)
    trained = training_of(root, small_training)
    gone = set()
    for number in range(1, steps + 1):
        done = folder.step()
        if dice.random() < 0.2:
            collect(root, keep=1)
        if number == steps // 2 and seed % 2:
            rebuild(config)
            forget_one(root, folder, gone)
        table = rebuild(config)
        is_as_the_folder(root, folder, gone)
        count = len(set(keys_of(folder.whole)) - gone)
        plan, before = can_be_trained_on(trained, count), everything(root)
        assert rebuild(config) == table, f"seed {seed}, step {number}, {done}: the same again"
        assert everything(root) == before, f"seed {seed}, step {number}, {done}: nothing was made"
        assert can_be_trained_on(trained, count) == plan
        if number in (steps // 2, steps):
            run = train_rdm(trained)
            assert run.id == plan.id
            asked = {
                "run": "run",
                "draw": {"steps": 2},
                "count": 1,
                "k": 3,
                "texts": ("a red circle",),
            }
            samples = sample_rdm(SampleRDM(root=root, name="s", **asked))
            assert samples.inputs["run"] == run.fingerprint


def training_of(root, small_training):
    settings = small_training(root, "run", steps=2, checkpoint_steps=2)
    return TrainRDM(**settings | dict.fromkeys(("latents", "neighbors", "database"), "a"))


@pytest.mark.parametrize("seed", [0])
def test_any_sequence_of_changes_leaves_all_current_and_trainable_and_a_second_rebuild_idle(
    seed, tmp_path, small_training, in_one_process
):
    in_one_process(lives_through, tmp_path, small_training, seed, 8)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 16))
def test_longer_sequences_of_changes_do_so_too(seed, tmp_path, small_training, in_one_process):
    in_one_process(lives_through, tmp_path, small_training, seed, 30)


def test_what_breaks_and_goes_again_leaves_a_training_its_neighbors(
    tmp_path, small_training, in_one_process
):
    """The same vectors then stand in two versions, made from other shards each."""
    in_one_process(breaks_and_goes, tmp_path, training_of(tmp_path / "root", small_training))


def breaks_and_goes(tmp_path, trained):
    root, folder = trained.root, Folder(tmp_path / "images", random.Random(0))
    folder.path.mkdir()
    for _ in range(8):
        folder.add()
    images = {"source": "folder", "path": folder.path, "size": 16, "encoding": "png"}
    config = Rebuild(root=root, name="a", images=images, k=3, **ENCODER)
    plans = []
    for change in (folder.add, folder.add_broken, folder.mend):
        change()
        rebuild(config)
        plans.append(can_be_trained_on(trained, 9))
    versions = artifacts(root, "embeddings", "a")
    assert plans[0] == plans[1] == plans[2]
    assert len({a.fingerprint for a in versions}) == 1 < len({a.inputs["shards"] for a in versions})


def test_a_part_of_which_no_image_can_be_read_asks_for_no_neighbors(
    tmp_path, small_training, in_one_process
):
    in_one_process(part_breaks, tmp_path, training_of(tmp_path / "root", small_training))


def part_breaks(tmp_path, trained):
    root, folder = trained.root, Folder(tmp_path / "images", random.Random(0))
    folder.path.mkdir()
    for _ in range(6):
        folder.add()
    folder.add_broken()
    images = {"source": "folder", "path": folder.path, "size": 16, "encoding": "png"}
    images |= {"images_per_part": 1}
    table = rebuild(Rebuild(root=root, name="a", images=images, k=3, **ENCODER))
    assert sum(part.rows == 0 for part in open_artifact(root, "embeddings", "a").parts) == 1
    assert len(table.parts) == 6
    can_be_trained_on(trained, 6)
