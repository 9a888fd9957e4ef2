"""Answers are written in pieces: their text is that of the whole, and their memory is bounded."""

import json
import time
import tracemalloc

import numpy as np
import pytest

from graftline.serving.server.deadline import Deadline
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.http import json_answers
from graftline.serving.server.http.json_answers import COLUMN, ROW

TEXTS = np.array([["a", 'é"\n' * 9], ["", "😀" * 20], ["x" * 50, "y"]], object)
OUTPUTS = {
    "numbers": np.linspace(0, 1, 90, dtype=np.float32).reshape(3, 2, 5, 3),
    "flags": np.array([True, False, True]),
    "texts": np.array([[text.encode() for text in row] for row in TEXTS], object),
    "raw_bytes": np.array([b"\xff" * 31, b"", b"ab"], object),
    "nothing": np.empty((3, 0), np.int64),
}
ROWS = [OUTPUTS, *({name: values} for name, values in OUTPUTS.items())]
CASES = [(ROW, rows) for rows in ROWS] + [(COLUMN, outputs) for outputs in (*ROWS, {"x": np.array(b"text", object)})]


@pytest.mark.parametrize(
    ("layout", "outputs"), CASES, ids=lambda value: value if isinstance(value, str) else ",".join(value)
)
def test_pieces_join_to_the_same_answer(monkeypatch, layout, outputs):
    whole = json_answers.write_outputs(layout, outputs)
    json.loads(whole)
    monkeypatch.setattr(json_answers, "_STRING_PIECE", 3)
    for piece in (1, 2, 4, 16, 40):
        monkeypatch.setattr(json_answers, "_PIECE", piece)
        assert json_answers.write_outputs(layout, outputs) == whole


def test_classes_in_pieces_are_the_same_answer(monkeypatch):
    labels, scores = OUTPUTS["texts"], np.array([[0.1, 0.2], [0.3, 4], [5, 6]], np.float32)
    whole = [json_answers.write_classes(*both) for both in ((labels, scores), (labels, None), (None, scores))]
    monkeypatch.setattr(json_answers, "_PIECE", 2)
    assert [json_answers.write_classes(*both) for both in ((labels, scores), (labels, None), (None, scores))] == whole


@pytest.mark.parametrize("shape", [(1 << 18,), (1, 1 << 18), (1 << 16, 4)])
def test_an_answer_takes_little_more_memory_than_its_bytes(shape):
    values = np.full(shape, 2.5, np.float32)
    tracemalloc.start()
    body = json_answers.write_outputs(ROW, {"y": values})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(body) + (4 << 20)


def test_writing_ends_at_the_deadline():
    with pytest.raises(ServingError) as caught:
        json_answers.write_outputs(ROW, {"y": np.zeros(10, np.float32)}, Deadline(time.monotonic()))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
