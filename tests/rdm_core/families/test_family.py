"""What is common to the models of all families: inputs in rows, weights that begin with others'."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny import EVERYTHING, TINY
from torch import nn

from rdm_core.context import Context
from rdm_core.errors import RequestError
from rdm_core.families.family import Inputs, Model, set_parameters

B, K, D = 5, 3, 4
WITH_EVERYTHING = replace(TINY["transformer"], **EVERYTHING)


@dataclass(frozen=True)
class Captioned(Inputs):
    """Inputs of a family that may do without some of them."""

    image: torch.Tensor
    """[B, 2, 2]."""
    caption: torch.Tensor | None = None
    """[B, 7]."""
    time: torch.Tensor | None = None
    """[B]."""


def drawn(caption: bool = False, references: bool = False) -> Captioned:
    """B samples, each with numbers of its own."""
    numbers = torch.arange(float(B))
    slots = torch.ones(B, K, dtype=torch.int8)
    latents = numbers.view(B, 1, 1, 1, 1).expand(B, K, 2, 3, 3) if references else None
    vectors, each = numbers.view(B, 1, 1).expand(B, K, D), numbers[:, None].expand(B, K)
    context = Context(vectors, each, each, slots, latents)
    image = numbers.view(B, 1, 1).expand(B, 2, 2)
    return Captioned(context, image, numbers[:, None].expand(B, 7) if caption else None, numbers)


# -- inputs


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        (slice(1, 4), [1, 2, 3]),
        (torch.tensor([4, 0]), [4, 0]),
        (slice(None), [0, 1, 2, 3, 4]),
        (slice(0, 0), []),
    ],
    ids=str,
)
def test_rows_of_inputs_are_rows_of_all_their_parts(chosen, numbers):
    found = drawn(caption=True, references=True).rows(chosen)
    assert isinstance(found, Captioned)
    assert len(found) == len(numbers)
    assert found.image[:, 1, 1].tolist() == found.caption[:, 6].tolist() == numbers
    assert found.time.tolist() == numbers
    assert found.context.vectors[:, 2, 3].tolist() == numbers
    assert found.context.references[:, 2, 1, 2, 2].tolist() == numbers


def test_what_inputs_do_without_they_do_without_in_every_row_and_everywhere():
    inputs = drawn()
    for found in (inputs.rows(slice(2, 3)), inputs.to(torch.device("cpu"))):
        assert found.caption is found.context.references is None
    assert inputs.rows(slice(2, 3)).time.tolist() == [2]


def test_inputs_are_moved_with_all_their_parts():
    found = drawn(caption=True, references=True).to(torch.device("meta"))
    of_context = [tensor for tensor in vars(found.context).values() if tensor is not None]
    tensors = (found.image, found.caption, found.time, *of_context)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


# -- models


class Parts(Model):
    """A model of some tensors."""

    family, space = "none", None

    def __init__(self, value: float = 0.0, mean: float = 0.0, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, value)))
        self.register_buffer("mean", torch.tensor([mean]))


def values(model: nn.Module) -> dict[str, list]:
    """Every parameter by name."""
    return {name: parameter.tolist() for name, parameter in model.named_parameters()}


def test_a_model_that_begins_with_another_has_all_that_it_learned_and_its_own_buffers():
    """Buffers tell of the data that a model is trained on: they are its own."""
    model, other = Parts(1.0, 1.0, a=(2,), b=(3, 1)), Parts(2.0, 2.0, b=(3, 1), a=(2,))
    model.begin_with(other)
    assert values(model) == {"a": [2, 2], "b": [[2]] * 3}
    assert model.mean == 1
    with torch.no_grad():
        other.a.add_(1)
    assert values(model)["a"] == [2, 2], "a copy"
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("config", [WITH_EVERYTHING, TINY["unet"]], ids=lambda c: c.network)
def test_a_diffusion_model_that_begins_with_another_has_every_weight_of_it(config, tiny_model):
    model, other = tiny_model(config), tiny_model(config, seed=5)
    assert not torch.equal(model.denoiser.null, other.denoiser.null)
    model.begin_with(other)
    for name, parameter in other.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


REFUSED = {
    "another shape": ({"a": (2,), "b": (3, 1)}, r"b is \[3, 1\] there and \[1, 3\] here"),
    "absent": ({"a": (2,)}, r"b is None there and \[1, 3\] here"),
    "extra": ({"a": (2,), "b": (1, 3), "c": (1,)}, "c has no place in this network"),
}


@pytest.mark.parametrize("how", list(REFUSED))
def test_a_model_of_another_network_is_refused_by_the_name_of_its_tensor(how):
    shapes, told = REFUSED[how]
    with pytest.raises(RequestError, match=f"start_from: {told}. Train the same network"):
        Parts(a=(2,), b=(1, 3)).begin_with(Parts(**shapes))


def test_a_denoiser_with_more_or_less_than_this_one_is_no_beginning(tiny_model):
    less, more = tiny_model(), tiny_model(WITH_EVERYTHING)
    with pytest.raises(RequestError, match="start_from: denoiser.query_null is None there and "):
        more.begin_with(less)
    with pytest.raises(
        RequestError, match=r"start_from: denoiser.\w+ has no place in this network"
    ):
        less.begin_with(more)


def test_parameters_are_set_by_name():
    model = Parts(a=(2,), b=(1,))
    set_parameters(model, {"b": np.array([3.0]), "a": np.array([1.0, 2.0]), "c": np.zeros(1)})
    assert values(model) == {"a": [1, 2], "b": [3]}
    with pytest.raises(KeyError, match="'b'"):
        set_parameters(model, {"a": np.zeros(2)})


def test_a_model_tells_its_size_its_device_and_where_it_works(tiny_model):
    model = Parts(a=(2,), b=(3, 1))
    model.a.requires_grad_(False)
    assert model.parameter_count == 3, "those that are learned"
    assert model.device == torch.device("cpu")
    with pytest.raises(RequestError, match="model: was built without a latent space"):
        _ = model.works_in
    assert tiny_model().works_in.name == "pixels"


def test_a_family_that_says_nothing_of_means_ignores_them():
    Parts(a=(1,)).set_means(np.zeros((2, D)))


def test_made_up_inputs_and_the_null_are_of_the_size_that_was_asked_for(tiny_config, tiny_model):
    model = tiny_model(tiny_config)
    inputs = model.example(3, 2, model.device)
    assert len(inputs) == 3
    assert inputs.context.vectors.shape == (3, 2, model.shape.dimension)
    assert inputs.context.mask.all()
    assert model(inputs).shape == (3,)
    null = model.null(3)
    assert null.vectors.shape[::2] == (3, model.shape.dimension)
    assert not null.mask.any()
