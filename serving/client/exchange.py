"""One call with its repetitions, whatever protocol carries it. No input or output happens here.

A `Steps` is a generator. It yields what is to be done (`Send`, `Pause`), receives the outcome, and returns the result.
Errors are thrown into it. `run` does the steps for the blocking clients, `run_async` for those on an event loop, so
both share one logic. See https://sans-io.readthedocs.io.
"""

import itertools
import random
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError

from graftline.serving.client.results import ServiceError

T = TypeVar("T")

# Statuses that may pass. A prediction changes nothing on the server, so it is safe to repeat.
_TEMPORARY = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
_PERMANENT = "larger than max"  # in gRPC's message for a request over its limit of bytes, also RESOURCE_EXHAUSTED


@dataclass(frozen=True)
class Retry:
    """When a client repeats a call: on UNAVAILABLE (also a lost connection) and RESOURCE_EXHAUSTED, within its timeout.

    The pause before repetition n is random, evenly between 0 and `first_pause` * 2**(n-1) seconds and never above
    `longest_pause`: "full jitter" of
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/. A server may ask for a longer pause
    (Retry-After).

    Example:
      `Client("localhost:8500", "flowers", retry=Retry(attempts=1))` never repeats a call.

    Attributes:
      attempts: how often a call is made at most, the first time included.
      first_pause: seconds.
      longest_pause: seconds.
    """

    attempts: int = 5
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def pause(self, repetition: int, fraction: float) -> float:
        """Return the seconds to wait before a repetition (1, 2, ...), for a random `fraction` between 0 and 1."""
        return fraction * min(self.longest_pause, self.first_pause * 2.0 ** min(repetition - 1, 60))


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to read its answer."""

    verb: str  # of HTTP; "" for gRPC
    path: str  # the URL's, or gRPC's full method name
    body: bytes
    read: Callable[[bytes], T]


@dataclass(frozen=True)
class Send:
    """A step: send the call, and return the bytes of the answer or throw a ServiceError."""

    call: Call[Any]
    timeout: float  # seconds


@dataclass(frozen=True)
class Pause:
    """A step: wait."""

    seconds: float


Steps = Generator[Any, Any, T]


def exchange(
    call: Call[T],
    retry: Retry,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> Steps[T]:
    """Make a call and its repetitions, in `timeout` seconds altogether. Raises the last attempt's ServiceError."""
    end = clock() + timeout
    for attempt in itertools.count(1):
        try:
            return _read(call, (yield Send(call, max(0.0, end - clock()))))
        except ServiceError as error:
            pause = max(retry.pause(attempt, draw()), error.retry_after or 0.0)
            temporary = error.code in _TEMPORARY and _PERMANENT not in error.message
            if attempt >= retry.attempts or not temporary or clock() + pause >= end:
                raise
        yield Pause(pause)
    raise AssertionError("unreachable")


def _read(call: Call[T], answer: bytes) -> T:
    try:
        return call.read(answer)
    except (ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
        reason = f"has not the form of TensorFlow Serving's: {type(error).__name__} {error}"
        raise ServiceError("INTERNAL", f"the answer to {call.path} {reason}") from error


def run(steps: Steps[T], send: Callable[[Any], Any], sleep: Callable[[float], None] = time.sleep) -> T:
    """Do the steps to their end, and return their result. `send` does every step that is no pause."""
    answer: Any = None
    error: ServiceError | None = None
    while True:
        try:
            step = steps.throw(error) if error else steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = error = None
        try:
            answer = sleep(step.seconds) if isinstance(step, Pause) else send(step)  # type: ignore[func-returns-value]
        except ServiceError as raised:
            error = raised


async def run_async(
    steps: Steps[T], send: Callable[[Any], Awaitable[Any]], sleep: Callable[[float], Awaitable[None]]
) -> T:
    """Do the steps on an event loop, as `run` does them."""
    answer: Any = None
    error: ServiceError | None = None
    while True:
        try:
            step = steps.throw(error) if error else steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = error = None
        try:
            answer = await (sleep(step.seconds) if isinstance(step, Pause) else send(step))
        except ServiceError as raised:
            error = raised
