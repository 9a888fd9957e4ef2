"""The REST API v1, over HTTP on loopback, as clients of images use it. The tables are in conformance/."""

import gzip
import http.client
import json
import math
import socket
import threading

import pytest

from tests.images import image_of
from tests.saved_models import LABELS
from tests.serving.rest import Rest, b64


@pytest.fixture(scope="module")
def rest(server):
    return Rest(server)


# Predict


def test_an_image_is_classified(rest):
    status, answer = rest.predict("colours", {"instances": [b64(image_of("red"))]})
    assert status == 200
    (row,) = answer["predictions"]
    assert row["label"] == "red"
    assert row["score"] == max(row["probabilities"]) == row["top_k_scores"][0]
    assert sorted(row["top_k_labels"]) == sorted(LABELS)


def test_instances_may_be_objects_by_input_name(rest):
    body = {"instances": [{"image_bytes": b64(image_of(colour))} for colour in ("red", "blue")]}
    _, answer = rest.predict("colours", body)
    assert [row["label"] for row in answer["predictions"]] == ["red", "blue"]


def test_columns_in_give_columns_out(rest):
    body = {"inputs": {"image_bytes": [b64(image_of("green"))]}}
    _, answer = rest.predict("colours", body)
    assert answer["outputs"]["label"] == ["green"]


def test_one_output_comes_bare_in_rows(rest):
    assert rest.predict("numbers", {"instances": [[1.0, 2.0], [3, 4]]}) == (
        200,
        {"predictions": [[2.5, 3.0], [3.5, 4.0]]},
    )


def test_strings_are_plain_unless_the_output_is_called_bytes(rest):
    row = {"number": 1, "flag": True, "text": "grüße"}
    _, answer = rest.predict("numbers", {"signature_name": "mixed", "instances": [row]})
    assert answer["predictions"] == [
        {"number": 2, "flag": False, "text": "grüße", "text_bytes": b64("grüße".encode())},
    ]


def test_floats_are_written_with_the_fewest_digits_that_read_back(rest):
    _, answer = rest.predict("numbers", {"instances": [[0.4, -4.0]]})
    assert answer["predictions"][0][0] == 2.2  # the float32 nearest to it is 2.2000000477 in full


def test_nan_and_infinity_are_numbers(rest):
    _, answer = rest.predict("numbers", b'{"instances": [[NaN, -Infinity]]}')
    nan, infinity = answer["predictions"][0]
    assert math.isnan(nan) and infinity == -math.inf


def test_a_named_version_answers_as_the_latest_does(rest):
    body = {"instances": [[1.0, 2.0]]}
    assert rest.ask("POST", "/v1/models/numbers/versions/1:predict", body) == rest.predict("numbers", body)


def test_the_content_type_of_a_request_is_ignored(rest):
    body = {"instances": [[1.0, 2.0]]}
    assert rest.predict("numbers", body, headers={"Content-Type": "text/csv"})[0] == 200


def test_bodies_over_four_mebibytes_are_accepted(rest):
    status, answer = rest.predict("numbers", {"instances": [[1.0, 2.0]], "comment": "x" * (5 << 20)})
    assert (status, answer) == (200, {"predictions": [[2.5, 3.0]]})


# Errors of Predict


def test_a_large_request_of_numbers_gets_a_large_answer(rest):
    rows = [[place % 50, 1.5] for place in range(150_000)]
    body = gzip.compress(json.dumps({"instances": rows}).encode(), 1)
    status, answer = rest.predict("numbers", body, headers={"Content-Encoding": "gzip"})
    assert status == 200
    assert answer["predictions"] == [[first / 2 + 2, 2.75] for first, _ in rows]


def test_bytes_that_are_not_an_image_are_refused_and_the_next_request_is_answered(rest):
    status, answer = rest.predict("colours", {"instances": [b64(b"no image")]})
    assert status == 400
    assert answer["error"] == "not an image: starts with 'no image'"
    assert rest.predict("colours", {"instances": [b64(image_of("red"))]})[0] == 200


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("classify", b'{"examples": [{"\xff": 1}]}'),
        ("regress", b'{"examples": [{"x": 1}], "context": {"\xff": 1}}'),
        ("classify", b'{"examples": [{"x": 1}], "signature_name": "\xff"}'),
        ("predict", b'{"instances": [{"\xff": 1}]}'),
        ("predict", b'{"inputs": {"\xff": 1}}'),
        ("predict", b'{"instances": [[1, 2]], "signature_name": "\xff"}'),
    ],
)
def test_a_name_that_is_not_utf_8_is_the_clients_fault(rest, verb, body):
    status, answer = rest.ask("POST", f"/v1/models/numbers:{verb}", body)
    assert status == 400, answer


def test_a_long_value_is_cut_in_the_message(rest):
    _, answer = rest.predict("numbers", {"instances": [["x" * 100_000]]})
    assert answer["error"].endswith("xxx… Type: String is not of expected type: float")
    assert len(answer["error"]) < 1200


# Status and metadata


def test_the_status_of_a_model_lists_its_version_as_text(rest):
    expected = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert rest.ask("GET", "/v1/models/colours") == (200, {"model_version_status": [expected]})
    assert rest.ask("GET", "/v1/models/colours/versions/3") == (200, {"model_version_status": [expected]})


def test_the_metadata_hold_the_signatures(rest):
    status, answer = rest.ask("GET", "/v1/models/numbers/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "numbers", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in signature["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "2"]


# HTTP


def test_one_connection_carries_many_requests(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
    connection.connect()
    sock = connection.sock
    for _ in range(3):
        connection.request("POST", "/v1/models/numbers:predict", b'{"instances": [[1, 2]]}')
        assert json.loads(connection.getresponse().read()) == {"predictions": [[2.5, 3.0]]}
        assert connection.sock is sock
    connection.close()


def test_a_chunked_body_is_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
    chunks = iter([b'{"instances": ', b"[[1, 2]]}"])
    connection.request("POST", "/v1/models/numbers:predict", chunks, encode_chunked=True)
    assert json.loads(connection.getresponse().read()) == {"predictions": [[2.5, 3.0]]}
    connection.close()


def raw(server, data: bytes) -> bytes:
    """Send these bytes, close the sending side, and return the answer."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(65536):
            answer += part
        return answer


HEAD = b"POST /v1/models/numbers:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("rest_of_request", "status", "message"),
    [
        (b"Content-Length: 100\r\n\r\n{}", 400, "Malformed request: peer closed connection without sending complete"),
        (b"Content-Length: -5\r\n\r\n", 400, "Malformed request: bad Content-Length"),
        (b"Content-Length: %d\r\n\r\n" % ((64 << 20) + 1), 413, "request body is larger than 64 MiB"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "Malformed request: illegal chunk header"),
    ],
)
def test_a_malformed_request_is_refused_in_the_form_of_tf_servings_errors(server, rest_of_request, status, message):
    head, _, body = raw(server, HEAD + rest_of_request).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert json.loads(body)["error"].startswith(message)


def test_a_client_that_never_sends_its_body_delays_no_other(server, rest):
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=10) as silent:
        silent.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        assert rest.predict("numbers", {"instances": [[1, 2]]})[0] == 200


def test_many_clients_at_once_each_get_their_own_answer(rest):
    found: dict[int, object] = {}

    def ask(number: int) -> None:
        found[number] = rest.predict("numbers", {"instances": [[number, 0]]})[1]

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert found == {number: {"predictions": [[number / 2 + 2, 2.0]]} for number in range(16)}


def test_an_error_is_the_ops_message_without_its_functions(tmp_path):
    import numpy as np
    import tensorflow as tf

    from graftline.serving.server.errors import ServingError
    from graftline.serving.server.model.loaded_model import LoadedModel

    module = tf.Module()
    module.read = tf.function(
        lambda x: {"y": tf.strings.to_number(x)},
        input_signature=[tf.TensorSpec([None], tf.string, name="x")],
        autograph=False,
        experimental_attributes={
            "_noinline": True
        },  # a call that is not inlined puts its name before the message, twice
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.read)
    model = LoadedModel(str(tmp_path))
    with pytest.raises(ServingError) as caught:
        model.predict("", {"x": np.array([b"{{node a}}"], object)})
    model.retire()
    assert "{{function_node " in str(caught.value.__cause__)
    assert caught.value.message == "StringToNumberOp could not correctly convert string: {{node a}}"
