"""One call to its end, whatever carries it: what to send, when to try again, when to give up. No input or output here.

A `Steps` is a generator that yields what is to be done (`Send`, `Pause`), is sent what came of it, and returns the
result; errors are thrown into it. `run` does the steps for the clients that block, `run_async` for those that don't,
so there is one logic for both. See https://sans-io.readthedocs.io.
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

# Passing troubles. A prediction changes nothing, so to ask twice does no harm.
_PASSING = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
_NEVER = "larger than max"  # a message over gRPC's limit of bytes: it will be no smaller the next time


@dataclass(frozen=True)
class Retry:
    """When a call is made again: on UNAVAILABLE (also a lost connection) and RESOURCE_EXHAUSTED, within its timeout.

    The pause before the n-th repetition is drawn evenly from 0 to first_pause * 2**(n-1) seconds, and never above
    longest_pause: "full jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/. A server
    that says how long to wait (Retry-After) gets that at least.
    """

    attempts: int = 5  # in all; 1 never repeats
    first_pause: float = 0.1  # seconds
    longest_pause: float = 5.0

    def pause(self, repetition: int, drawn: float) -> float:
        """Seconds to wait before the repetition (1, 2, ...), for a number `drawn` from 0..1."""
        return drawn * min(self.longest_pause, self.first_pause * 2.0 ** min(repetition - 1, 60))


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how to read its answer."""

    verb: str  # of HTTP; "" for gRPC
    path: str  # the URL's, or gRPC's full method name
    body: bytes
    read: Callable[[bytes], T]


@dataclass(frozen=True)
class Send:
    """To do: send the call, and give back the answer's bytes, or throw in a ServiceError."""

    call: Call[Any]
    timeout: float  # seconds


@dataclass(frozen=True)
class Pause:
    """To do: wait."""

    seconds: float


Steps = Generator[Any, Any, T]


def exchange(
    call: Call[T],
    retry: Retry,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> Steps[T]:
    """A call with its repetitions, which together take no longer than `timeout` seconds.

    Raises ServiceError: that of the last attempt.
    """
    end = clock() + timeout
    for attempt in itertools.count(1):
        try:
            return _read(call, (yield Send(call, max(0.0, end - clock()))))
        except ServiceError as error:
            pause = max(retry.pause(attempt, draw()), error.retry_after or 0.0)
            passing = error.code in _PASSING and _NEVER not in error.message
            if attempt >= retry.attempts or not passing or clock() + pause >= end:
                raise
        yield Pause(pause)
    raise AssertionError("unreachable")


def _read(call: Call[T], answer: bytes) -> T:
    try:
        return call.read(answer)
    except (ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
        raise ServiceError(
            "INTERNAL",
            f"the answer to {call.path} is not what TensorFlow Serving gives: {type(error).__name__} {error}",
        ) from error


def run(steps: Steps[T], send: Callable[[Any], Any], sleep: Callable[[float], None] = time.sleep) -> T:
    """Do the steps to their end. `send` gets each thing to do that is no pause."""
    answer: Any = None
    error: ServiceError | None = None
    while True:
        try:
            todo = steps.throw(error) if error else steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = error = None
        try:
            answer = sleep(todo.seconds) if isinstance(todo, Pause) else send(todo)  # type: ignore[func-returns-value]
        except ServiceError as failed:
            error = failed


async def run_async(
    steps: Steps[T], send: Callable[[Any], Awaitable[Any]], sleep: Callable[[float], Awaitable[None]]
) -> T:
    """As `run`, for an event loop."""
    answer: Any = None
    error: ServiceError | None = None
    while True:
        try:
            todo = steps.throw(error) if error else steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = error = None
        try:
            answer = await (sleep(todo.seconds) if isinstance(todo, Pause) else send(todo))
        except ServiceError as failed:
            error = failed
