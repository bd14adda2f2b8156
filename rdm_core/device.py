"""The device and the precision to compute with, when none is given."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Make float32 and the CPU torch's defaults inside the block; afterwards the caller's are back.

    Weights that were read in float64 would have another hash.
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
    """Compute in true float32 inside the block; afterwards the caller's settings are back.

    By default a GPU's convolutions use only 10 bits of the mantissa (TF32). Autocast is off, too.
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
"""Side of the matrices with which the precisions of a CPU are compared."""
PAYS = 1.5
"""A lower precision is used only if it is this many times as fast."""


@cache
def fastest_precision(device: str) -> str:
    """The precision in which a device multiplies fastest, measured once a process.

    It is "float16" on a GPU, or "bfloat16" on a CPU, if that is at least PAYS times as fast as
    "float32". A CPU without instructions for bfloat16 is slower with it.
    """
    reduced = "float16" if device.startswith("cuda") else "bfloat16"
    side = PRODUCT if device == "cpu" else 4 * PRODUCT  # a GPU is too fast for smaller ones
    plain = torch.randn(side, side, device=device)
    small = plain.to(getattr(torch, reduced))
    seconds = shortest_seconds(lambda: (plain @ plain)[0, 0].item())  # .item() waits for a GPU
    reduced_seconds = shortest_seconds(lambda: (small @ small)[0, 0].item(), most=seconds)
    return reduced if reduced_seconds < seconds / PAYS else "float32"


def shortest_seconds(work: Callable[[], object], most: float = float("inf")) -> float:
    """The time of the fastest of three runs, after one that does not count.

    It stops after a run that took longer than `most` seconds.
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
