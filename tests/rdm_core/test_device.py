"""The precision that a device computes fastest in."""

import pytest

from rdm_core import device


@pytest.mark.parametrize(
    "name, times, chosen",
    [
        ("cpu", [1.0, 0.4], "bfloat16"),
        ("cpu", [1.0, 0.9], "float32"),
        ("cpu", [1.0, 10.0], "float32"),
    ],
)
def test_it_is_chosen_by_measuring_and_only_where_it_pays(monkeypatch, name, times, chosen):
    measured = iter(times)
    monkeypatch.setattr(device, "shortest_seconds", lambda work, most=0.0: next(measured))
    assert device.fastest_precision.__wrapped__(name) == chosen


def test_the_shortest_of_three_tries_counts_and_a_hopeless_one_ends_them():
    tries = []
    assert 0 <= device.shortest_seconds(lambda: tries.append(1)) < 1 and len(tries) == 4
    tries.clear()
    device.shortest_seconds(lambda: tries.append(1), most=0.0)
    assert len(tries) == 2, "one that does not count, and one that took too long"
