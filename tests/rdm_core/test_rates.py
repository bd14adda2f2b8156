"""Rates of this machine: what is measured is what is done."""

import io

import numpy as np
from PIL import Image

from rdm_core import rates
from rdm_core.rates import per_second


def test_a_rate_counts_what_is_done_in_the_time():
    calls = []
    rate = per_second(lambda: calls.append(1), 5, 0.05)
    assert rate > 5 * (len(calls) - 1) and len(calls) > 2


def test_what_is_imported_is_a_photograph_cut_as_asked():
    picture = Image.open(io.BytesIO(rates.photograph()))
    assert picture.size == (640, 480) and 20_000 < len(rates.photograph()) < 200_000
    cut = rates.windows_of(32, "random", 3, 64)
    windows = cut(np.asarray(picture))
    assert [window.shape for window in windows] == [(32, 32, 3)] * 3
    assert rates.import_rate(cut, "png", 95, 0.01) > 0


def test_the_search_of_all_grows_with_the_square_of_the_rows():
    few, many = (rates.search_seconds(rows, 16, 5) for rows in (1000, 100_000))
    assert 1000 < many / few < 100_000


def test_the_space_that_is_measured_has_the_form_of_the_one_that_is_meant():
    space = rates.usual_space("x")
    assert (space.channels, space.factor) == (4, 8)
    parameters = sum(weight.numel() for weight in space.autoencoder.parameters())
    assert parameters == 83_653_863, "what Stable Diffusion's autoencoder has"
    assert space.encode([np.zeros((64, 64, 3), np.uint8)]).shape == (1, 8, 8, 8)
