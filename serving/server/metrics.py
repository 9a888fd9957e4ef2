"""The server's metrics, by TensorFlow Serving's names, and the text that Prometheus reads.

Names, labels and buckets: TensorFlow Serving's servables/tensorflow/util.cc, batching/batching_session.cc and
saved_model_warmup_util.cc, TensorFlow's framework/metrics.cc and cc/saved_model/loader.cc. Format: its
util/prometheus_exporter.cc, which writes `:` for `/` in names. prometheus_client would add `_total` to each counter,
and dashboards made for TensorFlow Serving would find no counter. Standard library only.
"""

import bisect
import contextlib
import threading
import time
from collections.abc import Container, Iterator, Sequence

from graftline.serving.server.errors import Code, ServingError

UNKNOWN_MODEL = "(unknown)"  # a client must not be able to make the server keep names without end


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Metric:
    def __init__(self, name: str, labels: Sequence[str]) -> None:
        self.name = name
        self._labels = tuple(labels)
        self._lock = threading.Lock()

    def _text(self, values: tuple[str, ...], *extra: str) -> str:
        named = [f'{name}="{_escape(value)}"' for name, value in zip(self._labels, values, strict=True)]
        return "{" + ",".join([*named, *extra]) + "}"


class Counter(_Metric):
    """One growing number for each combination of label values."""

    kind = "counter"

    def __init__(self, name: str, *labels: str) -> None:
        super().__init__(name, labels)
        self._values: dict[tuple[str, ...], int] = {}

    def add(self, amount: int, *values: str) -> None:
        """Add `amount` to the cell of the label values."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + amount

    def samples(self) -> list[str]:
        """Return `NAME{LABELS} VALUE` for each cell."""
        with self._lock:
            cells = sorted(self._values.items())
        return [f"{self.name}{self._text(values)} {value}" for values, value in cells]


class Histogram(_Metric):
    """Counts of values in `count` buckets, whose upper bounds grow from `first` by `factor`."""

    kind = "histogram"

    def __init__(self, name: str, *labels: str, first: float, factor: float, count: int) -> None:
        super().__init__(name, labels)
        self._bounds = [first * factor**step for step in range(count)]
        # A cell has one number for each bucket, one for larger values, then the sum.
        self._cells: dict[tuple[str, ...], list[float]] = {}

    def observe(self, value: float, *values: str) -> None:
        """Count `value` in the cell of the label values."""
        bucket = bisect.bisect_left(self._bounds, value)
        with self._lock:
            cell = self._cells.setdefault(values, [0] * (len(self._bounds) + 2))
            cell[bucket] += 1
            cell[-1] += value

    def samples(self) -> list[str]:
        """Return `NAME_bucket{LABELS,le="BOUND"} COUNT` for each bound, then `NAME_sum` and `NAME_count`."""
        with self._lock:
            cells = sorted((values, list(cell)) for values, cell in self._cells.items())
        lines = []
        for values, cell in cells:
            total = 0
            for bound, count in zip([*(f"{bound:g}" for bound in self._bounds), "+Inf"], cell, strict=False):
                total += int(count)
                lines.append(f"{self.name}_bucket" + self._text(values, f'le="{bound}"') + f" {total}")
            lines.append(f"{self.name}_sum{self._text(values)} {cell[-1]:.15g}")
            lines.append(f"{self.name}_count{self._text(values)} {total}")
        return lines


def _latency(name: str, *labels: str) -> Histogram:
    """Return a histogram of microseconds with TensorFlow Serving's buckets: from 10 by 1.8 in 33 steps."""
    return Histogram(name, *labels, first=10, factor=1.8, count=33)


class Metrics:
    """All metrics of one server. Threads may add at the same time."""

    def __init__(self) -> None:
        serving, batching = ":tensorflow:serving:", ":tensorflow:serving:batching_session:"
        self.request_count = Counter(serving + "request_count", "model_name", "status")
        self.request_latency = _latency(serving + "request_latency", "model_name", "API", "entrypoint")
        self.runtime_latency = _latency(serving + "runtime_latency", "model_name", "API", "runtime")
        self.model_warmup_latency = _latency(serving + "model_warmup_latency", "model_path", "status")
        waits = batching + "queuing_latency"
        self.queuing_latency = Histogram(waits, "thread_pool_name", first=100, factor=1.2, count=52)
        self.wrapped_run_count = Counter(batching + "wrapped_run_count")
        # TensorFlow Serving keeps percentiles of these three, which Prometheus cannot add up. They are histograms here.
        self.input_batch_size = Histogram(batching + "input_batch_size", first=1, factor=2, count=15)
        self.processed_batch_size = Histogram(batching + "processed_batch_size", first=1, factor=2, count=15)
        self.padding_size = Histogram(batching + "padding_size", first=1, factor=2, count=15)
        self.graph_runs = Counter(":tensorflow:core:graph_runs")
        self.graph_run_time_usecs = Counter(":tensorflow:core:graph_run_time_usecs")
        self.load_attempt_count = Counter(":tensorflow:cc:saved_model:load_attempt_count", "model_path", "status")
        self.load_latency = Counter(":tensorflow:cc:saved_model:load_latency", "model_path")

    @contextlib.contextmanager
    def counting(self, model: str, served: Container[str], api: str, entrypoint: str) -> Iterator[None]:
        """Count an inference request by the ServingError that ends the `with`, and its time when there is none.

        Failures are quick and would flatter the latency; TensorFlow Serving leaves them out as well.
        """
        name = model if model in served else UNKNOWN_MODEL
        started, code = time.monotonic(), Code.INTERNAL
        try:
            yield
            code = Code.OK
            self.request_latency.observe((time.monotonic() - started) * 1e6, name, api, entrypoint)
        except ServingError as error:
            code = error.code
            raise
        finally:
            self.request_count.add(1, name, code.name)

    def exposition(self) -> str:
        """Return Prometheus's text format, version 0.0.4. As in TensorFlow Serving, unused metrics are left out."""
        lines: list[str] = []
        for metric in sorted(vars(self).values(), key=lambda each: each.name):
            if samples := metric.samples():
                lines += [f"# TYPE {metric.name} {metric.kind}", *samples]
        return "\n".join(lines) + "\n"
