"""The tensors of a released file, read without running what is in it."""

import re
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors.torch import load_file

from rdm_core.errors import WeightsError


def read_checkpoint(path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors [*], of any type, of a .ckpt, .pt or .safetensors file, by name, on the CPU.

    Where the file has a "state_dict", these are its tensors. No code in the file is run. Raises
    WeightsError when the file is absent, cut short, not a table of tensors, or a pickle that asks
    for more than tensors.
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
    if not _is_table_of_tensors(state):
        raise WeightsError(
            path, "holds no table of tensors", "Give a file that holds a state_dict."
        )
    return dict(state)


def _is_table_of_tensors(state: Any) -> TypeGuard[dict[str, torch.Tensor]]:
    """Whether it maps names to tensors [*] alone, and at least one."""
    if not isinstance(state, dict) or not state:
        return False
    return all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def _unpickled(path: Path) -> Any:
    """What torch.save wrote, read without running code."""
    with path.open("rb") as file:
        # PK begins a zip, which can be mapped. The oldest format is a bare pickle: it is read
        # whole.
        mappable = file.read(2) == b"PK"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)


def _unreadable(path: Path, message: str) -> WeightsError:
    """The error for a file that cannot be read, made from the message of torch or safetensors."""
    # torch names the class that a pickle wants: "... GLOBAL module.Class was not an allowed ..."
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
    first_line = message.rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0][:200]
    cure = "Fetch the file again; .ckpt, .pt and .safetensors are read."
    return WeightsError(path, f"is no whole checkpoint ({first_line})", cure)
