"""Everything that can be asked of a run: what the denoiser is given, and what the record says of
it.
"""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.model.opening import drawn_how
from flows.model.request import Opened, request_of, searched_by, training_counts, vectors_in
from flows.model.sample import open_all, records_of, sample_plan, sample_rdm
from flows.model.train_rdm import train_rdm
from rdm_core.context import ABSENT, NEIGHBOR, QUERY, TEXT
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from rdm_core.families.diffusion.draw import guidance_of
from storage.artifact import open_artifact
from storage.embeddings import read_columns, read_vectors
from storage.neighbors import NO_ROW, read_neighbors
from storage.samples import read_samples

STEPS = 4


@pytest.fixture(scope="module")
def ask(small_world):
    """Parameters of a request to the small run."""

    def asked(name="request", **more):
        draw = {"steps": STEPS} | more.pop("draw", {})
        return SampleRDM(root=small_world.root, name=name, run="small", draw=draw, **more)

    return asked


@pytest.fixture(scope="module")
def opened(ask):
    """The small run and its database."""
    return open_all(ask())


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A file: red on white."""
    pixels = np.full((40, 48, 3), 255, dtype=np.uint8)
    pixels[10:30, 14:34] = (220, 30, 30)
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.fromarray(pixels).save(path)
    return path


def images(artifact):
    return [decode(artifact.file(record["file"]).read_bytes()) for record in read_samples(artifact)]


def kinds(config, opened):
    return request_of(config, opened).retrieved.slots.tolist()


def test_a_text_alone_opens_no_database(ask):
    config = ask(texts=("a red circle",), context="query", count=1)
    assert open_all(config).database is None
    assert kinds(config, open_all(config)) == [[TEXT]]


def test_a_query_comes_before_its_neighbors_and_neighbors_alone_leave_it_out(ask, opened, picture):
    assert kinds(ask(texts=("a red circle",), count=1, k=3), opened) == [[TEXT, NEIGHBOR, NEIGHBOR]]
    assert kinds(ask(images=(picture,), count=1, k=3), opened) == [[QUERY, NEIGHBOR, NEIGHBOR]]
    assert kinds(ask(images=(picture,), count=1, k=3, context="neighbors"), opened) == [
        [NEIGHBOR] * 3
    ]
    assert kinds(ask(images=(picture,), count=1, context="query"), opened) == [[QUERY]]


def test_images_given_beside_a_text_take_places_of_its_neighbors(ask, opened, picture):
    request = request_of(
        ask(texts=("a circle", "a star"), images=(picture, picture), count=1, k=4), opened
    )
    assert request.retrieved.slots.tolist() == [[TEXT, NEIGHBOR, QUERY, QUERY]] * 2
    assert request.queries == ["a circle", "a star"]
    own, _ = opened.run.encoder.encode_images([decode(picture.read_bytes())])
    np.testing.assert_allclose(request.retrieved.vectors[1, 3], own[0], atol=1e-6)
    with pytest.raises(RequestError, match="k: 2 vectors hold no more than the given images"):
        request_of(ask(texts=("a circle",), images=(picture, picture), k=2), opened)


def test_given_images_are_in_the_record_by_their_bytes(ask, picture):
    records = read_samples(
        sample_rdm(ask("given", texts=("a circle",), images=(picture,), count=1, k=2))
    )
    assert len(records[0]["given_images"]) == 1 and len(records[0]["given_images"][0]) == 64
    assert records[0]["neighbor_keys"] == []


def test_a_class_draws_its_neighbors_from_a_pool(ask, opened):
    request = request_of(ask(classes=("circle",), count=6, k=2, pool=10), opened)
    assert (
        request.retrieved.rows.shape == (6, 2)
        and len({tuple(rows) for rows in request.retrieved.rows.tolist()}) > 1
    )


def test_nothing_asked_is_answered_from_what_training_retrieved(ask, opened):
    request = request_of(ask(count=5, k=2, top_m=0.2), opened)
    assert (request.retrieved.rows != NO_ROW).all() and len(request.queries) == 5


def test_a_row_counts_as_often_as_training_was_given_it_and_no_neighbor_beyond_its_k(opened):
    table = open_artifact(opened.database.root, "neighbors", "shapes")
    _, rows, _ = read_neighbors(table)
    counts = training_counts(opened.run, opened.database)
    assert counts.tolist() == np.bincount(rows[:, :3].ravel(), minlength=96).tolist()
    assert rows.shape[1] > opened.run.facts.k == 3 and counts.sum() == 3 * 96


def test_every_neighbor_is_told_with_its_own_key_score_licence_author_and_address(ask, opened):
    config = ask(texts=("a red circle", "a blue star"), count=1, k=3, context="neighbors")
    records = records_of(config, opened, request_of(config, opened))
    columns = ["key", "licence", "author", "source_url"]
    credits = {
        row["key"]: row for row in read_columns(opened.database.embeddings, columns).to_pylist()
    }
    vectors, _ = read_vectors(opened.database.embeddings)
    texts, _ = opened.run.encoder.encode_texts([record["query"] for record in records])
    for record, text in zip(records, texts, strict=True):
        nearest = np.argsort(-vectors @ text)[:3]
        assert record["neighbor_keys"] == [list(credits)[row] for row in nearest]
        np.testing.assert_allclose(record["neighbor_scores"], vectors[nearest] @ text, atol=2e-3)
        for column in columns[1:]:
            told = record[f"{column}s"]
            assert told == [credits[key][column] for key in record["neighbor_keys"]], column
        assert len({*record["authors"]}) == len({*record["neighbor_scores"]}) == 3
    assert records[0]["neighbor_keys"] != records[1]["neighbor_keys"]


def test_steps_between_two_texts_begin_at_the_first_and_end_at_the_second_with_equal_noise(
    ask, opened
):
    request = request_of(
        ask(texts=("a red circle", "a blue star"), between=3, count=2, context="query"), opened
    )
    ends, _ = opened.run.encoder.encode_texts(["a red circle", "a blue star"])
    np.testing.assert_allclose(
        request.retrieved.vectors[[0, 1, 4, 5], 0], np.repeat(ends, 2, axis=0), atol=1e-5
    )
    assert request.seeds == [0, 1] * 3
    assert request.queries[0] == "a red circle -> a blue star at 0.00" and request.queries[
        2
    ].endswith("at 0.50")
    with pytest.raises(ValueError, match="between: needs 2 or more steps between exactly two"):
        ask(texts=("a",), between=3)


AWAY = {"texts": ("a red circle",), "count": 1}
GUIDED = {"guidance_scale": 4.0}


def test_what_is_guided_away_from_changes_the_image_and_only_one_thing_can_be(ask):
    ways = {
        "null": {},
        "negative": {"negative": "a blue star"},
        "late": {"draw": GUIDED | {"guidance_interval": (0.0, 0.8)}},
        "unguided": {"draw": {"guidance_scale": 1.0}},
    }
    drawn = {
        way: images(sample_rdm(ask(f"away-{way}", **{"draw": GUIDED} | AWAY | more)))[0].tobytes()
        for way, more in ways.items()
    }
    assert len(set(drawn.values())) == len(ways)
    with pytest.raises(RequestError, match="negative and null: are two things to guide away from"):
        sample_rdm(ask("both", **AWAY, negative="a", draw={"null": "zero"}))
    with pytest.raises(ValueError, match="negative and weaker_run: guide away from one thing"):
        ask(negative="a", weaker_run="small")


@pytest.mark.long
def test_guiding_away_from_a_weaker_run_changes_the_image(ask, small_training, small_world):
    train_rdm(TrainRDM(**small_training(small_world.root, "weaker", steps=2)))
    ways = ({}, {"weaker_run": "weaker"}, {"draw": {"guidance_scale": 1.0}})
    drawn = {
        images(sample_rdm(ask(f"from-{n}", **{"draw": GUIDED} | AWAY | more)))[0].tobytes()
        for n, more in enumerate(ways)
    }
    assert len(drawn) == len(ways)


def test_the_null_of_2022_is_a_zero_vector_and_ours_is_the_trained_one(ask, opened):
    def guidance(**draw):
        how, request = drawn_how(opened.run.facts, draw), request_of(ask(count=1), opened)
        return guidance_of(opened.run.model.denoiser, how, request.beside, None)

    assert not guidance(null="zero").away_from.vectors.any()
    assert guidance().away_from is None


def test_a_style_text_takes_over_late_and_its_neighbors_are_in_the_record(ask, small_world):
    common = {"texts": ("a red circle",), "count": 1, "k": 2, "context": "neighbors"}
    plain = sample_rdm(ask("plain", **common))
    styled = sample_rdm(ask("styled", **common, style_text="a sketch", style_database="sketches"))
    never = sample_rdm(
        ask(
            "never",
            **common,
            style_text="a sketch",
            style_database="sketches",
            draw={"style_from_snr": 1e9},
        )
    )
    assert images(plain)[0].tobytes() != images(styled)[0].tobytes()
    assert images(plain)[0].tobytes() == images(never)[0].tobytes()
    record = read_samples(styled)[0]
    assert record["style_database"] and len(record["neighbor_keys"]) == 4
    assert [key.startswith("shapes-sketches") for key in record["neighbor_keys"]] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm++", "unipc"])
def test_what_the_mask_leaves_black_stays_as_it_was(ask, picture, tmp_path, sampler):
    mask = np.zeros((40, 48, 3), dtype=np.uint8)
    mask[:, 24:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    painted = ask(
        f"inpaint-{sampler.strip('+')}",
        inpaint=picture,
        mask=tmp_path / "mask.png",
        count=2,
        draw={"sampler": sampler},
    )
    Image.fromarray(0 * mask).save(tmp_path / "black.png")
    same = {"inpaint": picture, "mask": tmp_path / "black.png", "count": 1}
    untouched = sample_rdm(ask(f"same-{sampler.strip('+')}", draw={"sampler": sampler}, **same))
    original = np.asarray(Image.open(picture).resize((38, 32), Image.Resampling.BICUBIC))[
        :, 3:35
    ].astype(int)
    for image in images(sample_rdm(painted)):
        difference = np.abs(image.astype(int) - original)
        assert difference[:, :12].max() <= 3 and difference[:, 20:].mean() > 10
    assert np.abs(images(untouched)[0].astype(int) - original).max() <= 3, (
        "a black mask leaves nothing to paint"
    )


def test_leaving_a_neighbor_out_is_measured_for_each_of_them(ask):
    record = read_samples(
        sample_rdm(ask("behind", texts=("a red circle",), count=1, k=3, attribution=True))
    )[0]
    assert len(record["attributions"]) == len(record["neighbor_keys"]) == 2
    assert all(change > 0 for change in record["attributions"])
    assert (
        read_samples(sample_rdm(ask("unasked", texts=("a red circle",), count=1)))[0][
            "attributions"
        ]
        is None
    )


def test_a_sampler_that_does_not_fit_is_refused_with_those_that_do(ask):
    with pytest.raises(
        RequestError,
        match="'ddim' does not fit a run trained with flow matching. Use one of: .*heun",
    ):
        sample_rdm(ask("misfit", texts=("a",), draw={"sampler": "ddim"}))


def test_a_picture_that_is_none_is_refused(ask, opened, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match="broken.png: an image of the request cannot be used"):
        request_of(ask(images=(tmp_path / "broken.png",)), Opened(opened.run, opened.database))
    with pytest.raises(RequestError, match="absent.png: no such image"):
        sample_rdm(ask(images=(tmp_path / "absent.png",)))


def test_an_absent_slot_is_nobodys(ask, opened):
    context = request_of(ask(texts=("a red circle",), count=1, k=3), opened).context.without(1)
    assert context.slots.tolist() == [[TEXT, ABSENT, NEIGHBOR]]


def test_how_words_are_looked_up_is_in_a_plan_where_they_are(ask):
    plain = sample_plan(ask(texts=("a red circle",)))
    assert "search" not in plain.parameters
    assert sample_plan(ask(texts=("a red circle",), search="vectors")).id == plain.id
    by_words = sample_plan(ask(texts=("a red circle",), search="words"))
    assert by_words.parameters["search"] == "words" and by_words.id != plain.id


def test_words_are_searched_for_any_run(ask, opened):
    asked = ask(texts=("a red circle",), count=1, k=3, context="neighbors", search="words")
    rows = request_of(asked, opened).retrieved.rows[0]
    captions = [credit["captions"][0] for credit in opened.database.credits(rows.tolist())]
    assert all("red" in caption or "circle" in caption for caption in captions)


def test_unless_k_is_given_it_is_that_of_the_training(ask, opened):
    facts = opened.run.facts
    assert vectors_in(ask(), facts) == facts.k and vectors_in(ask(k=7), facts) == 7
    of_query = facts.model | {"denoiser": facts.model["denoiser"] | {"query_token": True}}
    assert vectors_in(ask(), replace(facts, k=10, model=of_query)) == 11
    drawn = request_of(ask(texts=("a red circle",), count=1), opened)
    assert drawn.retrieved.rows.shape == (1, facts.k)
    own = sample_plan(ask(texts=("a red circle",)))
    assert own.id == sample_plan(ask(texts=("a red circle",), k=facts.k)).id
    assert own.parameters["k"] == facts.k


def test_no_two_neighbors_that_are_more_alike_than_asked(ask, opened):
    asked = {"texts": ("a red circle",), "count": 1, "k": 3, "context": "neighbors"}
    plain, apart = (
        request_of(ask(**asked, **more), opened).retrieved.vectors[0]
        for more in ({}, {"most_alike": 0.7})
    )
    off = ~np.eye(3, dtype=bool)
    assert (plain @ plain.T)[off].max() > 0.7 >= (apart @ apart.T)[off].max()
    assert "most_alike" not in sample_plan(ask(**asked)).parameters
    assert sample_plan(ask(**asked, most_alike=0.7)).parameters["most_alike"] == 0.7


def test_texts_of_words_that_no_caption_has_are_told(ask, opened, capsys):
    texts = ("a red circle", "vorta Dax")
    asked = ask(texts=texts, count=2, k=2, context="neighbors", search="words")
    request = request_of(asked, opened)
    assert (request.retrieved.rows[2:] == NO_ROW).all()
    told = capsys.readouterr().err
    assert "no caption of the database has a word of 'vorta dax': drawn without" in told
    assert told.count("no caption") == 1


def test_words_are_searched_and_told_only_where_something_is_asked_in_words(ask, opened, picture):
    by_words = replace(opened.run.facts, search="words")
    for asked, search in (
        ({"texts": ["a red circle"]}, "words"),
        ({"classes": ["circle"]}, "words"),
        ({"texts": ["a circle", "a star"], "between": 3}, "vectors"),
        ({"images": [picture]}, "vectors"),
        ({}, "vectors"),
    ):
        assert searched_by(ask(**asked), by_words) == search
        assert searched_by(ask(**asked), opened.run.facts) == "vectors"
