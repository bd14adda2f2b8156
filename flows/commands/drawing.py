"""What the subcommands of `rdm` do that draw images, or write of them."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.commands import answers
from flows.commands.running import stage
from flows.config.arguments import UsageError, configured
from flows.run.terminal import Answer


def run_sample(options: argparse.Namespace) -> Answer:
    """rdm sample."""
    asked = {"texts": options.text, "images": options.image, "classes": options.class_name}
    return _drawn(options, "samples", answers.sampled, asked)


def _drawn(
    options: argparse.Namespace, name: str, show: Callable[[Any], Answer], asked: dict[str, Any]
) -> Answer:
    """Draw what is asked for, and copy the pictures to where --out says."""
    from flows.config.sample import SampleRDM

    flags = {"run": options.run, "database": options.database, "name": options.name or name}
    flags |= {"where": options.where}
    config = configured(options, SampleRDM, **flags, **asked)
    if options.out and not options.dry_run:
        # before the work, so that a wrong place is refused at once
        options.out.mkdir(parents=True, exist_ok=True)
    text, value = stage(options, config, "flows.model.sample", "sample_rdm", show)
    if options.out and not options.dry_run:
        for image in Path(value["directory"]).glob("*.png"):
            shutil.copyfile(image, options.out / image.name)
    return text, value


def run_edit(options: argparse.Namespace) -> Answer:
    """rdm edit."""
    image = _the_one(options.image, "that is to be changed")
    if not options.text:
        raise UsageError("--text: is needed: what the image is to show")
    asked: dict[str, Any] = {"edit": image, "texts": options.text}
    if options.strength is not None:
        asked["draw"] = {"guidance_scale": options.strength}
    return _drawn(options, "edits", answers.edited, asked)


def run_infill(options: argparse.Namespace) -> Answer:
    """rdm infill."""
    asked = {"inpaint": _the_one(options.image, "that is completed"), "mask": options.mask}
    asked |= {"texts": options.text} if options.text else {"images": options.image}
    return _drawn(options, "infilled", answers.sampled, asked)


def run_caption(options: argparse.Namespace) -> Answer:
    """rdm caption."""
    asked = {"caption": _the_one(options.image, "that texts are written of")}
    if len(options.text) > 1:
        raise UsageError("--text: is given once: one text of which ___ is written")
    if options.text:
        (asked["template"],) = options.text
    return _drawn(options, "captions", answers.captioned, asked | {"images": options.image})


def _the_one(images: list[str], what: str) -> str:
    """The one image that a command is about."""
    if len(images) != 1:
        raise UsageError(f"--image: is needed once: the image {what}")
    return images[0]
