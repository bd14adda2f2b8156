"""From stored images to an image tower's input.

Images are decoded fast, resized and sent to the device as uint8, and normalised there. open_clip's
own transform works on Pillow images and floats: three times the work on the host, and four times
the bytes.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional

from rdm_core.decode import decode
from rdm_core.metadata import JPEG_HEAD

Thing = TypeVar("Thing")
Made = TypeVar("Made")
_END: Any = object()
"""Stands for the end of an iterator: no value is it."""


def decode_stored(data: bytes) -> np.ndarray:
    """The pixels uint8 [H, W, 3] of an image that this project stored: upright RGB of known size,
    checked when it was imported.

    libjpeg-turbo decodes a JPEG straight into memory. `rdm_core.decode.decode` decodes what that
    refuses, or rejects it with its reason, and decodes all other formats.
    """
    if data.startswith(JPEG_HEAD):
        from torchvision.io import ImageReadMode, decode_jpeg  # with torch's compiler: a second

        try:
            pixels = decode_jpeg(
                torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
            )
            return pixels.permute(1, 2, 0).contiguous().numpy()
        except RuntimeError:
            return decode(data)
    return decode(data)


def one_thread() -> None:
    """Let the calling thread compute with no other threads."""
    # torch.set_num_threads would change every thread that starts later, too.
    threadpool_limits(1, user_api="openmp")


@dataclass(frozen=True)
class Preparation:
    """How images are prepared for an image tower."""

    size: tuple[int, int]
    """Height and width of its input, (h, w), in pixels."""
    squash: bool
    """True: both sides are scaled to the size. False: the shorter side is, and the middle is cut
    out.
    """
    mean: tuple[float, ...]
    """Of each channel, in 0..1: subtracted."""
    std: tuple[float, ...]
    """Of each channel, in 0..1: what remains is divided by it."""

    def resized(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """N images uint8 [H, W, 3] of any sizes -> uint8 [N, 3, h, w]: bicubic, antialiased, on the
        CPU.
        """
        tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        return torch.stack([self._resized(tensor) for tensor in tensors])

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 [N, 3, h, w] -> float32 [N, 3, h, w], on the device that they are on."""
        shift = torch.tensor([255 * mean for mean in self.mean], device=images.device)
        scale = torch.tensor([255 * std for std in self.std], device=images.device)
        return (images.float() - shift[:, None, None]) / scale[:, None, None]

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        """One image uint8 [3, H, W] -> uint8 [3, h, w], rounded as open_clip (torchvision) does."""
        height, width = image.shape[1:]
        wanted_height, wanted_width = self.size
        if self.squash:
            size = self.size
        else:
            shorter, side = min(height, width), min(self.size)
            size = (side * height // shorter, side * width // shorter)
        if size != (height, width):
            image = functional.interpolate(image[None], size, mode="bicubic", antialias=True)[0]
        top, left = round((size[0] - wanted_height) / 2), round((size[1] - wanted_width) / 2)
        return image[:, top : top + wanted_height, left : left + wanted_width]


def ahead(
    work: Callable[[Thing], Made], values: Iterable[Thing], threads: int = 1
) -> Iterator[Made]:
    """Apply `work` to each value in other threads, and yield the results in order.

    One thread reads the values and `threads` work on them, while the caller uses the results. At
    most `threads` + 1 results wait.
    """
    unread = iter(values)
    # Without `one_thread` each worker would start one thread a core for every image, and the
    # encoder's own threads would wait for them.
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(threads, initializer=one_thread) as pool,
    ):

        def made(read: Future[Any]) -> Any:
            return _END if read.result() is _END else work(read.result())

        def start_next() -> None:
            waiting.append(pool.submit(made, reader.submit(next, unread, _END)))

        waiting: deque[Future[Any]] = deque()
        for _ in range(threads + 1):
            start_next()
        while (result := waiting.popleft().result()) is not _END:
            start_next()
            yield result


def preparation_of(preprocessing: Mapping[str, Any]) -> Preparation | None:
    """The preparation that open_clip's `preprocess_cfg` describes.

    None where it describes anything but a bicubic scaling to a square.
    """
    size = preprocessing["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = preprocessing["resize_mode"]
    is_bicubic = preprocessing["interpolation"] == "bicubic"
    if not is_bicubic or mode not in ("shortest", "squash") or height != width:
        return None
    return Preparation(
        (height, width), mode == "squash", tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    )
