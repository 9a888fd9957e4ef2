"""`graftline serve --engine tensorflow`: run this machine's `tensorflow_model_server` instead of our own server.

`--engine tensorflow` replaces the process (exec), so that a supervisor's signals reach the server. The files that the
server reads by name are kept in memory (memfd) and stay open over the exec, so nothing is left to clean up. Imports no
TensorFlow.
"""

import dataclasses
import logging
import math
import os
import shutil
import socket
from collections.abc import Sequence
from typing import Any, NoReturn

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from graftline.errors import UserError
from graftline.serving.server.options import ServerOptions
from graftline.serving.tf_serving import configs
from graftline.serving.versions.locate import Model
from graftline.serving.versions.model_config import PLATFORM, VersionPolicy

EXECUTABLE = "tensorflow_model_server"
_INT32_MAX = (1 << 31) - 1
# Options of our own, the last of the fields. TensorFlow Serving has no such limits, so they are refused, not ignored.
_FIELDS = [field.name for field in dataclasses.fields(ServerOptions)]
_UNTRANSLATED = _FIELDS[_FIELDS.index("max_request_bytes") :]

_logger = logging.getLogger(__name__)


def run_tensorflow_model_server(models: Sequence[Model], options: ServerOptions) -> NoReturn:
    """Replace this process by a `tensorflow_model_server`. Raises UserError: none on PATH, or as `command`."""
    program = shutil.which(EXECUTABLE)
    if program is None:
        raise UserError(
            f"--engine tensorflow: no {EXECUTABLE} on PATH; install TensorFlow Serving, run it by Docker "
            "(`python -m graftline.serving.tf_serving WORKSPACE DIR`), or leave the option out for Graftline's own "
            "server"
        )
    arguments = command(models, options)
    if options.host in ("127.0.0.1", "::1", "localhost"):
        _logger.warning("%s listens on every address of this machine, without authentication", EXECUTABLE)
    os.execv(program, [program, *arguments])


def command(models: Sequence[Model], options: ServerOptions) -> list[str]:
    """Return the flags of TensorFlow Serving 2.16's model_servers/main.cc. Files in memory stay open.

    Raises UserError when an option or a model has no equivalent.
    """
    defaults = ServerOptions()
    for name in _UNTRANSLATED:
        if getattr(options, name) != getattr(defaults, name):
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} and --engine tensorflow exclude each other: {EXECUTABLE} has no such option")
    monitoring = configs.monitoring(options.enable_monitoring, options.monitoring_path)
    flags: dict[str, object] = {
        "port": options.port or _free_port(),
        "rest_api_port": options.rest_api_port or _free_port(),
        "rest_api_timeout_in_ms": options.rest_api_timeout_in_ms or _INT32_MAX,
        "file_system_poll_wait_seconds": math.ceil(options.file_system_poll_wait_seconds),
        "enable_model_warmup": options.enable_model_warmup,
        "tensorflow_intra_op_parallelism": options.tensorflow_intra_op_parallelism,
        "tensorflow_inter_op_parallelism": options.tensorflow_inter_op_parallelism,
        "model_config_file": options.model_config_file or _write_in_memory("models", models_config(models, options)),
        "allow_version_labels_for_unavailable_models": True,  # a config gives labels before versions are loaded
        "enable_batching": options.enable_batching,
        "monitoring_config_file": _write_in_memory("monitoring", monitoring),
    }
    if options.ssl_config_file:
        flags["ssl_config_file"] = options.ssl_config_file
    if options.model_config_file:
        flags["model_config_file_poll_wait_seconds"] = math.ceil(options.config_poll_seconds)
    if options.enable_batching:
        batching = options.batching_parameters_file or _write_in_memory("batching", configs.batching(options.batching))
        flags["batching_parameters_file"] = batching
    return [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in flags.items()]


def models_config(models: Sequence[Model], options: ServerOptions) -> str:
    """Return a `tensorflow.serving.ModelServerConfig` of the models, with the version policy of the options.

    Raises UserError for an invalid policy, and for a SavedModel whose folder is no numbered version.
    """
    config = model_server_config_pb2.ModelServerConfig()
    for model in models:
        entry = config.model_config_list.config.add(name=model.name, model_platform=PLATFORM)
        if model.base_path is not None:
            entry.base_path = model.base_path
            _set_policy(entry.model_version_policy, VersionPolicy.parse(options.version_policy))
            continue
        version, path = model.newest
        entry.base_path = os.path.dirname(path)
        if os.path.basename(path) != str(version):
            raise UserError(f"{EXECUTABLE} serves numbered versions only: move {path} to {path}/1, then name {path}")
        entry.model_version_policy.specific.versions.append(version)
    return text_format.MessageToString(config)


def _set_policy(proto: Any, policy: VersionPolicy) -> None:
    if policy.kind == "latest":
        proto.latest.num_versions = policy.latest
    elif policy.kind == "all":
        proto.all.SetInParent()
    else:
        proto.specific.versions.extend(sorted(policy.specific))


def _write_in_memory(name: str, text: str) -> str:
    """Return a path under which this process, also after exec, can open a file with this text."""
    descriptor = os.memfd_create(f"graftline-{name}", 0)  # 0: not closed by exec
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
    return f"/proc/self/fd/{descriptor}"


def _free_port() -> int:
    """Return a free port. Our server takes port 0 for any free one; TensorFlow Serving takes it for none."""
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])
