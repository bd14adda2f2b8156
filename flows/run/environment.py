"""What surrounds a command, a call from Python, a worker and a training alike: prepared here, once
and for all of them.

What the user has set is left as it is where it can be used. Prefect's server is the user's,
wherever it is named; where none is, there is none, and Prefect is not imported.
"""

import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from flows.run.terminal import open_closed_streams

LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SETTINGS = {
    # Waiting threads sleep instead of spinning: beside any other busy process, spinning made torch
    # ten times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    "DO_NOT_TRACK": "1",
    "HF_HUB_VERBOSITY": "error",  # its tries are two lines each; the error we tell says the same
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The command line tells an error itself, once.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "10",  # a busy server answers 503; 5 tries were over in a minute
}
EPHEMERAL = ("PREFECT_SERVER_EPHEMERAL_ENABLED", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")
TABLES = {
    "PREFECT_API_URL": ("api", "url"),
    "PREFECT_SERVER_EPHEMERAL_ENABLED": ("server", "ephemeral", "enabled"),
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": ("server", "ephemeral", "enabled"),
}
"""Where these settings stand in Prefect's TOML files."""
FOR_PYTHON = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",  # ours, whatever lies in this directory
    "PYTHONUTF8": "1",  # what a child prints, we read as UTF-8
}
"""For the processes that we start; what they are asked for is in their arguments."""


def prepare(root: Path | None = None) -> None:
    """Set what the user has not set, and mend what cannot be used: before Prefect and torch are
    imported, where they are not yet. `root` is where a home is made for a user who has none.
    """
    open_closed_streams()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    reach_loopback()
    _mend_numbers()
    _mend_home(root)


def in_utf8_mode() -> None:
    """Start this command again in Python's UTF-8 mode where the locale has another encoding: names
    of files would be other texts there, and so other keys, than in the next terminal. What is shown
    stays in the terminal's own encoding.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8":
        return
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def reach_loopback() -> None:
    """What runs on this machine is never asked through a proxy, in whichever case one is named."""
    if not any(name.lower() in PROXIES for name in os.environ):
        return
    stated = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in stated.split(",") if host.strip()]
    if "*" not in hosts:  # no proxy for any host already
        hosts += [host for host in LOOPBACK if host not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def usual_numbers() -> AbstractContextManager[None]:
    """torch's own defaults while a stage runs, where the caller, a notebook say, has set others."""
    if "torch" not in sys.modules:
        return nullcontext()
    from rdm_core.device import usual_defaults

    return usual_defaults()


def for_child() -> dict[str, str]:
    """The surroundings of a Python process that we start."""
    return os.environ | FOR_PYTHON


def is_recorded() -> bool:
    """Whether Prefect hears of what runs: a server is configured, or none but a server will do."""
    if "prefect" not in sys.modules:
        return server_is_configured() or server_is_required()
    return inside_a_run() or bool(_address_in_use()) or server_is_required()


def inside_a_run() -> bool:
    """Whether this is called in a flow or task run of Prefect's."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return bool(FlowRunContext.get() or TaskRunContext.get())


def server_is_required() -> bool:
    """Whether the user has said that nothing may run without a server: Prefect's own switch."""
    for name in EPHEMERAL:
        stated = _stated(name)
        if stated is not None:
            return str(stated).strip().lower() in ("0", "false", "no", "off", "f", "n")
    return False


def server_is_configured() -> bool:
    """Whether a server's address is set, wherever Prefect would find it. An empty one is none."""
    return bool(_address_in_use() or str(_stated("PREFECT_API_URL") or "").strip())


def _address_in_use() -> str | None:
    """What Prefect goes by, once it is imported: a program may have set it for a while."""
    if "prefect" not in sys.modules:
        return None
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


class Stated(NamedTuple):
    """What a setting of Prefect's is, and where that stands, in words."""

    value: Any
    where: str


def stated_in_prefect(name: str) -> Stated | None:
    """A setting of Prefect's (one of TABLES), from where Prefect takes it: the environment in any
    case, then .env, prefect.toml and pyproject.toml of this directory, then the active profile.
    None: nowhere.
    """
    in_order = (
        Stated(_in_any_case(os.environ, name), "the environment"),
        Stated(_in_any_case(_dotenv(), name), ".env of this directory"),
        Stated(_inside(_toml("prefect.toml"), *TABLES[name]), "prefect.toml of this directory"),
        Stated(_inside(_tool_prefect(), *TABLES[name]), "pyproject.toml of this directory"),
    )
    for stated in in_order:
        if stated.value is not None:
            return stated
    profile = prefect_profile()
    value = _inside(profile.settings, name) if profile else None
    if profile is None or value is None:
        return None
    return Stated(value, f"the profile {profile.name!r} of {profile.path}")


class Profile(NamedTuple):
    """The active profile of Prefect's."""

    name: str
    path: Path
    """The file of profiles, which need not be there."""
    settings: Mapping[str, Any] | None
    """None: the file has no profile of that name."""


def prefect_profile() -> Profile | None:
    """Of the file named in one of Prefect's or the usual one. None where no profile is active, or
    nobody knows where this user is at home.
    """
    path = (
        _in_any_case(_dotenv(), "PREFECT_PROFILES_PATH")
        or _inside(_toml("prefect.toml"), "profiles_path")
        or _inside(_tool_prefect(), "profiles_path")
    )
    try:
        path = os.environ.get("PREFECT_PROFILES_PATH") or path or prefect_home() / "profiles.toml"
    except RuntimeError:
        return None
    profiles = _toml(str(path))
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    if not isinstance(active, str) or not active:
        return None
    settings = _inside(profiles, "profiles", active)
    return Profile(active, Path(path), settings if isinstance(settings, Mapping) else None)


def prefect_home() -> Path:
    """Where Prefect keeps its files. Raises RuntimeError where this user has no home."""
    return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")


def _stated(name: str) -> Any:
    stated = stated_in_prefect(name)
    return stated.value if stated else None


def _tool_prefect() -> Any:
    return _inside(_toml("pyproject.toml"), "tool", "prefect")


def _dotenv() -> Mapping[str, Any]:
    """What this directory's .env sets; nothing where there is none that can be read."""
    if not Path(".env").is_file():
        return {}
    from dotenv import dotenv_values

    with suppress(OSError, ValueError):
        return dotenv_values(".env")
    return {}


def _toml(path: str) -> dict[str, Any]:
    """A TOML file; nothing where there is none that can be read, which Prefect itself will tell."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _in_any_case(variables: Mapping[str, Any], name: str) -> Any:
    """As Prefect reads them: prefect_api_url is one too."""
    for key, value in variables.items():
        if key.upper() == name:
            return value
    return None


def _inside(table: Any, *keys: Any) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _mend_numbers() -> None:
    """OMP_NUM_THREADS=auto and its like mean: as many as there are cores."""
    stated = os.environ.get("OMP_NUM_THREADS")
    # OpenMP allows a list of numbers, one a level of nested threads.
    if stated is not None and not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", stated):
        del os.environ["OMP_NUM_THREADS"]


def _mend_home(root: Path | None) -> None:
    """A user without an entry in passwd, or whose home is absent or not theirs, as in a container
    started with any uid, is at home in the root; else torch, the hub and Prefect end in a
    traceback.
    """
    if not _has_name():
        os.environ["USER"] = os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    stated = os.environ.get("HOME")
    if stated is None:
        with suppress(RuntimeError):
            stated = str(Path.home())
    if not stated or not _can_be_home(Path(stated)):
        os.environ["HOME"] = str(_home(root))


def _can_be_home(home: Path) -> bool:
    """Whether one can write there, or at least find weights that were fetched before."""
    with suppress(OSError):  # one that may not be looked at, or is no path at all
        return home.is_dir() and (os.access(home, os.W_OK) or (home / ".cache").is_dir())
    return False


def _has_name() -> bool:
    import getpass

    try:
        return bool(getpass.getuser())
    except (KeyError, OSError, ImportError):
        return False


def _home(root: Path | None) -> Path:
    """`<root>/.home`, or a directory of its own where the root is read-only or not given."""
    if root is not None:
        home = root.absolute() / ".home"
        with suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            if os.access(home, os.W_OK):
                return home
    return Path(tempfile.mkdtemp(prefix="rdm-home-"))
