"""What `rdm --help` and the help of each command tell: arguments, what they take and are for."""

import re
from argparse import SUPPRESS
from pathlib import Path

import pytest

from flows import cli
from flows.commands import drawing, looking, making, upkeep
from flows.config.arguments import root_argument, typed
from flows.config.manual import parameters_of
from flows.config.of_commands import OF_COMMAND
from rdm_core.families import draw_settings

EVERY = "[--help] [--root ROOT] [--json]"
SETTABLE = f"{EVERY} [--set KEY=VALUE]* [--dry-run]"
LISTED = {
    "demo": SETTABLE,
    "acquire": f"source [LIST] {SETTABLE} [--path PATH] [--contact CONTACT]",
    "import": f"source [path] {SETTABLE} [--name NAME]",
    "build": f"{SETTABLE} [--name NAME] [--shards SHARDS]",
    "embed": f"{SETTABLE} [--name NAME] [--shards SHARDS]",
    "neighbors": f"{SETTABLE} [--name NAME] [--queries QUERIES] [--database DATABASE]"
    " [--where CONDITION]",
    "autoencoder": f"{SETTABLE} [--name NAME] [--shards SHARDS]",
    "encode": f"{SETTABLE} [--name NAME] [--shards SHARDS]",
    "train": f"{SETTABLE} [--name NAME] [--latents LATENTS] [--neighbors NEIGHBORS]"
    " [--database DATABASE] [--preset PRESET]",
    "plan": f"preset {SETTABLE} [--images IMAGES]",
    "sample": f"{SETTABLE} [--name NAME] [--run RUN] [--database DATABASE] [--where CONDITION]"
    " [--text TEXT]* [--image IMAGE]* [--class CLASS_NAME]* [--out OUT]",
    "edit": f"{SETTABLE} [--name NAME] [--run RUN] [--database DATABASE] [--where CONDITION]"
    " [--image IMAGE]*"
    " [--text TEXT]* [--strength STRENGTH] [--out OUT]",
    "infill": f"{SETTABLE} [--name NAME] [--run RUN] [--database DATABASE] [--where CONDITION]"
    " [--image IMAGE]*"
    " [--mask MASK] [--text TEXT]* [--out OUT]",
    "caption": f"{SETTABLE} [--name NAME] [--run RUN] [--database DATABASE] [--where CONDITION]"
    " [--image IMAGE]*"
    " [--text TEXT]* [--out OUT]",
    "average": f"{SETTABLE} [--name NAME] [--run RUN] [--length LENGTH]",
    "convert": f"files+ {SETTABLE} [--name NAME] [--layout LAYOUT] [--out OUT]",
    "evaluate": f"{SETTABLE} [--name NAME] [--run RUN] [--baseline BASELINE] [--database DATABASE]",
    "report": f"{SETTABLE} [--name NAME] [--run RUN] [--baseline BASELINE]"
    " [--evaluation EVALUATION]",
    "search": f"{SETTABLE} [--database DATABASE] [--text TEXT]* [--image IMAGE]* [--key KEY]*"
    " [--vectors FILE] [--k K] [--where CONDITION] [--out FILE]",
    "map": f"{SETTABLE} [--database DATABASE] [--rows ROWS] [--where CONDITION] [--out FILE]",
    "compare": f"one other {SETTABLE}",
    "duplicates": f"{SETTABLE} [--database DATABASE] [--other OTHER] [--where CONDITION]"
    " [--cap CAP] [--keys FILE] [--force] [--out FILE]",
    "query": f"SQL {EVERY} [--out FILE]",
    "run": f"deployment {SETTABLE}",
    "show": f"[what] {EVERY} [--full]",
    "who": f"KEY+ {EVERY}",
    "check": f"[what] {EVERY}",
    "log": f"NAME {EVERY}",
    "doctor": f"{EVERY} [--offline] [--seconds SECONDS]",
    "gc": f"{EVERY} [--keep N] [--dry-run] [--unfinished KIND/NAME]",
    "remove": f"{SETTABLE} [--database DATABASE] [--keys FILE] [--missing-ok]",
}
"""Command -> its arguments, positional first; * may be repeated, + is one or more."""
DEFAULTS = {"root": Path("data"), "json": False, "set": [], "dry_run": False, "unfinished": ""}
DEFAULTS |= {"text": [], "image": [], "key": [], "class_name": [], "force": False}
DEFAULTS |= {"missing_ok": False, "full": False, "offline": False}
"""What is not given is this, everything else None."""
READ_AS = {
    "seconds": float,
    "length": float,
    "cap": float,
    "strength": float,
    "k": int,
    "rows": int,
    "keep": int,
    "images": int,
}
READ_AS |= {"root": root_argument}
READ_AS |= dict.fromkeys(("path", "files", "out", "vectors"), Path)
READ_AS |= dict.fromkeys(("set", "text", "class_name", "sql", "contact", "where"), typed)
"""Numbers, files, and texts in whatever locale; everything else is as it is written."""
FILES = {"--vectors", "--keys"}
"""Arguments that name a file in every command."""


def subcommands():
    """Name -> its parser, in the order of the help."""
    return cli.parser()._subparsers._group_actions[0].choices


def arguments():
    """(command, argument) of all of them."""
    return [(name, one) for name, command in subcommands().items() for one in command._actions]


def listed(one):
    """An argument as LISTED has it."""
    if not one.option_strings:
        word = one.metavar or one.dest
        return {None: word, "?": f"[{word}]", "+": f"{word}+"}[one.nargs]
    takes = "" if one.nargs == 0 else f" {one.metavar or one.dest.upper()}"
    repeated = "*" if type(one).__name__ == "_AppendAction" else ""
    return f"[{one.option_strings[-1]}{takes}]{repeated}"


def test_the_commands_are_those_of_the_listing():
    assert list(subcommands()) == list(LISTED)


@pytest.mark.parametrize("command", LISTED)
def test_a_command_has_the_arguments_of_the_listing_and_no_other(command):
    found = [listed(one) for one in subcommands()[command]._actions]
    positional = [one for one in found if not re.match(r"\[?--", one)]
    options = [one for one in found if one not in positional]
    assert " ".join(positional + options) == LISTED[command]


def test_every_argument_says_what_it_is_for():
    without = [(name, one.dest) for name, one in arguments() if one.help in (None, "", SUPPRESS)]
    assert without == []


def test_what_names_a_file_is_shown_as_one():
    told = {
        (name, one.option_strings[-1], one.metavar)
        for name, one in arguments()
        if one.option_strings
    }
    assert {metavar for _, option, metavar in told if option in FILES} == {"FILE"}
    written = {name for name, option, metavar in told if (option, metavar) == ("--out", "FILE")}
    assert written == {"search", "map", "duplicates", "query"}, "the others write a folder"


def test_nothing_is_assumed_but_what_is_listed():
    for name, one in arguments():
        if one.dest != "help":
            assert one.default == DEFAULTS.get(one.dest), f"{name} {one.dest}"


def test_every_argument_is_read_as_what_it_is_and_no_option_is_required():
    for name, one in arguments():
        assert not (one.option_strings and one.required), f"{name} {one.dest}"
        of_remove = {"keys": Path} if name in ("remove", "duplicates") else {}
        assert one.type is (READ_AS | of_remove).get(one.dest), f"{name} {one.dest}"


def test_a_default_that_help_tells_is_the_one_that_is_used():
    from flows.config.look import MapDatabase, SearchDatabase
    from flows.config.train import AverageRun
    from flows.doctor.examine import SECONDS

    told = {
        (name, one.dest): match[1]
        for name, one in arguments()
        if (match := re.search(r"\(default: (\S+)\)", one.help))
    }
    roots = {told.pop((name, "root")) for name in LISTED}
    assert roots == {"data"}
    fields = {"k": SearchDatabase, "rows": MapDatabase, "length": AverageRun}
    used = {name: str(kind.model_fields[name].default) for name, kind in fields.items()}
    used["out"] = str(MapDatabase.model_fields["out"].default)
    found = {("search", "k"): used["k"], ("map", "rows"): used["rows"], ("map", "out"): used["out"]}
    found |= {("average", "length"): used["length"], ("gc", "keep"): "2"}
    found["acquire", "path"] = "datasets/SOURCE"
    found["doctor", "seconds"] = f"{SECONDS:g}"
    found["edit", "strength"] = f"{draw_settings('diffusion')().guidance_scale:g}"
    assert told == found


def test_the_overview_names_each_command_with_its_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    told = cli.parser().format_help()
    assert told.startswith("usage: rdm [-h] COMMAND ...\n\nRetrieval-augmented image synthesis")
    for name, command in subcommands().items():
        assert re.search(rf"^ +{name}\s+{re.escape(command.description)}$", told, re.M), name


@pytest.mark.parametrize("command", LISTED)
def test_the_help_of_a_command_is_its_line_its_arguments_and_where_its_parameters_are(
    command, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "500")
    told = subcommands()[command].format_help()
    lines = told.splitlines()
    assert lines[0].startswith(f"usage: rdm {command} ") and lines[2]
    assert lines[2] == subcommands()[command].description
    for one in subcommands()[command]._actions:
        assert one.help in told, one.dest
    kind = OF_COMMAND.get(command)
    assert ("\nparameters, for --set KEY=VALUE:\n" in told) == (kind is not None)
    for name, *_ in parameters_of(kind) if kind else ():
        assert re.search(rf"^  {re.escape(name)} ", told, re.M), name


@pytest.mark.parametrize(
    "command, said",
    [
        ("import", {"coco": "annotations/ with captions_*.json", "wikiart": "<Style>/",
                    "openimages": "class-descriptions-boxable.csv", "folder": "NAME.txt",
                    "urls": "rdm acquire urls", "emoji": "rdm acquire emoji",
                    "shapes": "Shapes in colours", "entities": "made-up name"}),
        ("acquire", {"coco": "COCO 2017", "urls": "list of their addresses", "emoji": "npm",
                     "wikiart": "non-commercial", "openimages": "public bucket"}),
    ],
)  # fmt: skip
def test_help_says_of_every_source_what_it_is_and_wants(command, said):
    told = subcommands()[command].format_help()
    told = told.partition("\nsources:\n")[2].partition("\nparameters,")[0]
    for source, words in said.items():
        (entry,) = re.findall(rf"^  {source} .*\n(?: {{14}}.*\n)*", told + "\n", re.M)
        assert words in " ".join(entry.split()), source
    assert "sources:" not in subcommands()["build"].format_help()


@pytest.mark.parametrize("command", LISTED)
def test_a_word_of_the_command_line_runs_the_function_of_its_name(command):
    modules = (drawing, looking, making, upkeep)
    (here,) = [module for module in modules if hasattr(module, f"run_{command}")]
    assert subcommands()[command].get_default("command") is getattr(here, f"run_{command}")


def test_a_command_that_is_missing_or_unknown_is_refused(capsys):
    for words, said in (([], "COMMAND"), (["shwo"], "invalid choice: 'shwo'")):
        with pytest.raises(SystemExit, match="2"):
            cli.main(words)
        told = capsys.readouterr()
        assert said in told.err and not told.out


def test_what_was_typed_is_told_without_steering_the_terminal(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["gc", "--keep", "\x1b[31mred"])
    assert "invalid int value" in (told := capsys.readouterr().err) and "\x1b" not in told
