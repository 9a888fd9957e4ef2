# ruff: noqa: E501 (a row of a table is a line)
"""gRPC: every method of PredictionService and ModelService, row by row from TF Serving.

From servables/tensorflow/{predict_impl,predict_util,classifier,regressor,multi_inference,util}.cc and
model_servers/{server_core,get_model_status_impl,grpc_status_util}.cc. Requests are written as text protos.
"""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving.conformance.model import CLASSIFY, MODEL, REGRESS, TYPES, rows

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FAILED, INTERNAL, UNIMPLEMENTED = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNIMPLEMENTED,
)
_MESSAGES = {
    "Predict": predict_pb2.PredictRequest,
    "Classify": classification_pb2.ClassificationRequest,
    "Regress": regression_pb2.RegressionRequest,
    "MultiInference": inference_pb2.MultiInferenceRequest,
    "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
    "HandleReloadConfigRequest": model_management_pb2.ReloadConfigRequest,
}


@pytest.fixture(scope="module")
def call(server):
    """(method, text proto of the request) → the answer."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)

        def ask(method: str, text: str):
            request = text_format.Parse(text, _MESSAGES[method]())
            return getattr(models if hasattr(models, method) else prediction, method)(request, timeout=30)

        yield ask


def spec(name: str = MODEL, more: str = "") -> str:
    return f"model_spec {{ name: '{name}' {more} }}"


def signed(signature: str, more: str = "") -> str:
    return spec(more=f"signature_name: '{signature}' {more}")


def tensor(name: str, text: str) -> str:
    return f" inputs {{ key: '{name}' value {{ {text} }} }}"


VECTOR = "tensor_shape { dim { size: 2 } }"
X = tensor("x", f"dtype: DT_FLOAT {VECTOR} float_val: 1 float_val: 2")
NUMBER = "features { feature { key: 'x' value { float_list { value: 80 } } } }"
EXAMPLE = f" input {{ example_list {{ examples {{ {NUMBER} }} }} }}"
CONTEXT = f" input {{ example_list_with_context {{ context {{ {NUMBER} }} examples {{ }} examples {{ }} }} }}"


def task(signature: str, method: str, name: str = MODEL) -> str:
    return f" tasks {{ {spec(name, more=f'''signature_name: '{signature}' ''')} method_name: '{method}' }}"


SPECS = [
    ("no spec", "", INVALID, "Missing ModelSpec"),
    ("an empty spec", "model_spec {}", INVALID, "ModelSpec has no name specified."),
    ("unknown model", spec("foo"), NOT_FOUND, "Servable not found for request: Latest(foo)"),
    ("unknown version", spec(more="version { value: 9 }"), NOT_FOUND, f"Servable not found for request: Specific({MODEL}, 9)"),
    ("version 0 of a model without it", spec("a name", "version { }"), NOT_FOUND, "Servable not found for request: Specific(a name, 0)"),
    ("negative version", spec(more="version { value: -1 }"), NOT_FOUND, f"Servable not found for request: Specific({MODEL}, -1)"),
    ("unknown label", spec(more="version_label: 'x'"), INVALID, "Unrecognized servable version label: x"),
    ("empty label", spec(more="version_label: ''"), INVALID, "Unrecognized servable version label: "),
    ("label of an unknown model", spec("foo", "version_label: 'stable'"), INVALID, "Unrecognized servable version label: stable"),
]  # fmt: skip


def reload(*configs: str) -> str:
    return "config { model_config_list { " + " ".join(f"config {{ {config} }}" for config in configs) + " } }"


def config(name: str, platform: str = "model_platform: 'tensorflow'", path: str = "/nowhere") -> str:
    return f"name: '{name}' base_path: '{path}' {platform}"


XLA = "model_platform: 'xla'"
NO_LIST = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
)
FIELD = "metadata_field: 'signature_def' "

# what, method, request, code, details
ERRORS = {
    **{
        f"server_core.cc ServableRequestFromModelSpec, {method}": [
            (what, method, (FIELD if method == "GetModelMetadata" else "") + text, code, details)
            for what, text, code, details in SPECS
        ]
        for method in ("Predict", "Classify", "Regress", "GetModelMetadata")
    },
    "predict_util.cc": [
        ("unknown signature", "Predict", signed("x") + X, FAILED, 'Serving signature key "x" not found.'),
        ("before what it is given", "Predict", signed("x"), FAILED, 'Serving signature key "x" not found.'),
        ("no input", "Predict", spec(), INVALID, "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}."),
        ("extra input", "Predict", spec() + X + tensor("z", "dtype: DT_FLOAT"), INVALID, "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}."),
        ("missing input", "Predict", signed("pair") + tensor("a", "dtype: DT_INT32"), INVALID, "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}."),
        ("another input", "Predict", spec() + X.replace("'x'", "'z'"), INVALID, "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value provided. Inputs expected to be in the request {z}, or default input alias set: "),
        ("names before a broken tensor", "Predict", spec() + X + tensor("z", "dtype: DT_FLOAT tensor_content: 'abc'"), INVALID, "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}."),
        ("the method before a broken tensor", "Predict", signed("odd_method") + tensor("x", "dtype: DT_FLOAT tensor_content: 'abc'"), INTERNAL, "Expected prediction signature method_name to be one of {tensorflow/serving/predict, tensorflow/serving/classify, tensorflow/serving/regress}. Was: my/own"),
        ("a broken tensor before outputs", "Predict", spec() + tensor("x", "dtype: DT_FLOAT tensor_content: 'abc'") + " output_filter: 'z'", INVALID, "tensor parsing error: x"),
        ("outputs before types", "Predict", spec() + tensor("x", "dtype: DT_INT32 int_val: 1") + " output_filter: 'z'", INVALID, "output tensor alias not found in signature: z Outputs expected to be in the set {y}."),
        ("one output twice before types", "Predict", spec() + tensor("x", "dtype: DT_INT32 int_val: 1") + " output_filter: ['y', 'y']", INVALID, "duplicate output tensor alias: y"),
        ("no default", "Predict", signed("with_default") + tensor("b", "dtype: DT_STRING string_val: 'own'"), INVALID, "Signature input alias: a(feed name: pair_a:0) not found in request and no default value provided. Inputs expected to be in the request {b}, or default input alias set: b"),
        ("neither input, one default", "Predict", signed("with_default"), INVALID, "Signature input alias: a(feed name: pair_a:0) not found in request and no default value provided. Inputs expected to be in the request {}, or default input alias set: b"),
        ("another input beside a default", "Predict", signed("with_default") + tensor("a", "dtype: DT_INT32 int_val: 1") + tensor("z", "dtype: DT_FLOAT"), INVALID, "Inputs contains invalid name. Used request inputs: a, request input: a,z"),
        ("more than a default can mend", "Predict", signed("with_default") + "".join(tensor(name, "dtype: DT_INT32") for name in "abz"), INVALID, "input size does not match signature: 3!=2 len({a,b,z}) != len({a,b}). Sent extra: {z}. Missing but required: {}."),
        ("unknown output", "Predict", spec() + X + " output_filter: 'z'", INVALID, "output tensor alias not found in signature: z Outputs expected to be in the set {y}."),
        ("output named twice", "Predict", spec() + X + " output_filter: ['y', 'y']", INVALID, "duplicate output tensor alias: y"),
        ("unknown before twice", "Predict", spec() + X + " output_filter: ['y', 'z', 'y']", INVALID, "output tensor alias not found in signature: z Outputs expected to be in the set {y}."),
        ("inputs before outputs", "Predict", spec() + " output_filter: 'z'", INVALID, "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}."),
        ("a method that is none", "Predict", signed("odd_method") + X, INTERNAL, "Expected prediction signature method_name to be one of {tensorflow/serving/predict, tensorflow/serving/classify, tensorflow/serving/regress}. Was: my/own"),
        ("a SavedModel's initializer", "Predict", signed("__saved_model_init_op"), INTERNAL, "Expected prediction signature method_name to be one of {tensorflow/serving/predict, tensorflow/serving/classify, tensorflow/serving/regress}. Was: "),
    ],
    "tensor.cc FromProto": [
        ("no type", "Predict", spec() + tensor("x", f"{VECTOR} float_val: 1"), INVALID, "tensor parsing error: x"),
        ("a reference type", "Predict", spec() + tensor("x", f"dtype: DT_FLOAT_REF {VECTOR}"), INVALID, "tensor parsing error: x"),
        ("content too short", "Predict", spec() + tensor("x", f"dtype: DT_FLOAT {VECTOR} tensor_content: 'abc'"), INVALID, "tensor parsing error: x"),
        ("content too long", "Predict", spec() + tensor("x", f"dtype: DT_FLOAT {VECTOR} tensor_content: '123456789012'"), INVALID, "tensor parsing error: x"),
        ("a negative dimension", "Predict", spec() + tensor("x", "dtype: DT_FLOAT tensor_shape { dim { size: -1 } }"), INVALID, "tensor parsing error: x"),
        ("an unknown rank", "Predict", spec() + tensor("x", "dtype: DT_FLOAT tensor_shape { unknown_rank: true }"), INVALID, "tensor parsing error: x"),
        ("more than memory", "Predict", spec() + tensor("x", f"dtype: DT_FLOAT tensor_shape {{ dim {{ size: {1 << 60} }} }} float_val: 1"), INVALID, "tensor parsing error: x"),
    ],
    "direct_session.cc": [
        ("another type", "Predict", spec() + tensor("x", f"dtype: DT_INT64 {VECTOR} int64_val: [1, 2]"), INVALID, "Expects arg[0] to be float but int64 is provided"),
        ("text", "Predict", spec() + tensor("x", f"dtype: DT_STRING {VECTOR} string_val: ['1', '2']"), INVALID, "Expects arg[0] to be float but string is provided"),
        ("of the second input", "Predict", signed("pair") + tensor("a", "dtype: DT_INT32 int_val: 1") + tensor("b", "dtype: DT_HALF half_val: 1"), INVALID, "Expects arg[1] to be string but half is provided"),
    ],
    "classifier.cc": [
        ("unknown signature", "Classify", signed("x") + EXAMPLE, INVALID, "No signature was found with the name: x"),
        ("a predict signature", "Classify", spec() + EXAMPLE, INVALID, f"Expected classification signature method_name to be {CLASSIFY}. Was: tensorflow/serving/predict"),
        ("a regress signature", "Classify", signed("regress") + EXAMPLE, INVALID, f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}"),
        ("two inputs", "Classify", signed("classify_two_inputs") + EXAMPLE, INVALID, "Expected one input Tensor."),
        ("three outputs", "Classify", signed("classify_three") + EXAMPLE, INVALID, "Expected one or two output Tensors, found 3"),
        ("flat scores", "Classify", signed("classify_flat_scores") + EXAMPLE, INVALID, "Expected Tensor shape: [batch_size num_classes] but got [1]"),
    ],
    "regressor.cc": [
        ("unknown signature", "Regress", signed("x") + EXAMPLE, INVALID, "No signature was found with the name: x"),
        ("a predict signature", "Regress", spec() + EXAMPLE, INVALID, f"Expected regression signature method_name to be {REGRESS}. Was: tensorflow/serving/predict"),
        ("two outputs", "Regress", signed("regress_two_outputs") + EXAMPLE, INVALID, "Expected one output Tensor."),
        ("two values each", "Regress", signed("regress_wide") + EXAMPLE, INVALID, "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]"),
    ],
    "util.cc InputToSerializedExampleTensor": [
        *(
            (f"{method}, {what}", method, signed(method.lower()) + text, INVALID, "Input is empty.")
            for method in ("Classify", "Regress")
            for what, text in (
                ("no input", ""),
                ("an empty input", " input {}"),
                ("an empty list", " input { example_list {} }"),
                ("a context alone", " input { example_list_with_context { context {} } }"),
            )
        ),
        ("the signature comes first", "Classify", signed("x"), INVALID, "No signature was found with the name: x"),
    ],
    "multi_inference.cc": [
        ("no tasks", "MultiInference", "", INVALID, "ModelSpec has no name specified."),
        ("unknown model", "MultiInference", task("regress", REGRESS, "foo"), NOT_FOUND, "Servable not found for request: Latest(foo)"),
        ("unknown label", "MultiInference", f"tasks {{ {spec(more='''version_label: 'x' ''')} }}", INVALID, "Unrecognized servable version label: x"),
        ("a task without a name", "MultiInference", task("regress", REGRESS) + task("classify", CLASSIFY, ""), INVALID, "Found ModelSpec with an empty model name."),
        ("two models", "MultiInference", task("regress", REGRESS) + task("classify", CLASSIFY, "a name"), INVALID, "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        ("one signature twice", "MultiInference", task("regress", REGRESS) * 2, INVALID, "Duplicate evaluation of signature: regress"),
        ("unknown signature", "MultiInference", task("x", REGRESS), INVALID, "Requested signature not found in model graph: x"),
        ("another method", "MultiInference", task("regress", "tensorflow/serving/predict"), UNIMPLEMENTED, "Unsupported signature method_name: tensorflow/serving/predict"),
        ("no method", "MultiInference", task("regress", ""), UNIMPLEMENTED, "Unsupported signature method_name: "),
        ("another method than the signature's", "MultiInference", task("regress", CLASSIFY), INVALID, f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}"),
        ("two input tensors", "MultiInference", task("regress", REGRESS) + task("classify", CLASSIFY), INVALID, "Input tensor must be the same for all Signatures."),
        ("no examples", "MultiInference", task("regress", REGRESS), INVALID, "Input is empty."),
    ],
    "get_model_metadata_impl.cc": [
        ("no field", "GetModelMetadata", spec(), INVALID, "GetModelMetadataRequest must specify at least one metadata_field"),
        ("another field", "GetModelMetadata", "metadata_field: 'weights' " + spec(), INVALID, "Metadata field weights is not supported"),
        ("another field beside", "GetModelMetadata", FIELD + "metadata_field: 'weights' " + spec(), INVALID, "Metadata field weights is not supported"),
        ("the fields come before the model", "GetModelMetadata", spec("foo"), INVALID, "GetModelMetadataRequest must specify at least one metadata_field"),
    ],
    "get_model_status_impl.cc": [
        ("no spec", "GetModelStatus", "", INVALID, "Missing ModelSpec"),
        ("no name", "GetModelStatus", "model_spec {}", NOT_FOUND, "Could not find any versions of model "),
        ("unknown model", "GetModelStatus", spec("foo"), NOT_FOUND, "Could not find any versions of model foo"),
        ("unknown version", "GetModelStatus", spec(more="version { value: 9 }"), NOT_FOUND, f"Could not find version 9 of model {MODEL}"),
        ("version 0 of a model without it", "GetModelStatus", spec("a name", "version {}"), NOT_FOUND, "Could not find version 0 of model a name"),
    ],
    "model_service_impl.cc": [
        ("no config", "HandleReloadConfigRequest", "", INVALID, NO_LIST),
        ("a custom config", "HandleReloadConfigRequest", "config { custom_model_config {} }", INVALID, NO_LIST),
    ],
    "server_core.cc ReloadConfig": [
        ("listed twice", "HandleReloadConfigRequest", reload(config("n"), config("n")), INVALID, "Illegal to list model n multiple times in config list"),
        ("a relative path", "HandleReloadConfigRequest", reload(config("n", path="a/b")), INVALID, "Expected model n to have an absolute path or URI; got base_path()=a/b"),
        ("listed twice before a relative path", "HandleReloadConfigRequest", reload(config("n", path="a"), config("o"), config("o")), INVALID, "Illegal to list model o multiple times in config list"),
        ("a relative path before a platform", "HandleReloadConfigRequest", reload(config("n", XLA), config("o", path="a")), INVALID, "Expected model o to have an absolute path or URI; got base_path()=a"),
        ("another platform", "HandleReloadConfigRequest", reload(config("n", XLA)), INVALID, "Model n requests unsupported platform xla"),
        ("another platform of a model served", "HandleReloadConfigRequest", reload(config("n", XLA), config(MODEL, XLA)), INVALID, f"Illegal to change a model's platform. For model {MODEL} platform was tensorflow and new platform requested is xla"),
        ("no platform", "HandleReloadConfigRequest", reload(config("n", "")), INVALID, "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."),
        ("a platform and a type", "HandleReloadConfigRequest", reload(config("n", XLA + " model_type: TENSORFLOW")), INVALID, "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."),
        ("another type", "HandleReloadConfigRequest", reload(config("n", "model_type: OTHER")), INVALID, "ModelServerConfig::model_type choice 2 not supported."),
    ],
    "grpc_status_util.cc ToGRPCStatus": [
        ("a long message is cut", "Predict", spec("m" * 2000), NOT_FOUND, ("Servable not found for request: Latest(" + "m" * 2000)[:1024] + "...TRUNCATED"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("method", "request_text", "code", "details"), rows(ERRORS))
def test_a_fault_is_reported_as_tf_serving_reports_it(call, method, request_text, code, details):
    with pytest.raises(grpc.RpcError) as caught:
        call(method, request_text)
    assert (caught.value.code(), caught.value.details()) == (code, details)


Y = f"outputs {{ key: 'y' value {{ dtype: DT_FLOAT {VECTOR} float_val: 2.5 float_val: 3 }} }}"


def answered(version: int, signature: str = "serving_default") -> str:
    return f"model_spec {{ name: '{MODEL}' version {{ value: {version} }} signature_name: '{signature}' }} "


def typed(dtype: str, given: str, expected: str | None = None) -> tuple:
    """Return a row for a signature that returns its input."""
    enum = "DT_" + {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}.get(dtype, dtype.upper())
    head = f"dtype: {enum} {VECTOR} "
    output = f"outputs {{ key: 'y' value {{ {head} {expected or given} }} }}"
    return dtype, "Predict", signed(dtype) + tensor("x", head + given), answered(2, dtype) + output


# what, method, request, answer
ANSWERS = {
    "predict_util.cc RunPredict": [
        ("the latest", "Predict", spec() + X, answered(2) + Y),
        ("a version", "Predict", spec(more="version { value: 1 }") + X, answered(1) + Y),
        ("an explicit version 0", "Predict", spec(more="version {}") + X, answered(0) + Y),
        ("a label", "Predict", spec(more="version_label: 'stable'") + X, answered(1) + Y),
        ("a signature", "Predict", signed("serving_default") + X, answered(2) + Y),
        ("an output asked for", "Predict", spec() + X + " output_filter: 'y'", answered(2) + Y),
        ("one of two", "Predict", signed("two_batches") + X + " output_filter: 'a'", answered(2, "two_batches") + f"outputs {{ key: 'a' value {{ dtype: DT_FLOAT {VECTOR} float_val: [1, 2] }} }}"),
        ("no rows", "Predict", signed("no_rows") + X, answered(2, "no_rows") + "outputs { key: 'y' value { dtype: DT_FLOAT tensor_shape { dim {} } } }"),
        ("a scalar", "Predict", signed("sum") + X, answered(2, "sum") + "outputs { key: 'y' value { dtype: DT_FLOAT tensor_shape {} float_val: 3 } }"),
        ("no inputs", "Predict", signed("no_input"), answered(2, "no_input") + "outputs { key: 'y' value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1 } }"),
    ],
    "saved_model/util.cc GetInputValues": [
        ("a default", "Predict", signed("with_default") + tensor("a", "dtype: DT_INT32 int_val: 1"), answered(2, "with_default") + "outputs { key: 'a' value { dtype: DT_INT32 tensor_shape {} int_val: 1 } } outputs { key: 'b' value { dtype: DT_STRING tensor_shape {} string_val: 'given' } }"),
        ("no default is taken", "Predict", signed("with_default") + tensor("a", "dtype: DT_INT32 int_val: 1") + tensor("b", "dtype: DT_STRING string_val: 'own'"), answered(2, "with_default") + "outputs { key: 'a' value { dtype: DT_INT32 tensor_shape {} int_val: 1 } } outputs { key: 'b' value { dtype: DT_STRING tensor_shape {} string_val: 'own' } }"),
    ],
    "tensor.cc AsProtoField": [
        typed("float32", "float_val: [0.5, -1]"),
        typed("float64", "double_val: [0.1, 1e300]"),
        typed("float16", "half_val: [14336, 49152]"),
        typed("bfloat16", "half_val: [16128, 49152]"),
        typed("complex64", "scomplex_val: [1, 2, 3, 4]"),
        typed("bool", "bool_val: [true, false]"),
        typed("string", "string_val: ['a', '\\377\\000']"),
        typed("int8", "int_val: [127, -128]"),
        typed("int16", "int_val: [32767, -32768]"),
        typed("int32", "int_val: [2147483647, -2147483648]"),
        typed("int64", "int64_val: [9223372036854775807, -1]"),
        typed("uint8", "int_val: [0, 255]"),
        typed("uint16", "int_val: [0, 65535]"),
        typed("uint32", "uint32_val: [0, 4294967295]"),
        typed("uint64", "uint64_val: [0, 18446744073709551615]"),
    ],
    "tensor.cc FromProto": [
        ("one value stands for all", *typed("float32", "float_val: 7", "float_val: [7, 7]")[1:]),
        ("no value is zero", *typed("float32", "", "float_val: [0, 0]")[1:]),
        ("no text is empty", *typed("string", "", "string_val: ['', '']")[1:]),
        ("one text stands for all", *typed("string", "string_val: 'a'", "string_val: ['a', 'a']")[1:]),
        ("values too many are passed over", *typed("int64", "int64_val: [1, 2, 3]", "int64_val: [1, 2]")[1:]),
        ("content", *typed("int32", "tensor_content: '\\001\\000\\000\\000\\002\\000\\000\\000'", "int_val: [1, 2]")[1:]),
        ("content of flags", *typed("bool", "tensor_content: '\\001\\000'", "bool_val: [true, false]")[1:]),
        ("content of halves", *typed("float16", "tensor_content: '\\0008\\000\\300'", "half_val: [14336, 49152]")[1:]),
        ("content of texts", *typed("string", "tensor_content: '\\001\\002abc'", "string_val: ['a', 'bc']")[1:]),
        ("int8 wraps", *typed("int8", "int_val: [128, 300]", "int_val: [-128, 44]")[1:]),
    ],
    "classifier.cc": [
        ("labels and scores", "Classify", signed("classify") + EXAMPLE, answered(2, "classify") + "result { classifications { classes { score: 80 } classes { label: '80.000000' score: 40 } } }"),
        ("a version", "Classify", signed("classify_scores", "version {}") + EXAMPLE, answered(0, "classify_scores") + "result { classifications { classes { score: 80 } classes { score: 40 } } }"),
        ("labels alone", "Classify", signed("classify_classes") + EXAMPLE, answered(2, "classify_classes") + "result { classifications { classes {} classes { label: '80.000000' } } }"),
        ("a context", "Classify", signed("classify_scores") + CONTEXT, answered(2, "classify_scores") + "result {" + "classifications { classes { score: 80 } classes { score: 40 } }" * 2 + "}"),
    ],
    "regressor.cc": [
        ("one value each", "Regress", signed("regress") + EXAMPLE, answered(2, "regress") + "result { regressions { value: 42 } }"),
        ("a flat output", "Regress", signed("regress_flat") + EXAMPLE, answered(2, "regress_flat") + "result { regressions { value: 80 } }"),
        ("a label", "Regress", signed("regress", "version_label: 'stable'") + EXAMPLE, answered(1, "regress") + "result { regressions { value: 42 } }"),
        ("a context", "Regress", signed("regress") + CONTEXT, answered(2, "regress") + "result {" + "regressions { value: 42 }" * 2 + "}"),
    ],
    "multi_inference.cc": [
        ("one task", "MultiInference", task("regress", REGRESS) + EXAMPLE, f"results {{ {answered(2, 'regress')} regression_result {{ regressions {{ value: 42 }} }} }}"),
        ("two of one input", "MultiInference", task("both_classify", CLASSIFY) + task("both_regress", REGRESS) + EXAMPLE, f"results {{ {answered(2, 'both_classify')} classification_result {{ classifications {{ classes {{ score: 80 }} classes {{ score: 40 }} }} }} }} results {{ {answered(2, 'both_regress')} regression_result {{ regressions {{ value: 42 }} }} }}"),
    ],
    "get_model_status_impl.cc": [
        ("all, the highest first", "GetModelStatus", spec(), "".join(f"model_version_status {{ version: {version} state: AVAILABLE status {{}} }}" for version in (2, 1, 0))),
        ("version 0", "GetModelStatus", spec(more="version {}"), "model_version_status { state: AVAILABLE status {} }"),
        ("label", "GetModelStatus", spec(more="version_label: 'stable'"), "model_version_status { version: 1 state: AVAILABLE status {} }"),
    ],
}  # fmt: skip
_ANSWERS = {
    "Predict": predict_pb2.PredictResponse,
    "Classify": classification_pb2.ClassificationResponse,
    "Regress": regression_pb2.RegressionResponse,
    "MultiInference": inference_pb2.MultiInferenceResponse,
    "GetModelStatus": get_model_status_pb2.GetModelStatusResponse,
}


@pytest.mark.parametrize(("method", "request_text", "answer"), rows(ANSWERS))
def test_a_request_is_answered_as_tf_serving_answers_it(call, method, request_text, answer):
    assert call(method, request_text) == text_format.Parse(answer, _ANSWERS[method]())


def test_every_type_of_the_table_has_its_row():
    assert {row[0] for row in ANSWERS["tensor.cc AsProtoField"]} == set(TYPES)


def test_metadata_hold_every_signature_as_the_saved_model_has_it(call):
    """get_model_metadata_impl.cc SavedModelGetSignatureDef"""
    response = call("GetModelMetadata", FIELD + spec(more="version_label: 'stable'"))
    assert (response.model_spec.name, response.model_spec.version.value) == (MODEL, 1)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["classify"].method_name == CLASSIFY
    assert signatures.signature_def["int32"].inputs["x"].tensor_shape.unknown_rank
    assert set(TYPES) < set(signatures.signature_def)


def test_a_version_that_a_refused_config_could_not_load_has_the_reason(call, tmp_path):
    """server_core.cc WaitUntilModelsAvailable, servable_state_monitor.h (a state is never removed)"""
    (tmp_path / "1").mkdir()
    (tmp_path / "1/saved_model.pb").write_bytes(b"\xff\xff no graph")
    with pytest.raises(grpc.RpcError) as caught:
        call("HandleReloadConfigRequest", reload(config("broken", path=str(tmp_path))))
    assert caught.value.code() == grpc.StatusCode.UNKNOWN
    assert caught.value.details().startswith(
        "1 model(s) did not become available: {{{name: broken version: 1} due to error: "
    )
    (state,) = call("GetModelStatus", spec("broken")).model_version_status
    assert (state.version, state.state) == (1, get_model_status_pb2.ModelVersionStatus.END)
    assert state.status.error_code != 0 and str(tmp_path) in state.status.error_message
    with pytest.raises(grpc.RpcError) as caught:
        call("Predict", spec("broken") + X)
    assert caught.value.details() == "Servable not found for request: Latest(broken)"


def test_large_values_are_complete_in_typed_fields(call, server):
    values = np.random.default_rng(0).normal(size=(700, 700)).astype(np.float32)
    request = text_format.Parse(signed("float32"), predict_pb2.PredictRequest())
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(values))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.max_receive_message_length", -1)]) as channel:
        output = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30).outputs["y"]
    assert not output.tensor_content
    assert (tf.make_ndarray(output) == values).all()
