"""Everything that needs a GPU, in one command: training steps, embedding, the exact table,
sampling, and the demo's preset trained, judged and drawn.

    python -m benchmarks.on_gpu --minutes 8 --out FOLDER [--only PART ...]
    python -m benchmarks.on_gpu --minutes 4 --out FOLDER --only autoregressive

Each part runs in a process of its own within its share of the time, so that none takes the others
with it: one that fails, or does not end in time, is told as such. What is measured is written after
each part: FOLDER/on_gpu.json and FOLDER/on_gpu.html. A part that is late, and the one that runs
when this is ended, is killed with every process that it has started. Exits with 1 where a part
failed, or where nobody could say what device there is: then nothing is measured. On a machine
without a GPU it runs on the CPU, in sizes of a test.
"""

import argparse
import base64
import html
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_demo, gpu_entities, gpu_parts
from benchmarks.gpu_parts import Share

Tell = Callable[[dict[str, Any]], None]
Part = Callable[[Share], None]
PARTS: dict[str, tuple[Part, float]] = {
    "unet-400m": (gpu_parts.unet_400m, 0.17),
    "transformer-256": (gpu_parts.transformer_256, 0.13),
    "shapes": (gpu_parts.shapes, 0.1),
    "embedding": (gpu_parts.embedding, 0.08),
    "table": (gpu_parts.table, 0.12),
    "sampling": (gpu_parts.sampling, 0.1),
    "demo": (gpu_demo.demo, 0.3),
}
"""Name -> what is measured, and its share of the time. The last one has what the others leave."""


def knn(share: Share) -> None:
    """kNN-Diffusion at its large size, then its small preset trained."""
    gpu_parts.knn_256(share.piece(0.4, "knn-256"))
    gpu_demo.trained_preset("knn-shapes", share.piece(0.6, "knn-shapes"))


def autoregressive(share: Share) -> None:
    """RARM at its large size, then its small preset trained."""
    gpu_parts.rarm_2022(share.piece(0.4, "rarm-2022"))
    gpu_demo.trained_preset("rarm-shapes", share.piece(0.6, "rarm-shapes"))


def discrete(share: Share) -> None:
    """Discrete kNN-Diffusion at its large size, then its small preset trained."""
    gpu_parts.knn_discrete_256(share.piece(0.4, "knn-discrete-256"))
    gpu_demo.trained_preset("knn-discrete-shapes", share.piece(0.6, "knn-discrete-shapes"))


def references(share: Share) -> None:
    """Re-Imagen at its large size, then its small preset trained on entities."""
    gpu_parts.reimagen_256(share.piece(0.4, "reimagen-256"))
    gpu_entities.trained_on_entities("reimagen-shapes", share.piece(0.6, "reimagen-shapes"))


def multimodal(share: Share) -> None:
    """RA-CM3 at a large size, then its small preset trained on entities."""
    gpu_parts.ra_cm3_small_256(share.piece(0.4, "ra-cm3-small-256"))
    gpu_entities.trained_on_entities("cm3-shapes", share.piece(0.6, "cm3-shapes"))


OF_FAMILIES: dict[str, tuple[Part, float]] = {
    "knn": (knn, 0.5),
    "autoregressive": (autoregressive, 0.5),
    "discrete": (discrete, 0.5),
    "references": (references, 0.5),
    "multimodal": (multimodal, 0.5),
}
"""The other systems, measured where `--only` names them, with 4 minutes each."""
ENDED, FAILED = "ended", "failed"
"""What a process sends last."""
LATE_SECONDS = 45.0
"""What a part may need beyond its share, to end what it has begun."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument(
        "--only", nargs="+", choices=[*PARTS, *OF_FAMILIES], help="these parts alone"
    )
    parser.add_argument("--out", type=Path, default=Path("on_gpu"), help="where results go")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, ended)
    results = measure(options.only or list(PARTS), 60 * options.minutes, options.out)
    measured = {"machine": results["machine"], **results["parts"]}
    failed = [name for name, result in measured.items() if "failed" in result]
    print(f"{options.out / 'on_gpu.json'}, {options.out / 'on_gpu.html'}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def ended(number: int, frame: Any) -> None:
    """What SIGTERM does: this process ends on the way on which it kills the part that runs."""
    sys.exit(128 + number)


def measure(names: list[str], seconds: float, folder: Path) -> dict[str, Any]:
    """Run some parts within so many seconds; results are written after each."""
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": in_a_process(machine, 60.0), "parts": {}}
    if "failed" in results["machine"]:
        # Sizes of a test would be told as what the GPU gives.
        print(json.dumps(results["machine"], indent=2), flush=True)
        write(results, folder)
        return results
    device = results["machine"]["device"]
    deadline = time.monotonic() + seconds
    parts = PARTS | OF_FAMILIES
    for number, name in enumerate(names):
        part, part_share = parts[name]
        left = max(0.0, deadline - time.monotonic())
        waiting = sum(parts[later][1] for later in names[number:])
        allowed = left * part_share / waiting
        share = partial(Share, device, allowed, device == "cpu", folder)
        print(f"{name}: {allowed:.0f} s ...", flush=True)
        result = in_a_process(lambda tell, part=part, share=share: part(share(tell)), allowed)
        results["parts"][name] = result
        print(json.dumps(result, indent=2), flush=True)
        write(results, folder)
    return results


def write(results: dict[str, Any], folder: Path) -> None:
    """on_gpu.json and on_gpu.html."""
    (folder / "on_gpu.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    (folder / "on_gpu.html").write_text(page(results, folder), "utf-8")


def machine(tell: Tell) -> None:
    """What is measured on. Asked in a process of its own: this one must not use the GPU before
    others are forked from it.
    """
    gpu = torch.cuda.is_available()
    tell({"device": "cuda" if gpu else "cpu", "torch": torch.__version__})
    tell({"name": torch.cuda.get_device_name() if gpu else "CPU, in sizes of a test"})


def in_a_process(part: Callable[[Tell], None], seconds: float) -> dict[str, Any]:
    """Every figure that a part has told, and the seconds it took; with "failed": why, where it did
    not come to its end.
    """
    began = time.monotonic()
    context = multiprocessing.get_context("fork")  # torch is imported already
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_part, args=(part, sender))
    process.start()
    sender.close()
    assert process.pid is not None, "it was started"
    lead_a_group(process.pid)
    figures: dict[str, Any] = {"failed": f"it did not end within {seconds + LATE_SECONDS:.0f} s"}
    try:
        # poll() is True as well where the process has died: then recv() raises EOFError
        while receiver.poll(max(0.0, began + seconds + LATE_SECONDS - time.monotonic())):
            told = receiver.recv()
            if told == ENDED:
                del figures["failed"]
            if told in (ENDED, FAILED):
                break
            figures |= told
    except EOFError:
        process.join()
        figures["failed"] = f"its process ended with {process.exitcode}"
    finally:  # SIGTERM and Ctrl-C come through here too
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return figures | {"seconds": round(time.monotonic() - began, 1)}


def lead_a_group(process: int) -> None:
    """Give a process a group of its own, with all that it starts; 0 is this one."""
    # Parent and child both say so: neither can know who comes first.
    with suppress(OSError):
        os.setpgid(process, process)


def run_part(part: Callable[[Tell], None], sender: Any) -> None:
    """In the process of a part: send what it tells, and why it fails if it does."""
    lead_a_group(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        part(sender.send)
        sender.send(ENDED)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the other parts go on
        traceback.print_exc()
        sender.send({"failed": f"{type(error).__name__}: {error}"})
        sender.send(FAILED)


def page(results: dict[str, Any], folder: Path) -> str:
    """One HTML page: a table a part, and the pictures that it names."""
    machine_name = html.escape(results["machine"].get("name", "unknown"))
    pieces = [
        "<!doctype html><meta charset='utf-8'><title>On a GPU</title>",
        "<style>body{font:16px sans-serif;margin:2em}td{padding:0 1em 0 0}</style>",
        f"<h1>{machine_name}</h1><p>torch {html.escape(results['machine'].get('torch', ''))}</p>",
    ]
    for name, result in results["parts"].items():
        pieces.append(f"<h2>{html.escape(name)}</h2><table>")
        for key, value in result.items():
            told = f"{value:,.4g}" if isinstance(value, float) else str(value)
            pieces.append(f"<tr><td>{html.escape(key)}</td><td>{html.escape(told)}</td></tr>")
        pieces.append("</table>")
        for key, value in result.items():
            if key.endswith("_picture"):
                data = base64.b64encode((folder / value).read_bytes()).decode()
                alt = html.escape(key)
                pieces.append(f"<p><img alt='{alt}' src='data:image/png;base64,{data}'></p>")
    return "\n".join(pieces) + "\n"


if __name__ == "__main__":
    main()
