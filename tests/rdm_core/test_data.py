"""Training data: every sample once an epoch, with the neighbors that were asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rdm_core.config import ContextConfig
from rdm_core.context import ABSENT, NEIGHBOR, QUERY, Context
from rdm_core.data import (
    NO_ROW,
    StoredLatents,
    TrainingData,
    rows_of_step,
    training_context,
)
from rdm_core.errors import RequestError

M, D = 7, 4
EVERY = slice(None)
OF_A_SLOT = ("vectors", "norms", "scores", "slots")


def rows_of_steps(count, batch, steps):
    """The samples of the first steps, one after the other [steps * batch]."""
    return np.concatenate([rows_of_step(count, batch, step, seed=0) for step in range(steps)])


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (10, 10), (3, 8), (12, 4), (1, 2)])
def test_every_epoch_is_a_permutation(count, batch):
    steps = count * 3
    rows = rows_of_steps(count, batch, steps)
    for epoch in rows[: len(rows) // count * count].reshape(-1, count):
        assert sorted(epoch) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = rows_of_step(100, 100, 0, seed=0), rows_of_step(100, 100, 1, seed=0)
    assert (first != second).any()
    assert (first != rows_of_step(100, 100, 0, seed=1)).any()
    assert (first != np.arange(100)).any()


def test_the_rows_of_a_step_depend_on_seed_and_step_alone():
    backwards = [rows_of_step(50, 8, step, seed=3) for step in reversed(range(30))]
    np.random.seed(1)
    forwards = [rows_of_step(50, 8, step, seed=3) for step in range(30)]
    np.testing.assert_array_equal(backwards[::-1], forwards)


def test_the_order_of_samples_does_not_depend_on_the_batch():
    by_8, by_20 = rows_of_steps(50, 8, 15), rows_of_steps(50, 20, 6)
    np.testing.assert_array_equal(by_8, by_20)


@pytest.fixture
def data() -> TrainingData:
    """Six samples in parts of 1, 3 and 2 whose latents hold their number; a database of seven
    vectors in half precision.
    """
    latents = np.broadcast_to(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), (6, 2, 4, 4))
    rows = np.array(
        [[0, 1, 2], [6, 5, 4], [3, NO_ROW, NO_ROW], [NO_ROW] * 3, [2, 2, 2], [5, 0, NO_ROW]]
    )
    scores = np.where(rows == NO_ROW, -2, [0.9, 0.8, 0.7]).astype(np.float32)
    vectors, norms = unit(M, seed=0), np.arange(10, 10 + M)
    parts = StoredLatents([latents[:1], latents[1:4], latents[4:]])
    own = {"query_vectors": unit(6, seed=1), "query_norms": np.arange(20, 26)}
    return TrainingData(parts, rows, scores, vectors, norms, **own)


def unit(count: int, seed: int, dimension: int = D) -> np.ndarray:
    """Unit vectors in half precision, as they are stored."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def equal(a: Context, b: Context) -> bool:
    """Equal to the bit."""
    assert a.references is b.references is None
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in OF_A_SLOT)


# -- reading


def test_the_size_is_that_of_all_parts_and_each_sample_is_read_from_its_own(data):
    assert len(data) == 6
    rows = np.array([5, 0, 3, 1, 1])
    raw = data.raw(rows)
    assert (raw.dtype, raw.shape) == (torch.uint8, (5, 2, 4, 4))
    assert raw[:, 0, 0, 0].tolist() == rows.tolist()


def test_each_sample_has_its_own_neighbors(data):
    rows = np.array([5, 0, 3, 1, 1])
    context = data.neighbors(rows, k=3)
    near = data.neighbor_rows[rows]
    present = near != NO_ROW
    np.testing.assert_array_equal(context.slots, np.where(present, NEIGHBOR, ABSENT))
    np.testing.assert_allclose(
        context.vectors.numpy()[present], data.vectors[near[present]], atol=1e-3
    )
    np.testing.assert_array_equal(context.norms.numpy()[present], 10 + near[present])
    np.testing.assert_array_equal(
        context.scores.numpy()[present], data.neighbor_scores[rows][present]
    )
    assert {context.vectors.dtype, context.norms.dtype, context.scores.dtype} == {torch.float32}


def test_vectors_are_unit_again_after_half_precision_and_never_undefined(data):
    context = data.neighbors(np.arange(6), k=3)
    torch.testing.assert_close(context.vectors.norm(dim=-1), torch.ones(6, 3), rtol=0, atol=1e-6)
    assert torch.isfinite(context.scores).all()


def test_the_k_nearest_are_taken(data):
    whole, one = data.neighbors(np.arange(6), k=3), data.neighbors(np.arange(6), k=1)
    for name in OF_A_SLOT:
        assert torch.equal(getattr(one, name), getattr(whole, name)[:, :1])


@pytest.mark.parametrize("how", [{"k": 4}, {"k": 2, "from_top": 4}])
def test_more_neighbors_than_the_table_holds_are_refused(how, data):
    with pytest.raises(
        RequestError, match=r"k: 4 neighbors asked of a table that holds 3.*Use k=3"
    ):
        context_of(data, **how)
    with pytest.raises(
        RequestError, match=r"k: 4 neighbors asked of a table that holds 3.*Use k=3"
    ):
        data.neighbors(np.arange(6), k=4)


def test_an_empty_slot_holds_nothing_and_any_order_of_places_will_do(data):
    context = data.context(np.array([0, 1]), np.array([[2, -1], [-1, 0]]))
    assert context.slots.tolist() == [[NEIGHBOR, ABSENT], [ABSENT, NEIGHBOR]]
    assert context.norms[0, 0] == 12
    assert context.norms[1, 1] == 16


def test_a_sample_s_own_vector_comes_first_or_is_absent_where_it_is_dropped(data):
    rows = np.array([4, 0])
    context = data.context(rows, np.zeros((2, 1), int), dropped_query=np.array([False, True]))
    assert context.slots.tolist() == [[QUERY, NEIGHBOR], [ABSENT, NEIGHBOR]]
    np.testing.assert_allclose(context.vectors[0, 0], data.query_vectors[4], atol=1e-3)
    assert context.norms[0].tolist() == [24, 12]
    assert context.scores[0].tolist() == pytest.approx([1, 0.9])


def test_losses_are_measured_with_the_samples_own_vectors_where_they_are_read(data):
    rows = np.array([4, 0])
    context, without = data.neighbors(rows, 2, with_query=True), data.neighbors(rows, 2)
    assert context.slots[:, 0].tolist() == [QUERY, QUERY]
    assert context.vectors.shape[1] == without.vectors.shape[1] + 1
    assert torch.equal(context.vectors[:, 1:], without.vectors)


def test_a_query_token_without_the_images_vectors_is_refused(data):
    with pytest.raises(
        RequestError, match=r"query: the training images' own vectors are absent.*Embed"
    ):
        context_of(replace(data, query_vectors=None), query_token=True, k=2)


def test_memory_maps_are_read_row_by_row(tmp_path):
    file = np.memmap(tmp_path / "latents", dtype=np.float16, mode="w+", shape=(8, 2, 4, 4))
    file[:] = np.arange(8).reshape(8, 1, 1, 1)
    file.flush()
    mapped = np.memmap(tmp_path / "latents", dtype=np.float16, mode="r", shape=(8, 2, 4, 4))
    one = np.zeros((8, 1), int)
    data = TrainingData(
        StoredLatents([mapped]),
        one,
        one.astype(np.float32),
        np.eye(1, D, dtype=np.float16),
        np.ones(1),
    )
    raw = data.raw(np.array([7, 2]))
    assert raw.dtype == torch.float16
    assert raw[:, 1, 3, 3].tolist() == [7, 2]
    raw.add_(1)
    assert mapped[7, 0, 0, 0] == 7, "what is read is a copy"


# -- what one step is given


def context_of(
    data: TrainingData,
    step: int = 0,
    *,
    query_token: bool = False,
    seed: int = 0,
    rows: np.ndarray | None = None,
    mine: slice = EVERY,
    **config,
) -> Context:
    """The contexts that a step draws for all samples, or for `rows`, with everything at rest that
    is not asked for.
    """
    config = ContextConfig(**({"neighbor_dropout": 0.0} | config))
    rows = np.arange(len(data)) if rows is None else rows
    return training_context(data, config, query_token, rows, seed, step, mine)


@pytest.fixture
def crowd() -> TrainingData:
    """2000 samples with the same eight neighbors, which have the norms 0..7; scores 0.99, 0.9,
    .. 0.4, 0.3.
    """
    count, scores = 2000, [0.99, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    rows, scores = np.tile(np.arange(8), (count, 1)), np.tile(np.float32(scores), (count, 1))
    own = {"query_vectors": unit(count, 1), "query_norms": np.full(count, 50)}
    latents = StoredLatents([np.zeros((count, 1))])
    return TrainingData(latents, rows, scores, unit(8, 0), np.arange(8), **own)


def places(context: Context) -> np.ndarray:
    """Which of the crowd's neighbors each slot holds [B, K], -1 for none."""
    return np.where(context.mask, context.norms, -1).astype(int)


def test_a_context_is_the_k_nearest_by_default(data, crowd):
    assert equal(context_of(data, k=2), data.neighbors(np.arange(6), 2))
    assert (places(context_of(crowd, k=4)) == [0, 1, 2, 3]).all()


def test_neighbors_are_drawn_among_the_top_and_every_one_of_them_is(crowd):
    drawn = places(context_of(crowd, k=2, from_top=5))
    assert (np.diff(drawn, axis=1) > 0).all(), "nearest first, none twice"
    counted = np.bincount(drawn.ravel(), minlength=8)
    assert (counted[5:] == 0).all()
    np.testing.assert_allclose(counted[:5] / 2000, 2 / 5, atol=0.05)
    assert len(np.unique(drawn, axis=0)) == 10, "every pair of five"


def test_a_top_of_k_is_the_k_nearest(crowd):
    assert equal(context_of(crowd, k=4, from_top=4), context_of(crowd, k=4))


def test_a_top_with_fewer_rows_than_k_gives_what_there_is(data):
    slots = context_of(data, k=2, from_top=3).slots
    np.testing.assert_array_equal((slots == NEIGHBOR).sum(dim=1), [2, 2, 1, 0, 2, 2])


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        (1.0, [0, 1, 2]),
        (0.95, [1, 2, 3]),
        (0.9, [1, 2, 3]),
        (0.45, [6, 7, -1]),
        (0.1, [-1, -1, -1]),
    ],
)
def test_near_duplicates_are_passed_over_for_the_next_nearest(cap, expected, crowd):
    assert (places(context_of(crowd, k=3, score_cap=cap)) == expected).all()


def test_the_top_is_counted_without_near_duplicates(crowd):
    drawn = places(context_of(crowd, k=2, from_top=3, score_cap=0.85))
    assert set(drawn.ravel()) == {2, 3, 4}


def test_random_k_keeps_the_nearest_and_draws_every_number_of_them_alike(crowd):
    drawn = places(context_of(crowd, k=4, random_k=True))
    counts = (drawn >= 0).sum(axis=1)
    np.testing.assert_allclose(
        np.bincount(counts, minlength=5) / 2000, [0, 0.25, 0.25, 0.25, 0.25], atol=0.03
    )
    for row, count in zip(drawn, counts, strict=True):
        assert (row[:count] == np.arange(count)).all()


def test_single_neighbors_are_left_out_at_the_share_asked_for(crowd):
    missing = places(context_of(crowd, k=4, each_neighbor_dropout=0.3)) == -1
    np.testing.assert_allclose(missing.mean(axis=0), 0.3, atol=0.03)
    assert missing.all(axis=1).mean() == pytest.approx(0.3**4, abs=0.01), "each on its own"


def test_queries_are_dropped_at_the_share_asked_for_and_neighbors_are_not(crowd):
    slots = context_of(crowd, k=4, query_token=True, query_dropout=0.3).slots.numpy()
    assert set(slots[:, 0]) == {QUERY, ABSENT}
    assert (slots[:, 0] == ABSENT).mean() == pytest.approx(0.3, abs=0.03)
    assert (slots[:, 1:] == NEIGHBOR).all()


@pytest.mark.parametrize("query_token", [False, True])
def test_whole_contexts_are_dropped_at_the_share_asked_for_the_query_too(query_token, crowd):
    mask = context_of(crowd, k=4, query_token=query_token, neighbor_dropout=0.3).mask
    assert mask.any(dim=1).float().mean() == pytest.approx(0.7, abs=0.03)
    assert torch.equal(mask.any(dim=1), mask.all(dim=1))
    assert not context_of(crowd, k=4, query_token=query_token, neighbor_dropout=1.0).mask.any()


def test_a_network_without_a_query_token_is_given_none(crowd):
    assert context_of(crowd, k=4, query_dropout=0.5).slots.unique().tolist() == [NEIGHBOR]


@pytest.mark.parametrize("length", [0.1, 0.5, 2.0])
def test_embedding_noise_has_the_length_asked_for_and_vectors_stay_unit(length, crowd):
    wide = replace(crowd, vectors=unit(8, 0, 1024), query_vectors=unit(2000, 1, 1024))
    rows = np.arange(50)
    noisy = context_of(wide, rows=rows, k=4, query_token=True, embedding_noise=length)
    clean = context_of(wide, rows=rows, k=4, query_token=True)
    torch.testing.assert_close(noisy.vectors.norm(dim=-1), torch.ones(50, 5))
    cosines = (noisy.vectors * clean.vectors).sum(dim=-1)
    expected = 1 / (1 + length**2) ** 0.5  # noise is all but orthogonal to the vector
    assert cosines.mean().item() == pytest.approx(expected, abs=0.01)
    assert cosines.std() > 0, "every vector has its own"
    for name in ("norms", "scores", "slots"):
        assert torch.equal(getattr(noisy, name), getattr(clean, name))


EVERYTHING = {
    "k": 3,
    "from_top": 6,
    "score_cap": 0.95,
    "random_k": True,
    "each_neighbor_dropout": 0.2,
    "query_dropout": 0.3,
    "neighbor_dropout": 0.2,
    "embedding_noise": 0.5,
    "query_token": True,
}


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_shares_of_all_processes_are_the_whole_batch(processes, crowd):
    rows, share = np.random.default_rng(0).permutation(2000)[:16], 16 // processes
    whole = context_of(crowd, rows=rows, **EVERYTHING)
    for number in range(processes):
        mine = slice(number * share, (number + 1) * share)
        assert equal(context_of(crowd, rows=rows, mine=mine, **EVERYTHING), whole.rows(mine))


def test_what_a_step_is_given_depends_on_seed_and_step_alone(crowd):
    first = context_of(crowd, step=3, **EVERYTHING)
    context_of(crowd, step=4, **EVERYTHING)
    np.random.seed(1)
    torch.manual_seed(1)
    drawn = torch.rand(1)
    assert equal(context_of(crowd, step=3, **EVERYTHING), first)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "the caller's randomness is left alone"
    for other in (
        context_of(crowd, step=4, **EVERYTHING),
        context_of(crowd, step=3, seed=1, **EVERYTHING),
    ):
        assert not torch.equal(other.slots, first.slots)
        assert not torch.equal(other.vectors, first.vectors)
