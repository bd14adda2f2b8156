"""Databases of captions and of documents: what they hold, who may use them, who refuses them."""

import numpy as np
import pytest
from PIL import Image

from flows.config.database import BuildDatabase, FindNeighbors, RemoveKeys
from flows.config.images import ImportImages
from flows.config.look import CompareDatabases, FindDuplicates, MapDatabase, SearchDatabase
from flows.data import build_database as module
from flows.data.build_database import build_database, embed_images, embedding_plan
from flows.data.encoders import encoder_of
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.data.remove import remove_keys
from flows.look.compare import compare
from flows.look.duplicates import duplicates
from flows.look.map_database import map_database
from flows.look.search import search
from flows.look.show import one_artifact
from rdm_core.decode import decode
from storage.artifact import artifacts, open_artifact
from storage.embeddings import VECTORS_OF, read_columns, read_vectors
from storage.errors import ArtifactMismatch, StorageError
from storage.index import open_means
from storage.parquet import read_table
from storage.removals import add_removals
from storage.shards import read_images
from storage.unfinished import unfinished

ENCODER = {"encoder": "rdm-shapes", "weights": "built-in", "precision": "float32"}
COLOURS = tuple(
    ["red", "green", "blue", "orange", "purple", "cyan", "pink", "yellow", "black", "white", "grey"]
)
ROUNDED = 2e-3
"""By float16."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eleven squares in parts of three, of which every other one has a second caption; a database
    of each kind.
    """
    folder, root = tmp_path_factory.mktemp("squares"), tmp_path_factory.mktemp("root")
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (32, 32), colour).save(folder / f"{number:02d}.png")
        second = "\na square on nothing" if number % 2 else ""
        (folder / f"{number:02d}.txt").write_text(f"a {colour} square{second}")
    asked = {"source": "folder", "path": folder, "size": 32, "encoding": "png"}
    import_images(ImportImages(root=root, name="squares", **asked, images_per_part=3))
    for of in VECTORS_OF:
        built(root, of)
    return root


def built(root, of, name=None, shards="squares"):
    config = BuildDatabase(root=root, name=name or of, shards=shards, of=of, **ENCODER)
    return build_database(config)[0]


def expected(root):
    """Unit vectors and norms of the images and of the captions, one by one, in shard order."""
    encoder, shards = encoder_of("rdm-shapes", "built-in"), open_artifact(root, "shards", "squares")
    pictures, captions = [], []
    for part in shards.parts:
        pictures += [decode(data) for _, data in read_images(shards, part.name)]
        captions += read_table(shards.file(f"{part.name}.parquet"))["captions"].to_pylist()
    assert [len(texts) for texts in captions] == [1 + number % 2 for number in range(11)]
    images, image_norms = encoder.encode_images(pictures)
    texts = [encoder.encode_texts(one) for one in captions]
    means = unit(np.stack([vectors.mean(axis=0) for vectors, _ in texts]))
    text_norms = np.stack([norms.mean() for _, norms in texts])
    return {
        "image": (images, image_norms),
        "text": (means, text_norms),
        "document": (unit(images + means), (image_norms + text_norms) / 2),
    }


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("of", VECTORS_OF)
def test_each_row_is_of_what_was_asked_for_in_shard_order(root, of):
    embeddings = open_artifact(root, "embeddings", of)
    vectors, norms = read_vectors(embeddings)
    wanted, wanted_norms = expected(root)[of]
    np.testing.assert_allclose(vectors, wanted, atol=ROUNDED)
    np.testing.assert_allclose(norms, wanted_norms, rtol=1e-3)
    shards = open_artifact(root, "shards", "squares")
    assert len(embeddings.parts) == len(shards.parts) > 1
    keys = []
    for part in shards.parts:
        keys += dict(read_images(shards, part.name))
    assert read_columns(embeddings, ["key"])["key"].to_pylist() == keys


def test_the_three_differ(root):
    images, texts, documents = (
        read_vectors(open_artifact(root, "embeddings", of))[0] for of in VECTORS_OF
    )
    assert np.abs(images - texts).max() > 0.1
    for one, other in ((images, texts), (texts, images)):
        assert ((documents * one).sum(axis=1) > (other * one).sum(axis=1)).all()


@pytest.mark.parametrize("of", VECTORS_OF)
def test_the_plan_says_it_and_so_does_rdm_show(root, of):
    assert open_artifact(root, "embeddings", of).parameters["of"] == of
    told, value = one_artifact(root, f"embeddings/{of}")
    assert f"\n  of: {of}\n" in told and value["parameters"]["of"] == of
    path = open_artifact(root, "embeddings", of).file("00000.parquet")
    assert read_table(path).schema.field("embedding").metadata[b"doc"].decode() == VECTORS_OF[of]


def test_the_index_holds_the_means_of_its_rows_and_of_the_captions(root):
    for of in VECTORS_OF:
        means = open_means(open_artifact(root, "index", of))
        vectors = read_vectors(open_artifact(root, "embeddings", of))[0]
        np.testing.assert_allclose(means[0], vectors.mean(axis=0), atol=ROUNDED)
        captions = [f"a {colour} square" for colour in COLOURS]
        first = encoder_of("rdm-shapes", "built-in").encode_texts(captions)[0]
        np.testing.assert_allclose(means[1], first.mean(axis=0), atol=ROUNDED)


def test_captions_alone_read_no_picture(root, monkeypatch):
    def read(*_):
        raise AssertionError("a picture was read")

    monkeypatch.setattr(module, "read_images", read)
    config = BuildDatabase(root=root, name="unread", shards="squares", of="text", **ENCODER)
    assert embed_images(config).fingerprint == open_artifact(root, "embeddings", "text").fingerprint


@pytest.mark.parametrize("of", ["text", "document"])
def test_an_interrupted_build_goes_on_with_the_same_bytes(root, of, monkeypatch):
    real, made = module.vectors_of, []

    def dies_in_the_second_part(*given):
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "vectors_of", dies_in_the_second_part)
    name = f"resumed-{of}"
    config = BuildDatabase(root=root, name=name, shards="squares", of=of, **ENCODER)
    with pytest.raises(KeyboardInterrupt):
        embed_images(config)
    made[:] = [1, 1]
    assert embed_images(config).fingerprint == open_artifact(root, "embeddings", of).fingerprint
    parts = len(open_artifact(root, "shards", "squares").parts)
    assert 0 < len(made) - 2 < parts, "what was whole is kept"


def test_another_kind_under_the_same_name_is_made_anew(root):
    first, second = (built(root, of, "changing") for of in ("text", "document"))
    assert second.version == first.version + 1
    before = {part.made_from for part in first.parts}
    assert not before & {part.made_from for part in second.parts}


# Captions that are not there


@pytest.fixture
def half_captioned(tmp_path):
    """Five pictures, the second and the last without a caption; the third is no picture."""
    folder = tmp_path / "half"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (32, 32), COLOURS[number]).save(folder / f"{number}.png")
        if number not in (1, 4):
            (folder / f"{number}.txt").write_text(f"a {COLOURS[number]} square")
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "2.txt").unlink()
    root = tmp_path / "root"
    asked = {"source": "folder", "path": folder, "size": 32, "encoding": "png"}
    import_images(ImportImages(root=root, name="half", **asked))
    return root


@pytest.mark.parametrize("of", ["text", "document"])
def test_images_without_a_caption_are_refused_before_anything_is_embedded(
    half_captioned, of, monkeypatch
):
    def encoded(*_):
        raise AssertionError("something was embedded")

    monkeypatch.setattr(module, "embed_parts", encoded)
    config = BuildDatabase(root=half_captioned, name="half", shards="half", of=of, **ENCODER)
    with pytest.raises(StorageError) as caught:
        build_database(config)
    assert str(caught.value) == (
        f"shards/half: 2 of 4 images have no caption, the first is 'folder-{first_without()}'; "
        f"of={of} embeds captions. Embed the images alone (--set of=image), or import them again "
        "with captions."
    )
    assert not unfinished(half_captioned, "embeddings", "half")
    assert [one for one in artifacts(half_captioned) if one.kind == "embeddings"] == []


def first_without():
    from storage.keys import key_of

    return key_of("folder", "1.png", 0).removeprefix("folder-")


def test_an_image_that_was_removed_needs_no_caption(half_captioned, tmp_path):
    built(half_captioned, "image", "half", "half")
    keys = read_columns(open_artifact(half_captioned, "embeddings", "half"), ["key", "captions"])
    gone = [row["key"] for row in keys.to_pylist() if not row["captions"]]
    (tmp_path / "gone.txt").write_text("\n".join(gone))
    remove_keys(RemoveKeys(root=half_captioned, database="half", keys_file=tmp_path / "gone.txt"))
    assert built(half_captioned, "text", "half", "half").rows == 2


def test_a_removal_keeps_what_the_vectors_are_of_and_a_rebuild_takes_it_over(root, tmp_path):
    for of in ("text", "document"):
        before = built(root, of, f"less-{of}")
        key = read_columns(before, ["key"])["key"][4].as_py()
        (tmp_path / "gone.txt").write_text(key)
        asked = {"database": f"less-{of}", "keys_file": tmp_path / "gone.txt"}
        remove_keys(RemoveKeys(root=root, **asked))
        after = open_artifact(root, "embeddings", f"less-{of}")
        assert after.parameters["of"] == of and after.rows == 10
        doc = read_table(after.files(".parquet")[0]).schema.field("embedding").metadata[b"doc"]
        assert doc.decode() == VECTORS_OF[of]
        assert built(root, of, f"less-{of}").id == after.id
        add_removals(root, f"never-{of}", [key])
        never = built(root, of, f"never-{of}")
        assert never.fingerprint == after.fingerprint
        origins = [[part.made_from for part in one.parts] for one in (never, after)]
        assert origins[0] == origins[1], "so that its parts are taken over"
        config = BuildDatabase(root=root, name="x", shards="squares", of=of, **ENCODER)
        assert embedding_plan(config).parameters["of"] == of


# Who uses them


def test_a_text_finds_the_caption_it_says(root):
    _, value = search(SearchDatabase(root=root, database="text", texts=("a blue square",), k=2))
    assert value["of"] == "text"
    first = value["queries"][0]["found"][0]
    assert "a blue square" in first["captions"]


def test_a_map_says_what_is_laid_out(root, tmp_path):
    map_database(MapDatabase(root=root, database="text", out=tmp_path / "map.html"))
    assert "(64-d) of captions" in (tmp_path / "map.html").read_text()


def test_vectors_of_images_and_of_captions_are_not_compared(root):
    told, value = compare(CompareDatabases(root=root, one="image", other="text", k=2))
    assert "shift" not in value and "rows_changed" not in value
    assert "of something else: vectors are not compared" in told
    assert "rdm-shapes of images" in told and "rdm-shapes of captions" in told
    assert "neighbor_recall" in value, "the order of neighbors can be"
    _, same = compare(CompareDatabases(root=root, one="text", other="text", k=2))
    assert same["shift"]["mean_distance"] == 0


@pytest.mark.parametrize("of", ["text", "document"])
def test_copies_are_not_looked_for_among_captions(root, of):
    told = f"embeddings/{of}: its vectors are of .*copies of a picture.*--set of=image"
    for asked in ({"database": of}, {"database": "image", "other": of}):
        with pytest.raises(ArtifactMismatch, match=told):
            duplicates(FindDuplicates(root=root, cap=0.9, **asked))


def test_no_cap_is_calibrated_with_pictures_for_captions(root):
    asked = {"root": root, "name": "capped", "queries": "text", "database": "text", "k": 2}
    with pytest.raises(ArtifactMismatch, match="altered copies of pictures.*or give a number"):
        find_neighbors(FindNeighbors(**asked, score_cap="calibrated"))
    assert find_neighbors(FindNeighbors(**asked, score_cap=0.99)).rows == 11


def test_images_may_ask_a_database_of_documents(root):
    asked = {"queries": "image", "database": "document", "k": 3}
    assert find_neighbors(FindNeighbors(root=root, name="mixed", **asked)).rows == 11
