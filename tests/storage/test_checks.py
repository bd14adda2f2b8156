"""Whether two artifacts belong together, told with both sides and the cure."""

import pytest

from storage.checks import (
    VECTORS,
    encoder_difference,
    encoder_text,
    images_missing,
    made_with,
    same_encoder,
    same_shards,
    same_vectors,
    shards_of,
    vectors_of_images,
)
from storage.embeddings import VECTORS_OF
from storage.errors import ArtifactMismatch

ENCODER = {
    "model": "ViT-B-32",
    "weights_sha256": "aaaa",
    "dimension": 512,
    "preprocessing": {"size": 224, "resized_as": "uint8"},
}


@pytest.fixture
def embeddings(make):
    """embeddings(name, ...) with ENCODER, some of its values replaced."""
    return lambda name, **changed: make(
        "embeddings", name, parameters={"encoder": ENCODER | changed}
    )


def test_two_artifacts_of_one_encoder_belong_together(embeddings):
    same_encoder(embeddings("a"), embeddings("b"))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "ViT-L-14"},
        {"weights_sha256": "bbbb"},
        {"dimension": 768},
        {"preprocessing": {"size": 224}},
    ],
)
def test_any_other_encoder_is_a_mismatch(changed, embeddings):
    with pytest.raises(ArtifactMismatch, match="different encoders"):
        same_encoder(embeddings("a"), embeddings("b", **changed))


def test_a_mismatch_of_encoders_names_both_and_the_cure(embeddings):
    with pytest.raises(ArtifactMismatch) as caught:
        same_encoder(embeddings("a"), embeddings("b", weights_sha256="bbbb", dimension=768))
    assert str(caught.value) == (
        "embeddings/a and embeddings/b: they come from different encoders: "
        "ViT-B-32 with weights aaaa (512-d), "
        "and ViT-B-32 with weights bbbb (768-d); these differ in dimension, weights_sha256. "
        "Embed one of them again with the other's encoder: "
        "rdm build --set encoder=... --set weights=..."
    )
    assert encoder_text(embeddings("a")) == "ViT-B-32 with weights aaaa (512-d)"


def test_what_differs_between_two_encoders_is_named_inside_their_preprocessing_too():
    older = ENCODER | {"preprocessing": {"size": 224}}
    assert encoder_difference(older, ENCODER) == encoder_difference(ENCODER, older) == "resized_as"
    assert encoder_difference(ENCODER, ENCODER) == ""


# What the vectors are of


@pytest.fixture
def of(make):
    """of("text") publishes embeddings called text, whose plan says so."""
    return lambda of: make("embeddings", of, parameters={"of": of, "encoder": ENCODER})


def test_everything_that_can_be_embedded_has_words_for_a_person(of):
    assert VECTORS.keys() == VECTORS_OF.keys()
    assert encoder_text(of("image")) == "ViT-B-32 with weights aaaa (512-d)"
    assert encoder_text(of("text")) == "ViT-B-32 with weights aaaa (512-d) of captions"


@pytest.mark.parametrize("one", VECTORS)
@pytest.mark.parametrize("other", VECTORS)
def test_vectors_of_the_same_go_together_and_others_are_told_with_both_and_the_cure(one, other, of):
    if one == other:
        same_vectors(of(one), other, "the run 'r'")
        return
    with pytest.raises(ArtifactMismatch) as caught:
        same_vectors(of(one), other, "the run 'r'")
    assert str(caught.value) == (
        f"embeddings/{one}: its vectors are of {VECTORS[one]}, those of the run 'r' of "
        f"{VECTORS[other]}. Name a database built with of={other}: "
        f"rdm build --name ... --set of={other}"
    )


def test_who_needs_vectors_of_images_refuses_others_with_the_reason_and_a_way_out(of, embeddings):
    vectors_of_images(of("image"), "why")
    vectors_of_images(embeddings("older"), "why")
    cure = "Embed the images under another name: rdm build --name ... --set of=image"
    for instead, told in (("", cure), ("give a number", f"{cure}; or give a number.")):
        with pytest.raises(ArtifactMismatch) as caught:
            vectors_of_images(of("text"), "copies are pictures", instead)
        assert str(caught.value) == (
            f"embeddings/text: its vectors are of captions; copies are pictures. {told}"
        )


def test_an_artifact_goes_with_the_input_it_records(make, embeddings):
    database = embeddings("a")
    made_with(
        make("neighbors", "n", inputs={"database": database.fingerprint}), "database", database
    )


@pytest.mark.parametrize("inputs", [{"database": "0" * 16}, {}, {"queries": "same"}])
def test_an_artifact_made_with_something_else_is_a_mismatch(inputs, make, embeddings):
    database = embeddings("a")
    inputs = dict(inputs)
    for role, value in inputs.items():
        if value == "same":
            inputs[role] = database.fingerprint
    neighbors = make("neighbors", "n", inputs=inputs)
    with pytest.raises(ArtifactMismatch) as caught:
        made_with(neighbors, "database", database)
    assert str(caught.value) == (
        f"neighbors/n: made with database {inputs.get('database')}, "
        f"while embeddings/a is {database.fingerprint}. "
        "Make it again, or name the version it was made with: a@<id>."
    )


# Shards


def one_byte(directory, part_name):
    (directory / part_name).write_bytes(b"1")


@pytest.fixture
def of_shards(make):
    """of_shards(kind, name, shards, ...) publishes a version of equal bytes for each of them."""

    def made(kind, name, *shards):
        return [make(kind, name, one_byte, inputs={"shards": one}) for one in shards]

    return made


def table_of(make, queries):
    return make("neighbors", "n", inputs={"queries": queries.fingerprint})


def test_latents_and_neighbors_of_the_same_shards_belong_together(tmp_path, make, of_shards):
    (queries,), (latents,) = of_shards("embeddings", "e", "s1"), of_shards("latents", "l", "s1")
    same_shards(tmp_path, latents, table_of(make, queries))


def test_any_version_with_the_bytes_of_queries_or_latents_is_right(tmp_path, make, of_shards):
    """A broken image comes and goes: the same vectors stand in two versions, of other shards."""
    queries = of_shards("embeddings", "e", "s1", "s2")
    latents = of_shards("latents", "l", "s1", "s2")
    assert len({artifact.fingerprint for artifact in queries}) == 1
    for of_one in latents:
        same_shards(tmp_path, of_one, table_of(make, queries[0]))


def test_latents_of_which_one_version_fits_belong_to_the_table(tmp_path, make, of_shards):
    (queries,), latents = of_shards("embeddings", "e", "s1"), of_shards("latents", "l", "s1", "s2")
    same_shards(tmp_path, latents[1], table_of(make, queries))


def test_another_name_with_the_same_bytes_hides_no_version_that_fits(tmp_path, make, of_shards):
    (queries,), (latents,) = of_shards("embeddings", "e", "s1"), of_shards("latents", "l", "s1")
    of_shards("embeddings", "z", "s9")
    same_shards(tmp_path, latents, table_of(make, queries))


def test_latents_and_neighbors_of_other_shards_are_a_mismatch_that_names_them(
    tmp_path, make, of_shards
):
    queries, (latents,) = of_shards("embeddings", "e", "s1", "s2"), of_shards("latents", "l", "s3")
    with pytest.raises(ArtifactMismatch) as caught:
        same_shards(tmp_path, latents, table_of(make, queries[0]))
    assert str(caught.value) == (
        "latents/l and neighbors/n: "
        "the latents come from shards s3, the neighbors from shards s1 or s2. "
        "Embed, find neighbors and encode again from one version of the shards."
    )
    orphan = make("neighbors", "o", inputs={"queries": "0" * 16})
    with pytest.raises(ArtifactMismatch, match="embeddings that are no longer under this root"):
        same_shards(tmp_path, latents, orphan)


def test_images_that_were_never_published_are_told_from_images_that_are_gone(tmp_path, make):
    images = make("shards", "a")
    built = make("embeddings", "built", inputs={"shards": images.fingerprint})
    gone = make("embeddings", "gone", inputs={"shards": "0000"})
    converted = make("embeddings", "converted")
    assert shards_of(tmp_path, built) == images
    assert shards_of(tmp_path, gone) is None and shards_of(tmp_path, converted) is None
    assert images_missing(gone)[0] == "no shards have the fingerprint 0000"
    what, cure = images_missing(converted)
    assert "never published" in what and "rdm import" in cure
