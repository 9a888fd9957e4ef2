"""The threads of a model server: one for the event loop of both ports, and the threads in which requests run.

No thread keeps the process from ending: a run of TensorFlow that never ends must not hold up the end of the grace.
"""

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class LoopThread:
    """An event loop in a thread of its own. It runs from when it is made to `stop`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine in the loop, wait for its end, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class RequestThreads(Executor):
    """A ThreadPoolExecutor of `most` threads that are daemons: Python waits for all threads of the other kind."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle = threading.Semaphore(0)
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()

    def submit(self, call: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> "Future[_Result]":
        """Run a call in one of the threads. Only one thread may submit calls: the event loop's."""
        future: Future[_Result] = Future()
        self._calls.put((future, functools.partial(call, *args, **kwargs)))
        if not self._idle.acquire(blocking=False) and self._count < self._most:
            self._count += 1
            threading.Thread(target=self._work, name=f"graftline-request-{self._count}", daemon=True).start()
        return future

    def _work(self) -> None:
        while entry := self._calls.get():
            future, call = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except StopIteration as error:  # asyncio cannot pass it on, and the one who waits would wait for ever
                    fault = RuntimeError("a call raised StopIteration")
                    fault.__cause__ = error
                    future.set_exception(fault)
                except BaseException as error:  # noqa: BLE001 - the one who waits for the future gets it
                    future.set_exception(error)
            del entry, future, call  # a thread that waits must not keep the last request's images
            self._idle.release()
        self._calls.put(None)  # for the next thread

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """End every thread when it has run the calls before. Does not wait for them."""
        self._calls.put(None)
