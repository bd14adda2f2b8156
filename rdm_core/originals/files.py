"""The tensors of a released file, read without running what is in it."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from rdm_core.errors import WeightsError


def read_checkpoint(path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a .ckpt, .pt or .safetensors file by name, on the CPU; of its "state_dict"
    where it has one.

    No code in the file is run. Raises WeightsError when the file is absent, cut short, not a table
    of tensors, or a pickle that asks for more than tensors.
    """
    path = Path(path)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except FileNotFoundError as error:
        raise WeightsError(
            path, "there is no such file", "Give the path of a released checkpoint."
        ) from error
    except Exception as error:  # a damaged file raises anything, from EOFError to KeyError
        raise _unreadable(path, str(error) or type(error).__name__) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    ):
        raise WeightsError(
            path, "holds no table of tensors", "Give a file that holds a state_dict."
        )
    return dict(state)


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        # a zip; the oldest format is a bare pickle, which has to be read whole
        mappable = file.read(2) == b"PK"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)


def _unreadable(path: Path, message: str) -> WeightsError:
    if wanted := re.search(r"GLOBAL ([\w.]+)", message):
        safe = path.with_name(f"{path.stem}-tensors.pt")
        load = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)['state_dict']"
        return WeightsError(
            path,
            f"its pickle asks for {wanted[1]}, and only tensors are unpickled here",
            "Only if you trust its maker, since this runs any code in it, "
            f"make {safe} where that class is installed, and "
            f'give that: python -c "import torch; torch.save({load}, {str(safe)!r})"',
        )
    first = message.rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0][:200]
    cure = "Fetch the file again; .ckpt, .pt and .safetensors are read."
    return WeightsError(path, f"is no whole checkpoint ({first})", cure)
