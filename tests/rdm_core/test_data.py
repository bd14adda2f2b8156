"""Training data: every sample once an epoch, joined with the right neighbors."""

import numpy as np
import pytest
import torch

from rdm_core.data import NO_ROW, TrainingData, rows_of_step
from rdm_core.errors import RequestError

M, D = 7, 4


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (10, 10), (3, 8), (12, 4), (1, 2)])
def test_every_epoch_is_a_permutation(count, batch):
    steps = count * 3
    rows = np.concatenate([rows_of_step(count, batch, step, seed=0) for step in range(steps)])
    for epoch in rows[: len(rows) // count * count].reshape(-1, count):
        assert sorted(epoch) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = (rows_of_step(100, 100, step, seed=0) for step in (0, 1))
    assert (first != second).any()
    assert (first != rows_of_step(100, 100, 0, seed=1)).any()
    assert (first != np.arange(100)).any()


def test_the_rows_of_a_step_depend_on_seed_and_step_alone():
    backwards = [rows_of_step(50, 8, step, seed=3) for step in reversed(range(30))]
    np.random.seed(1)
    forwards = [rows_of_step(50, 8, step, seed=3) for step in range(30)]
    np.testing.assert_array_equal(backwards[::-1], forwards)


def test_the_order_of_samples_does_not_depend_on_the_batch():
    by_8 = np.concatenate([rows_of_step(50, 8, step, seed=0) for step in range(15)])
    by_20 = np.concatenate([rows_of_step(50, 20, step, seed=0) for step in range(6)])
    np.testing.assert_array_equal(by_8, by_20)


@pytest.fixture
def data() -> TrainingData:
    """Six samples in parts of 1, 3 and 2 whose latents hold their number; a database of seven vectors in half precision."""
    latents = np.broadcast_to(np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1), (6, 2, 4, 4))
    rows = np.array([[0, 1, 2], [6, 5, 4], [3, NO_ROW, NO_ROW], [NO_ROW] * 3, [2, 2, 2], [5, 0, NO_ROW]])
    vectors = np.random.default_rng(0).standard_normal((M, D))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TrainingData([latents[:1], latents[1:4], latents[4:]], rows, vectors.astype(np.float16), np.arange(10, 10 + M))


def test_the_size_and_the_latent_shape_are_known(data):
    assert len(data) == 6
    assert data.latent_shape == (2, 4, 4)


def test_a_batch_joins_each_sample_with_its_own_neighbors(data):
    rows = np.array([5, 0, 3, 1, 1])
    batch = data.batch(rows, k=3)
    assert batch.raw.dtype == torch.uint8
    assert batch.raw[:, 0, 0, 0].tolist() == rows.tolist()
    near = data.neighbor_rows[rows]
    present = near != NO_ROW
    assert torch.equal(batch.mask, torch.from_numpy(present))
    np.testing.assert_allclose(batch.vectors.numpy()[present], data.vectors[near[present]], atol=1e-3)
    np.testing.assert_array_equal(batch.norms.numpy()[present], 10 + near[present])
    assert (batch.vectors.dtype, batch.norms.dtype) == (torch.float32, torch.float32)


def test_vectors_are_unit_again_after_half_precision_and_never_undefined(data):
    batch = data.batch(np.arange(6), k=3)
    torch.testing.assert_close(batch.vectors.norm(dim=-1), torch.ones(6, 3), rtol=0, atol=1e-6)


def test_a_batch_takes_the_k_nearest(data):
    whole, one = data.batch(np.arange(6), k=3), data.batch(np.arange(6), k=1)
    assert one.vectors.shape == (6, 1, D)
    assert torch.equal(one.vectors, whole.vectors[:, :1])
    assert torch.equal(one.mask, whole.mask[:, :1])


def test_more_neighbors_than_the_table_holds_are_refused(data):
    with pytest.raises(RequestError, match=r"k: 4 neighbors asked of a table that holds 3.*Use k=3"):
        data.batch(np.arange(6), k=4)


def test_a_sample_can_be_given_the_neighbors_of_another(data):
    rows, other = np.array([0, 1, 2]), np.array([5, 4, 3])
    mixed, theirs = data.batch(rows, 3, context_of=other), data.batch(other, 3)
    assert torch.equal(mixed.raw, data.batch(rows, 3).raw)
    for field in ("vectors", "norms", "mask"):
        assert torch.equal(getattr(mixed, field), getattr(theirs, field))


def test_memory_maps_are_read_row_by_row(tmp_path):
    file = np.memmap(tmp_path / "latents", dtype=np.float16, mode="w+", shape=(8, 2, 4, 4))
    file[:] = np.arange(8).reshape(8, 1, 1, 1)
    file.flush()
    mapped = np.memmap(tmp_path / "latents", dtype=np.float16, mode="r", shape=(8, 2, 4, 4))
    data = TrainingData([mapped], np.zeros((8, 1), int), np.eye(1, D, dtype=np.float16), np.ones(1))
    batch = data.batch(np.array([7, 2]), k=1)
    assert batch.raw.dtype == torch.float16
    assert batch.raw[:, 1, 3, 3].tolist() == [7, 2]
    batch.raw.add_(1)
    assert mapped[7, 0, 0, 0] == 7, "a batch is a copy"
