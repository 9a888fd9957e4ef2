"""Models that name themselves by their answers, base paths of them, and managers that are closed at the end."""

import pathlib
import shutil

import pytest

from graftline.serving.server.model.manager import ModelManager


@pytest.fixture(scope="session")
def adder(tmp_path_factory):
    """(number) → a SavedModel that adds the number, so that an answer identifies its model."""
    import tensorflow as tf

    made: dict[int, pathlib.Path] = {}

    def make(number: int) -> pathlib.Path:
        if number not in made:
            module = tf.Module()
            spec = tf.TensorSpec([None], tf.float32, name="x")
            module.add = tf.function(lambda x: {"y": x + number}, input_signature=[spec], autograph=False)
            made[number] = tmp_path_factory.mktemp("adder") / "export"
            tf.saved_model.save(module, str(made[number]), signatures=module.add)
        return made[number]

    return make


@pytest.fixture
def push(tmp_path, adder):
    """(version, name, folder) → a base path with one more version, which adds its own or the given number."""

    def pushed(version: int, name: str = "m", adds: int | None = None) -> str:
        shutil.copytree(adder(version if adds is None else adds), tmp_path / name / str(version))
        return str(tmp_path / name)

    return pushed


@pytest.fixture
def managed():
    """(configs or models) → a loaded manager, closed at the end."""
    started: list[ModelManager] = []

    def manage(*models, **options) -> ModelManager:
        started.append(ModelManager(models, **options))
        started[-1].load()
        return started[-1]

    yield manage
    for manager in started:
        manager.close()
