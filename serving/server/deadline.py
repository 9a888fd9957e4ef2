"""The time by which a request must be answered. Standard library only."""

import time
from dataclasses import dataclass

from graftline.serving.server.errors import Code, ServingError


@dataclass(frozen=True)
class Deadline:
    """A point of time.monotonic, or None for no limit."""

    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """Return the deadline in `seconds` from now; no limit for None."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    @property
    def left(self) -> float | None:
        """Return the seconds until the deadline, 0 when it has passed; None without a limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def check(self) -> None:
        """Raise DEADLINE_EXCEEDED when the time has passed."""
        if self.left == 0.0:
            raise ServingError(Code.DEADLINE_EXCEEDED, "the request's time, rest_api_timeout_in_ms, is over")


NO_DEADLINE = Deadline()
