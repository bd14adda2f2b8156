"""Which device to compute on, and in which precision, when nobody has said."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def usual_defaults() -> Iterator[None]:
    """float32 on the CPU where nothing else is said, whatever the caller has made torch's defaults:
    weights that are read in float64 would be taken for altered ones. Theirs are back afterwards.
    """
    kind, device = torch.get_default_dtype(), torch.get_default_device()
    on_cpu = device.type == "cpu"
    torch.set_default_dtype(torch.float32)
    if not on_cpu:
        torch.set_default_device("cpu")
    try:
        yield
    finally:
        torch.set_default_dtype(kind)
        if not on_cpu:
            torch.set_default_device(device)


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 with its whole mantissa on a GPU too, whose convolutions take 10 bits of it (TF32)
    unless told otherwise; in no lower precision that the caller has asked for. Theirs is back
    afterwards.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = allowed


PRODUCT = 1024
"""Rows and columns of the matrices that a CPU's precisions are compared with."""
PAYS = 1.5
"""Ratio of speeds from which on less precision is worth it."""


@cache
def fastest_precision(device: str) -> str:
    """The precision in which a device multiplies fastest, measured once a process: "float16" on a
    GPU and "bfloat16" on a CPU where that is at least PAYS times as fast as "float32", else that.

    A CPU without arithmetic of its own for bfloat16 is slower with it than with float32.
    """
    reduced = "float16" if device.startswith("cuda") else "bfloat16"
    side = PRODUCT if device == "cpu" else 4 * PRODUCT  # a GPU is done with less before it is asked
    plain = torch.randn(side, side, device=device)
    small = plain.to(getattr(torch, reduced))
    seconds = shortest_seconds(lambda: (plain @ plain)[0, 0].item())
    return (
        reduced
        if shortest_seconds(lambda: (small @ small)[0, 0].item(), most=seconds) < seconds / PAYS
        else "float32"
    )


def shortest_seconds(work: Callable[[], object], most: float = float("inf")) -> float:
    """The shortest of three tries after one that does not count; one is enough once it took longer
    than `most`.
    """
    work()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
        if times[-1] > most:
            break
    return min(times)


def best_device() -> torch.device:
    """The first CUDA device if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
