# ruff: noqa: E501 (a row of a table is a line)
"""REST without the reading of tensors: URLs, labels, status, metadata, classify, regress and the text of answers.

Row by row from TF Serving's model_servers/http_rest_api_{handler,util}.cc and their tests, util/json_tensor.cc, and
servables/tensorflow/{classifier,regressor,util}.cc.
"""

import contextlib
import http.client
import json
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.http import json_answers
from tests.serving.conformance.model import CLASSIFY, MODEL, REGRESS, Part, ask, check, rows

PREDICT = "tensorflow/serving/predict"
ONE = '{"instances": [1.0]}'
HALF = {"predictions": [2.5]}


def malformed(method: str, path: str) -> str:
    return f"Malformed request: {method} {path}"


def unknown(wanted: str) -> str:
    return f"Servable not found for request: {wanted}"


def state(version: int) -> dict:
    return {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


def bad(method: str, path: str) -> tuple:
    return (f"{method} {path}", method, path, ONE, 400, malformed(method, path))


# what, method, path, body, status, answer
URLS = {
    "http_rest_api_handler_test.cc UnsupportedApiCalls": [
        bad("GET", "/v1/foo"),
        bad("POST", "/v1/foo"),
        ("GET /v1/models", "GET", "/v1/models", None, 400, "Missing model name in request."),
        bad("GET", "/v1/models/debug/model_name"),
        bad("POST", "/v1/models"),
        bad("GET", "/v1/models/foo:predict"),
        bad("GET", "/v1/models/foo/version/50:predict"),
        bad("POST", "/v1/models/foo/version/50:regress"),
        bad("POST", "/v1/models/foo/versions/HELLO:regress"),
        bad("POST", "/v1/models/foo/metadata"),
        bad("POST", "/v1/models/foo/label/some_label:regress"),
        bad("POST", "/v1/models/foo/versions/50/labels/some_label:regress"),
        bad("POST", "/v1/models/foo/versions/some_label:regress"),
    ],
    "http_rest_api_util.cc kPredictionApiGegex": [
        bad("POST", f"/v1/models/{MODEL}"),
        bad("POST", f"/v1/models/{MODEL}/"),
        bad("POST", f"/v1/models/{MODEL}:predict/"),
        bad("POST", f"/v1/models/{MODEL}:explain"),
        bad("POST", f"/v1/models/{MODEL}:"),
        bad("POST", f"/v1/models/{MODEL}:predict:predict"),
        bad("POST", f"/v1/models/{MODEL}/versions/:predict"),
        bad("POST", f"/v1/models/{MODEL}/versions/-1:predict"),
        bad("POST", f"/v1/models/{MODEL}/versions/1.0:predict"),
        bad("POST", f"/v1/models/{MODEL}/labels/:predict"),
        bad("POST", f"/v1/models/{MODEL}/labels/stable/versions/1:predict"),
        bad("POST", "/v1/models/:predict"),
        bad("POST", "/v1/"),
        bad("POST", "/v1//models/all:predict"),
        bad("PUT", f"/v1/models/{MODEL}:predict"),
        bad("PATCH", f"/v1/models/{MODEL}:predict"),
        bad("DELETE", f"/v1/models/{MODEL}"),
        bad("OPTIONS", f"/v1/models/{MODEL}:predict"),
        # The pattern ignores case; the verb is then compared as it is written (http_rest_api_handler.cc).
        bad("POST", f"/v1/models/{MODEL}:PREDICT"),
        bad("POST", f"/v1/models/{MODEL}:Classify"),
        ("the path ignores case", "POST", f"/V1/Models/{MODEL}:predict", ONE, 200, HALF),
        ("and the words in it", "POST", f"/v1/models/{MODEL}/VERSIONS/1:predict", ONE, 200, HALF),
        ("the name does not", "POST", "/v1/models/ALL:predict", ONE, 404, unknown("Latest(ALL)")),
        ("a query is ignored", "POST", f"/v1/models/{MODEL}:predict?verbose=1", ONE, 200, HALF),
    ],
    "http_rest_api_util.cc kModelStatusApiRegex": [
        bad("GET", f"/v1/models/{MODEL}/"),
        bad("GET", f"/v1/models/{MODEL}/versions"),
        bad("GET", f"/v1/models/{MODEL}/versions/x"),
        bad("GET", f"/v1/models/{MODEL}/metadata/"),
        bad("GET", f"/v1/models/{MODEL}/metadata/more"),
        bad("GET", f"/v1/models/{MODEL}/labels/stable/versions/1"),
        bad("GET", "/v1/"),
        bad("GET", "/v1/model"),
        ("a model called metadata", "GET", "/v1/models/metadata", None, 404, "Could not find any versions of model metadata"),
        ("METADATA is the status", "GET", "/v1/models/a%20name/METADATA", None, 200, {"model_version_status": [state(7)]}),
    ],
    "http_rest_api_util.cc ParseModelInfo": [
        ("a quoted name", "POST", "/v1/models/a%20name:predict", ONE, 200, HALF),
        ("a quoted letter", "POST", "/v1/models/%61ll:predict", ONE, 200, HALF),
        ("a quoted label", "POST", f"/v1/models/{MODEL}/labels/with%20space:predict", ONE, 200, HALF),
        ("a plus is a plus", "POST", "/v1/models/a+name:predict", ONE, 404, unknown("Latest(a+name)")),
        ("a colon in a name has to be quoted", "POST", "/v1/models/a%3Ab:predict", ONE, 404, unknown("Latest(a:b)")),
        ("a slash, too", "GET", "/v1/models/a%2Fb", None, 404, "Could not find any versions of model a/b"),
        ("zeros before a version", "POST", f"/v1/models/{MODEL}/versions/0001:predict", ONE, 200, HALF),
        *(
            (f"{method} with a version beyond int64", method, f"/v1/models/foo/versions/{1 << 63}{verb}", ONE, 400,
             f"Failed to convert version: {1 << 63} to numeric.")
            for method, verb in (("POST", ":regress"), ("GET", ""), ("GET", "/metadata"))
        ),
        ("a version of 5,000 digits", "GET", "/v1/models/foo/versions/" + "9" * 5000, None, 400, Part("to numeric.")),
    ],
    "http_rest_api_handler_test.cc PredictModelNameVersionErrors": [
        ("unknown model", "POST", "/v1/models/foo:predict", ONE, 404, unknown("Latest(foo)")),
        ("its version", "POST", "/v1/models/foo/versions/50:predict", ONE, 404, unknown("Specific(foo, 50)")),
        ("unknown version", "POST", f"/v1/models/{MODEL}/versions/99:predict", ONE, 404, unknown(f"Specific({MODEL}, 99)")),
        ("for classify", "POST", "/v1/models/foo:classify", '{"examples": [{}]}', 404, unknown("Latest(foo)")),
        ("for regress", "POST", "/v1/models/foo/versions/2:regress", '{"examples": [{}]}', 404, unknown("Specific(foo, 2)")),
        ("JSON is read before the model is looked for", "POST", "/v1/models/foo:predict", "{", 400, Part("JSON Parse error")),
    ],
    "http_rest_api_handler_test.cc Predict": [
        ("latest", "POST", f"/v1/models/{MODEL}:predict", '{"instances": [1.0, 2.0]}', 200, {"predictions": [2.5, 3.0]}),
        ("version", "POST", f"/v1/models/{MODEL}/versions/1:predict", ONE, 200, HALF),
        ("version 0 is one", "POST", f"/v1/models/{MODEL}/versions/0:predict", ONE, 200, HALF),
        ("label", "POST", f"/v1/models/{MODEL}/labels/stable:predict", ONE, 200, HALF),
        ("signature", "POST", f"/v1/models/{MODEL}/versions/1:predict", '{"signature_name": "serving_default", "instances": [3.0, 4.0]}', 200, {"predictions": [3.5, 4.0]}),
        ("columns", "POST", f"/v1/models/{MODEL}:predict", '{"inputs": [3.0, 4.0]}', 200, {"outputs": [3.5, 4.0]}),
    ],
    "http_rest_api_handler.cc GetInfoMap": [
        ("unknown signature", "POST", f"/v1/models/{MODEL}:predict", '{"signature_name": "x", "instances": [1]}', 400, 'Serving signature name: "x" not found in signature def'),
        ("before what it is given", "POST", f"/v1/models/{MODEL}:predict", '{"signature_name": "x"}', 400, 'Serving signature name: "x" not found in signature def'),
        ("after the model", "POST", "/v1/models/foo:predict", '{"signature_name": "x"}', 404, unknown("Latest(foo)")),
    ],
    "server_core.cc GetModelVersionForLabel": [
        ("unknown label", "POST", f"/v1/models/{MODEL}/labels/x:predict", ONE, 400, "Unrecognized servable version label: x"),
        ("for classify", "POST", f"/v1/models/{MODEL}/labels/x:classify", '{"examples": [{}]}', 400, "Unrecognized servable version label: x"),
        ("for metadata", "GET", f"/v1/models/{MODEL}/labels/x/metadata", None, 400, "Unrecognized servable version label: x"),
        ("of an unknown model", "POST", "/v1/models/foo/labels/stable:predict", ONE, 400, "Unrecognized servable version label: stable"),
        ("told by case", "POST", f"/v1/models/{MODEL}/labels/Stable:predict", ONE, 400, "Unrecognized servable version label: Stable"),
    ],
    "get_model_status_impl.cc": [
        ("all, the highest first", "GET", f"/v1/models/{MODEL}", None, 200, {"model_version_status": [state(2), state(1), state(0)]}),
        ("one", "GET", f"/v1/models/{MODEL}/versions/1", None, 200, {"model_version_status": [state(1)]}),
        ("version 0", "GET", f"/v1/models/{MODEL}/versions/0", None, 200, {"model_version_status": [state(0)]}),
        ("label", "GET", f"/v1/models/{MODEL}/labels/stable", None, 200, {"model_version_status": [state(1)]}),
        ("unknown label", "GET", "/v1/models/a%20name/labels/x", None, 200, {"model_version_status": [state(7)]}),
        ("unknown model", "GET", "/v1/models/foo", None, 404, "Could not find any versions of model foo"),
        ("unknown version", "GET", f"/v1/models/{MODEL}/versions/9", None, 404, f"Could not find version 9 of model {MODEL}"),
    ],
    "get_model_metadata_impl.cc": [
        ("unknown model", "GET", "/v1/models/foo/metadata", None, 404, unknown("Latest(foo)")),
        ("unknown version", "GET", f"/v1/models/{MODEL}/versions/9/metadata", None, 404, unknown(f"Specific({MODEL}, 9)")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "expected"), rows(URLS))
def test_a_url_is_answered_as_tf_serving_answers_it(rest, method, path, body, status, expected):
    check(rest.ask(method, path, body.encode() if body else None), status, expected)


@pytest.mark.parametrize("origin", ["http://localhost", "HTTP://127.0.0.1:80"])
def test_a_whole_url_is_read_for_its_path(rest, origin):
    """net_http's evhttp_request.cc decode, which takes the path of the parsed URI.

    TF Serving takes any host. Here it must be the server's: tests/serving/test_access.py.
    """
    connection = http.client.HTTPConnection(rest.base.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", f"{origin}/v1/models/{MODEL}:predict", ONE)
        answer = connection.getresponse()
        check((answer.status, json.loads(answer.read())), 200, HALF)


RESULTS = [[["a", 1.0], ["1.000000", 0.5]]]
CLASSES = {"examples": [{"x": 1.0, "s": "a"}]}
ODD = Part("found in SignatureDef: inputs {\n  key:")


def wrong_method(kind: str, method: str, found: str) -> str:
    return f"Expected {kind} signature method_name to be {method}. Was: {found}"


def feature(value: object) -> dict:
    return {"examples": [{"f": value}]}


# what, verb, signature, body, status, answer
EXAMPLES = {
    "http_rest_api_handler_test.cc Classify and Regress": [
        ("classify", "classify", "classify", CLASSES, 200, {"results": RESULTS}),
        ("two examples", "classify", "classify_scores", {"examples": [{"x": 1.0}, {"x": 2.0}]}, 200, {"results": [[["", 1.0], ["", 0.5]], [["", 2.0], ["", 1.0]]]}),
        ("labels alone", "classify", "classify_classes", CLASSES, 200, {"results": [[["a", 0.0], ["1.000000", 0.0]]]}),
        ("regress", "regress", "regress", {"examples": [{"x": 80.0}]}, 200, {"results": [42.0]}),
        ("regress two", "regress", "regress", {"examples": [{"x": 1.0}, {"x": 2.0}]}, 200, {"results": [2.5, 3.0]}),
        ("regress without a second dimension", "regress", "regress_flat", {"examples": [{"x": 1.0}]}, 200, {"results": [1.0]}),
        ("not finite", "regress", "", b'{"signature_name": "regress_flat", "examples": [{"x": Infinity}, {"x": -Infinity}]}', 200, {"results": [float("inf"), float("-inf")]}),
    ],
    "json_tensor.cc FillClassifyRegressRequestFromJson": [
        ("no document", "classify", "", b"", 400, "JSON Parse error: The document is empty"),
        ("signature no text", "classify", "", {"signature_name": ["hello"], "examples": [{}]}, 400, Part("'signature_name' key must be a string")),
        ("a context", "regress", "regress", {"context": {"x": 2.0}, "examples": [{}, {"s": "a"}]}, 200, {"results": [3.0, 3.0]}),
        ("a list as context", "regress", "regress", {"context": [{"x": 2.0}]}, 400, "Example must be JSON object but got JSON Array"),
        ("no examples", "classify", "", {}, 400, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ("regress says classify, too", "regress", "", {}, 400, Part("When method is classify, key 'examples' is expected")),
        ("examples no list", "classify", "", {"examples": {"x": 1}}, 400, Part("Expecting 'examples' value to be an list/array")),
        ("no example", "regress", "", {"examples": []}, 400, Part("'examples' value is an empty array")),
        ("examples are read before the model is looked for", "classify", "x", {"examples": [1]}, 400, "Example must be JSON object but got JSON Number"),
        *(
            (f"an example that is {kind}", "regress", "regress", {"examples": [value]}, 400, f"Example must be JSON object but got JSON {kind}")
            for kind, value in (("Array", [{}]), ("String", "a"), ("Null", None), ("True", True), ("False", False))
        ),
    ],
    "json_tensor.cc AddValueToFeature": [
        ("a value for a list", "regress", "regress", {"examples": [{"x": [80.0]}]}, 200, {"results": [42.0]}),
        ("b64", "classify", "classify", {"examples": [{"x": 1.0, "s": {"b64": "YQ=="}}]}, 200, {"results": RESULTS}),
        ("broken b64", "classify", "classify", feature({"b64": "*"}), 400, "Unable to base64 decode"),
        ("null", "regress", "regress", feature([10, None]), 400, "Feature: f has element with unexpected JSON type: Null"),
        ("object", "regress", "regress", feature([10, {"test": 10}]), 400, "Feature: f has element with unexpected JSON type: Object"),
        ("list in a list", "regress", "regress", feature([[10], 20]), 400, "Feature: f has element with unexpected JSON type: Array"),
        ("decimal after whole", "regress", "regress", feature([10, 10.5]), 400, "Unexpected element type in feature: f expecting type: int64"),
        ("whole after decimal", "regress", "regress", feature([10.5, 10]), 400, "Unexpected element type in feature: f expecting type: float"),
        ("text after whole", "regress", "regress", feature([10, "a"]), 400, "Unexpected element type in feature: f expecting type: int64"),
        ("whole after text", "regress", "regress", feature(["a", 10]), 400, "Unexpected element type in feature: f expecting type: bytes"),
        ("true after decimal", "regress", "regress", feature([1.5, True]), 400, "Unexpected element type in feature: f expecting type: float"),
        ("whole numbers and flags", "regress", "regress", {"examples": [{"x": 80.0, "f": [1, True, False]}]}, 200, {"results": [42.0]}),
        ("uint64", "regress", "regress", feature([20, 18446744073709551603]), 400, "Feature: f has uint64_t element. Only int64_t is supported."),
        ("beyond float", "regress", "regress_flat", {"examples": [{"x": 1e39}, {"x": -1e39}]}, 200, {"results": [float("inf"), float("-inf")]}),
        ("a whole number beyond 64 bits", "regress", "regress_flat", b'{"signature_name": "regress_flat", "examples": [{"x": 18446744073709551616}]}', 200, {"results": [1.84467441e19]}),
        ("empty list", "regress", "regress", {"examples": [{"x": 80.0, "f": []}]}, 200, {"results": [42.0]}),
    ],
    "classifier.cc GetClassificationSignatureDef": [
        ("unknown signature", "classify", "x", CLASSES, 400, "No signature was found with the name: x"),
        ("the default is asked for", "classify", "", CLASSES, 400, wrong_method("classification", CLASSIFY, PREDICT)),
        ("of method predict", "classify", "classify_by_predict", CLASSES, 400, wrong_method("classification", CLASSIFY, PREDICT)),
        ("of method regress", "classify", "regress", CLASSES, 400, wrong_method("classification", CLASSIFY, REGRESS)),
    ],
    "classifier.cc PreProcessClassification": [
        ("two inputs", "classify", "classify_two_inputs", CLASSES, 400, "Expected one input Tensor."),
        ("three outputs", "classify", "classify_three", CLASSES, 400, "Expected one or two output Tensors, found 3"),
        ("another input", "classify", "classify_other_input", CLASSES, 400, ODD),
        ("another output", "classify", "classify_other_output", CLASSES, 400, Part('at least one of "classes" or "scores". Signature was: ')),
    ],
    "classifier.cc PostProcessClassificationResult": [
        ("flat labels", "classify", "classify_flat_classes", CLASSES, 400, "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        ("flat scores", "classify", "classify_flat_scores", CLASSES, 400, "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        ("labels that are numbers", "classify", "classify_number_classes", CLASSES, 400, "Expected classes Tensor of DT_STRING. Got: DT_INT64"),
        ("double scores", "classify", "classify_double_scores", CLASSES, 400, "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ("more labels than examples", "classify", "classify_more_class_rows", CLASSES, 400, "Expected classes output batch size of 1. Got: 2"),
        ("more scores than examples", "classify", "classify_more_rows", CLASSES, 400, "Expected scores output batch size of 1. Got: 2"),
        ("more labels than scores", "classify", "classify_unequal", CLASSES, 400, "Tensors class and score should match in dim_size(1). Got 2 vs. 1"),
    ],
    "regressor.cc": [
        ("unknown signature", "regress", "x", CLASSES, 400, "No signature was found with the name: x"),
        ("the default is asked for", "regress", "", CLASSES, 400, wrong_method("regression", REGRESS, PREDICT)),
        ("of method predict", "regress", "regress_by_predict", CLASSES, 400, wrong_method("regression", REGRESS, PREDICT)),
        ("of method classify", "regress", "classify", CLASSES, 400, wrong_method("regression", REGRESS, CLASSIFY)),
        ("two inputs", "regress", "regress_two_inputs", CLASSES, 400, "Expected one input Tensor."),
        ("two outputs", "regress", "regress_two_outputs", CLASSES, 400, "Expected one output Tensor."),
        ("another input", "regress", "regress_other_input", CLASSES, 400, ODD),
        ("another output", "regress", "regress_other_output", CLASSES, 400, Part("No regression outputs found in SignatureDef: ")),
        ("two values each", "regress", "regress_wide", CLASSES, 400, "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]"),
        ("more values than examples", "regress", "regress_more_rows", CLASSES, 400, "Input batch size did not match output batch size: 1 vs. 2"),
        ("double", "regress", "regress_double", CLASSES, 400, "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ],
    "predict_util.cc": [
        ("classify signatures are answered by predict", "predict", "classify_scores", {"instances": [""]}, 200, {"predictions": [[-1.0, -0.5]]}),
        ("regress signatures, too", "predict", "regress_flat", {"instances": [""]}, 200, {"predictions": [-1.0]}),
        ("another method", "predict", "odd_method", {"instances": [1]}, 500, f"Expected prediction signature method_name to be one of {{{PREDICT}, {CLASSIFY}, {REGRESS}}}. Was: my/own"),
        ("what the graph refuses", "predict", "", b'{"signature_name": "refuses", "instances": [NaN]}', 400, Part("no number : Tensor had NaN values")),
        ("another shape, which the graph takes", "predict", "", {"instances": [[1.0, 2.0], [3.0, 4.0]]}, 200, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
        ("a shape that the graph cannot take", "predict", "matrix", {"instances": [[1.0, 2.0, 3.0]]}, 400, Part("Matrix size-incompatible: In[0]: [1,3], In[1]: [2,1]")),
        ("and the right one", "predict", "matrix", {"instances": [[1.0, 2.0]]}, 200, {"predictions": [[3.0]]}),
    ],
    "json_tensor.cc MakeRowFormatJsonFromTensors": [
        ("no rows", "predict", "no_rows", {"instances": [1]}, 200, {"predictions": []}),
        ("a scalar is no row", "predict", "sum", {"instances": [1]}, 400, "Tensor name: y has no shape information "),
        ("batches of different size", "predict", "two_batches", {"instances": [1]}, 400, "Tensor name: b has inconsistent batch size: 2 expecting: 1"),
        ("several outputs", "predict", "text", {"instances": ["a", "tf"]}, 200, {"predictions": [{"text": "a", "text_bytes": {"b64": "YQ=="}}, {"text": "tf", "text_bytes": {"b64": "dGY="}}]}),
        ("one output of bytes", "predict", "only_bytes", {"instances": [["hello", "world"]]}, 200, {"predictions": [[{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]]}),
        ("numbers called bytes are numbers", "predict", "number_bytes", {"instances": [1, 2]}, 200, {"predictions": [1, 2]}),
    ],
    "json_tensor.cc MakeColumnarFormatJsonFromTensors": [
        ("a scalar", "predict", "sum", {"inputs": [1, 2]}, 200, {"outputs": 3.0}),
        ("no rows", "predict", "no_rows", {"inputs": [1]}, 200, {"outputs": []}),
        ("batches of different size", "predict", "two_batches", {"inputs": [1]}, 200, {"outputs": {"a": [1.0], "b": [1.0, 1.0]}}),
        ("several outputs", "predict", "text", {"inputs": ["a"]}, 200, {"outputs": {"text": ["a"], "text_bytes": [{"b64": "YQ=="}]}}),
        ("a scalar of bytes", "predict", "only_bytes", {"inputs": "tf"}, 200, {"outputs": {"b64": "dGY="}}),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("verb", "signature", "body", "status", "expected"), rows(EXAMPLES))
def test_a_verb_is_answered_as_tf_serving_answers_it(rest, verb, signature, body, status, expected):
    check(ask(rest, MODEL, body, verb, signature), status, expected)


def raw(rest, body: dict) -> str:
    """Return the text of an answer to predict."""
    request = urllib.request.Request(f"{rest.base}/v1/models/{MODEL}:predict", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


# what, values, text of the list: as json_tensor_test.cc and absl's StrCat have it
TOKENS = {
    "json_tensor_test.cc FromJsonSingleFloatTensorSixDigitPrecision": [
        ("the test's own", "float32", [9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5], "9e+06, 999999.0, 0.5, 0.0003, 3e-05, 555557.5"),
    ],
    "json_tensor_test.cc FromJsonSingleFloatTensorNonFinite": [
        ("the test's own", "float32", [float("nan"), float("inf"), 3, float("-inf")], "NaN, Infinity, 3.0, -Infinity"),
        ("doubles", "float64", [float("nan"), float("inf"), 3, float("-inf")], "NaN, Infinity, 3.0, -Infinity"),
    ],
    "json_tensor.cc WriteDecimal": [
        ("six digits are enough", "float32", [0.2, 1.25, -0.1], "0.2, 1.25, -0.1"),
        ("nine digits", "float32", [0.1234567, 1 / 3], "0.123456702, 0.333333343"),
        ("seventeen digits", "float64", [1 / 3, 0.1234567], "0.33333333333333331, 0.1234567"),
        ("whole numbers", "float32", [1, -2, 100000, 1e6, 1e20], "1.0, -2.0, 100000.0, 1e+06, 1e+20"),
        ("zeros", "float32", [0.0, -0.0], "0.0, -0.0"),
    ],
    "json_tensor.cc AddSingleValueAndAdvance": [
        ("int64", "int64", [(1 << 63) - 1], "9223372036854775807"),
        ("bool", "bool", [True, False], "true, false"),
        ("string", "string", ['a"\\\n', "ü", "\t\x01"], '"a\\"\\\\\\n", "ü", "\\t\\u0001"'),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("signature", "values", "text"), rows(TOKENS))
def test_a_value_is_written_as_tf_serving_writes_it(rest, signature, values, text):
    answer = raw(rest, {"signature_name": signature, "inputs": values})
    assert answer == f'{{\n    "outputs": [{text}]\n}}'


@pytest.mark.parametrize(
    ("signature", "error"),
    [("float16", "half"), ("bfloat16", "bfloat16"), ("uint16", "uint16"), ("complex64", "complex64")],
)
def test_a_type_without_a_form_in_json_cannot_be_written(signature, error):
    values = np.zeros(2, tf.as_dtype(signature).as_numpy_dtype)
    with pytest.raises(ServingError) as caught:
        json_answers.write_outputs(json_answers.ROW, {"y": values})
    assert (caught.value.code, caught.value.message) == (
        Code.INVALID_ARGUMENT,
        f"Failed to write JSON value for tensor type: {error}",
    )


def test_metadata_name_the_version_and_nest_the_signatures(rest):
    """http_rest_api_util.cc ToJsonString(GetModelMetadataResponse)"""
    status, answer = rest.ask("GET", f"/v1/models/{MODEL}/labels/stable/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": MODEL, "signature_name": "", "version": "1"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["regress"]["method_name"] == REGRESS
    tensor = signatures["serving_default"]["inputs"]["x"]
    assert tensor["dtype"] == "DT_FLOAT"
    assert tensor["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signatures["int32"]["inputs"]["x"]["tensor_shape"]["unknown_rank"] is True
    version = rest.ask("GET", f"/v1/models/{MODEL}/versions/0/metadata")[1]["model_spec"]["version"]
    assert version == "0"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *((Code.INVALID_ARGUMENT, 400), (Code.FAILED_PRECONDITION, 400), (Code.OUT_OF_RANGE, 400)),
        *((Code.UNAUTHENTICATED, 401), (Code.PERMISSION_DENIED, 403), (Code.NOT_FOUND, 404)),
        *((Code.ALREADY_EXISTS, 409), (Code.ABORTED, 409), (Code.RESOURCE_EXHAUSTED, 429), (Code.CANCELLED, 499)),
        *((Code.UNKNOWN, 500), (Code.INTERNAL, 500), (Code.DATA_LOSS, 500), (Code.UNIMPLEMENTED, 501)),
        *((Code.UNAVAILABLE, 503), (Code.DEADLINE_EXCEEDED, 504), (Code.OK, 200)),
    ],
)
def test_each_code_has_the_http_status_of_http_server_cc(code, status):
    assert code.http_status == status
