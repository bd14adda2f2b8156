"""Whether two artifacts belong together, told with both sides and the cure."""

import pytest

from storage.checks import encoder_difference, encoder_text, made_with, same_encoder
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
    return lambda name, **changed: make("embeddings", name, parameters={"encoder": ENCODER | changed})


def test_two_artifacts_of_one_encoder_belong_together(embeddings):
    same_encoder(embeddings("a"), embeddings("b"))


@pytest.mark.parametrize(
    "changed", [{"model": "ViT-L-14"}, {"weights_sha256": "bbbb"}, {"dimension": 768}, {"preprocessing": {"size": 224}}]
)
def test_any_other_encoder_is_a_mismatch(changed, embeddings):
    with pytest.raises(ArtifactMismatch, match="different encoders"):
        same_encoder(embeddings("a"), embeddings("b", **changed))


def test_a_mismatch_of_encoders_names_both_and_the_cure(embeddings):
    with pytest.raises(ArtifactMismatch) as caught:
        same_encoder(embeddings("a"), embeddings("b", weights_sha256="bbbb", dimension=768))
    assert str(caught.value) == (
        "embeddings/a and embeddings/b: they come from different encoders: ViT-B-32 with weights aaaa (512-d), "
        "and ViT-B-32 with weights bbbb (768-d); these differ in dimension, weights_sha256. "
        "Embed one of them again with the other's encoder: "
        "rdm build --set encoder=... --set weights=..."
    )
    assert encoder_text(embeddings("a")) == "ViT-B-32 with weights aaaa (512-d)"


def test_what_differs_between_two_encoders_is_named_inside_their_preprocessing_too():
    older = ENCODER | {"preprocessing": {"size": 224}}
    assert encoder_difference(older, ENCODER) == encoder_difference(ENCODER, older) == "resized_as"
    assert encoder_difference(ENCODER, ENCODER) == ""


def test_an_artifact_goes_with_the_input_it_records(make, embeddings):
    database = embeddings("a")
    made_with(make("neighbors", "n", inputs={"database": database.fingerprint}), "database", database)


@pytest.mark.parametrize("inputs", [{"database": "0" * 16}, {}, {"queries": "same"}])
def test_an_artifact_made_with_something_else_is_a_mismatch(inputs, make, embeddings):
    database = embeddings("a")
    inputs = {role: database.fingerprint if value == "same" else value for role, value in inputs.items()}
    neighbors = make("neighbors", "n", inputs=inputs)
    with pytest.raises(ArtifactMismatch) as caught:
        made_with(neighbors, "database", database)
    assert str(caught.value) == (
        f"neighbors/n: made with database {inputs.get('database')}, while embeddings/a is {database.fingerprint}. "
        "Make it again, or name the version it was made with: a@<id>."
    )
