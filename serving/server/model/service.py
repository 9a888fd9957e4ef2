"""Metadata and status of a model, as TF Serving's protos, for both ports."""

from typing import Any

from google.protobuf import any_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from graftline.serving.server.errors import invalid
from graftline.serving.server.model.manager import ModelManager

SIGNATURE_DEF = "signature_def"  # the one metadata_field that TF Serving knows


def read_spec(spec: Any) -> tuple[str, int | None, str | None]:
    """Return the name, the version and the label of a ModelSpec, as `ModelManager.use` takes them.

    A ModelSpec has a version or a label, or neither. An explicit version 0 is a version. Raises INVALID_ARGUMENT
    without a model name.
    """
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    version = spec.version.value if spec.HasField("version") else None
    return spec.name, version, spec.version_label if spec.HasField("version_label") else None


def metadata(
    manager: ModelManager, name: str, version: int | None, label: str | None = None
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Return the signatures of a model and the version that has them. Raises NOT_FOUND."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with manager.use(name, version, label) as (number, model):
        for key, signature in model.signatures.items():
            signatures.signature_def[key].CopyFrom(signature)
    response.model_spec.name = name
    response.model_spec.version.value = number
    packed = any_pb2.Any()
    packed.Pack(signatures)
    response.metadata[SIGNATURE_DEF].CopyFrom(packed)
    return response


def status(
    manager: ModelManager, name: str, version: int | None, label: str | None = None
) -> get_model_status_pb2.GetModelStatusResponse:
    """Return the states of a model's versions, the highest first. Raises NOT_FOUND.

    A label selects the version that it names, as TF Serving's REST guide says. An unknown label is ignored, as
    TF Serving's get_model_status_impl.cc ignores every label.
    """
    if label is not None and label in manager.labels(name):
        version = manager.labels(name)[label]
    response = get_model_status_pb2.GetModelStatusResponse()
    for state in manager.states(name, version):
        entry = response.model_version_status.add(
            version=state.version, state=get_model_status_pb2.ModelVersionStatus.State.Value(state.state)
        )
        entry.status.error_code = state.code.value
        entry.status.error_message = state.message
    return response
