"""What a study of emoji has trained -> the run that is part of this package, in half precision.

python -m benchmarks.ship_emoji --root data --run emoji-references
"""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from flows.config.arguments import root_argument
from rdm_core import emoji
from rdm_core.families import read_facts
from rdm_core.weights import halved, model_card
from storage.artifact import open_artifact


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="the run that is part of this package")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--run", required=True, help="the run that was trained")
    parser.add_argument("--out", type=Path, default=emoji.RUN, help="the weights folder")
    options = parser.parse_args()
    run = open_artifact(options.root, "runs", options.run)
    print(f"{ship(run.file('weights'), options.out):,} bytes in {options.out}")


def ship(weights: Path, out: Path) -> int:
    """Write a weights folder again, in half precision and without paths of this machine; what was
    at `out` is replaced. Returns its bytes.
    """
    facts = read_facts(weights)
    shutil.rmtree(out, ignore_errors=True)
    for file in sorted(weights.rglob("*")):
        target = out / file.relative_to(weights)
        if file.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            save_file(halved(load_file(file)), target)
            target.chmod(0o644)
        elif file.name == "config.json":
            content = json.loads(file.read_bytes())
            content.pop("_name_or_path", None)
            target.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
        elif file.name != "README.md":
            shutil.copyfile(file, target)
    card = model_card("emoji", facts, LICENCES)
    (out / "README.md").write_text(card, encoding="utf-8")
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


LICENCES = {"Apache-2.0": 1433, "CC-BY-4.0": 1433, "MIT": 1433}
"""Of the pictures it was trained on: Noto, Twemoji, Fluent, a picture a known concept."""


if __name__ == "__main__":
    main()
