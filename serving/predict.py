"""What `graftline predict` does: find image files, and classify them by a model server or by a model in this process.

Everything is lazy: a million files take no more memory than the names of one folder and one batch of images.
"""

import itertools
import os
import stat
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from graftline.errors import UserError
from graftline.ports import GRPC_PORT, REST_PORT
from graftline.quick_tensorflow import import_tensorflow
from graftline.serving.client import Client, Prediction, ServiceError
from graftline.serving.client.classifying import Image, Loaded, batches, classify, is_classifier, load
from graftline.serving.client.exchange import Steps, run
from graftline.serving.client.results import Signature, TensorSpec
from graftline.serving.images import formats
from graftline.serving.versions.locate import find_model
from graftline.signatures import CLASSIFICATION, IMAGE_BYTES, SERVING_DEFAULT

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 120.0  # for one batch
STANDARD_INPUT = "-"


def find_images(arguments: Sequence[str]) -> Iterator[Image]:
    """The image files that the arguments mean, each folder's sorted, in the order of the arguments.

    A file named outright is taken as it is. In folders, at any depth, those are taken that are called an image or begin
    like one; hidden files and what operating systems strew about are not, and links to folders are not followed.
    STANDARD_INPUT stands for itself; see `opened`. A path that is not there or a folder without images becomes an image
    with that error. Raises UserError at once when all arguments are such.
    """
    faults = [_fault(argument) for argument in arguments]
    if faults and all(faults):
        raise UserError(next(sentence for sentence, _ in filter(None, faults)))
    found: Iterator[Iterable[Image]] = (
        (Loaded(argument, b"", fault[1]),) if fault else _images_of(argument)
        for argument, fault in zip(arguments, faults, strict=True)
    )
    return itertools.chain.from_iterable(found)


def _fault(argument: str) -> tuple[str, str] | None:
    """Why an argument means no image, as a sentence and for its row."""
    if argument == STANDARD_INPUT or os.path.isfile(argument):
        return None
    if os.path.isdir(argument):
        if next(_walk(argument), None) is not None:
            return None
        return (
            f"no images in {argument}: it holds no file that is called or begins like an image",
            "no file in it is called or begins like an image",
        )
    if not os.path.exists(argument):
        return f"no such file or folder: {argument}; name an image or a folder of images", "no such file or folder"
    return (
        f"{argument} is neither a file nor a folder; name an image or a folder of images",
        "neither a file nor a folder",
    )


def _images_of(argument: str) -> Iterator[str]:
    return _walk(argument) if argument != STANDARD_INPUT and os.path.isdir(argument) else iter((argument,))


def opened(images: Iterable[Image]) -> Iterator[Image]:
    """The same, with the image that standard input holds in the place of STANDARD_INPUT, read when it is its turn."""
    return (load(image, read=_standard_input) if image == STANDARD_INPUT else image for image in images)


def _standard_input(_: str, limit: int) -> tuple[bytes, int]:
    with open(0, "rb", closefd=False) as file:
        data = file.read(limit + 1)
    return data, len(data)


def _walk(folder: str) -> Iterator[str]:
    """Paths in the order in which all of them would be sorted; of each level one folder's names are held."""
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
            yield path  # to be reported, not passed over


def _names(folder: str) -> Iterator[str]:
    """Sorted, those of folders with a separator at their end: so they come where their files do among all paths."""
    with os.scandir(folder) as entries:
        kept = (entry for entry in entries if not formats.is_left_out(entry.name))
        return iter(sorted(entry.name + os.sep * entry.is_dir(follow_symlinks=False) for entry in kept))


def _is_image(path: str) -> bool:
    """Whether a file in a folder is one to classify: by its name, or else by its first bytes."""
    named = formats.is_image_name(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a FIFO would block whoever opens it
            return False
        if named:
            return True
        with open(path, "rb") as file:
            return formats.sniff(file.read(formats.HEAD_BYTES)) in formats.READABLE
    except OSError:
        return named  # unreadable, but called an image: to be reported, not passed over


def predict_with_server(target: str, name: str | None, paths: Iterable[Image]) -> Iterator[Prediction]:
    """Classify files by the model `name` of the TF Serving compatible server at HOST:GRPC_PORT or a URL of REST.

    Without a name the only model of a `graftline serve` is meant; other servers cannot be asked for theirs. One row
    for each path, in order; a bad image fails its own row only. Raises UserError when nothing answers at the
    address within CONNECT_SECONDS, or when the server has no such model or one with other signatures.
    """
    client = connect(target, name)
    return _closing(client, target, name, client.stream(paths))


def connect(target: str, name: str | None) -> Client:
    """A client of the server at `target`, which has answered. Raises UserError as `predict_with_server`."""
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
                f"{_other_port(target)}"
            ) from error
        raise told(error, target, name) from error
    return client


def _other_port(target: str) -> str:
    """What to give where an address has the port that is usually the other protocol's."""
    parts = urllib.parse.urlsplit(target if "://" in target else f"grpc://{target}")
    if parts.scheme == "grpc" and parts.port == REST_PORT:
        return f"; {REST_PORT} is usually the REST port: http://{parts.netloc}"
    if parts.scheme == "http" and parts.port == GRPC_PORT:
        return f"; {GRPC_PORT} is usually the gRPC port: {parts.netloc}"
    return ""


def _closing(client: Client, target: str, name: str | None, rows: Iterator[Prediction]) -> Iterator[Prediction]:
    with client:
        try:
            yield from rows
        except ServiceError as error:
            raise told(error, target, name) from error


def told(error: ServiceError, target: str, name: str | None) -> UserError:
    """What a server's error means to the user of the command line."""
    if error.code == "NOT_FOUND" and name is None:
        serves = f"It serves {', '.join(error.models)}: choose" if error.models else "It does not tell: give the name"
        return UserError(f"which model of the server at {target}? {serves} with --name")
    if error.code == "NOT_FOUND":
        serves = f"; it serves {', '.join(error.models)}" if error.models else ""
        return UserError(
            f"the server at {target} serves no model '{name}': give the name that it serves with --name{serves}"
        )
    if error.code == "UNAVAILABLE":
        return UserError(f"the model server at {target} went away: {error.message}; start it again")
    if error.code == "RESOURCE_EXHAUSTED":
        return UserError(f"the model server at {target} is busy: {error.message}")
    if error.code == "DEADLINE_EXCEEDED":
        return UserError(f"the model server at {target} gave no answer in {ANSWER_SECONDS:.0f} s")
    if error.code == "FAILED_PRECONDITION" and "is no image classifier" in error.message:
        return UserError(error.message)
    return _broken(f"the model at {target}", error.message)


def _broken(model: str, details: str) -> UserError:
    return UserError(
        f"{model} cannot run ({details.splitlines()[0] if details else 'no reason given'}); export it again"
    )


def predict_with_model(path: str, paths: Iterable[Image], name: str | None = None) -> Iterator[Prediction]:
    """Classify files in this process by the model at `path`: a SavedModel, a base path (its newest), or a workspace.

    One row for each path, in order; a bad image fails its own row only. Raises UserError when there is no model, when
    there are several and `name` is None, or when it cannot be loaded or has other signatures.
    """
    model = LocalClassifier(find_model(path, name).newest[1])
    return _retiring(model, paths)


def _retiring(model: "LocalClassifier", paths: Iterable[Image]) -> Iterator[Prediction]:
    try:
        yield from model.stream(paths)
    finally:
        model.close()


class LocalClassifier:
    """A SavedModel with Graftline's signatures, loaded in this process by TensorFlow; any thread may ask it.

    Raises UserError: no TensorFlow, no SavedModel that it can load, or one with other signatures.
    """

    def __init__(self, directory: str) -> None:
        import_tensorflow()
        from graftline.serving.server.model.loaded_model import LoadedModel, LoadError

        self._directory = directory
        try:
            self._model = LoadedModel(directory)
        except LoadError as error:
            raise UserError(f"{error}; name another model") from error
        anything = TensorSpec("", None)  # the names alone are looked at
        signatures = {
            name: Signature(dict.fromkeys(one.inputs, anything), dict.fromkeys(one.outputs, anything))
            for name, one in self._model.signatures.items()
        }
        if not is_classifier(signatures):
            self._model.retire()
            raise UserError(
                f"{directory} is no image classifier that Graftline exported (it has other signatures): its "
                f"{SERVING_DEFAULT} must take {IMAGE_BYTES} and give {', '.join(CLASSIFICATION)}"
            )

    def stream(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """One row for each image, in order, holding one batch. Raises UserError when the model cannot run."""
        with self._model:
            for batch in batches(map(load, images)):
                try:
                    yield from run(classify(batch, _asked), self._send)
                except ServiceError as error:
                    raise _broken(self._directory, error.message) from error

    def _send(self, images: Sequence[bytes]) -> dict[str, Any]:
        import numpy as np

        from graftline.serving.server.errors import ServingError

        try:
            return self._model.predict(SERVING_DEFAULT, {IMAGE_BYTES: np.array(images, object)}, list(CLASSIFICATION))
        except ServingError as error:
            raise ServiceError(error.code.name, error.message) from error

    def close(self) -> None:
        """Give the memory back."""
        self._model.retire()


def _asked(images: Sequence[bytes]) -> Steps[Mapping[str, Any]]:
    return (yield images)
