"""The client library against a real server: both protocols, blocking and async, with the same answers."""

import asyncio
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from graftline.serving.client import (
    AsyncClient,
    Client,
    Prediction,
    Retry,
    ServiceError,
    Signature,
    TensorSpec,
    VersionStatus,
    classifying,
)
from graftline.serving.client.exchange import run
from graftline.serving.server import ModelServer
from graftline.serving.server.errors import ServingError
from graftline.serving.server.limits import InFlight
from tests.images import image_of


class _Awaited:
    """An AsyncClient whose methods block, so that one test serves both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._loop.run_until_complete(method(*arguments, **options))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


Open = Callable[..., Any]


def addresses(server: ModelServer) -> dict[str, str]:
    return {"grpc": f"127.0.0.1:{server.grpc_port}", "rest": f"http://127.0.0.1:{server.rest_port}"}


@pytest.fixture(params=["grpc", "rest"])
def address(request: pytest.FixtureRequest, server: ModelServer) -> str:
    """The server's address, for each protocol."""
    return addresses(server)[request.param]


@pytest.fixture(params=[Client, _Awaited], ids=["blocking", "async"])
def connect(request: pytest.FixtureRequest, address: str) -> Iterator[Open]:
    """A function that opens a client of a model, in each of the four ways."""
    opened = []

    def open_client(model: str | None, **options: Any) -> Any:
        opened.append(request.param(address, model, **options))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


# Images


def test_bytes_and_paths_are_classified_in_order(connect: Open, tmp_path: pathlib.Path) -> None:
    (tmp_path / "green.png").write_bytes(image_of("green"))
    found = connect("colours").classify([image_of("red"), tmp_path / "green.png", str(tmp_path / "green.png")])
    assert [one.label for one in found] == ["red", "green", "green"]
    assert [one.path for one in found] == ["", str(tmp_path / "green.png"), str(tmp_path / "green.png")]


def test_a_prediction_is_typed(connect: Open) -> None:
    (found,) = connect("colours").classify([image_of("blue")])
    assert found.error is None
    assert isinstance(found.score, float)
    assert found.top_k[0] == (found.label, found.score)
    assert sorted(label for label, _ in found.top_k) == ["blue", "green", "red"]
    assert sum(score for _, score in found.top_k) == pytest.approx(1)


def test_a_bad_image_fails_its_own_row_only(connect: Open) -> None:
    cut = image_of("red")[:100]
    found = connect("colours").classify([image_of("red"), b"no image", cut, "/nowhere.png", image_of("blue")])
    assert [one.label for one in found] == ["red", None, None, None, "blue"]
    assert found[1].error == "not an image: starts with 'no image'"
    assert found[2].error is not None and "PNG" in found[2].error
    assert found[3] == Prediction("/nowhere.png", None, None, [], "cannot be read: No such file or directory")


@pytest.mark.parametrize("fmt", ["WEBP", "TIFF", "AVIF"])
def test_formats_that_serving_does_not_decode_are_transcoded(connect: Open, fmt: str) -> None:
    (found,) = connect("colours").classify([image_of("green", fmt=fmt)])
    assert found.label == "green"


def test_without_transcoding_bytes_go_as_they_are(connect: Open) -> None:
    (found,) = connect("colours", transcode=False).classify([image_of("green", fmt="WEBP")])
    assert found.label is None
    assert found.error == (
        "this WebP must be converted first (not a format of served models), as `graftline predict` and the Python "
        "client do"
    )


def test_more_images_than_one_batch_are_all_answered(connect: Open) -> None:
    colours = [("red", "green")[number % 2] for number in range(70)]
    assert [one.label for one in connect("colours").classify(map(image_of, colours))] == colours


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("image", ["rose.jpg", b"rose", pathlib.Path("rose.jpg"), bytearray(b"rose")])
def test_one_image_in_no_list_is_refused(kind: Any, image: Any) -> None:
    client = kind("localhost:1", "colours")
    with pytest.raises(TypeError, match=r"classify takes a list of images, not one \w+: give \[image\]"):
        client.stream(image)
    with pytest.raises(TypeError, match="classify takes a list"):
        asyncio.run(client.classify(image)) if kind is AsyncClient else client.classify(image)


def test_nothing_is_asked_for_no_images() -> None:
    assert Client("localhost:1", "colours").classify([]) == []


def test_rows_come_while_images_are_still_being_given(server: ModelServer) -> None:
    taken = 0

    def images() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield image_of("red")

    with Client(addresses(server)["grpc"], "colours") as client:
        assert next(client.stream(images())).label == "red"
    assert taken <= 33


def test_both_protocols_say_the_same_of_an_image(server: ModelServer) -> None:
    answers = []
    for address in addresses(server).values():
        with Client(address, "colours") as client:
            answers.append(client.classify([image_of("red")]))
    assert answers[0] == answers[1]


# Any model


def test_any_signature_gives_arrays_of_its_own_types(connect: Open) -> None:
    found = connect("numbers").predict({"number": [1, 2], "flag": [True, False], "text": ["ä", b"b"]}, "mixed")
    assert {name: (values.dtype, values.tolist()) for name, values in found.items()} == {
        "number": (np.int64, [2, 3]),
        "flag": (np.bool_, [False, True]),
        "text": (object, ["ä".encode(), b"b"]),
        "text_bytes": (object, ["ä".encode(), b"b"]),
    }


def test_lists_get_the_types_of_the_signature_and_arrays_keep_theirs(connect: Open) -> None:
    client = connect("numbers")
    listed = client.predict({"x": [[1, 2], [3, 4.5]]})["y"]
    given = client.predict({"x": np.array([[1, 2], [3, 4.5]], np.float32)})["y"]
    assert listed.dtype == given.dtype == np.float32
    assert listed.tolist() == given.tolist() == [[2.5, 3.0], [3.5, 4.25]]


def test_a_scalar_stays_one(connect: Open) -> None:
    assert connect("numbers").predict({"x": 1.0}, "scalar")["y"] == np.float32(1.2)


def test_outputs_can_be_chosen(connect: Open) -> None:
    client = connect("colours")
    assert list(client.predict({"image_bytes": [image_of("red")]}, outputs=["score"])) == ["score"]
    with pytest.raises(ServiceError, match="INVALID_ARGUMENT: output tensor alias not found in signature: none"):
        client.predict({"image_bytes": [image_of("red")]}, outputs=["none"])


def test_wrong_inputs_and_signatures_are_refused_in_the_servers_words(connect: Open) -> None:
    client = connect("numbers")
    with pytest.raises(ServiceError) as caught:
        client.predict({"z": [[1.0, 2.0]]})
    assert caught.value.code == "INVALID_ARGUMENT"
    with pytest.raises(ServiceError, match="none"):
        client.predict({"x": [[1.0, 2.0]]}, "none")


def test_status_and_metadata_are_typed(connect: Open) -> None:
    client = connect("numbers")
    assert client.status() == [VersionStatus(1, "AVAILABLE")]
    assert client.metadata()["serving_default"] == Signature(
        {"x": TensorSpec("float32", (-1, 2))}, {"y": TensorSpec("float32", (-1, 2))}
    )
    assert client.metadata()["mixed"].inputs["text"] == TensorSpec("bytes", (-1,))


def test_a_version_can_be_asked_for(connect: Open) -> None:
    assert connect("colours", version=3).classify([image_of("red")])[0].label == "red"
    with pytest.raises(ServiceError, match=r"NOT_FOUND: Servable not found for request: Specific\(colours, 4\)"):
        connect("colours", version=4).classify([image_of("red")])


# Errors


def test_a_label_that_is_not_there_is_no_images_fault(connect: Open) -> None:
    client = connect("colours", label="prod")
    with pytest.raises(ServiceError, match="INVALID_ARGUMENT: Unrecognized servable version label: prod"):
        client.classify([image_of("red"), b"no image"])


def test_a_model_that_is_not_there_is_not_found(connect: Open) -> None:
    with pytest.raises(ServiceError) as caught:
        connect("tulips").classify([image_of("red")])
    assert caught.value.code == "NOT_FOUND"
    assert caught.value.message == "Servable not found for request: Latest(tulips)"


def test_a_server_that_is_busy_is_no_images_fault() -> None:
    def ask(images: Any) -> Any:
        yield from ()
        with pytest.raises(ServingError) as caught, InFlight(0).counting():
            pass
        raise ServiceError(caught.value.code.name, caught.value.message)

    with pytest.raises(ServiceError, match="RESOURCE_EXHAUSTED: 0 requests are under way"):
        run(classifying.classify([classifying.Loaded("a.png", b"a")], ask), lambda todo: None)


def test_a_model_of_another_origin_is_named_as_one(connect: Open) -> None:
    client = connect("numbers")
    client.predict({"x": [[1.0, 2.0]]})  # the signatures are cached now, and must be checked all the same
    with pytest.raises(ServiceError, match=r"model 'numbers' at .* is no image classifier that Graftline exported"):
        client.classify([image_of("red")])


def test_without_a_name_several_models_are_listed(connect: Open) -> None:
    with pytest.raises(ServiceError) as caught:
        connect(None).classify([image_of("red")])
    assert caught.value.models == ("colours", "numbers")
    assert "it serves colours, numbers: choose one" in caught.value.message


@pytest.mark.parametrize("kind", [Client, _Awaited])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1"])
def test_where_nobody_answers_it_is_unavailable(kind: Open, address: str) -> None:
    client = kind(address, "colours", retry=Retry(attempts=1))
    with pytest.raises(ServiceError) as caught:
        client.status()
    client.close()
    assert caught.value.code == "UNAVAILABLE"


def test_a_port_of_the_other_protocol_is_an_error_and_not_a_riddle(server: ModelServer) -> None:
    for address in (f"http://127.0.0.1:{server.grpc_port}", f"127.0.0.1:{server.rest_port}"):
        with Client(address, "colours", retry=Retry(1)) as client, pytest.raises(ServiceError):
            client.status()


@pytest.mark.parametrize("address", ["ftp://host", "http://", ""])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="give HOST:PORT of gRPC, or a URL that begins with"):
        Client(address)


@pytest.mark.parametrize(
    "address", ["localhost", "8500", ":8500", "localhost:", "localhost:http", "localhost:99999", "localhost:0", "a:1/b"]
)
def test_an_address_of_grpc_without_a_possible_port_is_refused(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError) as caught:
            kind(address, "colours")
        assert str(caught.value) == (
            f"{address} is not HOST:PORT: give the gRPC port (the default is 8500), or http://HOST:REST_PORT"
        )


@pytest.mark.parametrize("address", ["http://localhost:99999", "http://:8501", "https://host:", "http://[::1"])
def test_an_address_of_rest_without_a_possible_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"is not https?://HOST:PORT: give the REST port \(the default is 8501\)"):
        Client(address)


@pytest.mark.parametrize("address", ["[::1]:8500", "grpc://host:1", "grpcs://host", "http://host", "https://host/a/b"])
def test_addresses_that_can_be_are_taken(address: str) -> None:
    Client(address, "colours").close()


# Many at once


def test_threads_may_share_a_client(address: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    colours = ["red", "green", "blue"] * 8
    with Client(address, "colours") as client, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda colour: client.classify([image_of(colour)])[0].label, colours)
        assert list(found) == colours


def test_tasks_may_share_a_client(address: str) -> None:
    colours = ["red", "green", "blue"] * 8

    async def ask() -> list[str | None]:
        async with AsyncClient(address, "colours") as client:
            rows = await asyncio.gather(*(client.classify([image_of(colour)]) for colour in colours))
            return [row.label for (row,) in rows]

    assert asyncio.run(ask()) == colours


# Imports


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_prediction_needs_no_tensorflow(server: ModelServer, tmp_path: pathlib.Path, protocol: str) -> None:
    code = (
        "import sys\n"
        "from graftline import Client\n"
        "with Client(sys.argv[1], 'colours') as client:\n"
        "    print(client.classify(sys.argv[2:])[0].label)\n"
        "print(sorted({'tensorflow', 'tensorflow_serving', 'keras', 'tfx', 'apache_beam'} & set(sys.modules)))\n"
    )
    (tmp_path / "a.webp").write_bytes(image_of("blue", fmt="WEBP"))
    command = [sys.executable, "-c", code, addresses(server)[protocol], str(tmp_path / "a.webp")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "NO_PROXY": "*"})
    assert done.stdout.split("\n")[:2] == ["blue", "[]"]


def test_importing_brings_neither_grpc_nor_http_nor_anything_heavy() -> None:
    code = (
        "import sys, graftline.serving.client, graftline.serving.predict, graftline.serving.server\n"
        "import graftline.serving.versions.locate, graftline.serving.versions.publish\n"
        "heavy = {'tensorflow', 'tfx', 'grpc', 'httpx', 'keras', 'apache_beam', 'tensorflow_serving'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"
