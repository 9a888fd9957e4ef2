"""Classify image files: over gRPC by a model server, or in this process by TensorFlow alone.

Called by `graftline predict`. Importing it is quick; TensorFlow and gRPC are imported when a prediction is asked for.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftline.errors import UserError
from graftline.signatures import IMAGE_BYTES, LABEL, MODELS_METADATA, SCORE, SERVING_DEFAULT, TOP_K_LABELS, TOP_K_SCORES
from serving.locate import find_model
from serving.quick_tensorflow import import_tensorflow

OUTPUTS = (LABEL, SCORE, TOP_K_LABELS, TOP_K_SCORES)
BATCH_IMAGES = 32  # at most; from 8 on, a batch gains next to nothing on two cores
BATCH_BYTES = 16 << 20  # at most, unless one image alone is larger
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0

_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
# Status codes that an image can bring about. Any other is the model's or the server's fault, not to be put on a file.
_IMAGE_CODES = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "DATA_LOSS")
_JUNK = ("thumbs.db", ".ds_store", "__macosx")


@dataclass(frozen=True)
class Prediction:
    """What the model says of one file. `error` is why it says nothing; `label` and `score` are None then."""

    path: str
    label: str | None
    score: float | None
    top_k: list[tuple[str, float]]  # best first
    error: str | None = None


class _BatchError(Exception):
    """A batch that the model refused; the message is the model's."""


# image_bytes of one batch → the OUTPUTS by name: label, score of shape [N]; top_k_labels, top_k_scores of shape [N, k]
_Classify = Callable[[Sequence[bytes]], Mapping[str, Any]]


def find_images(arguments: Iterable[str]) -> list[str]:
    """The image files that the arguments mean, each folder's sorted, in the order of the arguments.

    A file named outright is taken as it is. In folders, at any depth, those are taken that are called an image or begin
    like one; hidden files and what operating systems strew about are not. Raises UserError for a path that is not
    there, or a folder without images.
    """
    found: list[str] = []
    for argument in arguments:
        if os.path.isdir(argument):
            images = sorted(_walk(argument))
            if not images:
                raise UserError(f"no images in {argument}: it holds no file that is called or begins like an image")
            found += images
        elif not os.path.exists(argument):
            raise UserError(f"no such file or folder: {argument}; name an image or a folder of images")
        elif not os.path.isfile(argument):
            raise UserError(f"{argument} is neither a file nor a folder; name an image or a folder of images")
        else:
            found.append(argument)
    return found


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name.lower() not in _JUNK]
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(".") and name.lower() not in _JUNK and _is_image(path):
                yield path


def _is_image(path: str) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block whoever opens it
            return False
        if path.lower().endswith(_SUFFIXES):
            return True
        with open(path, "rb") as file:
            return file.read(8).startswith(_MAGIC)
    except OSError:
        return path.lower().endswith(_SUFFIXES)  # unreadable, but called an image: to be reported, not passed over


def _read(path: str) -> bytes | Prediction:
    """The file's bytes, or the failed row that stands for it."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        return _failed(path, f"cannot be read: {error.strerror}")


def _failed(path: str, error: str) -> Prediction:
    return Prediction(path, None, None, [], error)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _rows(paths: Sequence[str], outputs: Mapping[str, Any]) -> list[Prediction]:
    return [
        Prediction(
            path,
            _text(outputs[LABEL][row]),
            float(outputs[SCORE][row]),
            [
                (_text(label), float(score))
                for label, score in zip(outputs[TOP_K_LABELS][row], outputs[TOP_K_SCORES][row], strict=True)
            ],
        )
        for row, path in enumerate(paths)
    ]


def _classify_batch(batch: Sequence[tuple[str, bytes]], classify: _Classify) -> list[Prediction]:
    """One row for each image. A batch refused as a whole is asked again image by image, so that only the bad fail."""
    paths, images = [path for path, _ in batch], [image for _, image in batch]
    try:
        return _rows(paths, classify(images))
    except _BatchError as error:
        if len(batch) == 1:
            return [_failed(paths[0], str(error))]
    return [row for one in batch for row in _classify_batch([one], classify)]


def _classify_files(paths: Iterable[str], classify: _Classify) -> list[Prediction]:
    """One row for each path, in order, holding at most one batch of images in memory."""
    rows: list[Prediction] = []
    batch: list[tuple[str, bytes]] = []

    def flush() -> None:
        if batch:
            rows.extend(_classify_batch(batch, classify))
            batch.clear()

    for path in paths:
        image = _read(path)
        if isinstance(image, Prediction):
            flush()
            rows.append(image)
            continue
        if len(batch) == BATCH_IMAGES or sum(len(held) for _, held in batch) + len(image) > BATCH_BYTES:
            flush()
        batch.append((path, image))
    flush()
    return rows


def _split_target(target: str) -> str:
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--server {target} is not HOST:PORT: give the gRPC port, 8500 unless told otherwise")
    return target


def predict_with_server(target: str, name: str | None, paths: Sequence[str]) -> list[Prediction]:
    """Classify files by the model `name` of the TF Serving compatible server at `target`, "HOST:GRPC_PORT".

    Without a name the only model of a `graftline serve` is meant; other servers cannot be asked for theirs. One row
    for each path, in order; a bad image fails its own row only. Raises UserError when nothing answers at the
    address within CONNECT_SECONDS, or when the server has no such model or one with other signatures.
    """
    import grpc

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(_split_target(target), options=options) as channel:
        try:
            # Before the stubs are imported: they bring TensorFlow, and nobody should wait for that to hear "no server".
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise UserError(
                f"no model server answers at {target} (gRPC): start one with `graftline serve`, or correct --server"
            ) from error
        return _classify_files(paths, _by_grpc(channel, target, name or _only_model(channel, target)))


def _only_model(channel: Any, target: str) -> str:
    """The name of the one model that a server of ours serves. Raises UserError when there are more, or none is told."""
    import_tensorflow()
    import grpc
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = " "  # no model is called so
    names: list[str] = []
    try:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=CONNECT_SECONDS)
    except grpc.RpcError as error:
        told = dict(error.trailing_metadata() or ())
        names = [name for name in str(told.get(MODELS_METADATA, "")).split(",") if name]
    if len(names) == 1:
        return names[0]
    serves = f"It serves {', '.join(names)}: choose" if names else "It does not tell: give the name that it serves"
    raise UserError(f"which model of the server at {target}? {serves} with --name")


def _by_grpc(channel: Any, target: str, name: str) -> _Classify:
    import_tensorflow()
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from serving.server.tensors import from_proto

    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def classify(images: Sequence[bytes]) -> Mapping[str, Any]:
        request = predict_pb2.PredictRequest(output_filter=OUTPUTS)
        request.model_spec.name = name
        request.model_spec.signature_name = SERVING_DEFAULT
        tensor = request.inputs[IMAGE_BYTES]
        tensor.dtype = 7  # DT_STRING
        tensor.tensor_shape.dim.add(size=len(images))
        tensor.string_val.extend(images)
        try:
            response = stub.Predict(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code == grpc.StatusCode.NOT_FOUND:
                raise UserError(
                    f"the server at {target} serves no model '{name}': give the name that it serves with --name"
                ) from error
            if code == grpc.StatusCode.UNAVAILABLE:
                raise UserError(f"the model server at {target} went away: {details}; start it again") from error
            if "tensor alias not found" in details or "Serving signature key" in details:
                raise _foreign(f"model '{name}' at {target}", details) from error
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise UserError(f"the model server at {target} gave no answer in {ANSWER_SECONDS:.0f} s") from error
            if code.name not in _IMAGE_CODES:
                raise _broken(f"model '{name}' at {target}", details) from error
            raise _BatchError(_first_line(details)) from error
        return {output: from_proto(output, response.outputs[output]) for output in OUTPUTS}

    return classify


def _first_line(message: str) -> str:
    """Without the names of the graph's nodes that TensorFlow adds, a line each."""
    return message.split("\n")[0].strip()


def _foreign(model: str, details: str) -> UserError:
    return UserError(
        f"{model} is no image classifier that Graftline exported ({details.strip()}): "
        f"its {SERVING_DEFAULT} must take {IMAGE_BYTES} and give {', '.join(OUTPUTS)}"
    )


def _broken(model: str, details: str) -> UserError:
    return UserError(
        f"{model} cannot run ({details.splitlines()[0] if details else 'no reason given'}); export it again"
    )


def predict_with_model(path: str, paths: Sequence[str], name: str | None = None) -> list[Prediction]:
    """Classify files in this process by the model at `path`: a SavedModel, a base path (its newest), or a workspace.

    One row for each path, in order; a bad image fails its own row only. Raises UserError when there is no model, when
    there are several and `name` is None, or when it cannot be loaded or has other signatures.
    """
    _, directory = find_model(path, name).newest
    import_tensorflow()
    import numpy as np

    from serving.server.errors import ServingError
    from serving.server.models import LoadedModel, LoadError

    try:
        model = LoadedModel(directory)
    except LoadError as error:
        raise UserError(f"{error}; name another model") from error
    signature = model.signatures.get(SERVING_DEFAULT)
    if signature is None or set(signature.inputs) != {IMAGE_BYTES} or not set(OUTPUTS) <= set(signature.outputs):
        model.retire()
        raise _foreign(directory, "it has other signatures")

    def classify(images: Sequence[bytes]) -> Mapping[str, Any]:
        try:
            return model.predict(SERVING_DEFAULT, {IMAGE_BYTES: np.array(images, object)}, list(OUTPUTS))
        except ServingError as error:
            if error.code.name not in _IMAGE_CODES:
                raise _broken(directory, error.message) from error
            raise _BatchError(_first_line(error.message)) from error

    with model:
        rows = _classify_files(paths, classify)
    model.retire()
    return rows
