"""Requests of the gRPC API by the official messages."""

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2


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
