"""`rdm`: one subcommand a flow. A flow is imported only when it runs, so `rdm --help` answers at once.

Exit codes: 0 done, 1 the data or a run refused, 2 the command line was wrong.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.arguments import UsageError, assigned, configured, root_argument
from flows.environment import prepare

Result = tuple[str, dict[str, Any]]
"""What a command says: lines for a person, and the same for a machine."""
INTERRUPTED = 130
SECONDS_TO_GO = 25
"""More than a training needs to save its state; what is published is whole at any moment."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one command, print its result; errors are one message on standard error."""
    options = parser().parse_args(arguments)
    for polite in (signal.SIGTERM, signal.SIGINT):
        signal.signal(polite, interrupt)
    try:
        text, value = options.command(options)
    except KeyboardInterrupt:
        print("rdm: interrupted; the same command continues where it stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # told in one message if it is one of ours, in full if it is not
        return _told(error)
    print(json.dumps(value, indent=2, default=str) if options.json else text)
    return 0


def interrupt(*_: Any) -> None:
    """End what runs, trainings included; at the latest after SECONDS_TO_GO, as Prefect may wait for a server that is gone."""
    last_word = threading.Timer(SECONDS_TO_GO, os._exit, [INTERRUPTED])
    last_word.daemon = True
    last_word.start()
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="rdm", description="Retrieval-augmented image synthesis: database, training, samples, report."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, text: str, command: Callable[[argparse.Namespace], Result], settable: bool = True
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        made.add_argument("--root", type=root_argument, default=Path("data"), help="directory or s3://... (default: data)")
        made.add_argument("--json", action="store_true", help="print the result as JSON")
        if settable:
            made.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help="one parameter; dots go inside: training.steps=500",
            )
            made.add_argument("--dry-run", action="store_true", help="print the resolved parameters and stop")
            made.epilog = (
                "Every parameter for --set and its meaning: flows/config.py, flows/sample_config.py; resolved: --dry-run."
            )
        made.set_defaults(command=command)
        return made

    add("demo", "the whole path on built-in images, ending with a report", run_demo)
    one = add("import", "images -> shards", run_import)
    one.add_argument("source", choices=["shapes", "coco", "openimages", "wikiart", "folder"], help="layout of the dataset")
    one.add_argument("path", nargs="?", type=Path, help="where the dataset lies")
    _named(one)
    one = add("build", "shards -> embeddings -> index: a database", run_build)
    _named(one, "shards")
    one = add("embed", "shards -> embeddings: queries need no index", run_embed)
    _named(one, "shards")
    one = add("neighbors", "embeddings x database -> neighbor table", run_neighbors)
    _named(one, "queries", "database")
    one = add("encode", "shards -> latents", run_encode)
    _named(one, "shards")
    one = add("train", "latents + neighbors + database -> run", run_train)
    _named(one, "latents", "neighbors", "database")
    one.add_argument("--preset", help="start from a row of flows/presets.py")
    one = add("sample", "weights + any database + a request -> images", run_sample)
    _named(one, "run")
    one.add_argument("--database", help="another database: changes domain or style")
    one.add_argument("--text", action="append", default=[], help="a prompt; may be repeated")
    one.add_argument("--image", action="append", default=[], help="a query image; may be repeated")
    one.add_argument("--class", action="append", default=[], dest="class_name", help="a class name; may be repeated")
    one.add_argument("--out", type=Path, help="copy the images and the contact sheet to this directory")
    one = add("convert", "a file released in 2022 -> weights, an autoencoder or a database", run_convert)
    _named(one)
    one.add_argument("files", nargs="+", type=Path, help="the checkpoint, or the .npz archives of a database")
    one.add_argument("--layout", help="which of the released models it is: imagenet-2022, vq-f4, embeddings, ...")
    one.add_argument("--out", type=Path, help="an autoencoder alone: folder it is written to")
    _add_judging(add)
    _add_analysis(add)
    _add_upkeep(add)
    return top


def _add_judging(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that measure and tell."""
    one = add("evaluate", "does a run use its neighbors? (shapes world)", run_evaluate)
    _named(one, "run", "baseline")
    add("study", "six tests of the method with thresholds, over training seeds (shapes world)", run_study)
    one = add("report", "one HTML page about a run", run_report)
    _named(one, "run", "baseline", "evaluation")


def _add_analysis(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look into what was built."""
    one = add("search", "what is near to a text, an image, a row or a vector, with scores and credits", run_search)
    one.add_argument("--database", help="name (or name@id) of the database")
    one.add_argument("--text", action="append", default=[], help="a prompt; may be repeated")
    one.add_argument("--image", action="append", default=[], help="an image file; may be repeated")
    one.add_argument("--key", action="append", default=[], help="key of a row of the database; may be repeated")
    one.add_argument("--vectors", type=Path, metavar="FILE", help=".npy file of one vector or several")
    one.add_argument("--k", type=int, help="rows found for each (default: 12)")
    one.add_argument("--out", type=Path, metavar="FILE", help="contact sheet: .html with credits, .png bare")
    one = add("map", "a database on one page: embeddings on a plane, with pictures", run_map)
    one.add_argument("--database", help="name (or name@id) of the database")
    one.add_argument("--rows", type=int, help="rows on the map (default: 5000)")
    one.add_argument("--out", type=Path, metavar="FILE", help="the page (default: map.html)")
    one = add("compare", "two versions of a database, or one under two encoders: rows, shift, neighbors", run_compare)
    one.add_argument("one", help="name or name@id")
    one.add_argument("other", help="name or name@id")
    one = add("query", "SQL over everything that was built, read-only", run_query, settable=False)
    one.add_argument("sql", metavar="SQL", help="one SELECT over the views shards, embeddings, neighbors, runs, ...")
    one.add_argument("--out", type=Path, metavar="FILE", help="save every row: .parquet, .csv or .json")


def _add_upkeep(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look after what was built."""
    one = add("run", "start a deployment of prefect.yaml, with parameters changed by --set", run_run)
    one.add_argument("deployment", help="train-rdm, rebuild-coco, ... or flow/deployment")
    one = add("show", "list artifacts, explain one (kind/name), or read an image's record (file.png)", run_show, settable=False)
    one.add_argument("what", nargs="?", help="kind/name, kind/name@id, or a PNG that rdm wrote")
    one = add("check", "compare every file of every artifact with its manifest", run_check, settable=False)
    one.add_argument("what", nargs="?", help="kind/name; everything when left out")
    one = add("log", "the versions of an artifact: when, from what, how many rows, what changed", run_log, settable=False)
    one.add_argument("what", metavar="NAME", help="kind/name, or a name: then of every kind")
    one = add("gc", "remove old versions: what is current or an input of what stays is kept", run_gc, settable=False)
    one.add_argument("--keep", type=int, metavar="N", help="newest versions of each name that stay (default: 2)")
    one.add_argument("--dry-run", action="store_true", help="say what would be removed and stop")
    unfinished = "drop what interrupted builds left (all: of every name); without --keep, nothing else"
    one.add_argument("--unfinished", default="", metavar="KIND/NAME", help=unfinished)
    one = add("remove", "take images out of a database for good; list the runs that were trained on them", run_remove)
    one.add_argument("--database", help="name of the database")
    one.add_argument("--keys", type=Path, metavar="FILE", help="one key a line; without crop number: every crop of the image")
    one.add_argument("--missing-ok", action="store_true", help="list keys too that the database does not hold")


def _named(command: argparse.ArgumentParser, *references: str) -> None:
    command.add_argument("--name", help="name of what is built")
    for reference in references:
        command.add_argument(f"--{reference}", help=f"name (or name@id) of the {reference}")


def run_demo(options: argparse.Namespace) -> Result:
    """rdm demo."""
    from flows.config import Demo

    return _stage(options, configured(options, Demo), "flows.demo", "demo", _demo_result)


def run_import(options: argparse.Namespace) -> Result:
    """rdm import."""
    from flows.config import ImportImages

    config = configured(options, ImportImages, source=options.source, path=options.path, name=options.name)
    return _stage(options, config, "flows.import_images", "import_images", _counts)


def run_build(options: argparse.Namespace) -> Result:
    """rdm build."""
    from flows.config import BuildDatabase

    config = configured(options, BuildDatabase, name=options.name, shards=options.shards)
    return _stage(options, config, "flows.build_database", "build_database", lambda pair: _facts(pair[1]))


def run_embed(options: argparse.Namespace) -> Result:
    """rdm embed."""
    from flows.config import BuildDatabase

    config = configured(options, BuildDatabase, name=options.name, shards=options.shards)
    return _stage(options, config, "flows.build_database", "embed_images", _facts)


def run_neighbors(options: argparse.Namespace) -> Result:
    """rdm neighbors."""
    from flows.config import FindNeighbors

    config = configured(options, FindNeighbors, name=options.name, queries=options.queries, database=options.database)
    return _stage(options, config, "flows.find_neighbors", "find_neighbors", _facts)


def run_encode(options: argparse.Namespace) -> Result:
    """rdm encode."""
    from flows.config import EncodeLatents

    config = configured(options, EncodeLatents, name=options.name, shards=options.shards)
    return _stage(options, config, "flows.encode_latents", "encode_latents", _facts)


def run_train(options: argparse.Namespace) -> Result:
    """rdm train."""
    from flows.config import TrainRDM
    from flows.presets import PRESETS

    if options.preset is not None and options.preset not in PRESETS:
        raise UsageError(f"--preset {options.preset}: there is no such preset. Presets: {', '.join(PRESETS)}.")
    preset = {part: dict(values) for part, values in PRESETS.get(options.preset, {}).items()}
    references = {role: getattr(options, role) for role in ("name", "latents", "neighbors", "database")}
    return _stage(options, configured(options, TrainRDM, **references, **preset), "flows.train_rdm", "train_rdm", _facts)


def run_sample(options: argparse.Namespace) -> Result:
    """rdm sample."""
    from flows.sample_config import SampleRDM

    flags = {"run": options.run, "database": options.database, "name": options.name or "samples"}
    flags |= {"texts": options.text, "images": options.image, "classes": options.class_name}
    config = configured(options, SampleRDM, **flags)
    if options.out and not options.dry_run:
        options.out.mkdir(parents=True, exist_ok=True)  # before the work: a wrong place is told at once
    text, value = _stage(options, config, "flows.sample", "sample_rdm", _sampled)
    if options.out and not options.dry_run:
        for image in Path(value["directory"]).glob("*.png"):
            shutil.copyfile(image, options.out / image.name)
    return text, value


def run_convert(options: argparse.Namespace) -> Result:
    """rdm convert."""
    from flows.config import ConvertOriginal

    flags = {"files": options.files, "layout": options.layout, "out": options.out, "name": options.name or options.layout}
    return _stage(options, configured(options, ConvertOriginal, **flags), "flows.convert", "convert_original", _converted)


def run_evaluate(options: argparse.Namespace) -> Result:
    """rdm evaluate."""
    from flows.config import EvaluateRDM

    config = configured(options, EvaluateRDM, name=options.name, run=options.run, baseline=options.baseline)
    return _stage(options, config, "flows.evaluate", "evaluate_rdm", _evaluated)


def run_study(options: argparse.Namespace) -> Result:
    """rdm study."""
    from flows.config import Study

    return _stage(options, configured(options, Study), "flows.study", "study", _studied)


def run_report(options: argparse.Namespace) -> Result:
    """rdm report."""
    from flows.config import WriteReport

    flags = {"name": options.name, "run": options.run, "baseline": options.baseline, "evaluation": options.evaluation}
    return _stage(options, configured(options, WriteReport, **flags), "flows.report", "write_report", _report)


def run_search(options: argparse.Namespace) -> Result:
    """rdm search."""
    from flows.config import SearchDatabase
    from flows.search import search

    flags = {"database": options.database, "texts": options.text, "images": options.image, "keys": options.key}
    flags |= {"vectors": options.vectors, "k": options.k, "out": options.out}
    return _looked(options, configured(options, SearchDatabase, **flags), search)


def run_map(options: argparse.Namespace) -> Result:
    """rdm map."""
    from flows.config import MapDatabase
    from flows.map_database import map_database

    flags = {"database": options.database, "rows": options.rows, "out": options.out}
    return _looked(options, configured(options, MapDatabase, **flags), map_database)


def run_compare(options: argparse.Namespace) -> Result:
    """rdm compare."""
    from flows.compare import compare
    from flows.config import CompareDatabases

    return _looked(options, configured(options, CompareDatabases, one=options.one, other=options.other), compare)


def run_query(options: argparse.Namespace) -> Result:
    """rdm query."""
    from storage.query import query

    found = query(options.root, options.sql)
    if options.out:
        found.save(options.out)
    return found.text, {"rows": found.rows()}


def run_run(options: argparse.Namespace) -> Result:
    """rdm run."""
    from flows.deployments import run_deployed

    changes = assigned({}, options.set)
    if options.dry_run:
        return json.dumps(changes, indent=2), changes
    started = run_deployed(options.deployment, changes)
    return f"{started['deployment']}: started {started['name']} ({started['id']})\n{started['url']}".rstrip(), started


def run_show(options: argparse.Namespace) -> Result:
    """rdm show."""
    from flows.show import image_record, one_artifact, table_of_artifacts

    if options.what is None:
        return table_of_artifacts(options.root)
    if options.what.lower().endswith(".png"):
        return image_record(Path(options.what))
    return one_artifact(options.root, options.what)


def run_check(options: argparse.Namespace) -> Result:
    """rdm check."""
    from flows.show import checked_artifacts

    return checked_artifacts(options.root, options.what)


def run_log(options: argparse.Namespace) -> Result:
    """rdm log."""
    from flows.show import log_of

    return log_of(options.root, options.what)


def run_gc(options: argparse.Namespace) -> Result:
    """rdm gc."""
    from flows.show import collected

    if options.keep is not None and options.keep < 1:
        raise UsageError(f"--keep {options.keep}: keep 1 or more versions")
    keep = 2 if options.keep is None and not options.unfinished else options.keep
    return collected(options.root, keep, options.unfinished, options.dry_run)


def run_remove(options: argparse.Namespace) -> Result:
    """rdm remove."""
    from flows.config import RemoveKeys

    flags = {"database": options.database, "keys_file": options.keys, "missing_ok": options.missing_ok or None}
    return _stage(options, configured(options, RemoveKeys, **flags), "flows.remove", "remove_keys", lambda done: done.told())


def _looked(options: argparse.Namespace, config: Any, look: Callable[[Any], Result]) -> Result:
    """What a command that builds nothing says, or its parameters."""
    return _resolved(config) if options.dry_run else look(config)


def _resolved(config: Any) -> Result:
    value = config.model_dump(mode="json")
    return json.dumps(value, indent=2), value


def _stage(options: argparse.Namespace, config: Any, module: str, flow: str, told: Callable[[Any], Result]) -> Result:
    if options.dry_run:
        return _resolved(config)
    from importlib import import_module

    prepare(options.root)
    return told(getattr(import_module(module), flow)(config))


def _facts(artifact: Any) -> Result:
    value = {"kind": artifact.kind, "name": artifact.name, "id": artifact.id, "fingerprint": artifact.fingerprint}
    value |= {
        "rows": artifact.rows,
        "counts": artifact.counts,
        "directory": str(artifact.directory),
        "measured": dict(artifact.measured),
    }
    return f"{artifact.directory}", value


def _counts(artifact: Any) -> Result:
    text, value = _facts(artifact)
    return "\n".join([text, *(f"  {count:>8,}  {reason}" for reason, count in artifact.counts.items())]), value


def _sampled(artifact: Any) -> Result:
    _, value = _facts(artifact)
    value["grid"] = str(artifact.file("grid.png"))
    return f"{artifact.rows} images, each beside its neighbors: {value['grid']}", value


def _evaluated(artifact: Any) -> Result:
    from flows.evaluate import EVALUATION_FILE
    from flows.findings import summary

    measured = json.loads(artifact.file(EVALUATION_FILE).read_text())
    return summary(measured), _facts(artifact)[1] | {"evaluation": measured}


def _converted(made: Any) -> Result:
    return (str(made), {"directory": str(made)}) if isinstance(made, Path) else _facts(made)


def _studied(artifacts: Any) -> Result:
    from flows.evaluate import EVALUATION_FILE
    from flows.study import table_of

    seeds = [json.loads(artifact.file(EVALUATION_FILE).read_text()) for artifact in artifacts]
    return table_of(artifacts), {"seeds": seeds}


def _report(artifact: Any) -> Result:
    value = _facts(artifact)[1] | {"report": str(artifact.file("report.html"))}
    return f"report: {value['report']}", value


def _demo_result(pair: Any) -> Result:
    text, value = _evaluated(pair[0])
    page, more = _report(pair[1])
    return f"{text}\n\n{page}", value | {"report": more["report"]}


def _told(error: Exception) -> int:
    if isinstance(error, UsageError):
        print(f"rdm: {error}", file=sys.stderr)
        return 2
    from flows.deployments import DeploymentFailed
    from flows.show import is_ours

    if is_ours(error) or isinstance(error, OSError | DeploymentFailed):
        print(f"rdm: {error}", file=sys.stderr)
        return 1
    raise error


if __name__ == "__main__":
    sys.exit(main())
