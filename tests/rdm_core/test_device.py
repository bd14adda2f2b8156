"""The precision that a device computes fastest in."""

import pytest
import torch

from rdm_core import device
from rdm_core.device import usual_defaults


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


def test_what_the_caller_has_made_torchs_defaults_changes_nothing_and_is_back_afterwards():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with usual_defaults():
            assert torch.ones(1).dtype is torch.float32 and torch.ones(1).device.type == "cpu"
        assert torch.ones(1).dtype is torch.float64 and torch.ones(1).device.type == "meta"
        with pytest.raises(ZeroDivisionError), usual_defaults():
            raise ZeroDivisionError
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
