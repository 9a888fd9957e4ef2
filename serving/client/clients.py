"""`Client` and `AsyncClient`, which applications call. Both do the steps of `_Core`."""

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftline.ports import GRPC_PORT, REST_PORT
from graftline.serving.client import classifying, tensors
from graftline.serving.client.classifying import Image, Loaded
from graftline.serving.client.exchange import Call, Retry, Steps, T, exchange, run, run_async
from graftline.serving.client.protocols import Api, GrpcApi, RestApi, Target
from graftline.serving.client.results import Prediction, ServiceError, Signature, VersionStatus
from graftline.serving.client.transports import AsyncGrpcTransport, AsyncRestTransport, GrpcTransport, RestTransport
from graftline.signatures import CLASSIFICATION, IMAGE_BYTES, SERVING_DEFAULT


def _split(address: str) -> tuple[str, str]:
    """Return an address's scheme, gRPC's where there is none, and the rest. Raises ValueError."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "grpc", address
    if scheme not in ("grpc", "grpcs", "http", "https") or not rest:
        raise ValueError(f"{address}: give HOST:PORT of gRPC, or a URL that begins with http, https, grpc or grpcs")
    if not _has_host_and_port(scheme, rest):
        if scheme.startswith("grpc"):
            raise ValueError(
                f"{address} is not HOST:PORT: give the gRPC port (the default is {GRPC_PORT}), or http://HOST:REST_PORT"
            )
        raise ValueError(f"{address} is not {scheme}://HOST:PORT: give the REST port (the default is {REST_PORT})")
    return scheme, rest


def _has_host_and_port(scheme: str, rest: str) -> bool:
    """Return whether there is a host, and a port from 1 to 65535. The port may be left out except for plain gRPC."""
    try:
        parts = urllib.parse.urlsplit(f"//{rest}")
        port = parts.port
    except ValueError:
        return False
    if not parts.hostname or port == 0 or (port is None and parts.netloc.endswith(":")):
        return False
    return not scheme.startswith("grpc") or (parts.netloc == rest and (port is not None or scheme == "grpcs"))


@dataclass
class _Core:
    """The work of both clients, as steps."""

    address: str
    model: str | None
    version: int | None
    label: str | None
    timeout: float
    retry: Retry
    transcode: bool
    _signatures: dict[str, Signature] | None = None
    _is_classifier: bool = False  # until it is known

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError("give a version or a label, not both")
        self._api: Api = GrpcApi() if _split(self.address)[0].startswith("grpc") else RestApi()

    def _exchange(self, call: Call[T], timeout: float | None) -> Steps[T]:
        return exchange(call, self.retry, self.timeout if timeout is None else timeout)

    def _target(self, timeout: float | None) -> Steps[Target]:
        """Return the model to call. Without a name it is the only model of a server that lists its models."""
        if self.model is None:
            try:
                models = yield from self._exchange(self._api.models(), timeout)
            except ServiceError as error:
                if error.code not in ("NOT_FOUND", "INVALID_ARGUMENT"):
                    raise
                models = error.models
            if len(models) != 1:
                choice = f"it serves {', '.join(models)}: choose" if models else "it lists no models: give"
                message = f"which model of the server at {self.address}? {choice} one"
                raise ServiceError("NOT_FOUND", message, None, models)
            self.model = models[0]
        return Target(self.model, self.version, self.label)

    def status(self, timeout: float | None) -> Steps[list[VersionStatus]]:
        target = yield from self._target(timeout)
        return (yield from self._exchange(self._api.status(target), timeout))

    def metadata(self, timeout: float | None) -> Steps[dict[str, Signature]]:
        target = yield from self._target(timeout)
        self._signatures = yield from self._exchange(self._api.metadata(target), timeout)
        return self._signatures

    def predict(
        self, inputs: Mapping[str, Any], signature: str, outputs: Sequence[str], timeout: float | None
    ) -> Steps[dict[str, np.ndarray]]:
        target = yield from self._target(timeout)
        spec = Signature({}, {})
        # REST answers carry no types, and lists in a request have none.
        if not self._api.typed or not all(isinstance(values, np.ndarray) for values in inputs.values()):
            signatures = self._signatures or (yield from self.metadata(timeout))
            spec = signatures.get(signature, spec)
        arrays = {
            name: tensors.as_array(values, spec.inputs[name].dtype if name in spec.inputs else None)
            for name, values in inputs.items()
        }
        call = self._api.predict(target, signature, arrays, outputs, spec)
        return (yield from self._exchange(call, timeout))

    def classify(self, batch: Sequence[Loaded], timeout: float | None) -> Steps[list[Prediction]]:
        return (yield from classifying.classify(batch, lambda images: self._ask(images, timeout)))

    def _ask(self, images: Sequence[bytes], timeout: float | None) -> Steps[dict[str, np.ndarray]]:
        target = yield from self._target(timeout)
        inputs = {IMAGE_BYTES: tensors.as_array(images, tensors.BYTES)}
        call = self._api.predict(target, SERVING_DEFAULT, inputs, CLASSIFICATION, classifying.CLASSIFIER)
        try:
            return (yield from self._exchange(call, timeout))
        except ServiceError as error:
            # A model of another origin may refuse images with any of these. Its signatures tell.
            if error.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "INTERNAL") and not self._is_classifier:
                if not classifying.is_classifier((yield from self.metadata(timeout))):
                    raise classifying.no_classifier_error(f"model '{target.name}' at {self.address}") from error
                self._is_classifier = True
            raise


class _Base:
    """What both clients share."""

    _grpc: Any  # the transports
    _rest: Any

    def __init__(
        self,
        address: str,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
        retry: Retry | None = None,
        transcode: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a client. The connection is made by the first call.

        Args:
          address: "HOST:PORT" or "grpc://HOST:PORT" for gRPC, "grpcs://HOST:PORT" for gRPC with TLS, or the URL of a
            REST server, such as "http://HOST:PORT" or "https://HOST/PREFIX".
          model: the model's name on the server. None stands for the only model of a `graftline serve`.
          version: the version's number. None stands for the newest, or for the version of `label`.
          label: the label of a version, such as "stable".
          timeout: seconds for one call with all its repetitions, unless the call has its own timeout. `classify` and
            `stream` make a call for each batch of 32 images.
          retry: when a call is repeated. None stands for `Retry()`; `Retry(attempts=1)` never repeats a call.
          transcode: convert WebP, TIFF, HEIC, AVIF and other files that serving cannot decode, as ingest does before
            training. False sends the bytes of every file as they are.
          headers: sent with each call, such as {"authorization": "Bearer ..."}. gRPC sends them as metadata, whose
            names must be in lower case.

        Raises:
          ValueError: the address has another form, both a version and a label are given, or the environment names a
            proxy or certificates that cannot be used.
        """
        self._core = _Core(address, model, version, label, timeout, retry or Retry(), transcode)
        scheme, rest = _split(address)
        use_grpc = scheme.startswith("grpc")
        arguments = (rest, scheme == "grpcs") if use_grpc else (address,)
        self._transport: Any = (self._grpc if use_grpc else self._rest)(*arguments, dict(headers or {}))

    def _batches(self, images: Iterable[Image]) -> Iterator[list[Loaded]]:
        images = classifying.require_list(images)
        return classifying.batches(classifying.load(image, self._core.transcode) for image in images)


class Client(_Base):
    """A model on a server that speaks TensorFlow Serving's API, for callers that block.

    Any number of threads may share a client. Use it in a `with`, or `close` it. Every method that calls the server
    raises `ServiceError` when the server refuses the call or cannot be reached. A `timeout` is in seconds; None stands
    for the client's own.

    Example:
      ```python
      from graftline import Client

      with Client("localhost:8500", "flowers") as client:  # or "http://localhost:8501"
          for row in client.classify(["rose.jpg", image_bytes]):
              print(row.label, row.score)
      ```
    """

    _grpc, _rest = GrpcTransport, RestTransport
    _transport: GrpcTransport | RestTransport

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._transport.send)

    def classify(self, images: Iterable[Image], timeout: float | None = None) -> list[Prediction]:
        """Classify images. `stream` returns the first rows before the last image is read.

        Args:
          images: each is the path of an image file or the bytes of one.
          timeout: seconds for each batch of 32 images; None stands for the client's own.

        Returns:
          One row for each image, in order. The row of an image that cannot be read or decoded has an `error`.

        Raises:
          ServiceError: the server refused the call, cannot be reached, or serves no classifier by this name.
          TypeError: `images` is one image and no list.
        """
        return list(self.stream(images, timeout))

    def stream(self, images: Iterable[Image], timeout: float | None = None) -> Iterator[Prediction]:
        """Classify images as `classify` does, row by row. Holds one batch of images in memory.

        `images` may be any iterable, also an endless one. Raises as `classify`, a ServiceError while rows are taken.
        """
        return self._rows(self._batches(images), timeout)

    def _rows(self, batches: Iterator[list[Loaded]], timeout: float | None) -> Iterator[Prediction]:
        for batch in batches:
            yield from self._run(self._core.classify(batch, timeout))

    def predict(
        self,
        inputs: Mapping[str, Any],
        signature: str = SERVING_DEFAULT,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run a signature of any model.

        Example:
          `client.predict({"image_bytes": [data]}, signature="embedding")["embedding"]` is float32 [1, D].

        Args:
          inputs: tensors by name. Arrays are sent in their own dtype; lists, numbers, bytes and str in the signature's.
          signature: the signature's name.
          outputs: the names of the outputs to return; all of them when empty.
          timeout: seconds.

        Returns:
          Arrays by name, in the dtype and shape of the signature. Strings are arrays of `bytes` objects.

        Raises:
          ServiceError: the server refused the call or cannot be reached.
          ValueError: an input is no tensor, such as lists of different lengths.
        """
        return self._run(self._core.predict(inputs, signature, outputs, timeout))

    def status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Return the states of the model's versions, the newest first."""
        return self._run(self._core.status(timeout))

    def metadata(self, timeout: float | None = None) -> dict[str, Signature]:
        """Return the model's signatures by name."""
        return self._run(self._core.metadata(timeout))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> "Client":
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()


class AsyncClient(_Base):
    """`Client` for an event loop: its tasks may share one. Use it in an `async with`, or await `close`.

    Example:
      ```python
      from graftline import AsyncClient

      async with AsyncClient("http://localhost:8501", "flowers") as client:
          async for row in client.stream(paths):
              print(row.label, row.score)
      ```
    """

    _grpc, _rest = AsyncGrpcTransport, AsyncRestTransport
    _transport: AsyncGrpcTransport | AsyncRestTransport

    async def _run(self, steps: Steps[T]) -> T:
        return await run_async(steps, self._transport.send, asyncio.sleep)

    async def classify(self, images: Iterable[Image], timeout: float | None = None) -> list[Prediction]:
        """Classify images, as `Client.classify` does. Files are read and converted in a thread."""
        return [row async for row in self.stream(images, timeout)]

    def stream(self, images: Iterable[Image], timeout: float | None = None) -> AsyncIterator[Prediction]:
        """Classify images row by row, as `Client.stream` does. Files are read and converted in a thread."""
        return self._rows(self._batches(images), timeout)

    async def _rows(self, batches: Iterator[list[Loaded]], timeout: float | None) -> AsyncIterator[Prediction]:
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            for row in await self._run(self._core.classify(batch, timeout)):
                yield row

    async def predict(
        self,
        inputs: Mapping[str, Any],
        signature: str = SERVING_DEFAULT,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run a signature of any model, as `Client.predict` does."""
        return await self._run(self._core.predict(inputs, signature, outputs, timeout))

    async def status(self, timeout: float | None = None) -> list[VersionStatus]:
        """Return the states of the model's versions, as `Client.status` does."""
        return await self._run(self._core.status(timeout))

    async def metadata(self, timeout: float | None = None) -> dict[str, Signature]:
        """Return the model's signatures by name, as `Client.metadata` does."""
        return await self._run(self._core.metadata(timeout))

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> "AsyncClient":
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()
