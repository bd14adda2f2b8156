"""Features by name: the oracle, an open_clip tower, a timm network from a file."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from rdm_core.errors import EncoderError
from rdm_core.features import check_features, load_features
from rdm_core.shapes.oracle import FEATURES, load_oracle

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def test_the_oracle_is_the_judge_of_the_built_in_world():
    np.testing.assert_array_equal(load_features("oracle")(IMAGES), load_oracle().features(IMAGES))
    assert load_features("oracle")(IMAGES).shape == (3, FEATURES)


def test_a_clip_gives_unit_vectors():
    vectors = load_features("clip:rdm-shapes:built-in")(IMAGES)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("classes", [0, 1000])
def test_a_timm_network_is_filled_from_a_file_with_a_classifier_or_without(tmp_path, classes):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=classes).eval()
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    network.reset_classifier(0)
    save_file(state, tmp_path / "w.safetensors")
    features = load_features(f"timm:test_resnet:{tmp_path / 'w.safetensors'}")
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(network), is_training=False
    )
    from PIL import Image

    with torch.no_grad():
        inputs = [transform(Image.fromarray(image)) for image in IMAGES]
        expected = network(torch.stack(inputs)).numpy()
    np.testing.assert_allclose(features(IMAGES), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["clip:rdm-shapes:built-in", "timm:test_resnet"])
def test_features_are_computed_where_it_is_asked_for_and_not_on_a_gpu_beside(name, monkeypatch):
    monkeypatch.setattr("rdm_core.features.best_device", lambda: torch.device("meta"))
    resnet = timm.create_model("test_resnet", num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: resnet)
    assert load_features(name, torch.device("cpu"))(IMAGES).shape[0] == 3
    if name.startswith("timm"):
        load_features(name)
        assert next(resnet.parameters()).is_meta


@pytest.mark.parametrize(
    "name",
    ["inception", "clip:", "timm:", "timm:no_such_network:", "timm:test_resnet:absent.safetensors"],
)
def test_features_that_there_are_not_are_refused_with_the_cure(name):
    with pytest.raises(EncoderError, match="Give 'oracle', clip:MODEL:WEIGHTS, timm:MODEL"):
        load_features(name)


def test_a_name_of_no_kind_is_refused_and_a_good_one_passes_before_anything_is_loaded():
    for name in ("oracle", "clip:a:b", "timm:no_such_network"):
        check_features(name)
    for name in ("inception", "clip:", "timm:", "oracle:x"):
        with pytest.raises(EncoderError, match="there is no such kind. Give 'oracle'"):
            check_features(name)
