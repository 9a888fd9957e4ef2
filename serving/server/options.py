"""The options of a model server: every flag of `graftline serve` and `python -m graftline.serving.server`, as data.

Fields are named as TensorFlow Serving names its flags and the fields of its BatchingParameters, so that one set of
settings runs either server. Comments mark the fields that only Graftline has.
"""

import os
from dataclasses import dataclass, field

from graftline.errors import UserError
from graftline.ports import GRPC_PORT, REST_PORT
from graftline.serving.images.formats import MAX_DECODED_PIXELS, MAX_REQUEST_PIXELS

MAX_REQUEST_BYTES = 64 << 20  # by default


def _check_least(options: object, least: int, *names: str) -> None:
    for name in names:
        if (getattr(options, name) or 0) < least:
            wanted = "a whole number of 1 or more" if least else "0 or more"
            raise UserError(f"{name} is {getattr(options, name)}: give {wanted}")


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are combined into one run of the model.

    The fields are those of session_bundle_config.BatchingParameters in TensorFlow Serving's
    servables/tensorflow/session_bundle_config.proto. The defaults suit images on a few cores, where batches above 8
    cost more for each image. TensorFlow Serving's defaults are 1000, 0, 10, and the number of cores.
    """

    max_batch_size: int = 8
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 64
    num_batch_threads: int = field(default_factory=lambda: default_batch_threads())
    allowed_batch_sizes: tuple[int, ...] = ()
    # For requests of more rows than max_batch_size. None is Graftline's own and runs each of them alone, in one piece.
    # Graftline's models bound their memory themselves; thousands of rows of a small model would need hundreds of runs.
    enable_large_batch_splitting: bool | None = None

    def __post_init__(self) -> None:
        _check_least(self, 1, "max_batch_size", "num_batch_threads", "max_enqueued_batches")
        _check_least(self, 0, "batch_timeout_micros")
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size):
            raise UserError(
                f"allowed_batch_sizes is {', '.join(map(str, sizes))}: its entries must increase, and the last must "
                f"be max_batch_size, which is {self.max_batch_size}"
            )


def default_batch_threads() -> int:
    """Return how many runs may be under way at the same time: the number of cores for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens, what it serves of each model, and what it allows a client."""

    port: int = GRPC_PORT  # 0 takes any free port
    rest_api_port: int = REST_PORT  # the same for REST
    host: str = "127.0.0.1"  # Graftline's own: TensorFlow Serving listens on every address
    rest_api_timeout_in_ms: int = 30_000  # limits REST requests, and gRPC requests without a deadline
    file_system_poll_wait_seconds: float = 2.0  # 0: new versions are looked for at the start only
    ssl_config_file: str | None = None  # TLS for gRPC, as in TensorFlow Serving, and here for REST too
    model_config_file: str | None = None
    # Seconds between two reads of that file. 0 reads it at the start only, which is TensorFlow Serving's default. None
    # reads it as often as versions are looked for, so that a new model or label is served as fast as a push.
    model_config_file_poll_wait_seconds: float | None = None
    version_policy: str = "latest"  # Graftline's own: latest[:N], all, specific:N[,N...], for models given by a path
    enable_batching: bool = True
    batching: BatchingParameters = field(default_factory=BatchingParameters)
    batching_parameters_file: str | None = None  # already read into `batching`; tensorflow_model_server needs the path
    enable_model_warmup: bool = True
    tensorflow_intra_op_parallelism: int = 0  # threads of one op; 0 lets TensorFlow choose
    tensorflow_inter_op_parallelism: int = 0  # threads that run ops; 0 lets TensorFlow choose
    enable_monitoring: bool = True  # prometheus_config.enable of TensorFlow Serving's monitoring_config_file
    monitoring_path: str = "/monitoring/prometheus/metrics"  # prometheus_config.path
    max_request_bytes: int = MAX_REQUEST_BYTES  # Graftline's own, as are all fields below
    max_image_pixels: int = MAX_DECODED_PIXELS  # of an image in a request
    max_request_pixels: int = MAX_REQUEST_PIXELS  # of all images in a request
    max_in_flight: int = 256  # requests that are answered or wait, over both ports
    # Bytes of requests that arrive, wait or are answered, over both ports. None: 8 times max_request_bytes.
    max_bytes_in_flight: int | None = None
    # From the signal to the end of the process. Kubernetes kills after 30 s. Requests under way get 0.9 of it.
    shutdown_grace_seconds: float = 25.0
    # Further names by which web pages and, on loopback, all clients may call the REST port; "*": all. See http/access.
    allowed_hosts: tuple[str, ...] = ()
    allow_reload_from_anywhere: bool = False  # HandleReloadConfigRequest; False: from this machine (loopback) only

    def __post_init__(self) -> None:
        for name, flag in (("port", "--grpc-port"), ("rest_api_port", "--rest-port")):
            if not 0 <= getattr(self, name) <= 65535:
                raise UserError(f"{flag} {getattr(self, name)} is not a port: choose one from 0 to 65535")
        if not self.host:
            raise UserError("--host is empty: give an address of this machine, or 0.0.0.0 for every one")
        _check_least(self, 1, "max_request_bytes", "max_image_pixels", "max_request_pixels", "max_in_flight")
        _check_least(self, 0, "rest_api_timeout_in_ms", "file_system_poll_wait_seconds", "shutdown_grace_seconds")
        _check_least(self, 0, "tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism")
        _check_least(self, 0, "model_config_file_poll_wait_seconds")
        if self.bytes_in_flight < 2 * self.max_request_bytes:
            raise UserError(
                f"max_bytes_in_flight is {self.max_bytes_in_flight}: give at least twice max_request_bytes, which is "
                f"{self.max_request_bytes}"
            )

    @property
    def bytes_in_flight(self) -> int:
        """Return the most bytes that may be held of requests."""
        return 8 * self.max_request_bytes if self.max_bytes_in_flight is None else self.max_bytes_in_flight

    @property
    def config_poll_seconds(self) -> float:
        """Return the seconds between two reads of the models config; 0 for none."""
        seconds = self.model_config_file_poll_wait_seconds
        return self.file_system_poll_wait_seconds if seconds is None else seconds

    @property
    def timeout(self) -> float | None:
        """Return the seconds that a request without a deadline may take; None when there is no limit."""
        return self.rest_api_timeout_in_ms / 1000 or None
