"""Threads share memory, first come, first served."""

import threading

import pytest

from rdm_core.memory import Room, all_memory_bytes


def test_the_sum_never_passes_the_total_and_everybody_gets_a_turn():
    room, held, most, lock = Room(100), [0], [0], threading.Lock()
    done = []

    def work(size):
        for _ in range(20):
            with room.holding(size):
                with lock:
                    held[0] += size
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= size
        done.append(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in (10, 30, 60, 90, 100, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == len(threads) and 1 <= most[0] <= 100


def test_two_that_fit_are_inside_together_and_a_third_waits():
    room, inside = Room(100), threading.Barrier(3, timeout=10)
    leave, late = threading.Event(), threading.Event()

    def hold():
        with room.holding(50):
            inside.wait()
            leave.wait(10)

    def come_late():
        with room.holding(1):
            late.set()

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait()
    third = threading.Thread(target=come_late)
    third.start()
    assert not late.wait(0.2)
    leave.set()
    assert late.wait(10)
    for thread in (*threads, third):
        thread.join(10)


def test_more_than_there_is_is_had_alone_and_an_error_gives_it_back():
    room = Room(100)
    with pytest.raises(ValueError), room.holding(10**12):
        raise ValueError
    with room.holding(10**12):
        pass


def test_this_machine_has_memory():
    assert 2**28 < all_memory_bytes() < 2**50
