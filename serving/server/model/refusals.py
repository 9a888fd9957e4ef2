"""Versions that could not be loaded, and when each is tried again: when a file of it changes, and after a while.

A version may be there in part, or the machine may lack memory for a moment. TensorFlow Serving tries again, too
(--max_num_load_retries, --load_retry_interval_micros). Here the intervals grow, and the tries never end.
"""

import os
import time
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

FIRST_SECONDS, LAST_SECONDS = 5.0, 600.0  # from a failure to the next try; each interval is twice the last


def mark(path: str) -> Hashable:
    """Return a mark of all files of a version (paths, sizes, times of change), which another upload does not have."""
    found = []
    for folder, _, names in os.walk(path, followlinks=True):
        for name in names:
            file = os.path.join(folder, name)
            try:
                status = os.stat(file)
            except OSError:  # removed in the meantime, or a broken link
                found.append((file, -1, 0))
            else:
                found.append((file, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


@dataclass
class _Refusal:
    mark: Hashable
    message: str
    wait: float
    until: float


class Refusals:
    """The refused versions, by directory. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Make an empty set."""
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}

    def hold(self, path: str, now: Callable[[str], Hashable] = mark) -> bool:
        """Return whether a version is not tried now: it has failed, is as it was, and its interval is not over."""
        refusal = self._refused.get(path)
        return refusal is not None and self._clock() < refusal.until and now(path) == refusal.mark

    def add(self, path: str, before: Hashable, message: str) -> bool:
        """Note a failure of a version that had the mark `before`; return whether the message is a new one."""
        last = self._refused.get(path)
        again = last is not None and last.mark == before
        wait = min(LAST_SECONDS, 2 * last.wait) if last and again else FIRST_SECONDS
        self._refused[path] = _Refusal(before, message, wait, self._clock() + wait)
        return last is None or last.message != message

    def keep(self, paths: Collection[str]) -> None:
        """Forget all versions but these."""
        self._refused = {path: refusal for path, refusal in self._refused.items() if path in paths}

    def forget(self, path: str) -> None:
        """Forget a version, which was loaded."""
        self._refused.pop(path, None)
