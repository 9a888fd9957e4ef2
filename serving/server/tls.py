"""TLS for both ports: reads TensorFlow Serving's `--ssl_config_file`, a text proto of `tensorflow.serving.SSLConfig`.

The message is described here, because no Python package carries config/ssl_config.proto. The fields hold PEM text, not
the names of files. TensorFlow Serving uses them for gRPC alone.
"""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from graftline.errors import UserError

_FIELD = descriptor_pb2.FieldDescriptorProto
_FIELDS = {
    "server_key": _FIELD.TYPE_STRING,
    "server_cert": _FIELD.TYPE_STRING,
    "custom_ca": _FIELD.TYPE_STRING,
    "client_verify": _FIELD.TYPE_BOOL,
}


@dataclass(frozen=True)
class TlsConfig:
    """The key and the certificate of a server, as PEM, and which clients it takes."""

    server_key: str
    server_cert: str
    custom_ca: str = ""  # certificates that sign the clients' certificates
    client_verify: bool = False  # whether a client must have a certificate

    def context(self, protocol: str = "http/1.1") -> ssl.SSLContext:
        """Return the settings of a port; `protocol` is h2 for gRPC.

        Raises ssl.SSLError and ValueError for PEM that cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        with _in_file(self.server_cert) as certificate, _in_file(self.server_key) as key:
            context.load_cert_chain(certificate, key, password=_refuse_password)
        if self.custom_ca:
            context.load_verify_locations(cadata=self.custom_ca)
        if self.client_verify:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@contextmanager
def _in_file(pem: str) -> Iterator[str]:
    """Yield the path of a file with this text, which only this user can read. `ssl` takes no text here."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pem")
        with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(pem)
        yield path


def _refuse_password() -> str:
    """Keep OpenSSL from asking for the password of a key on the terminal."""
    raise ValueError("server_key has a password: give a key without one")


def read(path: str) -> TlsConfig:
    """Return the configuration in the file at `path`, tried out. Raises UserError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read the TLS configuration {path}: {reason}") from error
    try:
        message = text_format.Parse(text, _message_class()())
    except text_format.ParseError as error:
        raise UserError(f'{path} is not an SSLConfig: {error}; write server_key: "-----BEGIN …"') from error
    config = TlsConfig(**{name: getattr(message, name) for name in _FIELDS})
    for name in ("server_key", "server_cert", "custom_ca"):
        value = getattr(config, name)
        if not value and name != "custom_ca":
            raise UserError(f"{path}: {name} is missing: give it as PEM text")
        if value and "-----BEGIN " not in value:
            raise UserError(f"{path}: {name} is not PEM: give the text of the file itself, not its name")
    if config.client_verify and not config.custom_ca:
        raise UserError(f"{path}: client_verify needs custom_ca, the certificate that signs those of the clients")
    try:
        config.context()
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise UserError(f"{path}: the key and the certificates cannot be used together: {reason}") from error
    return config


def _message_class() -> type:
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(
        name="graftline/ssl_config.proto", package="tensorflow.serving", syntax="proto3"
    )
    message = file.message_type.add(name="SSLConfig")
    for number, (name, kind) in enumerate(_FIELDS.items(), start=1):
        message.field.add(name=name, number=number, type=kind)
    pool.Add(file)
    described = pool.FindMessageTypeByName(file.package + ".SSLConfig")
    made: type = message_factory.MessageFactory(pool).GetPrototype(described)
    return made
