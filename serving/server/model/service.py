"""The answers themselves, the same for gRPC and REST: metadata and status of a model as TF Serving's protos."""

from typing import Any

from google.protobuf import any_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from graftline.serving.server.errors import invalid
from graftline.serving.server.model.manager import ModelManager

SIGNATURE_DEF = "signature_def"  # the one metadata_field that TF Serving knows


def wanted(spec: Any) -> tuple[str, int | None, str | None]:
    """(name, version, label) that a ModelSpec asks for, as `ModelManager.use` takes them; one of the two at most.

    An explicit version 0 is a version. Raises INVALID_ARGUMENT without a model name.
    """
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def metadata(
    manager: ModelManager, name: str, version: int | None, label: str | None = None
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a model, with the version that they are of. Raises NOT_FOUND."""
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
    """The states of a model's versions, the highest first. Raises NOT_FOUND.

    A label narrows it to the version that it names, as TF Serving's REST guide says; an unknown one is passed over, as
    its get_model_status_impl.cc does with every label.
    """
    if label is not None and label in manager.labels(name):
        version = manager.labels(name)[label]
    response = get_model_status_pb2.GetModelStatusResponse()
    for found in manager.states(name, version):
        entry = response.model_version_status.add(
            version=found.version, state=get_model_status_pb2.ModelVersionStatus.State.Value(found.state)
        )
        entry.status.error_code = found.code.value
        entry.status.error_message = found.message
    return response
