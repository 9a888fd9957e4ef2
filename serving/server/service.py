"""The answers themselves, the same for gRPC and REST: metadata and status of a model as TF Serving's protos."""

from typing import Any

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.server.errors import Code, ServingError, invalid
from serving.server.manager import ModelManager

SIGNATURE_DEF = "signature_def"  # the one metadata_field that TF Serving knows


def wanted_version(spec: Any) -> int | None:
    """The version that a ModelSpec asks for, None for the latest. Raises INVALID_ARGUMENT without a model name."""
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    if spec.version_label:
        refuse_label(spec.version_label)
    return spec.version.value if spec.HasField("version") else None


def refuse_label(label: str) -> None:
    """Version labels are configured in TF Serving's model config file, which this server does not have."""
    raise ServingError(Code.FAILED_PRECONDITION, f"Unrecognized servable version label: {label}")


def metadata(manager: ModelManager, name: str, version: int | None) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a model, with the version that they are of. Raises NOT_FOUND."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with manager.use(name, version) as (number, model):
        for key, signature in model.signatures.items():
            signatures.signature_def[key].CopyFrom(signature)
    response.model_spec.name = name
    response.model_spec.version.value = number
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response


def status(manager: ModelManager, name: str, version: int | None) -> get_model_status_pb2.GetModelStatusResponse:
    """The states of a model's versions, the highest first. Raises NOT_FOUND."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for found in manager.states(name, version):
        entry = response.model_version_status.add(
            version=found.version, state=get_model_status_pb2.ModelVersionStatus.State.Value(found.state)
        )
        entry.status.error_code = found.code.value
        entry.status.error_message = found.message
    return response
