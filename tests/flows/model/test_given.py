"""What a model that reads texts and neighbors whole is given, whatever it is asked for and from
whatever database: a stand-in for such a model records it.
"""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from flows.config.database import BuildDatabase
from flows.config.images import ImportImages
from flows.config.sample import SampleRDM
from flows.data.build_database import build_database
from flows.data.database import searchable
from flows.data.import_images import import_images
from flows.model import given as module
from flows.model.opening import OpenRun
from flows.model.request import Opened, request_of, text_queries
from flows.model.sample import attribution
from rdm_core.context import ABSENT, NEIGHBOR, NO_TOKEN, TEXT
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from rdm_core.families.facts import Reads, RunFacts
from rdm_core.latents import load_latent_space
from rdm_core.search import NO_ROW
from rdm_core.shapes import entities
from rdm_core.words import query_of
from storage.artifact import open_artifact
from storage.errors import ArtifactMismatch, ArtifactMissing

WHOLE = Reads(captions=True, references=True)
HELD_OUT = entities.group("held out")


class StandIn:
    """A model that says what it reads, and keeps the contexts that it is asked to draw."""

    def __init__(self, space, reads=WHOLE):
        self.reads, self.works_in, self.asked = reads, space, []

    def draw(self, context, seeds, how, beside, progress):
        self.asked.append(context)
        return np.zeros((len(seeds), 4, 4, 3), np.uint8)


def run_of(root, space, reads=WHOLE, side=16, search="words"):
    """A run of the stand-in, with the encoder of the entities' database."""
    database = open_artifact(root, "embeddings", "all")
    facts = RunFacts(
        "diffusion", {}, database.parameters["encoder"], "image", database.measured["weights"],
        space.identity, "pixels", side // space.factor, 2, False, 0.1, 1, 1, search=search,
    )  # fmt: skip
    return OpenRun(SimpleNamespace(name="n"), StandIn(space, reads), facts)


@pytest.fixture(scope="module")
def opened(entity_world):
    run = run_of(entity_world, load_latent_space("pixels"))
    return Opened(run, searchable(entity_world, open_artifact(entity_world, "embeddings", "all")))


def ask(root, **more):
    return SampleRDM(root=root, name="n", run="r", **{"count": 1, "k": 2, **more})


@pytest.fixture(scope="module")
def there(opened):
    """A held-out entity of which the database holds two pictures and more: its caption."""
    captions = [credit["captions"][0] for credit in opened.database.credits(list(range(120)))]
    for caption in captions:
        name = caption.split()[4]
        if sum(f" {name} " in other for other in captions) >= 2:
            return f"a photograph of a {name}"
    raise AssertionError("no entity comes twice")


def captions_of(opened, rows):
    return [credit["captions"][0] for credit in opened.database.credits(rows)]


def test_a_text_is_given_with_neighbors_found_by_its_words(entity_world, opened, there):
    request = request_of(ask(entity_world, texts=(there,)), opened)
    rows = request.retrieved.rows[0].tolist()
    assert request.context.slots.tolist() == [[NEIGHBOR, NEIGHBOR]]
    wanted = opened.database.by_words.words.search([query_of(there)], 2)[0]
    assert rows == wanted[0].tolist()
    captions = captions_of(opened, rows)
    assert all(caption.split()[4] == there.split()[4] for caption in captions)
    encoder = opened.run.encoder
    np.testing.assert_array_equal(request.context.text, encoder.tokens([there]))
    np.testing.assert_array_equal(request.context.neighbor_texts[0], encoder.tokens(captions))
    keys = [credit["key"] for credit in opened.database.credits(rows)]
    files = opened.database.images(keys)
    for slot, key in enumerate(keys):
        pixels = decode(files[key]).transpose(2, 0, 1)
        np.testing.assert_array_equal(request.context.references[0, slot], pixels)


def test_neighbors_are_found_as_asked_else_as_the_runs_training_found_them(
    entity_world, opened, there
):
    by_words = request_of(ask(entity_world, texts=(there,)), opened).retrieved
    by_vectors = request_of(ask(entity_world, texts=(there,), search="vectors"), opened).retrieved
    trained_by_vectors = Opened(
        run_of(entity_world, load_latent_space("pixels"), search="vectors"), opened.database
    )
    usual = request_of(ask(entity_world, texts=(there,)), trained_by_vectors).retrieved
    assert usual.rows.tolist() == by_vectors.rows.tolist() != by_words.rows.tolist()
    asked = request_of(ask(entity_world, texts=(there,), search="words"), trained_by_vectors)
    assert asked.retrieved.rows.tolist() == by_words.rows.tolist()


def test_slots_that_hold_no_neighbor_have_no_caption(entity_world, opened, there):
    asked = ask(entity_world, texts=(there,), context="query+neighbors", k=3)
    context = request_of(asked, opened).context
    assert context.slots.tolist() == [[TEXT, NEIGHBOR, NEIGHBOR]]
    assert (context.neighbor_texts[0, 0] == NO_TOKEN).all()
    assert (context.neighbor_texts[0, 1:, 0] != NO_TOKEN).all()
    assert context.references.shape[:2] == (1, 3)
    alone = request_of(ask(entity_world, texts=(there,), context="query"), opened).context
    assert alone.slots.tolist() == [[TEXT]] and alone.text[0, 0] != NO_TOKEN


def test_a_name_that_nobody_has_finds_what_shares_other_words_or_nothing(entity_world, opened):
    request = request_of(ask(entity_world, texts=("qqq",)), opened)
    assert request.retrieved.rows.tolist() == [[NO_ROW, NO_ROW]]
    assert request.context.slots.tolist() == [[ABSENT, ABSENT]]
    assert request.context.references is request.context.neighbor_texts is None
    np.testing.assert_array_equal(request.context.text, opened.run.encoder.tokens(["qqq"]))


def test_a_class_is_given_its_prompt_and_draws_from_a_pool_by_words(entity_world, opened, there):
    asked = ask(entity_world, classes=(there.split()[-1],), count=3, k=2, pool=4)
    request = request_of(asked, opened)
    prompt = f"An image of a {there.split()[-1]}."
    wanted = opened.run.encoder.tokens([prompt] * 3)
    np.testing.assert_array_equal(request.context.text, wanted)
    pool = opened.database.by_words.words.search([query_of(prompt)], 4)[0]
    assert set(request.retrieved.rows.ravel()) <= {NO_ROW, *pool.ravel()}
    assert (np.sort(request.retrieved.slots, axis=1)[:, ::-1] == request.retrieved.slots).all()


def test_images_and_pseudo_queries_have_no_text_and_are_looked_up_by_vectors(
    entity_world, opened, tmp_path
):
    Image.new("RGB", (20, 20), (200, 30, 30)).save(tmp_path / "red.png")
    for asked in (
        ask(entity_world, images=(tmp_path / "red.png",)),
        ask(entity_world, count=2),
        ask(entity_world, images=(tmp_path / "red.png",) * 2, between=2),
    ):
        context = request_of(asked, opened).context
        assert (context.text == NO_TOKEN).all()
        assert (context.slots == NEIGHBOR).all()
        assert context.references is not None and (context.neighbor_texts[..., 0] >= 0).all()
        with pytest.raises(RequestError, match="search: words are looked up, and .*search=vectors"):
            request_of(asked.model_copy(update={"search": "words"}), opened)


def test_nothing_lies_between_two_texts_for_a_model_that_reads_texts(entity_world, opened):
    asked = ask(entity_world, texts=("a vorta", "a mupi"), between=3)
    with pytest.raises(RequestError, match="between: the model reads texts, and between two"):
        request_of(asked, opened)


def test_what_is_guided_away_from_and_a_style_have_texts_of_their_own(entity_world, opened, there):
    asked = ask(entity_world, texts=(there,), negative="a mupi", style_text="a dark background")
    beside = request_of(asked, replace(opened, style_database=opened.database)).beside
    encoder = opened.run.encoder
    np.testing.assert_array_equal(beside.negative.text, encoder.tokens(["a mupi"]))
    np.testing.assert_array_equal(beside.style.text, encoder.tokens(["a dark background"]))
    assert beside.style.references.shape[:2] == (1, 2)


def test_a_text_longer_than_the_encoder_reads_is_refused(entity_world, opened):
    with pytest.raises(RequestError, match="texts: 'ring ring.* more than the 32 tokens.*Shorten"):
        request_of(ask(entity_world, texts=("ring " * 40,)), opened)
    with pytest.raises(RequestError, match="texts: 'star star"):
        request_of(ask(entity_world, texts=("a ring",), negative="star " * 40), opened)


def test_each_neighbors_image_is_encoded_once(entity_world, opened, there, monkeypatch):
    encoded = []
    monkeypatch.setattr(
        module, "encoded", lambda run, images: encoded.append(len(images)) or plain(run, images)
    )
    asked = ask(entity_world, texts=(there, there), count=3)
    rows = request_of(asked, opened).retrieved.rows
    assert encoded == [len(np.unique(rows))]


plain = module.encoded


def test_an_image_without_one_neighbor_keeps_the_others_latents(entity_world, opened, there):
    asked = ask(entity_world, texts=(there,))
    request = request_of(asked, opened)
    model = opened.run.model
    model.asked.clear()
    attribution(asked, opened.run, request, np.zeros((1, 4, 4, 3), np.uint8))
    assert [context.slots.tolist() for context in model.asked] == [[[0, 1]], [[1, 0]]]
    for slot, context in enumerate(model.asked):
        assert torch.equal(context.references, request.context.references)
        assert torch.equal(context.text, request.context.text)
        assert (context.neighbor_texts[0, slot] == NO_TOKEN).all()
        other = 1 - slot
        texts = context.neighbor_texts[0, other], request.context.neighbor_texts[0, other]
        assert torch.equal(*texts)


@pytest.mark.parametrize(
    "name, stored, dtype",
    [
        ("pixels", ("pixels", "moments"), torch.uint8),
        ("rdm-shapes-kl", ("pixels", "moments"), torch.float16),
        ("rdm-shapes-vq", ("codes",), torch.int64),
    ],
)
def test_any_database_is_encoded_in_the_runs_own_space_and_size(
    entity_world, opened, there, name, stored, dtype
):
    """The database's images are of 16 pixels, the run draws 32; its latents are of no use."""
    space = load_latent_space(name)
    reads = replace(WHOLE, stored=stored)
    run = run_of(entity_world, space, reads, side=32)
    context = request_of(ask(entity_world, texts=(there,)), Opened(run, opened.database)).context
    references = context.references
    assert references.dtype == dtype and references.shape[-1] == 32 // space.factor
    if name == "pixels":
        assert references.shape == (1, 2, 3, 32, 32)


def test_a_model_that_reads_vectors_alone_is_given_them_alone(entity_world, opened, there):
    run = run_of(entity_world, load_latent_space("pixels"), Reads(), search="vectors")
    context = request_of(ask(entity_world, texts=(there,)), Opened(run, opened.database)).context
    assert context.slots.tolist() == [[TEXT, NEIGHBOR]]
    assert context.text is context.references is context.neighbor_texts is None


def test_a_database_without_images_or_captions_is_refused(entity_world, opened, there, tmp_path):
    root = tmp_path / "data"
    for kind in ("embeddings", "index"):
        shutil.copytree(entity_world / kind / "all", root / kind / "all")
    bare = searchable(root, open_artifact(root, "embeddings", "all"))
    with pytest.raises(ArtifactMissing, match="embeddings/all: the image of 'entities-database-"):
        request_of(ask(root, texts=(there,)), Opened(opened.run, bare))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(folder / f"{number}.png")
    import_images(ImportImages(root=root, name="bare", path=folder, size=16))
    encoder = {"encoder": "rdm-shapes", "weights": "built-in"}
    build_database(BuildDatabase(root=root, name="bare", shards="bare", **encoder))
    silent = searchable(root, open_artifact(root, "embeddings", "bare"))
    with pytest.raises(ArtifactMismatch, match="embeddings/bare: none of its rows has a caption"):
        request_of(ask(root, texts=(there,)), Opened(opened.run, silent))
    # By vectors its images are neighbors as any: their captions are absent.
    context = request_of(
        ask(root, texts=(there,), search="vectors"), Opened(opened.run, silent)
    ).context
    assert (context.neighbor_texts == NO_TOKEN).all() and context.references.shape[1] == 2


def test_captions_of_neighbors_that_are_too_long_are_cut_and_told(
    entity_world, opened, tmp_path, capsys
):
    root, folder = tmp_path / "data", tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a vorta " + "ring " * 40 * number)
    import_images(ImportImages(root=root, name="long", path=folder, size=16))
    encoder = {"encoder": "rdm-shapes", "weights": "built-in"}
    build_database(BuildDatabase(root=root, name="long", shards="long", **encoder))
    database = searchable(root, open_artifact(root, "embeddings", "long"))
    capsys.readouterr()
    request_of(ask(root, texts=("a vorta",)), Opened(opened.run, database))
    told = capsys.readouterr().err
    assert told.count("1 captions of neighbors are longer than the 32 tokens") == 1


def test_words_of_queries_go_along_when_some_are_taken(opened):
    queries = text_queries(opened.run, ["a vorta", "a mupi", "a zed"], "words")
    assert queries.take(np.array([2, 0, 0])).words == [["zed"], ["vorta"], ["vorta"]]
    assert queries.take(np.array([False, True, False])).words == [["mupi"]]
    assert text_queries(opened.run, ["a vorta"]).words is None
