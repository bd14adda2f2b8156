"""rdm convert: what was released in 2022 becomes something to sample from, and nothing in it is
run.
"""

import re
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import VQModel

from flows.config.database import EncodeLatents, FindNeighbors, RemoveKeys
from flows.config.judge import EvaluateRDM, WriteReport
from flows.config.look import SearchDatabase
from flows.config.sample import SampleRDM
from flows.config.train import ConvertOriginal
from flows.data.calibration import calibrated_cap_of
from flows.data.database import searchable
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.remove import remove_keys
from flows.judge.evaluate import evaluate_rdm
from flows.judge.report import write_report
from flows.judge.rows import ORDER
from flows.judge.summary import measured_in
from flows.look.figures import sampled_set
from flows.look.search import search
from flows.model.convert import convert_original
from flows.model.opening import drawn_how, facts_of
from flows.model.sample import sample_plan, sample_rdm
from rdm_core import originals
from rdm_core.errors import RequestError, WeightsError
from storage.artifact import open_artifact
from storage.embeddings import licence_counts, read_vectors
from storage.errors import FormatError
from storage.samples import read_samples

TINY_AUTOENCODER = replace(
    originals.AUTOENCODERS["vq-f4"],
    name="vq-f4",
    channels=(32, 32, 32),
    codes=16,
    side=32,
    blocks=1,
    groups=8,
)
TINY = replace(
    originals.LAYOUTS["imagenet-2022"],
    channels=(32, 64),
    heads=(1, 2),
    attending=(1,),
    latent_side=8,
    blocks=1,
    groups=8,
    context_dimension=64,
    encoder="rdm-shapes",
    encoder_weights="built-in",
)


@pytest.fixture(autouse=True)
def tiny_layouts(monkeypatch):
    monkeypatch.setitem(originals.LAYOUTS, "imagenet-2022", TINY)
    monkeypatch.setitem(originals.AUTOENCODERS, "vq-f4", TINY_AUTOENCODER)


def random_state(keys, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.1 * torch.randn(shape, generator=generator) for name, (_, shape) in keys.items()
    }


@pytest.fixture
def checkpoint(tmp_path):
    state = random_state(originals.unet_keys(TINY)) | random_state(
        originals.unet_keys(TINY, ema=False), 1
    )
    state |= random_state(originals.autoencoder_keys(TINY_AUTOENCODER, "first_stage_model."), 2)
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


def convert(root, files, layout="imagenet-2022", name="released", **more):
    return convert_original(
        ConvertOriginal(root=root, name=name, files=tuple(files), layout=layout, **more)
    )


def test_every_layout_can_be_named_and_no_other():
    named = set(get_args(ConvertOriginal.model_fields["layout"].annotation))
    assert named == {*originals.LAYOUTS, *originals.AUTOENCODERS, "embeddings"}


def test_a_released_checkpoint_draws_from_text_without_a_database(tmp_path, checkpoint):
    run = convert(tmp_path, [checkpoint])
    assert convert(tmp_path, [checkpoint]).id == run.id
    request = SampleRDM(
        root=tmp_path,
        name="s",
        run="released",
        texts=("a red circle",),
        context="query",
        count=2,
        draw={"steps": 3},
    )
    records = read_samples(sample_rdm(request))
    assert [record["weights"] for record in records] == [run.fingerprint] * 2 and records[0][
        "database"
    ] is None
    facts = facts_of(run)
    assert facts.converted_from == {"file": "model.ckpt", "layout": "imagenet-2022", "ema": True}
    assert (facts.trained_on, facts.steps, facts.k) == ({}, 0, 4)


def test_a_run_of_2022_is_drawn_at_the_times_of_2022_unless_others_are_asked_for(
    tmp_path, checkpoint, small_world, monkeypatch
):
    theirs = facts_of(convert(tmp_path, [checkpoint]))
    ours = facts_of(small_world.run)
    asked = ((theirs, {}), (theirs, {"sampler": "ddim"}), (ours, {}), (ours, {"sampler": "heun"}))
    found = [drawn_how(facts, settings).sampler for facts, settings in asked]
    assert found == ["ddim-2022", "ddim", None, "heun"]
    plan = sample_plan(
        SampleRDM(root=tmp_path, name="s", run="released", context="query", texts=("a",))
    )
    assert plan.parameters["draw"]["sampler"] == "ddim-2022", "what is not asked for is told too"


def test_a_released_checkpoint_draws_from_any_database_of_its_encoder(
    tmp_path, checkpoint, small_world
):
    convert(small_world.root, [checkpoint])
    asked = {
        "root": small_world.root,
        "run": "released",
        "count": 2,
        "draw": {"steps": 3, "null": "zero"},
        "k": 3,
    }
    drawn = sample_rdm(
        SampleRDM(name="released", database="shapes", texts=("a red circle",), **asked)
    )
    assert all(
        len(record["neighbor_keys"]) == 2 and record["licences"] for record in read_samples(drawn)
    )
    unconditional = sample_rdm(SampleRDM(name="released-alone", database="sketches", **asked))
    assert all(len(record["neighbor_keys"]) == 3 for record in read_samples(unconditional))
    with pytest.raises(
        RequestError, match="comes without a database of its own. Name one: --database"
    ):
        sample_rdm(SampleRDM(name="nothing", texts=("a red circle",), **asked))


def test_live_and_mean_weights_are_two_runs(tmp_path, checkpoint):
    assert (
        convert(tmp_path, [checkpoint]).fingerprint
        != convert(tmp_path, [checkpoint], ema=False).fingerprint
    )


def test_an_encoder_of_another_width_is_refused(tmp_path, checkpoint):
    with pytest.raises(RequestError, match="makes vectors of 512, imagenet-2022 takes 64"):
        convert(tmp_path, [checkpoint], encoder="ViT-B-32", encoder_weights="random")


def test_a_file_that_is_not_there_is_named(tmp_path):
    absent = ConvertOriginal(
        root=tmp_path, name="x", files=(tmp_path / "absent.ckpt",), layout="imagenet-2022"
    )
    with pytest.raises(RequestError, match="absent.ckpt: there is no such file"):
        convert_original(absent)


def test_a_checkpoint_that_wants_to_run_code_is_refused_by_name(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path / "evil.ckpt"))):
        convert(tmp_path, [tmp_path / "evil.ckpt"])
    assert not list(tmp_path.glob("runs/*/*/manifest.json"))


def test_an_autoencoder_alone_becomes_a_folder(tmp_path):
    torch.save(random_state(originals.autoencoder_keys(TINY_AUTOENCODER)), tmp_path / "vq.ckpt")
    made = convert(tmp_path, [tmp_path / "vq.ckpt"], layout="vq-f4", out=tmp_path / "vq")
    assert VQModel.from_pretrained(made).config.num_vq_embeddings == 16
    with pytest.raises(RequestError, match="is there already"):
        convert(tmp_path, [tmp_path / "vq.ckpt"], layout="vq-f4", out=tmp_path / "vq")
    with pytest.raises(RequestError, match="Give --out DIRECTORY"):
        convert(tmp_path, [tmp_path / "vq.ckpt"], layout="vq-f4")


def archive(path, rows=6, seed=0, **changed):
    rng = np.random.default_rng(seed)
    arrays = {
        "embedding": (10 * rng.standard_normal((rows, 64))).astype(np.float16),
        "img_id": np.arange(rows) // 3 + 100 * seed,
        "patch_coords": np.tile(np.array([[10, 20, 266, 276]]), (rows, 1)),
    }
    np.savez_compressed(path, **arrays | changed)
    return path


ENCODER = {"encoder": "rdm-shapes", "encoder_weights": "built-in"}


def test_archives_become_a_database_whose_keys_are_stable_and_whose_licences_are_unknown(tmp_path):
    files = [archive(tmp_path / f"part_{number}.npz", seed=number) for number in (1, 2)]
    database = convert(tmp_path, files, layout="embeddings", **ENCODER)
    vectors, norms = read_vectors(database)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    raw = np.concatenate([np.load(file)["embedding"] for file in files]).astype(np.float32)
    np.testing.assert_allclose(vectors * norms[:, None], raw, rtol=2e-3, atol=2e-2)
    assert licence_counts(database) == {"not stated": 12}
    assert convert(tmp_path, files[::-1], layout="embeddings", **ENCODER).id == database.id, (
        "the order of naming them is nothing"
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"embedding": np.zeros((6, 64), np.float16)}, "row 0 and 5 more hold no direction"),
        ({"img_id": np.arange(5)}, "do not belong together"),
        ({"img_id": np.array([object()] * 6, dtype=object)}, "img_id is object"),
        ({"patch_coords": np.zeros((6, 3), np.int64)}, "do not belong together"),
    ],
)
def test_an_archive_that_is_none_is_refused_with_its_name(tmp_path, changed, told):
    with pytest.raises(FormatError, match=told) as caught:
        convert(
            tmp_path, [archive(tmp_path / "part_1.npz", **changed)], layout="embeddings", **ENCODER
        )
    assert "part_1.npz" in str(caught.value)


def test_a_database_without_images_is_searched_shown_drawn_from_and_cleaned(tmp_path, checkpoint):
    database = convert(
        tmp_path, [archive(tmp_path / "part_1.npz")], layout="embeddings", name="old", **ENCODER
    )
    assert dict(database.inputs) == {}, "what was never published is no input"
    convert(tmp_path, [checkpoint])
    asked = {"run": "released", "database": "old", "k": 2, "draw": {"steps": 2}}
    drawn = sample_rdm(SampleRDM(root=tmp_path, name="s", texts=("a star",), **asked))
    keys = read_samples(drawn)[0]["neighbor_keys"]
    assert len(keys) == 1, "and the text itself"
    page = str(sampled_set(tmp_path, drawn, 4))
    assert "not at hand" in page and "Database old (6 rows)" in page
    searched = SearchDatabase(root=tmp_path, database="old", keys=(keys[0],), k=2)
    _, value = search(searched.model_copy(update={"out": tmp_path / "found.html"}))
    assert value["queries"] and (tmp_path / "found.html").is_file()
    opened = searchable(tmp_path, database)
    with pytest.raises(RequestError, match="old: .*never published, so that no cap.*Give one"):
        calibrated_cap_of(opened)
    (tmp_path / "gone.txt").write_text(f"{keys[0]}\n")
    remove_keys(RemoveKeys(root=tmp_path, database="old", keys_file=tmp_path / "gone.txt"))
    assert open_artifact(tmp_path, "embeddings", "old").rows == 5


@pytest.fixture
def held_out_of_a_released_run(small_world, checkpoint):
    """What every evaluation of a converted run names: its held-out images, in its own space."""
    root = small_world.root
    run = convert(root, [checkpoint])
    inside = str(run.file("weights") / "autoencoder")
    encode_latents(EncodeLatents(root=root, name="unseen", shards="sketches", autoencoder=inside))
    quick = {"seeds": 1, "prompts": 4, "quality_images": 11, "draw": {"steps": 1, "null": "zero"}}
    return {"root": root, "run": "released", "heldout_latents": "unseen", "k": 2} | quick


def neighbors_in(root, database):
    # Under a name of its own: other tests read the tables of this world.
    name = f"unseen-in-{database}"
    find_neighbors(FindNeighbors(root=root, name=name, queries="sketches", database=database))


def test_a_released_run_is_evaluated_and_the_record_says_what_nobody_can_check(
    held_out_of_a_released_run, capsys
):
    asked = held_out_of_a_released_run
    root = asked["root"]
    neighbors_in(root, "shapes")
    asked |= {"name": "released", "heldout_neighbors": "unseen-in-shapes"}
    with pytest.raises(RequestError, match="runs/released: it was converted.*--database NAME"):
        evaluate_rdm(EvaluateRDM(**asked))
    made = evaluate_rdm(EvaluateRDM(**asked, database="shapes"))
    measured = measured_in(made)
    (why,) = measured["not checked"]
    assert why.startswith("runs/released was converted") and why in capsys.readouterr().err
    assert set(measured["loss"]["means"]) == set(ORDER["loss"]) - {"trained without neighbors"}
    assert measured["copies"]["return the neighbour"] == 1.0, "of the database alone"
    assert {"return the neighbour", "random database images"} < set(measured["quality"])
    card = made.file("model-card.md").read_text()
    assert "it may have been trained on the held-out images: runs/released was" in card
    page = write_report(
        WriteReport(root=root, name="p", run="released", evaluation="released", samples=())
    )
    told = page.file("report.html").read_text()
    assert "Nobody knows whether the run has seen the held-out images: runs/released was" in told


def test_a_database_of_published_vectors_leaves_out_what_needs_its_images(
    held_out_of_a_released_run, tmp_path, capsys
):
    asked = held_out_of_a_released_run
    root = asked["root"]
    convert(
        root,
        [archive(tmp_path / "part_1.npz", rows=24)],
        layout="embeddings",
        name="old",
        **ENCODER,
    )
    neighbors_in(root, "old")
    names = {"name": "old", "heldout_neighbors": "unseen-in-old", "database": "old"}
    measured = measured_in(evaluate_rdm(EvaluateRDM(**asked | names)))
    without = {"return the neighbour", "random database images", "copies"}
    assert without < set(measured["left out"]) and measured["copies"] == {}
    assert (
        not without & set(measured["quality"])
        and "return the neighbour" not in (measured["prompts"])
    )
    assert "copy_rate" not in measured["quality"]["held-out neighbors"]
    sharp = measured["clean and sharp"]["held-out neighbors"]
    assert "grain / held-out" in sharp and "grain / database" not in sharp
    assert "copies left out: of embeddings/old: it was made of published vectors" in (
        capsys.readouterr().err
    )


def test_a_released_rarm_draws_from_text_with_its_own_sampler(tmp_path, monkeypatch):
    layout = originals.RarmLayout(
        "rarm-2022", width=32, depth=1, head_channels=16, codes=16, latent_side=8,
        context_dimension=64, autoencoder="vq-f4", encoder="rdm-shapes", encoder_weights="built-in",
    )  # fmt: skip
    monkeypatch.setitem(originals.LAYOUTS, "rarm-2022", layout)
    state = random_state(originals.rarm_keys(layout))
    state |= random_state(originals.autoencoder_keys(TINY_AUTOENCODER, "first_stage_model."), 2)
    torch.save({"state_dict": state}, tmp_path / "rarm.ckpt")
    run = convert(tmp_path, [tmp_path / "rarm.ckpt"], layout="rarm-2022")
    assert facts_of(run).family == "autoregressive" and facts_of(run).k == 4
    how = drawn_how(facts_of(run), {})
    assert (how.top_k, how.null) == (256, "zero"), "as it was drawn from in 2022"
    request = SampleRDM(
        root=tmp_path, name="s", run="released", texts=("a red circle",), context="query", count=2,
        draw={"top_k": 5},
    )  # fmt: skip
    samples = sample_rdm(request)
    assert len(list(samples.directory.glob("0*.png"))) == 2
