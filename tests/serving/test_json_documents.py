# ruff: noqa: E501 (a row of a table is a line)
"""Large bodies are read in pieces and within bounds, with the same result and the same words as small ones."""

import gc
import json
import random
import re
import sys
import time
import tracemalloc

import numpy as np
import pytest
import rapidjson
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from graftline.serving.server.deadline import Deadline
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.http import json_documents, json_examples, json_messages, json_numbers, json_tensors
from graftline.serving.server.http.json_numbers import Numbers
from graftline.serving.server.http.json_outline import outline
from tests.serving.test_json_tensors import outcome

LONG = "[" + ", ".join(f"[{n}, {n}.5, -{n}]" for n in range(2000)) + "]"  # 40 KB: more than one piece in the tests
DTYPES = (tf.float32, tf.float64, tf.int32, tf.int64, tf.uint8, tf.bool, tf.string, tf.float16)


@pytest.fixture
def small_pieces(monkeypatch):
    """Read every body as a large one, in pieces of odd lengths."""
    monkeypatch.setattr(json_documents, "SMALL", 0)
    monkeypatch.setattr(json_documents, "_PIECE", 7)
    monkeypatch.setattr("graftline.serving.server.http.json_outline._BLOCK", 13)
    monkeypatch.setattr("graftline.serving.server.http.json_outline.LONG_RUN", 4)
    monkeypatch.setattr(json_numbers, "LONG_RUN", 4)
    monkeypatch.setattr(json_numbers, "PIECE", 11)
    monkeypatch.setattr(json_numbers, "_SHORT", 0)


def signature(dtype: tf.DType, *names: str) -> SignatureDef:
    found = SignatureDef()
    for name in names or ("x",):
        found.inputs[name].dtype = dtype.as_datatype_enum
    return found


def read(body: bytes, dtype: tf.DType, *names: str):
    document = json_documents.parse(body, with_numbers=True)
    json_tensors.signature_name(document)
    layout, arrays = json_tensors.read_inputs(document, signature(dtype, *names))
    return layout, {name: (array.dtype.str, array.tolist()) for name, array in sorted(arrays.items())}


def bodies() -> list[bytes]:
    """Good and bad lists of every form, under `instances` and `inputs`, named and bare."""
    lists = [
        *("[1,2,3]", "[[1,2],[3,4]]", "[[[1],[2]],[[3],[4]]]", "[ 1.5 , 2 ]", "[[1,2.5],[3,4]]", "[1e2,-0.0,NaN,Infinity]"),
        *("[1,2,3.5,4]", "[1,2,[3]]", "[[1],2]", "[[1,2],[3]]", "[[1,2],[3,4,5]]", "[[1],[]]", "[[],[]]", "[]", "[[[]]]"),
        *("[true,false]", "[true,1]", "[1,null]", '["a","b"]', '["a",1,2,3,4,5]', '[[1,2,3],["a","b","c"]]'),
        *("[1,2,300]", "[-1,2]", "[2147483648,1]", "[-2147483649,0,1]", "[9223372036854775808,1]", "[-1,9223372036854775808]"),
        *("[18446744073709551615]", "[18446744073709551616,1]", '[{"b64":"AAAA"},{"b64":"/w=="}]', '[{"b64":"AAAA"},"b"]'),
        *('["\\\\","\\"[1,2,3]"]', '["[1,2,3,4,5,6]","\\u005b"]', "[[1,2],[3,4]],", "[1,2,,3]", "[1,2,]", "[,1,2,3]", "[1 2 3 4]"),
        *("[[1,2][3,4]]", "[[1,2],[3,4]", "[1,2,3,4]]", "[1[,2]]", "[[1,2,]3]", "[[1],[2],[3]}", "[1,2,3,tru]", "[1,2,+3]", "[01,2,3]"),
        *("[[1,2],[3,4]] x", '[1,2,"\n"]', "[1,2,3,4.,5]", "[1e999,1,2]", "[[[1,2],[3,4]],[[5,6],[7,8]]]", "[[1,2,3,4,5]]" + " " * 20),
        *("[" * 31 + "1,2,3" + "]" * 31, "[" * 32 + "1,2,3" + "]" * 32, "[[1,2,3,4],[5,6,7,8],[9,10,11,12.5]]"),
        *("[1,2,3,4,5,6,7,8,[9]]", "[0.1,0.2,0.3,16777217,9007199254740993]", "\t[\r\n[1 ,2\t],\n[3, 4] ]"),
    ]  # fmt: skip
    forms = ('{"instances":%s}', '{"inputs":%s}', '{"inputs":{"x":%s}}', '{"instances":[{"x":%s},{"x":%s}]}',
             '{"instances":[{"x":%s},{"x":[1,2,3]}]}', '{"a":{"b":%s},"signature_name":"q\\\\","instances":[1,2]}',
             '{"signature_name":5,"x":%s}', "%s", '{"instances":[[1,2],%s]}', '{"instances":["%%s",%s]}')  # fmt: skip
    return [(form.replace("%s", text)).encode() for text in lists for form in forms]


def without_zeros(result):
    """In an array, whole numbers after the first decimal are decimals: a message may show 2 as 2.0."""
    return tuple(re.sub(r"\.0\b", "", each) if isinstance(each, str) else each for each in result)


def test_large_bodies_are_read_as_small_ones(monkeypatch, request):
    wholes = [(body, dtype, outcome(read, body, dtype)) for body in bodies() for dtype in DTYPES]
    assert sum(isinstance(whole[0], Code) for *_, whole in wholes) > 1000  # errors, whose words are compared, too
    assert sum(not isinstance(whole[0], Code) for *_, whole in wholes) > 200
    request.getfixturevalue("small_pieces")
    for body, dtype, whole in wholes:
        np.testing.assert_equal(
            without_zeros(outcome(read, body, dtype)), without_zeros(whole), err_msg=f"{body!r} as {dtype.name}"
        )


def test_damaged_large_bodies_are_read_as_small_ones(monkeypatch, request):
    chance, alphabet = random.Random(3), b'[]{},:"\\ 1-.eN\xc3\xa9u0\n'
    damaged = []
    for body in bodies()[::3]:
        for _ in range(4):
            text = bytearray(body)
            for _ in range(chance.randint(1, 3)):
                place = chance.randrange(len(text))
                text[place : place + chance.randint(0, 2)] = bytes(chance.choices(alphabet, k=chance.randint(0, 2)))
            damaged.append(bytes(text))
    wholes = [(body, outcome(read, body, tf.float32)) for body in damaged]
    request.getfixturevalue("small_pieces")
    for body, whole in wholes:
        large = outcome(read, body, tf.float32)
        if "not UTF-8" not in str(large):  # the bytes of small bodies alone are kept
            np.testing.assert_equal(without_zeros(large), without_zeros(whole), err_msg=repr(body))


@pytest.mark.parametrize("layout", ["instances", "inputs"])
def test_a_long_list_of_numbers_never_becomes_python_numbers(layout):
    body = f'{{"{layout}": {LONG}}}'.encode()
    document = json_documents.parse(body.replace(b"}", b" " * json_documents.SMALL + b"}"), with_numbers=True)
    assert isinstance(document[layout], Numbers)
    assert document[layout].shape == (2000, 3)
    array = json_tensors.read_inputs(document, signature(tf.float32))[1]["x"]
    np.testing.assert_array_equal(array, np.array(json.loads(LONG), np.float32))


def test_the_place_of_a_decimal_among_whole_numbers_is_named():
    rows = ["[1, 2]"] * 100_000 + ["[3, 4.5]"] + ["[5, 6]"] * 1000
    body = f'{{"instances": [{", ".join(rows)}]}}'.encode()
    assert len(body) > json_documents.SMALL
    code, message = outcome(read, body, tf.int32)
    assert code is Code.INVALID_ARGUMENT
    assert message.startswith("Failed to process element: 100000 of 'instances' list. Error: INVALID_ARGUMENT: ")
    assert message.endswith("JSON Value: 4.5 Type: Number is not of expected type: int32")


def filled(unit: str, size: int = 4 << 20, head: str = '{"instances":[', tail: str = "]}") -> bytes:
    return (head + ",".join([unit] * (size // (len(unit) + 1))) + tail).encode()


CASES = {
    "empty lists": filled("[]"),
    "empty objects": filled("{}"),
    "small objects": filled('{"a":0}'),
    "empty strings": filled('""'),
    "short strings": filled('"ab"'),
    "null": filled("null"),
    "lists of two lengths": filled("[1,2],[1,2,3]"),
    "keys": ("{" + ",".join(f'"{n}":0' for n in range(400_000)) + "}").encode(),
    "the same key": filled('"a":0', head="{", tail="}"),
    "quotes": b'{"a":' + b'"' * (4 << 20),
    "decimals": filled("1.5"),
    "whole numbers": filled("300"),
    "negative numbers": filled("-99"),
    "digits": filled("1"),
    "digits in lists": filled("[1]"),
    "a decimal at the end": filled("1", tail=",1.5]}"),
    "lists of another length at the end": filled("[1,2]", tail=",[1]]}"),
    "a signature that is no text": filled("1", head='{"signature_name":5,"instances":['),
    "a list alone": filled("1", head="[", tail="]"),
    "numbers 60 lists deep": b'{"instances":' + b"[" * 60 + b"1," * 400_000 + b"1" + b"]" * 60 + b"}",
    "a long key": b'{"instances":[{"' + b"k" * (4 << 20) + b'":1}]}',
    "a long signature": b'{"signature_name":"' + b"k" * (4 << 20) + b'","instances":[1]}',
    "a long string": b'{"instances":["' + b"k" * (4 << 20) + b'"]}',
}


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
def test_a_request_takes_a_few_times_its_bytes_of_memory(body):
    """tracemalloc sees what Python and numpy allocate, but not RapidJSON's own buffer for one string."""
    tracemalloc.start()
    try:
        result = outcome(read_without_listing, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(body) + (48 << 20)
    if isinstance(result[0], Code):
        assert len(result[1]) < 4096


def read_without_listing(body: bytes):
    document = json_documents.parse(body, with_numbers=True)
    name = json_tensors.signature_name(document)
    if len(name) > 1000:
        raise ServingError(Code.INVALID_ARGUMENT, name)
    return json_tensors.read_inputs(document, signature(tf.int32 if b",1.5]" in body else tf.float32))


def test_many_values_are_refused_by_their_weight():
    with pytest.raises(
        ServingError, match="holds so many values that they would take 277 MiB of memory, and the limit"
    ):
        json_documents.parse(CASES["empty lists"])


def test_deep_nesting_is_refused_in_small_and_in_large_bodies():
    for body in (b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", b'{"a":["' + b"[" * 500 + b'"]}'):
        json_documents.parse(body)
        json_documents.parse(body + b" " * json_documents.SMALL)
    for deep in (b'{"a":' + b"[" * 64 + b"1" + b"]" * 64 + b"}", b'{"a":' * 900 + b"1" + b"}" * 900):
        for body in (deep, deep + b" " * json_documents.SMALL):
            with pytest.raises(ServingError, match="JSON Parse error: nested too deeply"):
                json_documents.parse(body)


@pytest.mark.parametrize("body", [CASES["digits"], CASES["short strings"], CASES["a long string"]], ids=lambda body: "")
def test_reading_ends_at_the_deadline(body):
    with pytest.raises(ServingError) as caught:
        json_documents.parse(body, Deadline(time.monotonic()), with_numbers=True)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


def test_a_large_body_that_is_not_utf_8_is_refused():
    with pytest.raises(ServingError, match="a string is not UTF-8: send bytes as base64"):
        json_documents.parse(b'{"a":"\xff' + b"x" * json_documents.SMALL + b'"}')


def test_a_very_long_string_must_be_ascii():
    """Python makes a string with one emoji in one step, 4 bytes for each character."""
    for text in ("😀" + "k" * (8 << 20), "k" * (8 << 20) + "é"):
        with pytest.raises(
            ServingError, match="is not ASCII, and the limit of such strings is 8 MiB: send bytes as base64"
        ):
            json_documents.parse(f'{{"a":["{text}"]}}'.encode())
        assert json_documents.parse(f'{{"a":["{text[: 1 << 20]}"]}}'.encode()) == {"a": [text[: 1 << 20]]}


def test_a_body_is_freed_as_soon_as_it_is_refused():
    body = b'{"a":["\xff' + b"k" * (4 << 20) + b'"]}'
    before = sys.getrefcount(body)
    gc.disable()
    try:
        assert outcome(json_documents.parse, body)[0] is Code.INVALID_ARGUMENT
        assert sys.getrefcount(body) == before
    finally:
        gc.enable()


VALUES = [
    *({}, [], [[]], {"a": []}, {"a": {"b": [1, 2.5, None, True, "é\n\""]}, "c": {}}, [[1], [{"x": "y"}]], "text", 5, None),
    *([float("nan"), float("inf"), 1e300, 0.1, 1 << 63], {"": [[[]], {}]}, list(range(300)), "x" * 2000, ["é" * 2000]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:20])
def test_a_value_is_shown_as_rapidjson_writes_it(value):
    text = rapidjson.dumps(value, indent=4, number_mode=json_numbers.NUMBER_MODE, ensure_ascii=False)
    assert json_messages.show(value) == (text if len(text) <= 1024 else text[:1024] + "…")


def test_only_what_is_shown_of_a_value_is_written():
    value: object = [1.5] * 100_000
    for _ in range(60):
        value = {"key" * 1000: [value, value]}
    tracemalloc.start()
    shown = json_messages.show(value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(shown) == 1025 and peak < 100_000


def test_a_context_is_not_copied_without_bound():
    document = {"context": {"a": "x" * 100_000}, "examples": [{}] * 1000}
    with pytest.raises(ServingError, match="the context of 100023 bytes is copied into each of 1000 examples"):
        json_examples.read_examples(document)
    document["examples"] = [{}] * 100
    assert len(json_examples.read_examples(document)) == 100


def test_marks_are_found_across_blocks(monkeypatch):
    """The nesting is counted as the parser counts it, wherever a block ends."""
    monkeypatch.setattr("graftline.serving.server.http.json_outline.MAX_DEPTH", 4)
    chance = random.Random(5)
    for _ in range(300):
        monkeypatch.setattr("graftline.serving.server.http.json_outline._BLOCK", chance.randint(2, 9))
        strings = ["".join(chance.choices('"\\[]{}, a', k=chance.randint(0, 12))) for _ in range(3)]
        value: object = strings
        for _ in range(chance.randint(0, 5)):
            value = [value, *strings] if chance.random() < 0.5 else {strings[0]: value}
        text = json.dumps(value).encode()
        refused = outcome(outline, text, Deadline())
        assert isinstance(refused, tuple) == (depth(value) > 4), text


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)
