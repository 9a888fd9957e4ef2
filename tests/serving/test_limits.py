"""The largest size of a request and of the images in it."""

import http.client
import struct
import time
import zlib

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from graftline.errors import UserError
from graftline.serving.server import ModelServer, ServerOptions
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.limits import ByteBudget, Runs
from graftline.serving.versions import locate
from tests.images import PNG_SIGNATURE, image_of, png_chunk
from tests.serving.rest import Rest, b64


def png_bomb(side: int) -> bytes:
    """A PNG of one colour with `side`² pixels in a few kilobytes."""
    packer = zlib.compressobj(9)
    row = b"\0" * (side // 8 + 1)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def test_a_run_is_overdue_after_three_times_its_time():
    runs = Runs()
    with runs.timing(0.01), runs.timing(100), runs.timing(None):
        assert runs.overdue() == 0
        time.sleep(0.05)
        assert runs.overdue() == 1
    assert runs.overdue() == 0


def test_the_budget_takes_no_more_bytes_than_it_has():
    budget = ByteBudget(100)
    assert budget.try_take(60) and not budget.try_take(41)
    with budget.holding(40), pytest.raises(ServingError) as caught, budget.holding(1):
        pass
    assert caught.value.code is Code.UNAVAILABLE
    assert budget.taken == 60
    budget.give_back(60)


def test_large_requests_share_half_of_the_budget():
    budget = ByteBudget(6400)
    with budget.holding(3200), budget.holding(100):
        assert not budget.try_grow(50, 51)
        assert budget.try_grow(0, 50)
        with pytest.raises(ServingError), budget.holding(101):
            pass
        budget.release(50)
    assert budget.try_grow(0, 1600) and budget.try_grow(1600, 1600) and not budget.try_grow(3200, 1)
    budget.release(3200)
    assert budget.taken == 0


def test_all_bytes_are_free_again():
    budget = ByteBudget(100)
    assert budget.try_take(100)


@pytest.mark.parametrize(("given", "most"), [({}, 512 << 20), ({"max_request_bytes": 1000}, 8000)])
def test_the_budget_is_eight_of_the_largest_requests(given, most):
    assert ServerOptions(**given).bytes_in_flight == most


def test_a_budget_below_two_of_the_largest_requests_is_refused():
    with pytest.raises(
        UserError, match="max_bytes_in_flight is 99: give at least twice max_request_bytes, which is 50"
    ):
        ServerOptions(max_request_bytes=50, max_bytes_in_flight=99)


# The server


@pytest.fixture(scope="module")
def strict(workspace):
    """A server that accepts requests of 100 KB and images of one megapixel."""
    options = ServerOptions(port=0, rest_api_port=0, max_request_bytes=100_000, max_image_pixels=1_000_000)
    with ModelServer(locate.find_models(str(workspace)), options=options) as server:
        yield server


def test_only_the_request_with_a_too_large_image_is_refused_and_before_decoding(strict):
    rest = Rest(strict)
    bomb = png_bomb(9_000)
    assert len(bomb) < 60_000
    status, answer = rest.predict("colours", {"instances": [b64(image_of("red")), b64(bomb)]})
    assert (status, answer) == (
        400,
        {
            "error": "input image_bytes: image 1 of the request decodes to more than 1000000 pixels, the limit "
            "max_image_pixels of this server: send it smaller"
        },
    )
    status, answer = rest.predict("colours", {"instances": [b64(png_bomb(10_001))]})
    assert (status, answer) == (400, {"error": "too many pixels: 10001 x 10001"})
    assert rest.predict("colours", {"instances": [b64(image_of("red"))]})[0] == 200


def test_a_grpc_message_that_is_too_large_is_refused(strict):
    from tests.serving.predict_requests import request

    with grpc.insecure_channel(f"127.0.0.1:{strict.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request("colours", image_bytes=[b"x" * 100_001]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.Predict(request("colours", image_bytes=[image_of("red")])).outputs["label"].string_val == [b"red"]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Length": "100001"}, b"", 413),
        ({"Content-Length": "9" * 4000}, b"", 400),
        ({"Content-Length": "-1"}, b"", 400),
        ({"Content-Length": "1e3"}, b"", 400),
        ({"Content-Length": "00000000000000000000000000002"}, b"{}", 400),
        ({"Transfer-Encoding": "chunked"}, b"186a1\r\n" + b"a" * 100_001, 413),
        ({"Transfer-Encoding": "chunked"}, b"-1\r\n", 400),
        ({"Transfer-Encoding": "chunked"}, b"zz\r\n", 400),
    ],
)
def test_bodies_that_are_too_large_or_malformed_are_refused(strict, headers, body, status):
    connection = http.client.HTTPConnection("127.0.0.1", strict.rest_port, timeout=30)
    connection.putrequest("POST", "/v1/models/colours:predict")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(body)
    answer = connection.getresponse()
    assert answer.status == status
    assert answer.read().startswith(b'{"error": ')
    connection.close()
