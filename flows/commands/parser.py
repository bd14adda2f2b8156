"""The command line of `rdm`: which subcommands there are, and which arguments each takes."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from flows.commands import drawing, looking, making, upkeep
from flows.config.arguments import root_argument, typed
from flows.run.terminal import Answer
from storage.text import printable


class _Parser(argparse.ArgumentParser):
    """Repeats what was typed only as a terminal can show it."""

    def error(self, message: str) -> NoReturn:
        """End with 2, as argparse does."""
        super().error(printable(message))


class _Command(_Parser):
    """A subcommand, whose help ends with its parameters and what each means."""

    def format_help(self) -> str:
        """Its own words, then the class that --set leads into."""
        text = super().format_help()
        if "--set" not in self._option_string_actions:
            return text
        # half a second, which nothing but a help page takes
        from flows.config.manual import manual_of, sources_of
        from flows.config.of_commands import OF_COMMAND

        kind = OF_COMMAND.get(self.prog.split()[-1])
        if kind is None:
            return text
        sources = sources_of(kind)
        told = f"\nsources:\n{sources}\n" if sources else ""
        return f"{text}{told}\nparameters, for --set KEY=VALUE:\n{manual_of(kind)}\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="rdm",
        description="Retrieval-augmented image synthesis: database, training, samples, report.",
    )
    subcommands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)
    add = partial(_added, subcommands)
    add("demo", "the whole path on built-in images, ending with a report", making.run_demo)
    _add_images(add)
    sub = add("build", "shards -> embeddings -> index: a database", making.run_build)
    _add_names(sub, "shards")
    sub = add("embed", "shards -> embeddings: queries need no index", making.run_embed)
    _add_names(sub, "shards")
    sub = add("neighbors", "embeddings x database -> neighbor table", making.run_neighbors)
    _add_names(sub, "queries", "database")
    _add_where(sub)
    sub = add(
        "autoencoder",
        "shards -> an autoencoder, for those who have none: numbers (kl) or codes (vq)",
        making.run_autoencoder,
    )
    _add_names(sub, "shards")
    sub = add("encode", "shards -> latents", making.run_encode)
    _add_names(sub, "shards")
    sub = add("train", "latents + neighbors + database -> run", making.run_train)
    _add_names(sub, "latents", "neighbors", "database")
    sub.add_argument("--preset", help="start from a row of flows/config/presets.py")
    sub = add(
        "plan",
        "a preset + a number of images -> disk, memory and hours of each stage on this machine",
        looking.run_plan,
    )
    sub.add_argument("preset", help="coco-256, ...: a preset that says which images it is for")
    sub.add_argument("--images", type=int, help="how many")
    sub = add("sample", "weights + any database + a request -> images", drawing.run_sample)
    _add_names(sub, "run")
    sub.add_argument("--database", help="another database: changes domain or style")
    _add_where(sub)
    sub.add_argument(
        "--text", action="append", default=[], type=typed, help="a prompt; may be repeated"
    )
    sub.add_argument("--image", action="append", default=[], help="a query image; may be repeated")
    sub.add_argument(
        "--class", action="append", default=[], type=typed, dest="class_name",
        help="a class name; may be repeated",
    )  # fmt: skip
    sub.add_argument(
        "--out", type=Path, help="copy the images and the contact sheet to this directory"
    )
    _add_edit(add)
    _add_infill_and_caption(add)
    _add_weights(add)
    _add_judging(add)
    _add_analysis(add)
    _add_upkeep(add)
    return top


def _add_where(sub: argparse.ArgumentParser) -> None:
    """--where, for a command that looks rows up."""
    text = "only rows that satisfy this SQL condition: \"licence = 'CC0'\"; docs/analysis.md"
    sub.add_argument("--where", metavar="CONDITION", type=typed, help=text)


def _add_images(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that bring images in."""
    sub = add(
        "acquire",
        "where a data set lives -> the folder that `import` reads; --dry-run says bytes and files",
        making.run_acquire,
    )
    sub.add_argument("source", help="coco, openimages, wikiart, emoji or urls; see below")
    sub.add_argument("list", nargs="?", metavar="LIST", help="urls: .csv, .parquet or .jsonl")
    sub.add_argument("--path", type=Path, help="the folder (default: datasets/SOURCE)")
    sub.add_argument("--contact", type=typed, help="address or page by which owners reach you")
    sub = add("import", "images -> shards", making.run_import)
    sub.add_argument("source", help="layout of the dataset: shapes, folder, coco, ...; see below")
    sub.add_argument("path", nargs="?", type=Path, help="where the dataset lies")
    _add_names(sub)


def _added(
    subcommands: Any,
    name: str,
    text: str,
    command: Callable[[argparse.Namespace], Answer],
    settable: bool = True,
) -> argparse.ArgumentParser:
    """A subcommand with what all of them take."""
    subcommand: argparse.ArgumentParser = subcommands.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "directory or s3://... (default: data)"
    subcommand.add_argument("--root", type=root_argument, default=Path("data"), help=text)
    subcommand.add_argument("--json", action="store_true", help="print the result as JSON")
    if settable:
        text = "one of the parameters below; dots go inside: training.steps=500"
        subcommand.add_argument(
            "--set", action="append", default=[], type=typed, metavar="KEY=VALUE", help=text
        )
        text = "print the resolved parameters and stop"
        subcommand.add_argument("--dry-run", action="store_true", help=text)
    subcommand.set_defaults(command=command)
    return subcommand


def _add_edit(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The command that changes a given image."""
    sub = add(
        "edit",
        "an image + a text -> the image, changed where it does not fit; no mask",
        drawing.run_edit,
    )
    _add_names(sub, "run")
    sub.add_argument("--database", help="another database: its images stand behind what is new")
    _add_where(sub)
    sub.add_argument("--image", action="append", default=[], help="the image that is changed")
    sub.add_argument(
        "--text", action="append", default=[], type=typed,
        help="what it shall show; may be repeated",
    )  # fmt: skip
    sub.add_argument(
        "--strength", type=float, help="how strongly it follows the text: guidance (default: 2)"
    )
    sub.add_argument("--out", type=Path, help="copy the images and the sheets to this directory")


def _add_infill_and_caption(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that complete a given image, and that tell one in words."""
    sub = add(
        "infill",
        "an image + a mask -> the image, drawn anew where the mask is white",
        drawing.run_infill,
    )
    _add_names(sub, "run")
    sub.add_argument("--database", help="another database: its images stand behind what is new")
    _add_where(sub)
    sub.add_argument("--image", action="append", default=[], help="the image that is completed")
    sub.add_argument("--mask", help="an image of its size, white where something new is drawn")
    sub.add_argument(
        "--text", action="append", default=[], type=typed,
        help="what the whole shall show; may be repeated",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, help="copy the images and the sheet to this directory")
    sub = add("caption", "an image -> texts about it, from images near to it", drawing.run_caption)
    _add_names(sub, "run")
    sub.add_argument("--database", help="another database: its images stand behind the texts")
    _add_where(sub)
    sub.add_argument("--image", action="append", default=[], help="the image that is told")
    sub.add_argument(
        "--text",
        action="append",
        default=[],
        type=typed,
        help="a text of which only ___ is written: 'a ___ at the top'",
    )
    sub.add_argument("--out", type=Path, help="copy the image and the sheet to this directory")


def _add_weights(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that make weights of other weights."""
    sub = add(
        "average",
        "a run with a running mean of another length, chosen after training",
        making.run_average,
    )
    _add_names(sub, "run")
    sub.add_argument(
        "--length",
        type=float,
        help="as a share of the training: 0.05 is short, 0.2 long (default: 0.1)",
    )
    sub = add(
        "convert",
        "a file released in 2022 -> weights, an autoencoder or a database",
        making.run_convert,
    )
    _add_names(sub)
    sub.add_argument(
        "files", nargs="+", type=Path, help="the checkpoint, or the .npz archives of a database"
    )
    sub.add_argument(
        "--layout", help="which of the released models it is: imagenet-2022, vq-f4, embeddings, ..."
    )
    sub.add_argument("--out", type=Path, help="an autoencoder alone: folder it is written to")


def _add_judging(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that measure and tell."""
    sub = add("evaluate", "how good is a run, on any database", making.run_evaluate)
    _add_names(sub, "run", "baseline", "database")
    sub = add("report", "one HTML page about a run", making.run_report)
    _add_names(sub, "run", "baseline", "evaluation")


def _add_analysis(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look into what was built."""
    sub = add(
        "search",
        "what is near to a text, an image, a row or a vector, with scores and credits",
        looking.run_search,
    )
    sub.add_argument("--database", help="name (or name@id) of the database")
    sub.add_argument(
        "--text", action="append", default=[], type=typed, help="a prompt; may be repeated"
    )
    sub.add_argument("--image", action="append", default=[], help="an image file; may be repeated")
    sub.add_argument(
        "--key", action="append", default=[], help="key of a row of the database; may be repeated"
    )
    sub.add_argument(
        "--vectors", type=Path, metavar="FILE", help=".npy file of one vector or several"
    )
    sub.add_argument("--k", type=int, help="rows found for each (default: 12)")
    _add_where(sub)
    saved = (
        "contact sheet: .html with credits, .png with what of them fits; "
        "table: .csv, .parquet, .json"
    )
    sub.add_argument("--out", type=Path, metavar="FILE", help=saved)
    _add_pages(add)


def _add_pages(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that compare whole databases, and SQL."""
    sub = add(
        "map", "a database on one page: embeddings on a plane, with pictures", looking.run_map
    )
    sub.add_argument("--database", help="name (or name@id) of the database")
    sub.add_argument("--rows", type=int, help="rows on the map (default: 5000)")
    _add_where(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="the page (default: map.html)")
    sub = add(
        "compare",
        "two versions of a database, or one under two encoders: rows, shift, neighbors",
        looking.run_compare,
    )
    sub.add_argument("one", help="name or name@id")
    sub.add_argument("other", help="name or name@id")
    sub = add(
        "duplicates",
        "which images stand in a database twice, or in two of them",
        looking.run_duplicates,
    )
    sub.add_argument("--database", help="name (or name@id) of the database")
    sub.add_argument(
        "--other", help="an evaluation set's embeddings: what of it is in the database?"
    )
    _add_where(sub)
    sub.add_argument(
        "--cap",
        type=float,
        help="cosine above which two are one (default: calibrated for the encoder)",
    )
    sub.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="write the keys of the surplus copies, for rdm remove",
    )
    pairs = "contact sheet of the highest: .html or .png; table of all: .csv, .parquet, .json"
    sub.add_argument(
        "--force", action="store_true", help="write them even if most rows would be copies"
    )
    sub.add_argument("--out", type=Path, metavar="FILE", help=pairs)
    sub = add(
        "query", "SQL over everything that was built, read-only", looking.run_query, settable=False
    )
    views = "one SELECT over the views shards, embeddings, neighbors, runs, ..."
    sub.add_argument("sql", metavar="SQL", type=typed, help=views)
    sub.add_argument(
        "--out", type=Path, metavar="FILE", help="save every row: .parquet, .csv or .json"
    )


def _add_upkeep(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look after what was built."""
    sub = add(
        "run",
        "start a deployment of prefect.yaml, with parameters changed by --set",
        upkeep.run_run,
    )
    sub.add_argument("deployment", help="train-rdm, rebuild-coco, ... or flow/deployment")
    told = "list artifacts, explain one (kind/name), or read an image's record (file.png)"
    sub = add("show", told, looking.run_show, settable=False)
    sub.add_argument("what", nargs="?", help="kind/name, kind/name@id, or a PNG that rdm wrote")
    sub.add_argument("--full", action="store_true", help="the whole table of evaluations/NAME")
    sub = add(
        "who",
        "what an image stood behind: samples, runs, tables, evaluations; of samples: whose images",
        looking.run_who,
        settable=False,
    )
    told = "keys of images (without crop: every crop of it); or samples/NAME: shares of authors"
    sub.add_argument("what", nargs="+", metavar="KEY", help=told)
    told = "compare every file of every artifact with its manifest"
    sub = add("check", told, looking.run_check, settable=False)
    sub.add_argument("what", nargs="?", help="kind/name; everything when left out")
    told = "the versions of an artifact: when, from what, how many rows, what changed"
    sub = add("log", told, looking.run_log, settable=False)
    sub.add_argument("what", metavar="NAME", help="kind/name, or a name: then of every kind")
    sub = add(
        "doctor",
        "what is fine on this machine and what is not, each with its cure",
        looking.run_doctor,
        settable=False,
    )
    sub.add_argument("--offline", action="store_true", help="leave out what asks the network")
    sub.add_argument(
        "--seconds", type=float, help="how long to wait for what does not answer (default: 9)"
    )
    _add_removing(add)


def _add_removing(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that take something away."""
    sub = add(
        "gc",
        "remove old versions: what is current or an input of what stays is kept",
        upkeep.run_gc,
        settable=False,
    )
    sub.add_argument(
        "--keep", type=int, metavar="N", help="newest versions of each name that stay (default: 2)"
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would be removed and stop")
    unfinished = (
        "drop what interrupted builds left (all: of every name); without --keep, nothing else"
    )
    sub.add_argument("--unfinished", default="", metavar="KIND/NAME", help=unfinished)
    sub = add(
        "remove",
        "take images out of a database for good; list the runs that were trained on them; "
        "--dry-run: list rows, runs and samples, and change nothing",
        upkeep.run_remove,
    )
    sub.add_argument("--database", help="name of the database")
    sub.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help="one key a line; without crop number: every crop of the image",
    )
    sub.add_argument(
        "--missing-ok", action="store_true", help="list keys too that the database does not hold"
    )


def _add_names(command: argparse.ArgumentParser, *references: str) -> None:
    command.add_argument("--name", help="name of what is built")
    for reference in references:
        command.add_argument(f"--{reference}", help=f"name (or name@id) of the {reference}")
