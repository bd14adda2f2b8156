"""How Prefect is set up when no server is configured: its own temporary one, at home in the data root, silent.

Must run before Prefect and torch are imported. What the user has set is left alone, so a configured server is used as it is.
"""

import os
from pathlib import Path


def prepare(root: Path) -> None:
    """Set what the user has not set: home inside the root, no analytics, no log of its own."""
    defaults = {
        # Waiting threads sleep instead of spinning: beside any other busy process, spinning made torch ten times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command line tells an error itself, once
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    }
    if "PREFECT_API_URL" not in os.environ:
        home = root.resolve() / ".prefect"
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the directory, but not its parents
        defaults["PREFECT_HOME"] = str(home)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
