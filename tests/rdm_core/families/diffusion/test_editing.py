"""A network that is given a picture: it begins as the one it is made from, trains on pairs, and is
guided by each thing that it is given.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawing import contexts
from tiny import DIMENSION, TINY
from training import asked, assert_equal, run, weights

from rdm_core.config import ContextConfig
from rdm_core.context import ABSENT, NEIGHBOR, QUERY
from rdm_core.data import References, TrainingData, training_context
from rdm_core.errors import RequestError, WeightsError
from rdm_core.families.diffusion.config import Config, Draw, EditingConfig
from rdm_core.families.diffusion.draw import Guidance, _guided, queries_of
from rdm_core.families.diffusion.model import Diffusion, build, load
from rdm_core.families.diffusion.noise import FlowMatching
from rdm_core.families.facts import Reads, Shape
from rdm_core.families.family import Beside
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.train import step_inputs

SHAPE = Shape(3, 8, DIMENSION)
ANY_FIT = {"picture": True, "least_correlation": -1.0}
NETWORKS = {
    "transformer": TINY["transformer"],
    "unet": TINY["unet"],
    "detail head": replace(TINY["transformer"], detail_channels=4),
}


def model(network: str = "transformer", seed: int = 0, **editing) -> Diffusion:
    """A model in pixel space whose every parameter is away from zero but the picture's channels."""
    denoiser = replace(NETWORKS[network], query_token=True)
    config = Config(denoiser=denoiser, editing=EditingConfig(**editing))
    made = build(config, SHAPE, load_latent_space(PIXELS), seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name not in ("denoiser.network.pos_embed.proj.weight",
                            "denoiser.network.conv_in.weight"):  # fmt: skip
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture
def data(tiny_data) -> TrainingData:
    """Training images that are their own neighbors' images."""
    made = tiny_data(k=4)
    return replace(made, neighbor_images=References(made.latents, np.arange(len(made))))


def inputs_of(made: Diffusion, data: TrainingData, mine: slice = slice(None), batch: int = 8):
    """What a step of `batch` samples is computed from."""
    how = asked(batch=batch)
    return step_inputs(made, data, how["config"], how["context"], 3, mine)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_with_a_picture_begins_as_the_one_it_is_made_from(network):
    drawing, editing = model(network), model(network, seed=1, **ANY_FIT)
    editing.begin_with(drawing)
    x, times, given = torch.randn(3, 3, 8, 8), torch.tensor([1.0, 500, 900]), contexts(3)
    picture = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        expected = drawing.denoiser(x, times, given)
        assert torch.equal(editing.denoiser(x, times, given), expected)
        assert torch.equal(editing.denoiser(x, times, given, picture), expected)
        editing.denoiser.entry.weight[:, 3:] += 0.1
        assert not torch.equal(editing.denoiser(x, times, given, picture), expected)
        assert torch.equal(editing.denoiser(x, times, given), expected), "there is none"
    again = model(network, seed=2, **ANY_FIT)
    again.begin_with(editing)
    assert_equal(weights(again), weights(editing))
    with pytest.raises(RequestError, match="start_from"):
        drawing.begin_with(editing)


def test_the_channels_of_a_picture_are_zero_in_a_fresh_network_too():
    for network in ("transformer", "unet"):
        config = Config(denoiser=NETWORKS[network], editing=EditingConfig(picture=True))
        entry = build(config, SHAPE, seed=0).denoiser.entry.weight
        assert entry.shape[1] == 7 and not entry[:, 3:].any() and entry[:, :3].any()


def test_what_a_training_without_a_picture_draws_is_what_it_always_was(data):
    plain, rows = model(), np.arange(8)
    generator, expected = (torch.Generator().manual_seed(5) for _ in range(2))
    context = data.neighbors(rows, 2)
    inputs = plain.inputs(data, rows, slice(None), context, generator)
    assert inputs.picture is None and plain.reads == Reads(query=True)
    plain.process.draw_times(8, expected)
    for _ in range(2):
        torch.randn(8, 3, 8, 8, generator=expected)
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(1, generator=expected))
    editing = model(**ANY_FIT)
    with_picture = editing.inputs(
        data, rows, slice(None), context, torch.Generator().manual_seed(5)
    )
    for name in ("clean", "noise", "times"):
        assert torch.equal(getattr(with_picture, name), getattr(inputs, name)), name


@pytest.mark.parametrize("processes", [2, 4])
def test_the_pictures_of_all_processes_are_those_of_the_whole_step(processes, data):
    editing, share = model(**ANY_FIT, blend_share=0.5), 8 // processes
    whole = inputs_of(editing, data).picture
    parts = [slice(i * share, (i + 1) * share) for i in range(processes)]
    assert torch.equal(torch.cat([inputs_of(editing, data, mine).picture for mine in parts]), whole)
    assert whole.shape == (8, 4, 8, 8) and whole[:, 3].unique().tolist() == [0, 1]


def test_a_picture_that_is_left_out_is_zero_and_one_that_is_there_says_so(data):
    none = inputs_of(model(**ANY_FIT, picture_dropout=1), data).picture
    assert not none.any()
    itself = inputs_of(model(**ANY_FIT, picture_dropout=0, identity_share=1), data)
    assert torch.equal(itself.picture[:, :3], itself.clean) and (itself.picture[:, 3] == 1).all()
    radii = {"radius_least": 1, "radius_most": 1, "soft_edge": 0, "blend_share": 0}
    other = inputs_of(
        model(**ANY_FIT, **radii, picture_dropout=0, identity_share=0, align="none"), data, batch=16
    )
    shows = [torch.equal(a[:3], b) for a, b in zip(other.picture, other.clean, strict=True)]
    assert not all(shows), "others than the first neighbor, which is the image itself here"


def test_training_to_edit_wants_the_images_themselves(tiny_data):
    with pytest.raises(RequestError, match="editing: .*Encode both with stored=pixels"):
        inputs_of(model(**ANY_FIT), tiny_data(k=4))


def test_a_training_that_edits_resumes_to_the_bit(data, peak):
    whole = run(model(**ANY_FIT), data)
    begun = run(model(**ANY_FIT), data, stop_after=3)
    ended = run(model(seed=1, **ANY_FIT), data, resume=(3, begun.states[3]))
    assert_equal(ended.states[6], whole.states[6])
    moved = whole.states[6]["weights/denoiser.network.pos_embed.proj.weight"]
    assert moved[:, 3:].any(), "what is learned of the picture"


def test_a_query_can_be_trained_alone_and_unasked_for_nothing_changes(data):
    rows, every = np.arange(8), slice(None)

    def context(with_query=True, **changed):
        how = ContextConfig(k=3, embedding_noise=0.2, neighbor_dropout=0, **changed)
        return training_context(data, how, with_query, rows, 0, 0, every)

    alone, usual = context(query_alone=1.0), context()
    assert (alone.slots[:, 0] == QUERY).all() and (alone.slots[:, 1:] == ABSENT).all()
    assert (usual.slots[:, 1:] == NEIGHBOR).all()
    without_query = context(with_query=False, query_alone=1.0)
    assert (without_query.slots == NEIGHBOR).all()
    some = context(query_alone=0.5).slots[:, 1]
    assert 0 < (some == ABSENT).sum() < 8


def test_its_weights_come_back_and_those_of_another_kind_are_refused(tmp_path):
    editing = model(**ANY_FIT)
    editing.save_weights(tmp_path)
    config = Config(denoiser=editing.denoiser.config, editing=editing.editing)
    facts, space = SimpleNamespace(shape=SHAPE), editing.space
    assert_equal(load(tmp_path, config, facts, space).state_dict(), editing.state_dict())
    told = "its network has 7 input channels, and its facts say 3"
    with pytest.raises(WeightsError, match=told):
        load(tmp_path, replace(config, editing=EditingConfig()), facts, space)


class Counting(torch.nn.Module):
    """Answers with a number for what it is given, and counts how often it is asked."""

    dimension = DIMENSION

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def forward(self, x, time, context, picture=None):
        kinds = {kind for kind in (QUERY, NEIGHBOR) if (context.slots == kind).any()}
        given = (picture is not None, QUERY in kinds, NEIGHBOR in kinds)
        self.asked.append(given)
        return torch.full_like(x, float(np.dot((1, 10, 100), given)))


def with_query(count: int):
    """Contexts whose first slot is a query."""
    given = contexts(count)
    slots = given.slots.clone()
    slots[:, 0] = QUERY
    return replace(given, slots=slots)


@pytest.mark.parametrize(
    ("picture", "query", "neighbors", "evaluations"),
    [
        (1.0, 1.0, None, 1), (1.0, 2.0, None, 2), (1.0, 2.0, 2.0, 2), (1.0, 2.0, 3.0, 3),
        (1.5, 2.0, 3.0, 4), (2.0, 2.0, 2.0, 2), (0.0, 2.0, 0.0, 3), (1.0, 0.0, 0.0, 1),
    ],
)  # fmt: skip
def test_each_thing_that_is_given_has_a_scale_of_its_own(picture, query, neighbors, evaluations):
    network, x = Counting(), torch.zeros(2, 3, 8, 8)
    guidance = Guidance(query, neighbors=neighbors, picture=picture)
    given = torch.ones(2, 4, 8, 8)
    predict = _guided(network, FlowMatching(), with_query(2), guidance, given)
    expected = picture * 1 + query * 10 + (query if neighbors is None else neighbors) * 100
    assert predict(x, 0.5).unique().tolist() == [pytest.approx(expected)]
    assert len(network.asked) == evaluations
    narrow = replace(guidance, interval=(0.6, 1.0))
    network.asked.clear()
    outside = _guided(network, FlowMatching(), with_query(2), narrow, given)
    assert outside(x, 0.5).unique().tolist() == [111] and network.asked == [(True, True, True)]


def test_neighbors_have_a_scale_of_their_own_without_a_picture_too():
    network, x = Counting(), torch.zeros(2, 3, 8, 8)
    guidance = Guidance(2.0, neighbors=0.5)
    predict = _guided(network, FlowMatching(), with_query(2), guidance)
    assert predict(x, 0.5).unique().tolist() == [pytest.approx(2 * 10 + 0.5 * 100)]
    assert (queries_of(with_query(2)).slots[:, 1:] == ABSENT).all()


def draw(made: Diffusion, count: int, first: int = 0, picture: int | None = 9, **how) -> np.ndarray:
    """A few steps from contexts and a picture to images."""
    given = None
    if picture is not None:
        given = np.random.default_rng(picture).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    rows = slice(first, first + count)
    settings = Draw(steps=3, **how)
    seeds = range(first, first + count)
    return made.draw(with_query(6).rows(rows), seeds, settings, Beside(picture=given))


def moved() -> Diffusion:
    """A model whose picture's channels count."""
    editing = model(**ANY_FIT)
    with torch.no_grad():
        editing.denoiser.entry.weight[:, 3:] += 0.1 * torch.randn(32, 4, 4, 4)
    return editing


def test_an_edit_depends_on_its_picture_and_its_own_seed_alone():
    editing = moved()
    together = draw(editing, 5)
    assert together.shape == (5, 8, 8, 3)
    np.testing.assert_array_equal(draw(editing, 2, first=2), together[2:4])
    assert (draw(editing, 5, picture=8) != together).any()
    assert (draw(editing, 5, picture=None) != together).any()
    assert (draw(editing, 5, picture_scale=3.0) != together).any()
    assert (draw(editing, 5, neighbor_scale=0.0) != together).any()
    np.testing.assert_array_equal(draw(editing, 5, neighbor_scale=2.0), together)


def test_each_image_may_have_a_picture_of_its_own():
    editing, how = moved(), Draw(steps=3)
    pictures = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    together = editing.draw(with_query(3), range(3), how, Beside(picture=pictures))
    for i in range(3):
        rows = slice(i, i + 1)
        given = Beside(picture=pictures[i])
        alone = editing.draw(with_query(3).rows(rows), [i], how, given)
        np.testing.assert_array_equal(alone[0], together[i])


def test_what_cannot_be_edited_is_refused():
    with pytest.raises(RequestError, match=r"edit: .*no input channels.*editing.picture=true"):
        draw(model(), 1)
    with pytest.raises(RequestError, match=r"picture_scale: is 2, and no picture is given"):
        draw(moved(), 1, picture=None, picture_scale=2.0)
    with pytest.raises(RequestError, match=r"weaker_run and neighbor_scale"):
        moved().draw(with_query(1), [0], Draw(neighbor_scale=1.0), Beside(weaker=moved()))
    without = with_query(1)
    without.slots[:] = NEIGHBOR
    with pytest.raises(RequestError, match=r"neighbor_scale: is 3, and there is no query"):
        moved().draw(without, [0], Draw(neighbor_scale=3.0))
