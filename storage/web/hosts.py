"""What is known of one host while addresses of it are asked."""

import threading
import time

from storage.web.manners import Robots
from storage.web.outcomes import Failed, Refused
from storage.web.reservations import Reservations


class Host:
    """What is known of one host, and when it may be asked again."""

    def __init__(self, connections: int) -> None:
        self.lock = threading.Lock()
        self.connections = threading.Semaphore(connections)
        self.rules_lock = threading.Lock()
        """Of the next two: whoever has it asks for them."""
        self.robots: Robots | Refused | Failed | None = None
        self.reservations: Reservations | Refused | Failed | None = None
        self.proxy_knows_it = False
        """Whether its name means nothing here and is left to a proxy."""
        self.users = 0
        self.next_second = 0.0

    def turn(self, seconds_between: float, most: float) -> float:
        """Seconds until its next turn, which is then taken. Raises Failed where it is too far away:
        somebody asked for that much quiet.
        """
        with self.lock:
            now = time.monotonic()
            turn = max(now, self.next_second)
            if turn - now > most:
                raise Failed("asked to wait", f"{turn - now:.0f} s, longer than is waited")
            self.next_second = turn + seconds_between
        return max(0.0, turn - now)

    def hold(self, seconds: float) -> None:
        """Ask nothing for some time."""
        with self.lock:
            self.next_second = max(self.next_second, time.monotonic() + seconds)
