"""Limits on what clients may ask, so that every client gets an answer. Both ports use them."""

import contextlib
import resource
import threading
import time
from collections.abc import Iterator

from graftline.serving.server.errors import Code, ServingError

_OTHER_DESCRIPTORS = 64  # of the process: libraries, models that are loaded, event loops (40 were counted)

_LARGE_PART = 64  # of the budget: a request beyond it is large
_OVERDUE = 3  # times the time that a run may take


def raise_descriptor_limit() -> None:
    """Let this process open as many files and connections as the system lets it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # macOS takes less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors_for_a_port() -> int:
    """Return how many connections a port may have, so that both ports and the models find descriptors."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = 1 << 20 if soft == resource.RLIM_INFINITY else soft
    return max(8, (most - _OTHER_DESCRIPTORS) // 2)


class InFlight:
    """Counts the requests under way and refuses more than `most` of them. `drain` makes it refuse all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self.draining = False  # whether new requests are refused
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count a request within the `with`. Raises RESOURCE_EXHAUSTED, or UNAVAILABLE when draining."""
        with self._changed:
            if self.draining:
                raise ServingError(Code.UNAVAILABLE, "the model server is shutting down")
            if self._count >= self._most:
                message = f"{self._most} requests are under way, and no more are taken: try again"
                raise ServingError(Code.RESOURCE_EXHAUSTED, message)
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def drain(self) -> None:
        """Refuse requests from now on."""
        with self._changed:
            self.draining = True

    def wait(self, seconds: float) -> bool:
        """Wait for at most `seconds`, and return whether no request is under way."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, seconds)


class Runs:
    """The runs of models under way. TensorFlow stops a run at its deadline, but only between two ops."""

    def __init__(self) -> None:
        self._overdue_at: dict[object, float] = {}

    @contextlib.contextmanager
    def timing(self, seconds: float | None) -> Iterator[None]:
        """Watch a run within the `with`. It should take at most `seconds`; None: any time."""
        key = object()
        if seconds is not None:
            self._overdue_at[key] = time.monotonic() + _OVERDUE * seconds
        try:
            yield
        finally:
            self._overdue_at.pop(key, None)

    def overdue(self) -> int:
        """Return how many runs have taken three times as long as they should."""
        now = time.monotonic()
        return sum(at < now for at in list(self._overdue_at.values()))


class ByteBudget:
    """Counts the bytes that are held of requests, over both ports, and takes no more than `most` of them.

    The HTTP port counts what arrives of a request, from its first 64 KiB on. `holding` counts a message that arrives
    whole. Any thread may call.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._large = 0  # of the requests that `is_large`
        self._lock = threading.Lock()

    def is_large(self, size: int) -> bool:
        """Return whether a request of this size is one of those that share half of the budget: over 8 MiB by default.

        A few of the largest requests would otherwise keep the photos of all others out while they are parsed.
        """
        return size > self.most // _LARGE_PART

    def try_grow(self, held: int, more: int) -> bool:
        """Take `more` bytes for a request that has `held`. Return False when they are not free for it."""
        size = held + more
        large = (size if self.is_large(size) else 0) - (held if self.is_large(held) else 0)
        with self._lock:
            if self.taken + more > self.most or (large and self._large + large > self.most // 2):
                return False
            self.taken += more
            self._large += large
            return True

    def release(self, held: int) -> None:
        """Give back all bytes of a request that `try_grow` took."""
        with self._lock:
            self.taken -= held
            self._large -= held if self.is_large(held) else 0

    def try_take(self, count: int) -> bool:
        """Take `count` bytes. Return False, and take none, when they are not free."""
        with self._lock:
            if self.taken + count > self.most:
                return False
            self.taken += count
            return True

    def give_back(self, count: int) -> None:
        """Give back bytes that were taken."""
        with self._lock:
            self.taken -= count

    @contextlib.contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Take `count` bytes within the `with`. Raises UNAVAILABLE when they are not free."""
        if not self.try_grow(0, count):
            raise self.full()
        try:
            yield
        finally:
            self.release(count)

    def full(self) -> ServingError:
        """Return the error of a request that does not fit."""
        message = f"requests of {self.most} bytes are under way (max_bytes_in_flight), and no more are taken: try again"
        return ServingError(Code.UNAVAILABLE, message)
