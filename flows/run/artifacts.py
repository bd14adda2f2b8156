"""What a run shows in Prefect's UI beside its log: a progress bar, a table of losses, a grid of
images, a link.

Showing is best effort: when Prefect's server is away, that is logged and the work goes on.
"""

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.run.environment import inside_a_run
from flows.run.progress import detail
from rdm_core.decode import decode
from rdm_core.images import encode, resize_shorter_side

SECONDS_BETWEEN_UPDATES = 5.0
LINES_IN_A_TABLE = 20
MOST_BYTES_SHOWN = 200_000
"""Of a picture: it is stored in Prefect's database, as its UI cannot read our files."""


class TrainingProgress:
    """The progress bar and the table of losses of one training, and its newest picture.

    `what` is its kind and name, runs/coco: an autoencoder of that name is shown beside it.
    """

    def __init__(
        self, what: str, steps: int, newest: Callable[[], Path | None] = lambda: None
    ) -> None:
        self._what, self._steps, self._newest = what, steps, newest
        self._shown: Path | None = None
        self._picture: Any = None
        self._artifact: Any = None
        self._records: list[dict[str, Any]] = []
        self._told_at = 0.0

    def watch(self, record: dict[str, Any]) -> None:
        """Take one record of metrics; the UI hears of it every few seconds, and of the last one."""
        self._records.append(record)
        if (
            time.monotonic() - self._told_at >= SECONDS_BETWEEN_UPDATES
            or record["step"] >= self._steps
        ):
            self._told_at = time.monotonic()
            _best_effort(lambda: self._show(record))
            newest = self._newest()
            if newest is not None and newest != self._shown:
                self._shown = newest
                text = f"Samples after {int(newest.stem):,} steps, each beside its neighbors"
                self._picture = show_image(
                    f"{self._what}-training", newest, text, instead_of=self._picture
                )

    def _show(self, record: dict[str, Any]) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        share = 100.0 * record["step"] / self._steps
        text = f"step {record['step']:,} of {self._steps:,}, loss {record['loss']:.4f}"
        if self._artifact is None:
            self._artifact = create_progress_artifact(
                share, key=key_of(f"{self._what}-progress"), description=text
            )
        else:
            update_progress_artifact(self._artifact, share, description=text)
        if record["step"] >= self._steps:
            kept = [*self._records[:: max(1, len(self._records) // LINES_IN_A_TABLE)], record]
            show_table(f"{self._what}-loss", kept, f"Training of {self._what}")


def show_table(what: str, rows: list[dict[str, Any]], text: str) -> None:
    """A table, if there is a flow run to show it for."""

    def show() -> None:
        from prefect.artifacts import create_table_artifact

        create_table_artifact(rows, key=key_of(what), description=text)

    _best_effort(show)


def show_image(what: str, path: Path, text: str, instead_of: Any = None) -> Any:
    """A picture of kind/name, inside the page: the UI has no way to our files. Returns what Prefect
    calls it, None if it is not shown.

    `instead_of` names one shown before, whose place it takes: pictures of a training would fill
    Prefect's database.
    """
    if not in_a_flow():
        return None
    url = _as_jpeg(path)
    if url is None:
        detail(f"{path}: too large for Prefect's database, so it is not shown there")
        return instead_of
    from prefect.artifacts import create_image_artifact
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactUpdate

    if instead_of is None:
        return _best_effort(
            lambda: create_image_artifact(url, key=key_of(f"{what}-images"), description=text)
        )
    update = ArtifactUpdate(data=url, description=text)
    _best_effort(lambda: get_client(sync_client=True).update_artifact(instead_of, update))
    return instead_of


def _as_jpeg(path: Path) -> str | None:
    """The picture as a data URL that is small enough; None when it cannot be."""
    picture = decode(path.read_bytes())
    # Smaller and smaller, until its bytes are few enough.
    for most_pixels in (1024, 512, 256):
        longest = max(picture.shape[:2])
        if longest > most_pixels:
            picture = resize_shorter_side(
                picture, max(1, most_pixels * min(picture.shape[:2]) // longest)
            )
        data = encode(picture, "jpg", 85)
        if len(data) <= MOST_BYTES_SHOWN:
            return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return None


def show_link(what: str, path: Path, text: str) -> None:
    """A link to a file of kind/name."""

    def show() -> None:
        from prefect.artifacts import create_link_artifact

        create_link_artifact(path.resolve().as_uri(), text, key=key_of(what), description=str(path))

    _best_effort(show)


def key_of(name: str) -> str:
    """A key as Prefect wants it: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def in_a_flow() -> bool:
    """Whether there is a flow run to show something for."""
    return inside_a_run()


def _best_effort(show: Callable[[], Any]) -> Any:
    """What `show` returns; None outside of a flow run, or where Prefect cannot be reached."""
    try:
        return show() if in_a_flow() else None
    except Exception as error:
        # Prefect's server may be restarting: the work matters more than its picture
        detail(f"not shown in Prefect: {type(error).__name__}: {error}")
        return None
