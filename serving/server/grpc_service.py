"""TF Serving's gRPC services on a ModelManager: Predict, GetModelMetadata and GetModelStatus.

Called by `serving.server`. The other methods of both services answer UNIMPLEMENTED, from the generated base classes.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from graftline.signatures import MODELS_METADATA, SERVING_DEFAULT
from serving.server import service
from serving.server.errors import Code, ServingError, invalid
from serving.server.manager import ModelManager
from serving.server.tensors import from_proto, to_proto

_logger = logging.getLogger(__name__)
_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def _answer(context: Any, names: Sequence[str], work: Callable[[], Any]) -> Any:
    """The result of `work`, or its ServingError as a gRPC status. A fault of our own is logged and named INTERNAL.

    `names` are the models served; a NOT_FOUND brings them along as trailing metadata.
    """
    try:
        return work()
    except ServingError as error:
        if error.code is Code.NOT_FOUND:
            # The API cannot list models; a client of ours that was given no name finds the only one so.
            context.set_trailing_metadata(((MODELS_METADATA, ",".join(names)),))
        context.abort(_STATUS[error.code.value], error.message)
    except Exception:
        _logger.exception("unexpected fault while answering a gRPC request")
        context.abort(grpc.StatusCode.INTERNAL, "internal error of the model server: see its log")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Run a signature of a loaded model on the request's tensors."""
        return _answer(context, self._manager.names, lambda: self._predict(request))

    def _predict(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        response = predict_pb2.PredictResponse()
        with self._manager.use(spec.name, service.wanted_version(spec)) as (version, model):
            # Asked for first, as TF Serving does: a wrong signature is named before a wrong tensor.
            model.signature(spec.signature_name)
            inputs = {name: from_proto(name, proto) for name, proto in request.inputs.items()}
            outputs = model.predict(spec.signature_name, inputs, list(request.output_filter))
        response.model_spec.name = spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = spec.signature_name or SERVING_DEFAULT
        for name, values in outputs.items():
            response.outputs[name].CopyFrom(to_proto(values))
        return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The signatures of a loaded model."""
        return _answer(context, self._manager.names, lambda: self._metadata(request))

    def _metadata(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != service.SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        spec = request.model_spec
        return service.metadata(self._manager, spec.name, service.wanted_version(spec))


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The states of a model's versions."""
        return _answer(context, self._manager.names, lambda: self._status(request))

    def _status(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        spec = request.model_spec
        if spec.version_label:
            service.refuse_label(spec.version_label)
        return service.status(self._manager, spec.name, spec.version.value if spec.HasField("version") else None)


def add_services(server: grpc.Server, manager: ModelManager) -> None:
    """Register both services on a gRPC server that has not been started."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(manager), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(manager), server)
