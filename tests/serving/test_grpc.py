"""The gRPC API, asked with the official stubs on loopback, against what TF Serving answers."""

import grpc
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server import MAX_MESSAGE
from tests.serving.conftest import image_of


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def status(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus


def request(model, signature="", version=None, outputs=(), **inputs):
    message = predict_pb2.PredictRequest(output_filter=outputs)
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    for name, value in inputs.items():
        ready = isinstance(value, tensor_pb2.TensorProto)
        message.inputs[name].CopyFrom(value if ready else tf.make_tensor_proto(value))
    return message


def refused(call, message):
    """(status code, details) of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=30)
    return caught.value.code(), caught.value.details()


def test_images_are_classified_in_typed_fields(prediction):
    images = [image_of("red"), image_of("blue", fmt="JPEG")]
    response = prediction.Predict(request("colours", image_bytes=images), timeout=30)
    assert list(response.outputs["label"].string_val) == [b"red", b"blue"]
    assert len(response.outputs["probabilities"].float_val) == 6
    assert [dim.size for dim in response.outputs["probabilities"].tensor_shape.dim] == [2, 3]
    assert not response.outputs["probabilities"].tensor_content


def test_the_answer_says_which_model_version_and_signature_it_came_from(prediction):
    response = prediction.Predict(request("colours", image_bytes=[image_of("red")]), timeout=30)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("colours", 3, "serving_default")


def test_every_type_comes_back_as_it_went(prediction):
    inputs = {
        "u8": tf.constant([0, 255], tf.uint8),
        "half": tf.constant([0.5, -2.0], tf.float16),
        "double": tf.constant([0.1, 1e300], tf.float64),
    }
    protos = {name: tf.make_tensor_proto(value.numpy()) for name, value in inputs.items()}
    response = prediction.Predict(request("numbers", "narrow", **protos), timeout=30)
    for name, value in inputs.items():
        assert (tf.make_ndarray(response.outputs[name]) == value.numpy()).all()
        assert response.outputs[name].dtype == value.dtype.as_datatype_enum
    assert list(response.outputs["u8"].int_val) == [0, 255]
    assert list(response.outputs["double"].double_val) == [0.1, 1e300]


def test_an_empty_batch_gives_empty_outputs(prediction):
    empty = tf.make_tensor_proto([], tf.string, shape=[0])
    response = prediction.Predict(request("colours", image_bytes=empty), timeout=30)
    assert [dim.size for dim in response.outputs["probabilities"].tensor_shape.dim] == [0, 3]


def test_only_the_outputs_asked_for_come(prediction):
    message = request("colours", outputs=["score", "label"], image_bytes=[image_of("red")])
    assert sorted(prediction.Predict(message, timeout=30).outputs) == ["label", "score"]


def test_an_unknown_output_is_refused(prediction):
    code, details = refused(prediction.Predict, request("numbers", outputs=["z"], x=[[1.0, 2.0]]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details == "output tensor alias not found in signature: z Outputs expected to be in the set {y}."


def test_an_output_named_twice_is_refused(prediction):
    code, details = refused(prediction.Predict, request("numbers", outputs=["y", "y"], x=[[1.0, 2.0]]))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "duplicate output tensor alias: y")


def test_an_unknown_signature_is_a_failed_precondition(prediction):
    code, details = refused(prediction.Predict, request("numbers", "x", x=[[1.0, 2.0]]))
    assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "x" not found.')


def test_an_unknown_model_is_not_found(prediction):
    code, details = refused(prediction.Predict, request("nobody", x=[1.0]))
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(nobody)")


def test_an_unknown_version_is_not_found(prediction):
    code, details = refused(prediction.Predict, request("numbers", version=9, x=[1.0]))
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(numbers, 9)")


def test_a_request_without_model_spec_is_refused(prediction):
    code, details = refused(prediction.Predict, predict_pb2.PredictRequest())
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")


def test_a_model_spec_without_name_is_refused(prediction):
    code, details = refused(prediction.Predict, request("", "serving_default", x=[1.0]))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified.")


def test_a_version_label_is_unknown(prediction):
    message = request("numbers", x=[[1.0, 2.0]])
    message.model_spec.version_label = "canary"
    code, details = refused(prediction.Predict, message)
    assert (code, details) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Unrecognized servable version label: canary",
    )


def test_a_missing_input_is_named(prediction):
    code, details = refused(prediction.Predict, request("numbers", "mixed", number=tf.make_tensor_proto([1], tf.int64)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details == (
        "input size does not match signature: 1!=3 len({number}) != len({flag,number,text}). "
        "Sent extra: {}. Missing but required: {flag,text}."
    )


def test_an_extra_input_is_named(prediction):
    code, details = refused(prediction.Predict, request("numbers", x=[[1.0, 2.0]], z=[1.0]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.endswith("Sent extra: {z}. Missing but required: {}.")


def test_an_input_of_another_name_is_named(prediction):
    code, details = refused(prediction.Predict, request("numbers", z=[[1.0, 2.0]]))
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input tensor alias not found in signature: z. Inputs expected to be in the set {x}.",
    )


def test_an_input_of_another_type_is_named(prediction):
    code, details = refused(prediction.Predict, request("colours", image_bytes=[1.0]))
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input image_bytes is expected to be of type string but is float32",
    )


def test_an_input_of_another_shape_is_named(prediction):
    code, details = refused(prediction.Predict, request("colours", image_bytes=b"scalar"))
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input image_bytes is expected to have shape [?] but has shape []",
    )


def test_a_tensor_that_contradicts_itself_is_refused(prediction):
    proto = tf.make_tensor_proto([[1.0, 2.0]])
    proto.tensor_shape.dim[0].size = 7
    proto.tensor_content = b"\0" * 8
    code, details = refused(prediction.Predict, request("numbers", x=proto))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("tensor parsing error: x: ")


def test_a_tensor_that_claims_all_memory_is_refused(prediction):
    proto = tf.make_tensor_proto([[1.0]])
    proto.tensor_shape.dim[0].size = 1 << 60
    code, details = refused(prediction.Predict, request("numbers", x=proto))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "is negative or too large" in details


def test_bytes_that_are_no_image_are_refused_and_the_server_answers_on(prediction):
    code, details = refused(prediction.Predict, request("colours", image_bytes=[b"no image"]))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("Unknown image file format. One of JPEG, PNG, GIF, BMP required.")
    prediction.Predict(request("colours", image_bytes=[image_of("red")]), timeout=30)


def test_messages_over_four_mebibytes_are_taken_and_given(prediction):
    text = b"x" * (5 << 20)
    inputs = {"number": tf.make_tensor_proto([1], tf.int64), "flag": [True], "text": [text]}
    response = prediction.Predict(request("numbers", "mixed", **inputs), timeout=30)
    assert response.outputs["text"].string_val[0] == text


def test_a_message_over_the_limit_is_refused(prediction):
    code, details = refused(prediction.Predict, request("colours", image_bytes=[b"x" * (MAX_MESSAGE + 1)]))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in details


def test_methods_that_are_not_served_say_so(prediction):
    message = classification_pb2.ClassificationRequest()
    message.model_spec.name = "numbers"
    assert refused(prediction.Classify, message)[0] == grpc.StatusCode.UNIMPLEMENTED


def metadata_request(model, *fields, version=None):
    message = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    message.model_spec.name = model
    if version is not None:
        message.model_spec.version.value = version
    return message


def test_the_metadata_hold_the_signatures(prediction):
    response = prediction.GetModelMetadata(metadata_request("colours", "signature_def"), timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert (response.model_spec.name, response.model_spec.version.value) == ("colours", 3)
    assert list(signatures.signature_def["serving_default"].inputs) == ["image_bytes"]


def test_metadata_of_no_field_are_refused(prediction):
    code, details = refused(prediction.GetModelMetadata, metadata_request("colours"))
    assert (code, details) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "GetModelMetadataRequest must specify at least one metadata_field",
    )


def test_metadata_of_another_field_are_refused(prediction):
    code, details = refused(prediction.GetModelMetadata, metadata_request("colours", "weights"))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "Metadata field weights is not supported")


def test_metadata_of_an_unknown_version_are_not_found(prediction):
    code, details = refused(prediction.GetModelMetadata, metadata_request("colours", "signature_def", version=9))
    assert (code, details) == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(colours, 9)")


def test_the_status_of_a_model_is_available(status):
    message = get_model_status_pb2.GetModelStatusRequest()
    message.model_spec.name = "colours"
    (found,) = status(message, timeout=30).model_version_status
    assert (found.version, found.state) == (3, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


def test_the_status_of_an_unknown_model_is_not_found(status):
    message = get_model_status_pb2.GetModelStatusRequest()
    message.model_spec.name = "nobody"
    assert refused(status, message) == (grpc.StatusCode.NOT_FOUND, "Could not find any versions of model nobody")
