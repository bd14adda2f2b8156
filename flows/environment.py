"""How Prefect is set up when no server is configured: its own temporary one, at home in the data root, silent.

Must run before Prefect and torch are imported. What the user has set is left alone, so a configured server is used as it is.
"""

import os
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path


def prepare(root: Path) -> None:
    """Set what the user has not set: home inside the root, no analytics, no log of its own on the terminal."""
    settings = {
        # Waiting threads sleep instead of spinning: beside any other busy process, spinning made torch ten times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "DO_NOT_TRACK": "1",
        "HF_HUB_VERBOSITY": "error",  # each of its tries to reach the hub is two lines; the error we tell says the same
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command line tells an error itself, once
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_CLIENT_MAX_RETRIES": "10",  # a busy server answers 503; 5 tries were over in a minute
    }
    if not server_is_configured():
        settings |= {
            "PREFECT_HOME": str(_home(root)),
            "PREFECT_LOGGING_LEVEL": "CRITICAL",  # nobody can read what a temporary server is told
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_DATABASE_TIMEOUT": "60",  # SQLite on a busy machine
            "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def server_is_configured() -> bool:
    """Whether PREFECT_API_URL is set, in the environment or in the user's active Prefect profile."""
    if "PREFECT_API_URL" in os.environ:
        return True
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    try:
        stated = tomllib.loads(profiles.read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE", stated.get("active", ""))
        return "PREFECT_API_URL" in stated.get("profiles", {}).get(active, {})
    except (OSError, ValueError, AttributeError):
        return False


def _home(root: Path) -> Path:
    """`<root>/.prefect`, or a directory of its own where the root is read-only: what is finished there can still be used."""
    home = root.resolve() / ".prefect"
    with suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the directory, but not its parents
    return home if os.access(home, os.W_OK) else Path(tempfile.mkdtemp(prefix="rdm-prefect-"))
