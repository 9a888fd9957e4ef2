"""The work of `graftline predict`: find image files, and classify them by a model server or by a model in this process.

Everything is lazy. For a million files, memory holds the names of one folder a level and one batch of images.
"""

import contextlib
import itertools
import os
import stat
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graftline.errors import UserError
from graftline.ports import GRPC_PORT, REST_PORT
from graftline.quick_tensorflow import import_tensorflow
from graftline.serving.client import Client, Prediction, ServiceError
from graftline.serving.client.classifying import Image, Loaded, batches, classify, is_classifier, load
from graftline.serving.client.exchange import Steps, run
from graftline.serving.images import formats
from graftline.serving.versions.locate import find_model
from graftline.signatures import CLASSIFICATION, IMAGE_BYTES, SERVING_DEFAULT

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0  # for one batch
STANDARD_INPUT = "-"


def find_images(arguments: Sequence[str]) -> Iterator[Image]:
    """Find the image files that the arguments name, in the order of the arguments, and sorted within each folder.

    A file is taken as it is, and so is STANDARD_INPUT (see `load_standard_input`). A folder is searched at any depth
    for files whose name ends or whose content begins as an image's does. Hidden files and those that operating systems
    leave behind are skipped. Links to folders are not followed. A missing path and a folder without images become an
    image with an error. Raises UserError when none of the arguments names an image.
    """
    faults = [_fault(argument) for argument in arguments]
    if faults and all(faults):
        raise UserError(next(sentence for sentence, _ in filter(None, faults)))
    return itertools.chain.from_iterable(
        (Loaded(argument, b"", fault[1]),) if fault else _images_of(argument)
        for argument, fault in zip(arguments, faults, strict=True)
    )


def _fault(argument: str) -> tuple[str, str] | None:
    """Return why an argument names no image, as a sentence for the user and as the error of its row."""
    if argument == STANDARD_INPUT or os.path.isfile(argument):
        return None
    if os.path.isdir(argument):
        if next(_walk(argument), None) is not None:
            return None
        reason = "no file in it has an image's name or begins like an image"
        return f"no images in {argument}: {reason}", reason
    if not os.path.exists(argument):
        reason = "no such file or folder"
        return f"{reason}: {argument}; name an image or a folder of images", reason
    reason = "neither a file nor a folder"
    return f"{argument} is {reason}; name an image or a folder of images", reason


def _images_of(argument: str) -> Iterator[str]:
    return _walk(argument) if argument != STANDARD_INPUT and os.path.isdir(argument) else iter((argument,))


def load_standard_input(images: Iterable[Image]) -> Iterator[Image]:
    """Yield the images, with the one on standard input in place of STANDARD_INPUT. It is read in its turn."""
    return (load(image, read=_read_standard_input) if image == STANDARD_INPUT else image for image in images)


def _read_standard_input(_: str, limit: int) -> tuple[bytes, int]:
    with open(0, "rb", closefd=False) as file:
        data = file.read(limit + 1)
    return data, len(data)


def _walk(folder: str) -> Iterator[str]:
    """Yield paths in the sorted order of all of them. Memory holds the names of one folder a level."""
    levels = [(folder, _names(folder))]
    while levels:
        parent, names = levels[-1]
        name = next(names, None)
        if name is None:
            levels.pop()
            continue
        path = os.path.join(parent, name)
        if not name.endswith(os.sep):
            if _is_image(path):
                yield path
        elif os.access(path, os.R_OK | os.X_OK):
            levels.append((path, _names(path)))
        else:
            yield path  # an unreadable folder gets a row with an error


def _names(folder: str) -> Iterator[str]:
    """Return the sorted names, a folder's with a separator at its end, so that it sorts as its files' paths do."""
    with os.scandir(folder) as entries:
        listed = (entry for entry in entries if not formats.is_left_out(entry.name))
        return iter(sorted(entry.name + os.sep * entry.is_dir(follow_symlinks=False) for entry in listed))


def _is_image(path: str) -> bool:
    """Return whether a file in a folder is an image, by its name or else by its first bytes."""
    has_image_name = formats.is_image_name(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would block
            return False
        if has_image_name:
            return True
        with open(path, "rb") as file:
            return formats.sniff(file.read(formats.HEAD_BYTES)) in formats.READABLE
    except OSError:
        return has_image_name  # an unreadable image gets a row with an error


def predict_with_server(target: str, name: str | None, paths: Iterable[Image]) -> Iterator[Prediction]:
    """Classify files by a model server: one row for each path, in order; a bad image fails only its own.

    Args:
      target: HOST:GRPC_PORT or the URL of a REST server that speaks TensorFlow Serving's API.
      name: the model's name. None stands for the only model of a `graftline serve`; other servers do not list theirs.
      paths: the images.

    Raises:
      UserError: no server answers within CONNECT_SECONDS, or it has no such model, or that is no classifier.
    """
    client = connect(target, name)

    def rows() -> Iterator[Prediction]:
        with client:
            try:
                yield from client.stream(paths)
            except ServiceError as error:
                raise as_user_error(error, target, name) from error

    return rows()


def connect(target: str, name: str | None) -> Client:
    """Return a client of the server at `target`, which has answered. Raises UserError as `predict_with_server`."""
    try:
        client = Client(target, name, timeout=ANSWER_SECONDS)
    except ValueError as error:
        raise UserError(f"--server {error}") from error
    try:
        client.status(timeout=CONNECT_SECONDS)
    except ServiceError as error:
        client.close()
        if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            kind = "REST" if target.startswith("http") else "gRPC"
            raise UserError(
                f"no model server answers at {target} ({kind}): start one with `graftline serve`, or correct --server"
                f"{_other_port(target)}{_named_proxy(error)}"
            ) from error
        raise as_user_error(error, target, name) from error
    return client


def _named_proxy(error: ServiceError) -> str:
    """Return the part of a client's message that names the proxy; "" if the client went by none."""
    _, mark, rest = error.message.partition(" (through the proxy ")
    return f"; the request went through the proxy {rest.partition(')')[0]}" if mark else ""


def _other_port(target: str) -> str:
    """Return a hint for an address whose port is usually the other protocol's; "" for others."""
    parts = urllib.parse.urlsplit(target if "://" in target else f"grpc://{target}")
    if parts.scheme == "grpc" and parts.port == REST_PORT:
        return f"; {REST_PORT} is usually the REST port: http://{parts.netloc}"
    if parts.scheme == "http" and parts.port == GRPC_PORT:
        return f"; {GRPC_PORT} is usually the gRPC port: {parts.netloc}"
    return ""


def as_user_error(error: ServiceError, target: str, name: str | None) -> UserError:
    """Return the message for the user of the command line."""
    if error.code == "NOT_FOUND" and name is None:
        choice = f"It serves {', '.join(error.models)}: choose" if error.models else "It lists no models: give the name"
        return UserError(f"which model of the server at {target}? {choice} with --name")
    if error.code == "NOT_FOUND":
        serves = f"; it serves {', '.join(error.models)}" if error.models else ""
        return UserError(f"the server at {target} serves no model '{name}': give another name with --name{serves}")
    if error.code == "UNAVAILABLE":
        return UserError(f"the model server at {target} went away: {error.message}; start it again")
    if error.code == "RESOURCE_EXHAUSTED":
        return UserError(f"the model server at {target} is busy: {error.message}")
    if error.code == "DEADLINE_EXCEEDED":
        return UserError(f"the model server at {target} gave no answer in {ANSWER_SECONDS:.0f} s")
    if error.code == "FAILED_PRECONDITION" and "is no image classifier" in error.message:
        return UserError(error.message)
    return _broken_model(f"the model at {target}", error.message)


def _broken_model(model: str, details: str) -> UserError:
    reason = details.splitlines()[0] if details else "no reason given"
    return UserError(f"{model} cannot run ({reason}); export it again")


def predict_with_model(path: str, paths: Iterable[Image], name: str | None = None) -> Iterator[Prediction]:
    """Classify files in this process: one row for each path, in order; a bad image fails only its own.

    Args:
      path: a SavedModel, a base path, whose newest version is taken, or a workspace.
      paths: the images.
      name: which model, where there are several.

    Raises:
      UserError: no model, several without a `name`, or one that cannot be loaded or is no classifier.
    """
    model = LocalClassifier(find_model(path, name).newest[1])

    def rows() -> Iterator[Prediction]:
        with contextlib.closing(model):
            yield from model.stream(paths)

    return rows()


class LocalClassifier:
    """A SavedModel with Graftline's signatures, loaded in this process by TensorFlow. Any thread may use it."""

    def __init__(self, directory: str) -> None:
        """Load it. Raises UserError without TensorFlow, for a broken SavedModel, and for other signatures."""
        import_tensorflow()
        from graftline.serving.server.model.loaded_model import LoadedModel, LoadError

        self._directory = directory
        try:
            self._model = LoadedModel(directory)
        except LoadError as error:
            raise UserError(f"{error}; name another model") from error
        if not is_classifier(self._model.signatures):
            self._model.retire()
            raise UserError(
                f"{directory} is no image classifier that Graftline exported (it has other signatures): its "
                f"{SERVING_DEFAULT} must take {IMAGE_BYTES} and give {', '.join(CLASSIFICATION)}"
            )

    def stream(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Yield one row for each image, in order. Holds one batch. Raises UserError when the model cannot run."""
        with self._model:
            for batch in batches(map(load, images)):
                try:
                    yield from run(classify(batch, _ask), self._send)
                except ServiceError as error:
                    raise _broken_model(self._directory, error.message) from error

    def _send(self, images: Sequence[bytes]) -> dict[str, Any]:
        from graftline.serving.server.errors import ServingError

        try:
            return self._model.predict(SERVING_DEFAULT, {IMAGE_BYTES: np.array(images, object)}, list(CLASSIFICATION))
        except ServingError as error:
            raise ServiceError(error.code.name, error.message) from error

    def close(self) -> None:
        """Free the model's memory."""
        self._model.retire()


def _ask(images: Sequence[bytes]) -> Steps[Mapping[str, Any]]:
    return (yield images)
