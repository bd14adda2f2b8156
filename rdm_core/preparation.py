"""From stored images to a network's input: decoded fast, resized as uint8, sent as uint8,
normalised where the network is.

open_clip's own transform works on Pillow images and floats: three times the work on the host, four
times the bytes.
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

Thing = TypeVar("Thing")
Made = TypeVar("Made")
_END: Any = object()
_JPEG_HEAD = b"\xff\xd8\xff"


def decode_stored(data: bytes) -> np.ndarray:
    """The pixels uint8 [H, W, 3] of an image that this project stored: upright RGB of known size,
    checked when imported.

    JPEG by libjpeg-turbo straight into memory. What that refuses is decoded, or rejected with its
    reason, by `rdm_core.decode.decode`, as every other format is.
    """
    if data.startswith(_JPEG_HEAD):
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
    """Let the calling thread compute alone. torch.set_num_threads would say so to every thread that
    starts later, too.
    """
    threadpool_limits(1, user_api="openmp")


@dataclass(frozen=True)
class Preparation:
    """What an image tower wants of its input."""

    size: tuple[int, int]
    """Height and width in pixels."""
    squash: bool
    """Both sides are scaled to the size; else the shorter one is, and the middle is cut out."""
    mean: tuple[float, ...]
    """Of the channels, taken off."""
    std: tuple[float, ...]
    """Of the channels, divided by."""

    def resized(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """uint8 images [H, W, 3] of any sizes -> uint8 [N, 3, h, w]: bicubic, antialiased, on the
        CPU.
        """
        return torch.stack(
            [self._resized(torch.from_numpy(image).permute(2, 0, 1)) for image in images]
        )

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, h, w] -> float32, on the device they are on."""
        scale = [255 * std for std in self.std]
        shift = torch.tensor([255 * mean for mean in self.mean], device=images.device)
        return (images.float() - shift[:, None, None]) / torch.tensor(scale, device=images.device)[
            :, None, None
        ]

    def _resized(self, image: torch.Tensor) -> torch.Tensor:
        """One image [3, H, W] -> [3, h, w], with open_clip's (that is torchvision's) roundings."""
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
    """What `work` makes of each value, in their order, made by other threads while those before are
    used.

    One thread reads the values, `threads` work on them; at most `threads` + 1 results wait.
    """
    unread = iter(values)
    # Each of these threads would start one more a core for every image, which the encoder's own
    # then wait for.
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(threads, initializer=one_thread) as pool,
    ):

        def made(read: Future[Any]) -> Any:
            return _END if read.result() is _END else work(read.result())

        coming = deque(
            pool.submit(made, reader.submit(next, unread, _END)) for _ in range(threads + 1)
        )
        while (result := coming.popleft().result()) is not _END:
            coming.append(pool.submit(made, reader.submit(next, unread, _END)))
            yield result


def preparation_of(preprocessing: Mapping[str, Any]) -> Preparation | None:
    """What open_clip's `preprocess_cfg` asks for; None where it is something else than bicubic to a
    square.
    """
    size = preprocessing["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = preprocessing["resize_mode"]
    if (
        preprocessing["interpolation"] != "bicubic"
        or mode not in ("shortest", "squash")
        or height != width
    ):
        return None
    return Preparation(
        (height, width), mode == "squash", tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    )
