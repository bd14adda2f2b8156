"""What the subcommands of `rdm` do that build something: their words become a flow's parameters,
and what came out becomes an answer.

A flow is imported only when it runs.
"""

import argparse
import sys
from copy import deepcopy
from typing import Any

from flows.commands import answers
from flows.commands.running import stage
from flows.config.arguments import UsageError, configured
from flows.run.terminal import Answer, tell


def run_demo(options: argparse.Namespace) -> Answer:
    """rdm demo."""
    from flows.config.judge import Demo

    return stage(
        options, configured(options, Demo), "flows.judge.demo", "demo", answers.demo_result
    )


def run_import(options: argparse.Namespace) -> Answer:
    """rdm import."""
    from flows.config.images import AnyImport

    config = configured(
        options, AnyImport, source=options.source, path=options.path, name=options.name
    )
    return stage(options, config, "flows.data.import_images", "import_images", answers.counts)


def run_acquire(options: argparse.Namespace) -> Answer:
    """rdm acquire."""
    from flows.config.acquire import AnyAcquire

    flags = {"source": options.source, "path": options.path, "contact": options.contact}
    config = configured(options, AnyAcquire, urls=options.list, **flags)
    if options.dry_run:
        from flows.data.acquire import rehearsed

        return rehearsed(config)
    return stage(options, config, "flows.data.acquire", "acquire", answers.acquired)


def run_build(options: argparse.Namespace) -> Answer:
    """rdm build."""
    from flows.config.database import BuildDatabase

    config = configured(options, BuildDatabase, name=options.name, shards=options.shards)
    return stage(
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
    return stage(options, config, "flows.data.build_database", "embed_images", answers.facts)


def run_neighbors(options: argparse.Namespace) -> Answer:
    """rdm neighbors."""
    from flows.config.database import FindNeighbors

    config = configured(
        options,
        FindNeighbors,
        name=options.name,
        queries=options.queries,
        database=options.database,
        where=options.where,
    )
    return stage(options, config, "flows.data.find_neighbors", "find_neighbors", answers.facts)


def run_autoencoder(options: argparse.Namespace) -> Answer:
    """rdm autoencoder."""
    from flows.config.autoencoder import TrainAutoencoder

    config = configured(options, TrainAutoencoder, name=options.name, shards=options.shards)
    return stage(
        options, config, "flows.model.train_autoencoder", "train_autoencoder", answers.autoencoder
    )


def run_encode(options: argparse.Namespace) -> Answer:
    """rdm encode."""
    from flows.config.database import EncodeLatents

    config = configured(options, EncodeLatents, name=options.name, shards=options.shards)
    return stage(options, config, "flows.data.encode_latents", "encode_latents", answers.facts)


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
    return stage(options, config, "flows.model.train_rdm", "train_rdm", answers.facts)


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


def run_convert(options: argparse.Namespace) -> Answer:
    """rdm convert."""
    from flows.config.train import ConvertOriginal

    flags = {
        "files": options.files,
        "layout": options.layout,
        "out": options.out,
        "name": options.name or options.layout,
    }
    return stage(
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
    return stage(options, config, "flows.model.average", "average_run", answers.facts)


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
    return stage(options, config, "flows.judge.evaluate", "evaluate_rdm", answers.evaluated)


def run_report(options: argparse.Namespace) -> Answer:
    """rdm report."""
    from flows.config.judge import WriteReport

    flags = {name: getattr(options, name) for name in ("name", "run", "baseline", "evaluation")}
    return stage(
        options,
        configured(options, WriteReport, **flags),
        "flows.judge.report",
        "write_report",
        answers.report,
    )
