"""A SavedModel with a signature for every behaviour in TF Serving's sources, and its server.

The tables in test_conformance_*.py say, row by row, what TF Serving answers and which of its files says so.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

import pytest

from graftline.serving.server import ModelServer
from graftline.serving.server.options import ServerOptions
from tests.serving.rest import Rest

MODEL = "all"
LABELS = {"stable": 1, "canary": 2, "with space": 2}
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
TYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64", "bool", "string"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


def _predict_functions(tf) -> dict[str, Callable]:
    def function(*specs):
        return tf.function(input_signature=list(specs), autograph=False)

    def anything(dtype, name="x"):
        return tf.TensorSpec(None, dtype, name=name)

    vector = tf.TensorSpec([None], tf.float32, name="x")
    made = {f"{dtype}": function(anything(dtype))(lambda x: {"y": tf.identity(x)}) for dtype in TYPES}
    made |= {
        "serving_default": function(vector)(lambda x: {"y": x / 2.0 + 2.0}),
        "pair": function(anything(tf.int32, "a"), anything(tf.string, "b"))(
            lambda a, b: {"a": tf.identity(a), "b": tf.identity(b)}
        ),
        "text": function(anything(tf.string))(lambda x: {"text": tf.identity(x), "text_bytes": tf.identity(x)}),
        "only_bytes": function(anything(tf.string))(lambda x: {"y_bytes": tf.identity(x)}),
        "number_bytes": function(anything(tf.int32))(lambda x: {"y_bytes": tf.identity(x)}),
        "sum": function(anything(tf.float32))(lambda x: {"y": tf.reduce_sum(x)}),
        "two_batches": function(vector)(lambda x: {"a": tf.identity(x), "b": tf.concat([x, x], 0)}),
        "no_rows": function(vector)(lambda x: {"y": x[:0]}),
        "no_input": function()(lambda: {"y": tf.constant([1.0])}),
        "matrix": function(tf.TensorSpec([None, 2], tf.float32, name="x"))(
            lambda x: {"y": tf.matmul(x, tf.ones([2, 1]))}
        ),
        "refuses": function(vector)(lambda x: {"y": tf.debugging.check_numerics(x, "no number")}),
        "third": function(anything(tf.float64))(lambda x: {"y": x / 3.0, "single": tf.cast(x / 3.0, tf.float32)}),
    }
    return made


def _example_functions(tf) -> dict[str, tuple[str, Callable]]:
    """Name → (method, function) of signatures that take tf.Examples with a number `x`; most have one fault."""

    def function(give, name="inputs", **more):
        specs = [tf.TensorSpec([None], tf.string, name=name)]
        specs += [tf.TensorSpec([None], tf.string, name=other) for other in more]

        @tf.function(input_signature=specs, autograph=False)
        def run(inputs, *others):
            spec = {"x": tf.io.FixedLenFeature([], tf.float32, -1.0), "s": tf.io.FixedLenFeature([], tf.string, "")}
            parsed = tf.io.parse_example(inputs, spec)
            return give(parsed["x"][:, tf.newaxis], parsed["s"][:, tf.newaxis])

        return run

    good = {"classes": lambda x, s: tf.concat([s, tf.as_string(x)], 1), "scores": lambda x, s: tf.concat([x, x / 2], 1)}

    def answers(**outputs):
        return function(lambda x, s: {name: give(x, s) for name, give in outputs.items()})

    return {
        "classify": (CLASSIFY, answers(**good)),
        "classify_scores": (CLASSIFY, answers(scores=good["scores"])),
        "classify_classes": (CLASSIFY, answers(classes=good["classes"])),
        "classify_flat_scores": (CLASSIFY, answers(scores=lambda x, s: x[:, 0])),
        "classify_flat_classes": (CLASSIFY, answers(classes=lambda x, s: s[:, 0])),
        "classify_double_scores": (CLASSIFY, answers(scores=lambda x, s: tf.cast(x, tf.float64))),
        "classify_number_classes": (CLASSIFY, answers(classes=lambda x, s: tf.cast(x, tf.int64))),
        "classify_more_rows": (CLASSIFY, answers(scores=lambda x, s: tf.concat([x, x], 0))),
        "classify_more_class_rows": (CLASSIFY, answers(classes=lambda x, s: tf.concat([s, s], 0))),
        "classify_unequal": (CLASSIFY, answers(classes=good["classes"], scores=lambda x, s: x)),
        "classify_three": (CLASSIFY, answers(**good, more=lambda x, s: x)),
        "classify_other_output": (CLASSIFY, answers(y=lambda x, s: x)),
        "classify_other_input": (CLASSIFY, function(lambda x, s: {"scores": x}, name="examples")),
        "classify_two_inputs": (CLASSIFY, function(lambda x, s: {"scores": x}, more=None)),
        "classify_by_predict": ("tensorflow/serving/predict", answers(**good)),
        "regress": (REGRESS, answers(outputs=lambda x, s: x / 2 + 2)),
        "regress_flat": (REGRESS, answers(outputs=lambda x, s: x[:, 0])),
        "regress_wide": (REGRESS, answers(outputs=good["scores"])),
        "regress_more_rows": (REGRESS, answers(outputs=lambda x, s: tf.concat([x, x], 0))),
        "regress_double": (REGRESS, answers(outputs=lambda x, s: tf.cast(x, tf.float64))),
        "regress_two_outputs": (REGRESS, answers(outputs=lambda x, s: x, more=lambda x, s: x)),
        "regress_other_output": (REGRESS, answers(y=lambda x, s: x)),
        "regress_other_input": (REGRESS, function(lambda x, s: {"outputs": x}, name="examples")),
        "regress_two_inputs": (REGRESS, function(lambda x, s: {"outputs": x}, more=None)),
        "both": (CLASSIFY, answers(scores=good["scores"], outputs=lambda x, s: x / 2 + 2)),
        "regress_by_predict": ("tensorflow/serving/predict", answers(outputs=lambda x, s: x)),
    }


def save(path: pathlib.Path) -> pathlib.Path:
    """Write the SavedModel. TensorFlow 2 sets the method predict everywhere; the others are written into its file."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    examples = _example_functions(tf)
    signatures = _predict_functions(tf) | {name: function for name, (_, function) in examples.items()}
    module = tf.Module()
    module.kept = list(signatures.values())
    tf.saved_model.save(module, str(path), signatures=signatures)
    file = path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    for name, (method, _) in examples.items():
        definitions[name].method_name = method
    # classify and regress on one input tensor, as an estimator exports them and MultiInference needs them
    for name, method, dropped in (("both_classify", CLASSIFY, "outputs"), ("both_regress", REGRESS, "scores")):
        definitions[name].CopyFrom(definitions["both"])
        definitions[name].method_name = method
        del definitions[name].outputs[dropped]
    definitions["with_default"].CopyFrom(definitions["pair"])
    definitions["with_default"].defaults["b"].CopyFrom(tf.make_tensor_proto("given"))
    definitions["odd_method"].CopyFrom(definitions["serving_default"])
    definitions["odd_method"].method_name = "my/own"
    file.write_bytes(saved.SerializeToString())
    return path


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[ModelServer]:
    """A server of versions 0, 1 and 2 of the model, labelled, and of a model whose name must be quoted in a URL."""
    made = save(folder / MODEL / "1")
    for version in ("0", "2"):
        shutil.copytree(made, folder / MODEL / version)
    shutil.copytree(made, folder / "a name" / "7")
    labels = "".join(f"version_labels {{ key: '{label}' value: {version} }} " for label, version in LABELS.items())
    (folder / "models.config").write_text(
        f"""model_config_list {{
              config {{ name: '{MODEL}' base_path: '{folder}/{MODEL}' model_platform: 'tensorflow'
                       model_version_policy {{ all {{}} }} {labels} }}
              config {{ name: 'a name' base_path: '{folder}/a name' model_platform: 'tensorflow' }}
            }}"""
    )
    options = ServerOptions(model_config_file=str(folder / "models.config"), port=0, rest_api_port=0)
    with ModelServer([], options=options) as server:
        yield server


class Part(str):
    """A text that the error must contain; a plain `str` is the whole error."""


def ask(rest: Rest, path: str, body: object, verb: str = "predict", signature: str = "") -> tuple[int, object]:
    """POST text or bytes as they are, or an object with the signature's name; return the status and the answer."""
    if isinstance(body, dict):
        body = json.dumps({"signature_name": signature, **body} if signature else body)
    return rest.ask("POST", f"/v1/models/{path}:{verb}", body.encode() if isinstance(body, str) else body)


def check(answer: tuple[int, object], status: int, expected: object) -> None:
    """Compare a REST answer with the table's: an object with the answer, a text with its error."""
    if isinstance(expected, Part):
        assert answer[0] == status, answer
        assert list(answer[1]) == ["error"]
        assert expected in answer[1]["error"]
    else:
        assert answer == (status, {"error": expected} if isinstance(expected, str) else expected)


def rows(table: dict[str, list[tuple]]) -> list:
    """The rows of a table {source: [(what, …), …]} as parameters. Each has its source and its subject as its name."""
    return [pytest.param(*row[1:], id=f"{source}: {row[0]}") for source, listed in table.items() for row in listed]
