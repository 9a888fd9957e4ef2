"""The curated schema of `data.schema_file`: a TFDV schema as text proto, kept by the user. Imports no TFX."""

import hashlib
import pathlib

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from graftline import features
from graftline.errors import UserError
from graftline.uri import is_uri

_KEY = "data.schema_file"
_COPY = (
    "start from a schema that a run inferred: copy artifacts/SchemaGen/schema/<number>/schema.pbtxt of its workspace"
)


def check(path: str) -> str:
    """Check the file and return a hash of its content.

    A URI is not checked, because only the nodes of a cluster can read it; its hash is "".

    Raises:
        UserError: there is no such file, it is not a schema, or it lacks a feature that every later stage reads.
    """
    if is_uri(path):
        return ""
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"{_KEY}: there is no file '{path}'; {_COPY}")
    try:
        data = file.read_bytes()
        schema = text_format.Parse(data.decode(), schema_pb2.Schema())
    except OSError as error:
        raise UserError(f"{_KEY}: {path} cannot be read: {error.strerror}") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{_KEY}: {path} is not a TFDV schema in text form: {error}; {_COPY}") from error
    for name in (features.IMAGE, features.LABEL):
        _require(schema, name, path)
    domains = {domain.name for domain in schema.string_domain}
    for feature in schema.feature:
        if feature.HasField("domain") and feature.domain not in domains:
            raise UserError(
                f"{_KEY}: {path}: the feature {feature.name} has the domain '{feature.domain}', but there is no "
                "string_domain with this name"
            )
    return hashlib.sha256(data).hexdigest()


def _require(schema: schema_pb2.Schema, name: str, path: str) -> None:
    """Check a feature that the Transform reads as one string for each image; TFT needs a fixed shape for it."""
    found = [feature for feature in schema.feature if feature.name == name]
    if not found:
        raise UserError(f"{_KEY}: {path} lacks the feature {name}; {_COPY}")
    (feature,) = found[:1]
    if feature.type != schema_pb2.BYTES or not feature.HasField("shape") or feature.presence.min_fraction != 1:
        raise UserError(
            f"{_KEY}: {path}: the feature {name} must have type: BYTES, shape {{ dim {{ size: 1 }} }} and "
            f"presence {{ min_fraction: 1 }}; {_COPY}"
        )
