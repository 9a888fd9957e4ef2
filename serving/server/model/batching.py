"""Adaptive batching: requests that arrive while a model is busy run together as soon as it is free.

An idle server runs a request at once, in the request's own thread. Other requests wait while `num_batch_threads` runs
are under way. Models take turns: the next run is that of the waiting model whose last run began first. Its request
that has waited longest takes up to `max_batch_size` rows of its kind, runs them as one batch and distributes the
results. So a model waits for one batch of each other model, however many requests the others have. No request waits
for a batch to fill, unless `batch_timeout_micros` is set, and the load decides how large batches are. The parameters
are those of TensorFlow Serving's batching guide,
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md.

In TensorFlow Serving a batch fails as a whole. Here a failed batch runs again in halves, so that a bad image fails its
own request alone.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.metrics import Metrics
from graftline.serving.server.options import BatchingParameters

Tensors = Mapping[str, np.ndarray]
Run = Callable[[Tensors, float | None], dict[str, np.ndarray]]  # (inputs, seconds that the run may take) → outputs

_POOL = "batch_threads"  # thread_pool_name of the metrics
# After these errors a batch is not run again: one request did not cause them.
_NOT_RERUN = (Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.UNAVAILABLE)


def _too_late() -> ServingError:
    return ServingError(Code.DEADLINE_EXCEEDED, "Run() timeout exceeded while waiting in batching queue")


@dataclass(eq=False)
class Function:
    """One signature of one loaded model with one set of outputs. Requests in a batch share it.

    `mergeable` says whether rows can be stacked. It becomes False when outputs do not have one row for each input row.
    `model` is the name under which models take turns.
    """

    run: Run
    mergeable: bool
    model: str = ""


@dataclass(eq=False)
class _Task:
    """A request in the queue. Its thread waits for `woken`: then it is the `leader` of a batch, or has its answer."""

    function: Function
    inputs: Tensors
    rows: int
    deadline: float | None
    since: float = field(default_factory=time.monotonic)
    woken: threading.Event = field(default_factory=threading.Event)
    leader: bool = False  # it holds one of the places, and its thread runs a batch
    taken: bool = False  # it is in a batch
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    error: BaseException | None = None


class Batcher:
    """Runs the functions of all models of a server: at most `num_batch_threads` at once, and the models in turn."""

    def __init__(self, parameters: BatchingParameters, metrics: Metrics) -> None:
        self._parameters = parameters
        self._metrics = metrics
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queues: dict[Hashable, deque[_Task]] = {}
        self._free = parameters.num_batch_threads
        self._turns = itertools.count(1)
        self._last_turns: dict[str, int] = {}  # by model

    def run(self, function: Function, inputs: Tensors, deadline: float | None) -> dict[str, np.ndarray]:
        """Return the outputs of `function` for `inputs`, before `deadline` (of time.monotonic).

        Raises the function's own ServingError, UNAVAILABLE when too many requests wait, or DEADLINE_EXCEEDED.
        """
        rows = _rows(inputs) if function.mergeable else None
        if not rows:  # nothing to stack, or no row
            return self._schedule(object(), _Task(function, inputs, 1, deadline))
        self._metrics.input_batch_size.observe(rows)
        most, kind = self._parameters.max_batch_size, _kind(function, inputs)
        splitting = self._parameters.enable_large_batch_splitting
        if rows <= most or splitting is None:
            return self._schedule(kind, _Task(function, inputs, rows, deadline))
        if not splitting:
            raise invalid(f"Task size {rows} is larger than maximum input batch size {most}")
        parts = []
        for start in range(0, rows, most):
            part = {name: values[start : start + most] for name, values in inputs.items()}
            size = min(most, rows - start)
            parts.append(self._schedule(kind, _Task(function, part, size, deadline)))
            if not _has_rows(parts[-1], size):
                function.mergeable = False
                return self.run(function, inputs, deadline)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _schedule(self, kind: Hashable, task: _Task) -> dict[str, np.ndarray]:
        with self._lock:
            queue = self._queues.setdefault(kind, deque())
            waiting = sum(each.rows for each in queue)
            room = self._parameters.max_enqueued_batches * self._parameters.max_batch_size
            if waiting and waiting + task.rows > room:
                raise ServingError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; "
                    f"task size is {task.rows}, and {waiting} are waiting",
                )
            queue.append(task)
            if self._free:
                self._free -= 1
                self._make_leader(task)
            else:
                self._arrived.notify_all()
        if not task.leader:
            self._wait(kind, task)
        if task.leader:
            self._lead(kind, task)
        if task.error is not None:
            raise task.error
        return task.outputs

    def _wait(self, kind: Hashable, task: _Task) -> None:
        """Wait until the task has its answer or must lead. Raises DEADLINE_EXCEEDED."""
        if task.woken.wait(None if task.deadline is None else max(0.0, task.deadline - time.monotonic())):
            return
        with self._lock:
            if task.woken.is_set():  # woken just now: it must lead the others, even when it is too late for itself
                return
            if not task.taken:
                self._remove(kind, task)
        # A task that was taken runs on; its outputs are dropped.
        raise _too_late()

    def _lead(self, kind: Hashable, task: _Task) -> None:
        """Run a batch that begins with `task`. Then wake its tasks and the next leader."""
        batch = [task]
        try:
            self._gather(kind, batch)
            self._run(batch)
        except BaseException as error:
            for each in batch:
                each.error = error
            raise
        finally:
            with self._lock:
                self._pass_on()
            for each in batch:
                each.woken.set()

    def _gather(self, kind: Hashable, batch: list[_Task]) -> None:
        """Move tasks from the queue to the batch. Wait for up to `batch_timeout_micros` until it is full."""
        most = self._parameters.max_batch_size
        with self._lock:
            queue = self._queues[kind]
            until = batch[0].since + self._parameters.batch_timeout_micros / 1e6
            if batch[0].deadline is not None:
                until = min(until, batch[0].deadline)  # the leader itself must be answered in time
            while batch[0].function.mergeable and sum(each.rows for each in queue) < most:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._arrived.wait(left)
            rows = batch[0].rows
            for each in [each for each in queue if not each.leader]:  # other leaders have their own batches
                if rows + each.rows > most:
                    break
                batch.append(each)
                rows += each.rows
            for each in batch:
                each.taken = True
                self._remove(kind, each)
        now = time.monotonic()
        for each in batch:
            self._metrics.queuing_latency.observe((now - each.since) * 1e6, _POOL)

    def _remove(self, kind: Hashable, task: _Task) -> None:
        queue = self._queues[kind]
        queue.remove(task)
        if not queue:
            del self._queues[kind]

    def _pass_on(self) -> None:
        """Give the place of an ended batch to the waiting model whose turn it is."""
        waiting = [each for queue in self._queues.values() for each in queue if not each.leader]
        if not waiting:
            self._free += 1
            return
        first = min(waiting, key=lambda each: (self._last_turns.get(each.function.model, 0), each.since))
        self._make_leader(first)
        first.woken.set()

    def _make_leader(self, task: _Task) -> None:
        """Give a place to a task, with the lock held."""
        task.leader = True
        self._last_turns[task.function.model] = next(self._turns)

    def _run(self, batch: Sequence[_Task]) -> None:
        for task in batch:
            if task.deadline is not None and task.deadline <= time.monotonic():
                task.error = _too_late()
        live = [task for task in batch if task.error is None]
        if not live:
            return
        try:
            if self._run_merged(live):
                return
        except ServingError as error:
            if len(live) == 1 or error.code in _NOT_RERUN:
                for task in live:
                    task.error = ServingError(error.code, error.message)
                return
        middle = len(live) // 2
        self._run(live[:middle])
        self._run(live[middle:])

    def _run_merged(self, batch: Sequence[_Task]) -> bool:
        """Set the outputs of all tasks by one run. Return False when their rows cannot be stacked."""
        function = batch[0].function
        if len(batch) > 1 and not function.mergeable:
            return False
        deadlines = [task.deadline for task in batch if task.deadline is not None]
        # As in TensorFlow Serving, the latest deadline of the batch counts.
        seconds = max(deadlines) - time.monotonic() if len(deadlines) == len(batch) else None
        rows = sum(task.rows for task in batch)
        padding = self._padding(rows) if function.mergeable else 0
        self._metrics.wrapped_run_count.add(1)
        self._metrics.processed_batch_size.observe(rows + padding)
        self._metrics.padding_size.observe(padding)
        if len(batch) == 1 and not padding:
            batch[0].outputs = function.run(batch[0].inputs, seconds)
            return True
        merged = {}
        for name in batch[0].inputs:
            parts = [task.inputs[name] for task in batch]
            merged[name] = np.concatenate([*parts, np.repeat(parts[-1][:1], padding, axis=0)])
        outputs = function.run(merged, seconds)
        if not _has_rows(outputs, rows + padding):
            function.mergeable = False
            return len(batch) == 1 and self._run_merged(batch)
        start = 0
        for task in batch:
            task.outputs = {name: values[start : start + task.rows] for name, values in outputs.items()}
            start += task.rows
        return True

    def _padding(self, rows: int) -> int:
        """Return the number of rows up to the next allowed size."""
        return next((size - rows for size in self._parameters.allowed_batch_sizes if size >= rows), 0)


def _rows(inputs: Tensors) -> int | None:
    """Return the size of the first dimension; None when the inputs do not share it."""
    sizes = {values.shape[0] if values.ndim else None for values in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def _kind(function: Function, inputs: Tensors) -> Hashable:
    return function, tuple(sorted((name, values.dtype.str, values.shape[1:]) for name, values in inputs.items()))


def _has_rows(outputs: Tensors, rows: int) -> bool:
    return all(values.shape[:1] == (rows,) for values in outputs.values())
