"""What each subcommand of `rdm` does: its words become a flow's parameters, and what came out
becomes an answer.

A flow is imported only when it runs.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from flows import answers
from flows.config.arguments import UsageError, assigned, configured
from flows.run.terminal import Answer, tell
from rdm_core.importing import large_import


def run_demo(options: argparse.Namespace) -> Answer:
    """rdm demo."""
    from flows.config.judge import Demo

    return _stage(
        options, configured(options, Demo), "flows.judge.demo", "demo", answers.demo_result
    )


def run_import(options: argparse.Namespace) -> Answer:
    """rdm import."""
    from flows.config.images import AnyImport

    config = configured(
        options, AnyImport, source=options.source, path=options.path, name=options.name
    )
    return _stage(options, config, "flows.data.import_images", "import_images", answers.counts)


def run_build(options: argparse.Namespace) -> Answer:
    """rdm build."""
    from flows.config.database import BuildDatabase

    config = configured(options, BuildDatabase, name=options.name, shards=options.shards)
    return _stage(
        options,
        config,
        "flows.data.build_database",
        "build_database",
        lambda pair: answers.facts(pair[1]),
    )


def run_embed(options: argparse.Namespace) -> Answer:
    """rdm embed."""
    from flows.config.database import BuildDatabase

    config = configured(options, BuildDatabase, name=options.name, shards=options.shards)
    return _stage(options, config, "flows.data.build_database", "embed_images", answers.facts)


def run_neighbors(options: argparse.Namespace) -> Answer:
    """rdm neighbors."""
    from flows.config.database import FindNeighbors

    config = configured(
        options,
        FindNeighbors,
        name=options.name,
        queries=options.queries,
        database=options.database,
    )
    return _stage(options, config, "flows.data.find_neighbors", "find_neighbors", answers.facts)


def run_autoencoder(options: argparse.Namespace) -> Answer:
    """rdm autoencoder."""
    from flows.config.autoencoder import TrainAutoencoder

    config = configured(options, TrainAutoencoder, name=options.name, shards=options.shards)
    return _stage(
        options, config, "flows.model.train_autoencoder", "train_autoencoder", answers.autoencoder
    )


def run_encode(options: argparse.Namespace) -> Answer:
    """rdm encode."""
    from flows.config.database import EncodeLatents

    config = configured(options, EncodeLatents, name=options.name, shards=options.shards)
    return _stage(options, config, "flows.data.encode_latents", "encode_latents", answers.facts)


def run_train(options: argparse.Namespace) -> Answer:
    """rdm train."""
    from flows.config.presets import PRESETS
    from flows.config.train import TrainRDM
    from flows.model.launch import get_ready
    from storage.artifact import current_id

    if options.preset is not None and options.preset not in PRESETS:
        raise UsageError(
            f"--preset {options.preset}: there is no such preset. Presets: {', '.join(PRESETS)}."
        )
    preset = deepcopy(PRESETS.get(options.preset, {}))
    references = {
        role: getattr(options, role) for role in ("name", "latents", "neighbors", "database")
    }
    config = configured(options, TrainRDM, **references, **preset)
    if options.dry_run:
        _say_needs(config)
    elif current_id(config.root, "runs", config.name) is None:
        get_ready(config)
    return _stage(options, config, "flows.model.train_rdm", "train_rdm", answers.facts)


def _say_needs(config: Any) -> None:
    """What a training would need, or why it would be refused, beside its parameters."""
    from flows.model.preflight import check_training
    from flows.model.start import check_start
    from flows.run.messages import is_ours

    try:
        check_start(config)
        needs = check_training(config)
        later = "needs: known as soon as its latents are there, or their images are described"
        text = needs.text if needs else later
    except Exception as error:
        if not is_ours(error):
            raise
        text = f"would be refused: {error}"
    tell(f"train {config.name}: {text}", sys.stderr)


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
    config = configured(options, SampleRDM, **flags, **asked)
    if options.out and not options.dry_run:
        # before the work, so that a wrong place is refused at once
        options.out.mkdir(parents=True, exist_ok=True)
    text, value = _stage(options, config, "flows.model.sample", "sample_rdm", show)
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
    asked = {"caption": _the_one(options.image, "that texts are written of"), "k": 2}
    return _drawn(options, "captions", answers.captioned, asked | {"images": options.image})


def _the_one(images: list[str], what: str) -> str:
    """The one image that a command is about."""
    if len(images) != 1:
        raise UsageError(f"--image: is needed once: the image {what}")
    return images[0]


def run_convert(options: argparse.Namespace) -> Answer:
    """rdm convert."""
    from flows.config.train import ConvertOriginal

    flags = {
        "files": options.files,
        "layout": options.layout,
        "out": options.out,
        "name": options.name or options.layout,
    }
    return _stage(
        options,
        configured(options, ConvertOriginal, **flags),
        "flows.model.convert",
        "convert_original",
        answers.converted,
    )


def run_average(options: argparse.Namespace) -> Answer:
    """rdm average."""
    from flows.config.train import AverageRun

    config = configured(
        options, AverageRun, name=options.name, run=options.run, length=options.length
    )
    return _stage(options, config, "flows.model.average", "average_run", answers.facts)


def run_evaluate(options: argparse.Namespace) -> Answer:
    """rdm evaluate."""
    from flows.config.judge import EvaluateRDM

    flags = {name: getattr(options, name) for name in ("name", "run", "baseline", "database")}
    try:
        config = configured(options, EvaluateRDM, **flags)
    except UsageError as error:
        if "is needed" not in str(error):
            raise
        hint = (
            "rdm demo makes these, and evaluates them; "
            "rdm show evaluations/shapes lists what it gave"
        )
        raise UsageError(f"{error}\n{hint}") from error
    return _stage(options, config, "flows.judge.evaluate", "evaluate_rdm", answers.evaluated)


def run_report(options: argparse.Namespace) -> Answer:
    """rdm report."""
    from flows.config.judge import WriteReport

    flags = {name: getattr(options, name) for name in ("name", "run", "baseline", "evaluation")}
    return _stage(
        options,
        configured(options, WriteReport, **flags),
        "flows.judge.report",
        "write_report",
        answers.report,
    )


def run_search(options: argparse.Namespace) -> Answer:
    """rdm search."""
    from flows.config.look import SearchDatabase

    with large_import():
        from flows.look.search import search

    flags = {
        "database": options.database,
        "texts": options.text,
        "images": options.image,
        "keys": options.key,
    }
    flags |= {"vectors": options.vectors, "k": options.k, "out": options.out}
    return _looked(options, configured(options, SearchDatabase, **flags), search)


def run_map(options: argparse.Namespace) -> Answer:
    """rdm map."""
    from flows.config.look import MapDatabase
    from flows.look.map_database import map_database

    flags = {"database": options.database, "rows": options.rows, "out": options.out}
    return _looked(options, configured(options, MapDatabase, **flags), map_database)


def run_compare(options: argparse.Namespace) -> Answer:
    """rdm compare."""
    from flows.config.look import CompareDatabases
    from flows.look.compare import compare

    return _looked(
        options,
        configured(options, CompareDatabases, one=options.one, other=options.other),
        compare,
    )


def run_duplicates(options: argparse.Namespace) -> Answer:
    """rdm duplicates."""
    from flows.config.look import FindDuplicates
    from flows.look.duplicates import duplicates

    flags = {name: getattr(options, name) for name in ("database", "other", "cap", "keys", "out")}
    flags |= {"force": options.force or None}
    return _looked(options, configured(options, FindDuplicates, **flags), duplicates)


def run_query(options: argparse.Namespace) -> Answer:
    """rdm query."""
    from storage.query import query

    result = query(options.root, options.sql)
    if options.out:
        result.save(options.out)
    return result.text, {"rows": result.rows()}


def run_run(options: argparse.Namespace) -> Answer:
    """rdm run."""
    from flows.run.deployments import run_deployed

    changes = assigned({}, options.set)
    if options.dry_run:
        return json.dumps(changes, indent=2), changes
    started = run_deployed(options.deployment, changes)
    text = f"{started['deployment']}: started {started['name']} ({started['id']})"
    return f"{text}\n{started['url']}".rstrip(), started


def run_show(options: argparse.Namespace) -> Answer:
    """rdm show."""
    from flows.look.show import image_record, one_artifact, table_of_artifacts

    if options.full:
        from flows.judge.summary import in_full

        return in_full(options.root, options.what or "")
    if options.what is None:
        return table_of_artifacts(options.root)
    if options.what.lower().endswith(".png"):
        return image_record(Path(options.what))
    return one_artifact(options.root, options.what)


def run_check(options: argparse.Namespace) -> Answer:
    """rdm check."""
    from flows.look.show import checked_artifacts

    return checked_artifacts(options.root, options.what)


def run_log(options: argparse.Namespace) -> Answer:
    """rdm log."""
    from flows.look.show import log_of

    return log_of(options.root, options.what)


def run_gc(options: argparse.Namespace) -> Answer:
    """rdm gc."""
    from flows.look.show import collected

    if options.keep is not None and options.keep < 1:
        raise UsageError(f"--keep {options.keep}: keep 1 or more versions")
    # --unfinished alone removes no versions.
    keep = 2 if options.keep is None and not options.unfinished else options.keep
    return collected(options.root, keep, options.unfinished, options.dry_run)


def run_remove(options: argparse.Namespace) -> Answer:
    """rdm remove."""
    from flows.config.database import RemoveKeys

    flags = {
        "database": options.database,
        "keys_file": options.keys,
        "missing_ok": options.missing_ok or None,
    }
    config = configured(options, RemoveKeys, **flags)
    if options.dry_run:
        from flows.data.rehearse import rehearse

        return rehearse(config)
    return _stage(options, config, "flows.data.remove", "remove_keys", lambda done: done.answer())


def _looked(options: argparse.Namespace, config: Any, look: Callable[[Any], Answer]) -> Answer:
    """What a command that builds nothing says, or its parameters."""
    return _resolved(config) if options.dry_run else look(config)


def _resolved(config: Any) -> Answer:
    """The parameters as they would be used: what --dry-run prints."""
    value = config.model_dump(mode="json")
    return json.dumps(value, indent=2), value


def _stage(
    options: argparse.Namespace, config: Any, module: str, flow: str, show: Callable[[Any], Answer]
) -> Answer:
    """Import and run a flow, and say what came out; with --dry-run, its parameters alone."""
    if options.dry_run:
        return _resolved(config)
    from importlib import import_module

    with large_import():
        run = getattr(import_module(module), flow)
    return show(run(config))
