"""`Client` and `AsyncClient`: what an application calls. Both only do the steps of `_Core`."""

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graftline.ports import GRPC_PORT, REST_PORT
from graftline.serving.client import classifying, tensors
from graftline.serving.client.classifying import Image
from graftline.serving.client.exchange import Call, Retry, Steps, T, exchange, run, run_async
from graftline.serving.client.protocols import Api, GrpcApi, RestApi, Target
from graftline.serving.client.results import Prediction, ServiceError, Signature, VersionStatus
from graftline.serving.client.transports import (
    AsyncGrpcTransport,
    AsyncRestTransport,
    AsyncTransport,
    GrpcTransport,
    RestTransport,
    Transport,
)
from graftline.signatures import IMAGE_BYTES, SERVING_DEFAULT


def _address(address: str) -> tuple[str, str]:
    """(scheme, what is after it) of an address."""
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = "grpc", address
    if scheme not in ("grpc", "grpcs", "http", "https") or not rest:
        raise ValueError(f"{address}: give HOST:PORT of gRPC, or a URL that begins with http, https, grpc or grpcs")
    if not _is_place(scheme, rest):
        if scheme.startswith("grpc"):
            raise ValueError(
                f"{address} is not HOST:PORT: give the gRPC port (the default is {GRPC_PORT}), or http://HOST:REST_PORT"
            )
        raise ValueError(f"{address} is not {scheme}://HOST:PORT: give the REST port (the default is {REST_PORT})")
    return scheme, rest


def _is_place(scheme: str, rest: str) -> bool:
    """Whether there is a host with a port from 1 to 65535, which only gRPC without TLS has no usual one of."""
    try:
        parts = urllib.parse.urlsplit(f"//{rest}")
        port = parts.port
    except ValueError:
        return False
    if not parts.hostname or port == 0 or (port is None and parts.netloc.endswith(":")):
        return False
    return not scheme.startswith("grpc") or (parts.netloc == rest and (port is not None or scheme == "grpcs"))


class _Core:
    """What both clients do, as steps."""

    def __init__(
        self,
        address: str,
        model: str | None,
        version: int | None,
        label: str | None,
        timeout: float,
        retry: Retry,
        transcode: bool,
    ) -> None:
        if version is not None and label is not None:
            raise ValueError("give a version or a label, not both")
        self.address = address
        self.timeout = timeout
        self.transcode = transcode
        self._retry = retry
        self._model, self._version, self._label = model, version, label
        self._api: Api = GrpcApi() if _address(address)[0].startswith("grpc") else RestApi()
        self._signatures: dict[str, Signature] | None = None
        self._is_classifier = False  # not known yet

    def _exchange(self, call: Call[T], timeout: float | None) -> Steps[T]:
        return exchange(call, self._retry, self.timeout if timeout is None else timeout)

    def _target(self, timeout: float | None) -> Steps[Target]:
        """The model that was named, or else the only one of a server that tells what it serves, as ours does."""
        if self._model is None:
            try:
                models = yield from self._exchange(self._api.models(), timeout)
            except ServiceError as error:
                if error.code not in ("NOT_FOUND", "INVALID_ARGUMENT"):
                    raise
                models = error.models
            if len(models) != 1:
                serves = f"it serves {', '.join(models)}: choose" if models else "it does not tell: give"
                raise ServiceError(
                    "NOT_FOUND", f"which model of the server at {self.address}? {serves} one", None, models
                )
            self._model = models[0]
        return Target(self._model, self._version, self._label)

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
        # REST does not tell the types of an answer, and lists don't tell that of a request.
        if not self._api.typed or not all(isinstance(values, np.ndarray) for values in inputs.values()):
            signatures = self._signatures or (yield from self.metadata(timeout))
            spec = signatures.get(signature, spec)
        arrays = {
            name: tensors.as_array(values, spec.inputs[name].dtype if name in spec.inputs else None)
            for name, values in inputs.items()
        }
        call = self._api.predict(target, signature, arrays, outputs, spec)
        return (yield from self._exchange(call, timeout))

    def classify(self, batch: Sequence[classifying.Loaded], timeout: float | None) -> Steps[list[Prediction]]:
        return (yield from classifying.classify(batch, lambda images: self._ask(images, timeout)))

    def _ask(self, images: Sequence[bytes], timeout: float | None) -> Steps[dict[str, np.ndarray]]:
        target = yield from self._target(timeout)
        inputs = {IMAGE_BYTES: tensors.as_array(images, tensors.BYTES)}
        call = self._api.predict(target, SERVING_DEFAULT, inputs, classifying.OUTPUTS, classifying.CLASSIFIER)
        try:
            return (yield from self._exchange(call, timeout))
        except ServiceError as error:
            # A model of another origin says in many ways that it is none; its signature says it in one.
            if error.code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "INTERNAL") and not self._is_classifier:
                if not classifying.is_classifier((yield from self.metadata(timeout))):
                    raise classifying.foreign(f"model '{target.name}' at {self.address}") from error
                self._is_classifier = True
            raise


class _Base:
    """The part of both clients that waits for nothing."""

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
        """Connects at the first call.

        Args:
          address: "HOST:PORT" or "grpc://HOST:PORT" for gRPC, "grpcs://..." with TLS, or a URL of REST:
            "http://HOST:PORT", "https://HOST/PREFIX".
          model: its name on the server; None for the only model of a `graftline serve`.
          version: which version; None for the newest, or that of `label`.
          label: a version's label, such as "stable".
          timeout: seconds for one call with all its repetitions, unless the call gives its own. `classify` and `stream`
            make a call for each batch.
          retry: when a call is made again; `Retry(attempts=1)` for never.
          transcode: send WebP, TIFF, HEIC, AVIF and what else serving can't decode as what ImageExampleGen would have
            stored of it. False sends all bytes as they are.
          headers: sent with each call (in gRPC as metadata, so in lower case), such as {"authorization": "Bearer ..."}.

        Raises:
          ValueError: an address of another form, or a version and a label.
        """
        self._core = _Core(address, model, version, label, timeout, retry or Retry(), transcode)
        self._open(*_address(address), dict(headers or {}))

    def _open(self, scheme: str, rest: str, headers: Mapping[str, str]) -> None:
        raise NotImplementedError


class Client(_Base):
    """A TensorFlow Serving compatible server, for callers that block. Any number of threads may share one.

    Use it in a `with`, or `close` it. Every method raises ServiceError when the server refuses or can't be reached.
    """

    _transport: Transport

    def _open(self, scheme: str, rest: str, headers: Mapping[str, str]) -> None:
        if scheme.startswith("grpc"):
            self._transport = GrpcTransport(rest, scheme == "grpcs", headers)
        else:
            self._transport = RestTransport(self._core.address, headers)

    def _run(self, steps: Steps[T]) -> T:
        return run(steps, self._transport.send)

    def classify(self, images: Iterable[Image], timeout: float | None = None) -> list[Prediction]:
        """What the model says of images, each the bytes or the path of a file; one row for each, in order.

        An image that can't be read or decoded has its `error` in its row. For many, see `stream`. Raises TypeError for
        one image that is in no list.
        """
        return list(self.stream(images, timeout))

    def stream(self, images: Iterable[Image], timeout: float | None = None) -> Iterator[Prediction]:
        """As `classify`, row by row, holding one batch of images in memory."""
        loaded = (classifying.load(image, self._core.transcode) for image in classifying.several(images))
        return self._rows(classifying.batches(loaded), timeout)

    def _rows(self, batches: Iterator[list[classifying.Loaded]], timeout: float | None) -> Iterator[Prediction]:
        for batch in batches:
            yield from self._run(self._core.classify(batch, timeout))

    def predict(
        self,
        inputs: Mapping[str, Any],
        signature: str = SERVING_DEFAULT,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run any signature of any model: tensors by name in, arrays by name out, strings as objects of bytes.

        Args:
          inputs: arrays are sent in their own dtype; lists, numbers, bytes and str in that of the signature.
          signature: its name.
          outputs: those wanted; all when empty.
          timeout: seconds.
        """
        return self._run(self._core.predict(inputs, signature, outputs, timeout))

    def status(self, timeout: float | None = None) -> list[VersionStatus]:
        """The states of the model's versions, the newest first."""
        return self._run(self._core.status(timeout))

    def metadata(self, timeout: float | None = None) -> dict[str, Signature]:
        """The model's signatures by name."""
        return self._run(self._core.metadata(timeout))

    def close(self) -> None:
        """Give the connections back."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Base):
    """As `Client`, on an event loop, whose tasks may share one. Use it in an `async with`, or `close` it."""

    _transport: AsyncTransport

    def _open(self, scheme: str, rest: str, headers: Mapping[str, str]) -> None:
        if scheme.startswith("grpc"):
            self._transport = AsyncGrpcTransport(rest, scheme == "grpcs", headers)
        else:
            self._transport = AsyncRestTransport(self._core.address, headers)

    async def _run(self, steps: Steps[T]) -> T:
        return await run_async(steps, self._transport.send, asyncio.sleep)

    async def classify(self, images: Iterable[Image], timeout: float | None = None) -> list[Prediction]:
        """See `Client.classify`. Files are read and transcoded in a thread."""
        return [row async for row in self.stream(images, timeout)]

    def stream(self, images: Iterable[Image], timeout: float | None = None) -> AsyncIterator[Prediction]:
        """See `Client.stream`."""
        loaded = (classifying.load(image, self._core.transcode) for image in classifying.several(images))
        return self._rows(classifying.batches(loaded), timeout)

    async def _rows(
        self, batches: Iterator[list[classifying.Loaded]], timeout: float | None
    ) -> AsyncIterator[Prediction]:
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
        """See `Client.predict`."""
        return await self._run(self._core.predict(inputs, signature, outputs, timeout))

    async def status(self, timeout: float | None = None) -> list[VersionStatus]:
        """See `Client.status`."""
        return await self._run(self._core.status(timeout))

    async def metadata(self, timeout: float | None = None) -> dict[str, Signature]:
        """See `Client.metadata`."""
        return await self._run(self._core.metadata(timeout))

    async def close(self) -> None:
        """See `Client.close`."""
        await self._transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
