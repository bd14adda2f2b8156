"""Why something could not be had: for good, or perhaps the next time."""


class NotFetched(Exception):
    """An address that gave nothing. `reason` is one of a few words, for a table; `detail` says
    more.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.detail)


class Refused(NotFetched):
    """It is not to be had: the address leads where nothing is fetched from, its owner forbids it,
    or what it gives is of no use. Asking again would change nothing.
    """


class Failed(NotFetched):
    """It was not to be had this time."""
