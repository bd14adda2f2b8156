"""What is printed neither steers a terminal nor fails because the terminal lacks a letter."""

import io
import shlex
import subprocess
import sys

import pytest

from flows.cli import main
from flows.commands import looking
from flows.config import arguments
from flows.config.images import ImportImages
from flows.config.sample import SampleRDM
from flows.run import progress
from flows.run.terminal import (
    escape_what_cannot_be_shown,
    shown_address,
    tell,
    without_passwords,
)
from storage.text import on_one_line, printable

STEERING = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "a\rb": "a\\x0db",
    "\x9b2J": "\\x9b2J",
    "a\x08b\x00c\x7f": "a\\x08b\\x00c\\x7f",
    "\u202egnp.exe": "\\u202egnp.exe",
    "one\u2028two": "one\\u2028two",
    "caf\udce9": "caf\\xe9",
    "\ud83d": "\\ud83d",
}
KEPT = ["plain", "Zoë Müller – 日本 🐕", "👨\u200d👩\u200d👧", "a\tb\nc", "שלום"]


@pytest.mark.parametrize("text", STEERING)
def test_what_would_steer_a_terminal_is_told_as_its_escape(text):
    assert printable(text) == on_one_line(text) == STEERING[text]


@pytest.mark.parametrize("text", KEPT)
def test_everything_else_stays(text):
    assert printable(text) == text


def test_a_line_end_in_a_value_forges_no_line():
    assert on_one_line("a\n  0.9999  forged\tb") == "a\\n  0.9999  forged\\tb"


@pytest.mark.parametrize(
    "encoding, told",
    [
        ("ascii", "caf\\xe9 |-+ \\u65e5\n"),
        ("iso-8859-1", "café |-+ \\u65e5\n"),
        ("utf-8", "café │─┐ 日\n"),
    ],
)
def test_a_letter_that_the_terminal_lacks_is_escaped_and_boxes_are_drawn_with_what_it_has(
    monkeypatch, encoding, told
):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    escape_what_cannot_be_shown()
    tell("café │─┐ 日")
    assert written.getvalue().decode(encoding) == told


@pytest.fixture
def answers(monkeypatch, capfd):
    """answers(error or (text, value), *words) -> exit code, standard output and error of `rdm
    show`.
    """
    monkeypatch.setattr("flows.cli.signal.signal", lambda *_: None)

    def asked(answer, *words):
        def command(_):
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(looking, "run_show", command)
        try:
            code = main(["show", *words])
        except SystemExit as left:
            code = left.code
        return code, *capfd.readouterr()

    return asked


def test_no_way_to_the_terminal_lets_a_control_sequence_through(answers):
    steering = "\x1b[2J\x1b]0;owned\x07"
    value = {"author": f"{steering}\x7f"}
    told = [*answers((steering, value)), *answers((steering, value), "--json")]
    told += answers(OSError(2, "gone", f"{steering}.png"))
    told += answers(arguments.UsageError(steering))
    told += answers(("", {}), "--keep", f"{steering}")
    assert [part for part in told if isinstance(part, int)] == [0, 0, 1, 2, 2]
    said = "".join(part for part in told if isinstance(part, str))
    assert "owned" in said and not set("\x1b\x07\x7f") & set(said)


def test_progress_lines_name_nothing_raw(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_run_logger", lambda: None)
    progress.say("import", "a", "folder of \x1b[31mred\nshards  forged")
    assert capsys.readouterr().err.rstrip().endswith("folder of \\x1b[31mred\\nshards  forged")


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("café", "café"),
        ("caf\udcc3\udca9", "café"),
        ("caf\udce9", "caf\udce9"),
        ("a\ud83d", "a\ud83d"),
    ],
)
def test_what_is_typed_is_utf8_where_its_bytes_are_whatever_the_locale(typed, meant):
    assert arguments.typed(typed) == meant


@pytest.mark.parametrize(
    "words",
    [
        ["search", "--database", "a", "--text", "caf\udce9"],
        ["search", "--database", "a", "--key", "caf\udce9"],
        ["search", "--database", "caf\udce9", "--text", "a"],
        ["search", "--database", "a", "--set", 'texts=["\\ud83d"]'],
        ["search", "--database", "a", "--text", "a", "--set", 'templates=["{} \\ud83d"]'],
        ["sample", "--run", "r", "--class", "caf\udce9"],
        ["sample", "--run", "r", "--set", "negative=caf\udce9"],
        ["sample", "--run", "r", "--set", "draw.sampler=caf\udce9"],
        ["import", "folder", "p", "--name", "b", "--set", "author=caf\udce9"],
        ["import", "folder", "p", "--name", "b\udce9"],
        ["build", "--name", "b", "--shards", "b", "--set", "weights=/caf\udce9"],
        ["train", "--name", "b", "--latents", "b", "--neighbors", "b", "--database", "caf\udce9"],
        [
            "evaluate",
            "--run",
            "r",
            "--baseline",
            "b",
            "--name",
            "e",
            "--set",
            'swaps={"sketch": "\\ud83d"}',
            "--set",
            "heldout_latents=a",
            "--set",
            "heldout_neighbors=a",
        ],
    ],
    ids=lambda words: " ".join(words[:1] + words[-2:]).encode("ascii", "backslashreplace").decode(),
)
def test_a_text_that_is_no_utf8_is_refused_by_name(words, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.cli.signal.signal", lambda *_: None)
    assert main([words[0], "--root", str(tmp_path), *words[1:]]) == 2
    assert "is not UTF-8 text; write it in UTF-8" in capsys.readouterr().err


def test_a_root_or_a_query_that_is_no_utf8_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.cli.signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        main(["show", "--root", f"{tmp_path}/caf\udce9"])
    assert left.value.code == 2 and "is not UTF-8. Rename the folder" in capsys.readouterr().err
    assert main(["query", "--root", str(tmp_path), "SELECT 'caf\udce9'"]) == 1
    assert "caf\\xe9' is not UTF-8" in capsys.readouterr().err


def test_a_path_that_is_no_utf8_is_taken_and_told_as_text():
    asked = SampleRDM(name="a", run="r", images=("caf\udce9.png",), inpaint="\udce9", mask="m")
    assert str(asked.images[0]) == "caf\udce9.png"
    assert asked.model_dump(mode="json")["images"] == ["caf\\xe9.png"]
    assert asked.model_dump(mode="json")["inpaint"] == "\\xe9"
    assert '"path":"caf\\\\xe9"' in ImportImages(name="a", path="caf\udce9").model_dump_json()


def test_an_answer_that_cannot_be_written_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flows.cli.signal.signal", lambda *_: None)
    redirected = []
    monkeypatch.setattr("flows.cli.os.dup2", lambda *given: redirected.append(given))
    for error, code, said in [
        (OSError(28, "No space left on device"), 1, "No space left"),
        (BrokenPipeError(), 0, ""),
    ]:

        def refused(text, stream=None, error=error):
            if stream is None:
                raise error
            print(text, file=stream)

        monkeypatch.setattr("flows.cli.tell", refused)
        assert main(["show", "--root", str(tmp_path)]) == code
        assert said in (told := capsys.readouterr().err) and bool(told) == bool(said)
    assert [to for _, to in redirected] == [1, 1], (
        "nothing is left to complain about when the interpreter ends"
    )


def test_an_error_that_cannot_be_told_is_its_exit_code(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.cli.signal.signal", lambda *_: None)
    monkeypatch.setattr(
        "flows.cli.tell", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    assert main(["show", "--root", str(tmp_path), "nothing/there"]) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_lead_nowhere(closed, tmp_path):
    """And no file that is opened later takes their place."""
    code = (
        "import os, sys; from flows.run.environment import prepare; prepare(); "
        "fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); "
        "os.write(2, b'e'); os.write(1, b'o'); "
        "print(1); print(2, file=sys.stderr); assert fd > 2 and not sys.stdin.read()"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {tmp_path / 'ours'} {closed}"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ours").read_bytes() == b""


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:secret@host:1/api", "http://...@host:1/api"),
        ("http://me:se/cr@et@host/api?token=1", "http://...@host/api?..."),
        ("me:secret@host:4200", "...@host:4200"),
        ("http://host/api", "http://host/api"),
        (4200, "4200"),
    ],
)
def test_an_address_is_shown_without_what_is_secret_in_it(address, shown):
    assert shown_address(address) == shown


def test_addresses_inside_a_text_lose_their_users():
    text = "GET 'http://me:secret@a/b' by socks5://you:hidden@c, mail a@b"
    assert without_passwords(text) == "GET 'http://...@a/b' by socks5://...@c, mail a@b"
