"""A signal that asks to end is heard when what is done can be kept."""

import signal
from threading import Thread

import pytest

from flows.run.signals import POLITE, heard_later


class Ended(BaseException):
    """As KeyboardInterrupt, which pytest would hear."""


def end(*_):
    raise Ended


@pytest.fixture(autouse=True)
def ending():
    """Both signals end what runs; afterwards they are what they were."""
    before = [signal.signal(sign, end) for sign in POLITE]
    yield
    for sign, handler in zip(POLITE, before, strict=True):
        signal.signal(sign, handler)


@pytest.mark.parametrize("sign", POLITE)
def test_it_is_noted_in_the_block_and_given_again_at_its_end(sign):
    steps = []
    with pytest.raises(Ended), heard_later() as asked:
        steps.append(asked())
        signal.raise_signal(sign)
        steps.append(asked())
        raise ValueError("what stopped for it")
    assert steps == [False, True]
    assert [signal.getsignal(sign) for sign in POLITE] == [end, end]


def test_a_second_one_ends_at_once():
    steps = []
    with pytest.raises(Ended), heard_later():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        steps.append("went on")
    assert steps == []


def test_without_one_the_signals_are_what_they_were_and_ignored_ones_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with heard_later() as asked:
        signal.raise_signal(signal.SIGINT)
        assert not asked()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == end


def test_in_a_thread_nothing_is_noted_and_nothing_changed():
    told = []

    def work():
        with heard_later() as asked:
            told.append(asked())

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert told == [False] and signal.getsignal(signal.SIGTERM) == end
