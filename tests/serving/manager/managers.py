"""What the tests of the model manager ask it."""

import os
import pathlib

import numpy as np
import pytest

from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.model.loaded_model import LoadedModel
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.versions.model_config import ModelConfig, VersionPolicy


def break_version(base_path: str, version: int) -> None:
    os.makedirs(os.path.join(base_path, str(version)), exist_ok=True)
    pathlib.Path(base_path, str(version), "saved_model.pb").write_bytes(b"garbage")


def config(base_path: str, policy: str = "latest", name: str = "m", **labels: int) -> ModelConfig:
    return ModelConfig(name, base_path, VersionPolicy.parse(policy), labels)


def added(model: LoadedModel) -> int:
    return int(model.predict("", {"x": np.zeros(1, np.float32)})["y"][0])


def answers(manager: ModelManager, name: str = "m", version: int | None = None, label: str | None = None) -> int:
    with manager.use(name, version, label) as (number, model):
        found = added(model)
        assert found % 100 == number
        return found


def refusal(manager: ModelManager, *asked) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught, manager.use(*asked):
        pass
    return caught.value.code, caught.value.message


def states(manager: ModelManager, name: str = "m") -> dict[int, str]:
    return {found.version: found.state for found in manager.states(name)}


def not_loaded(manager: ModelManager, version: int) -> bool:
    return refusal(manager, "m", version) == (
        Code.NOT_FOUND,
        f"Servable not found for request: Specific(m, {version})",
    )
