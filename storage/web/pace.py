"""How fast a body must come: one that trickles would hold a connection for days, though no single
wait is long.
"""

import time
from dataclasses import dataclass, field

from storage.web.outcomes import Failed

SLOWEST_BYTES_PER_SECOND = 1000
"""Over the seconds that an answer may take."""


@dataclass
class Pace:
    """Looks at how much of a body comes."""

    seconds: float
    """Over which it is looked at: those that an answer may take."""
    since: float = field(default_factory=time.monotonic)
    before: int = 0
    """Bytes that were there then."""

    def check(self, there: int) -> None:
        """Told, whenever some came, how many bytes are there: raises Failed once too few came in
        the last seconds. What brings nothing at all ends by its timeout.
        """
        took = time.monotonic() - self.since
        if took < self.seconds:
            return
        if there - self.before < SLOWEST_BYTES_PER_SECOND * took:
            raise Failed("too slow", f"{there - self.before:,} bytes in {took:.0f} seconds")
        self.since, self.before = time.monotonic(), there


def is_progress(gained_bytes: int, began: float) -> bool:
    """Whether bytes that came since then (time.monotonic) are more than a trickle."""
    took = time.monotonic() - began
    return gained_bytes >= max(1, SLOWEST_BYTES_PER_SECOND * took)
