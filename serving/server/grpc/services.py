"""TF Serving's gRPC services on a ModelManager: PredictionService and ModelService, every method of both.

Registered by `grpc.server`. A ServingError that a method raises becomes the status of the call in `interceptors`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.model import inference, service
from graftline.serving.server.model.loaded_model import LoadedModel
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.server.model.tensors import check_names, fill_proto, from_protos
from graftline.serving.versions import model_config
from graftline.signatures import SERVING_DEFAULT


def _timeout(context: Any) -> float | None:
    """Return the seconds until the client's deadline. None stands for the server's own limit."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > 1e9 else remaining


def _fill_spec(spec: Any, requested: Any, version: int) -> None:
    spec.name = requested.name
    spec.version.value = version
    spec.signature_name = requested.signature_name or SERVING_DEFAULT


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Run a signature of a loaded model on the request's tensors."""
        spec = _spec_of(request)
        response = predict_pb2.PredictResponse()
        with self._manager.use(*service.read_spec(spec)) as (version, model):
            # TF Serving reports a wrong signature or wrong names before a wrong tensor.
            check_names(model.signature(spec.signature_name), request.inputs)
            inputs = from_protos(request.inputs)
            outputs = model.predict(spec.signature_name, inputs, list(request.output_filter), _timeout(context))
        _fill_spec(response.model_spec, spec, version)
        for name, values in outputs.items():
            fill_proto(response.outputs[name], values)
        return response

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return classes and scores of tf.Examples, by a signature whose method is classify."""
        return self._infer(classification_pb2.ClassificationResponse(), _fill_classes, request, context)

    def Regress(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return one value for each tf.Example, by a signature whose method is regress."""
        return self._infer(regression_pb2.RegressionResponse(), _fill_values, request, context)

    def _infer(self, response: Any, fill: Callable[..., None], request: Any, context: Any) -> Any:
        spec = _spec_of(request)
        with self._manager.use(*service.read_spec(spec)) as (version, model):
            fill(response.result, model, spec.signature_name, request.input, _timeout(context))
        _fill_spec(response.model_spec, spec, version)
        return response

    def MultiInference(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Run several classify and regress signatures of one model on the same tf.Examples."""
        response = inference_pb2.MultiInferenceResponse()
        first = request.tasks[0].model_spec if request.tasks else inference_pb2.InferenceTask().model_spec
        with self._manager.use(*service.read_spec(first)) as (version, model):
            _check_tasks(request.tasks, model)
            timeout = _timeout(context)
            for task in request.tasks:
                result = response.results.add()
                name = task.model_spec.signature_name
                if task.method_name == inference.CLASSIFY:
                    _fill_classes(result.classification_result, model, name, request.input, timeout)
                else:
                    _fill_values(result.regression_result, model, name, request.input, timeout)
                _fill_spec(result.model_spec, task.model_spec, version)
        return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the signatures of a loaded model."""
        spec = _spec_of(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != service.SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        return service.metadata(self._manager, *service.read_spec(spec))


def _spec_of(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _fill_classes(result: Any, model: LoadedModel, name: str, examples: Any, timeout: float | None) -> None:
    labels, scores = inference.classify(model, name, inference.examples_of(examples), timeout)
    rows, columns = (labels if labels is not None else scores).shape  # type: ignore[union-attr]  # one of the two is there
    for row in range(rows):
        classes = result.classifications.add().classes
        for column in range(columns):
            entry = classes.add()
            if labels is not None:
                # A label is a `string` of protobuf, which holds UTF-8 alone.
                entry.label = labels[row, column].decode("utf-8", "replace")
            if scores is not None:
                entry.score = scores[row, column]


def _fill_values(result: Any, model: LoadedModel, name: str, examples: Any, timeout: float | None) -> None:
    for value in inference.regress(model, name, inference.examples_of(examples), timeout):
        result.regressions.add(value=value)


def _check_tasks(tasks: Sequence[Any], model: LoadedModel) -> None:
    """Raise the errors of TF Serving's multi_inference.cc, before anything is run, in the order of the tasks."""
    seen: set[str] = set()
    tensors: set[str] = set()
    for task in tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if spec.name != tasks[0].model_spec.name:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = spec.signature_name or SERVING_DEFAULT
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        if name not in model.signatures:
            raise invalid(f"Requested signature not found in model graph: {name}")
        if task.method_name not in (inference.CLASSIFY, inference.REGRESS):
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        signature = model.signatures[name]
        inference.check_signature(signature, task.method_name)
        tensors |= {info.name for info in signature.inputs.values()}
        if len(tensors) > 1:
            raise invalid("Input tensor must be the same for all Signatures.")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the states of a model's versions."""
        spec = _spec_of(request)
        version = spec.version.value if spec.HasField("version") else None
        return service.status(self._manager, spec.name, version, spec.version_label or None)

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Serve the models of the request's config and no others."""
        try:
            configs = model_config.from_proto(request.config, self._manager.names)
        except model_config.ConfigError as error:
            raise invalid(str(error)) from error
        self._manager.reload(configs)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def add_services(server: grpc.aio.Server, manager: ModelManager) -> None:
    """Register both services on a gRPC server that has not started."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(manager), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(manager), server)
