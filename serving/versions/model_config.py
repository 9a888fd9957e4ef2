"""TF Serving's `models.config`, its version policies and labels, as typed values.

The server (`--model_config_file`, HandleReloadConfigRequest) and its model manager call it. Importing this module costs
nothing; reading a config imports the generated protos, and with them TensorFlow.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graftline.errors import UserError
from graftline.serving.versions.locate import Model, is_version_name, scan_versions
from graftline.uri import is_uri

PLATFORM = "tensorflow"
# How a `models.config` begins that Graftline wrote: the models lie next to it, wherever it says that they lie.
HEAD_LINE = "# Versions and labels of the models in this folder"
_MODEL_TYPE = "ModelServerConfig::model_type (deprecated)"


class ConfigError(ValueError):
    """A config that TF Serving refuses. The message is TF Serving's."""


@dataclass(frozen=True)
class VersionPolicy:
    """Which of a model's versions are served: the `latest` N, `all`, or exactly those in `specific`."""

    kind: str = "latest"
    latest: int = 1
    specific: frozenset[int] = frozenset()

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Return those of the versions that are served, the highest first."""
        ranked = sorted(set(versions), reverse=True)
        if self.kind == "latest":
            return ranked[: max(self.latest, 1)]
        return [version for version in ranked if self.kind == "all" or version in self.specific]

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Parse `latest`, `latest:2`, `all` or `specific:1,3` of a command line. Raises UserError."""
        kind, _, rest = text.strip().partition(":")
        numbers = [part.strip() for part in rest.split(",")] if rest else []
        whole = all(map(is_version_name, numbers))
        if kind == "all" and not numbers:
            return cls("all")
        if kind == "latest" and whole and len(numbers) <= 1 and numbers != ["0"]:
            return cls("latest", int(numbers[0]) if numbers else 1)
        if kind == "specific" and numbers and whole:
            return cls("specific", specific=frozenset(map(int, numbers)))
        raise UserError(f"version policy '{text}': give latest, latest:2, all or specific:1,3")

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.kind == "latest":
            return f"latest:{self.latest}"
        return "all" if self.kind == "all" else "specific:" + ",".join(map(str, sorted(self.specific)))


@dataclass(frozen=True)
class ModelConfig:
    """One model to serve."""

    name: str
    base_path: str  # "" with `fixed`
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)  # label → version
    fixed: Mapping[int, str] | None = None  # version → folder of a SavedModel that was named directly; not polled

    @classmethod
    def of(cls, model: Model, policy: VersionPolicy | None = None) -> "ModelConfig":
        """Return the config of a model that was found by its path."""
        fixed = dict(model.versions) if model.base_path is None else None
        return cls(model.name, model.base_path or "", policy or VersionPolicy(), fixed=fixed)

    def find(self) -> dict[int, str]:
        """Return version → folder of all complete versions at this moment; empty for a missing base path."""
        return dict(self.fixed) if self.fixed is not None else scan_versions(self.base_path)


def _policy(proto: Any) -> VersionPolicy:
    kind = proto.WhichOneof("policy_choice")
    if kind == "all":
        return VersionPolicy("all")
    if kind == "specific":
        return VersionPolicy("specific", specific=frozenset(proto.specific.versions))
    return VersionPolicy("latest", max(proto.latest.num_versions, 1))


def _check_platform(proto: Any, served: bool) -> None:
    """Raise ConfigError unless the model is TensorFlow's. The message depends on whether the model is `served` already.

    Source: GetPlatform and ValidateNoModelsChangePlatforms in TF Serving's server_core.cc.
    """
    platform = proto.model_platform
    if proto.model_type:
        if platform:
            raise ConfigError(f"Illegal setting both {_MODEL_TYPE} and ModelServerConfig::model_platform.")
        if proto.model_type != 1:
            raise ConfigError(f"ModelServerConfig::model_type choice {proto.model_type} not supported.")
        platform = PLATFORM
    if not platform:
        raise ConfigError(f"Illegal setting neither {_MODEL_TYPE} nor ModelServerConfig::model_platform.")
    if platform != PLATFORM and served:
        raise ConfigError(
            f"Illegal to change a model's platform. For model {proto.name} platform was {PLATFORM} "
            f"and new platform requested is {platform}"
        )
    if platform != PLATFORM:
        raise ConfigError(f"Model {proto.name} requests unsupported platform {platform}")


def from_proto(config: Any, served: Collection[str] = ()) -> list[ModelConfig]:
    """Return the models of a `tensorflow.serving.ModelServerConfig`; those in `served` are served now.

    Raises:
      ConfigError: a name is listed twice, a base path is relative, a platform is not TensorFlow, or the config is no
        list of models. The message is that of TF Serving's server_core.cc.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        )
    listed = config.model_config_list.config
    names: set[str] = set()
    # TF Serving makes each check over all models before the next, and looks at served models before new ones.
    for proto in listed:
        if proto.name in names:
            raise ConfigError(f"Illegal to list model {proto.name} multiple times in config list")
        names.add(proto.name)
    for proto in listed:
        if not is_uri(proto.base_path) and not os.path.isabs(proto.base_path):
            raise ConfigError(
                f"Expected model {proto.name} to have an absolute path or URI; got base_path()={proto.base_path}"
            )
    for proto in sorted(listed, key=lambda proto: proto.name not in served):
        _check_platform(proto, proto.name in served)
    return [
        ModelConfig(proto.name, proto.base_path, _policy(proto.model_version_policy), dict(proto.version_labels))
        for proto in listed
    ]


def decode(data: bytes, source: str) -> list[ModelConfig]:
    """Return the models of a `models.config`, a text proto, whose path is `source`. Raises UserError.

    If Graftline wrote the file and it was moved or copied together with the models next to it, these are meant.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        config = text_format.Parse(data.decode(), model_server_config_pb2.ModelServerConfig())
        return _find_moved(from_proto(config), data, source)
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read the models config {source}: it is not UTF-8 text") from error
    except text_format.ParseError as error:
        raise UserError(f"{source} is no ModelServerConfig: {error}; see TF Serving's serving_config.md") from error
    except ConfigError as error:
        if config.WhichOneof("config") is None:
            raise UserError(f"{source} names no model: write model_config_list {{ config {{ … }} }}") from error
        raise UserError(f"{source}: {error}") from error


def _find_moved(configs: list[ModelConfig], data: bytes, source: str) -> list[ModelConfig]:
    """Return the configs with base paths next to the file in place of those where the file was before it was moved."""
    if not data.startswith(HEAD_LINE.encode()):
        return configs
    folder = os.path.dirname(os.path.realpath(source))

    def find(config: ModelConfig) -> ModelConfig:
        here = os.path.join(folder, os.path.basename(config.base_path.rstrip("/")))
        if is_uri(config.base_path) or not scan_versions(here):
            return config
        with contextlib.suppress(OSError):
            if os.path.samefile(here, config.base_path):
                return config
        return replace(config, base_path=here)

    return list(map(find, configs))


def read_bytes(path: str) -> bytes:
    """Return the bytes of the file at `path`. Raises UserError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read the models config {path}: {error.strerror}") from error
