"""Write a folder from which Docker runs TensorFlow Serving: `python -m graftline.serving.tf_serving WORKSPACE DIR`.

Files that do not depend on the workspace are copied from `files/`; `configs` writes the others. Imports no TensorFlow.
"""

import importlib.util
import os
import pathlib
import shutil

from graftline.errors import UserError, not_installed
from graftline.serving.server.options import ServerOptions
from graftline.serving.tf_serving import configs
from graftline.serving.versions import labels, model_config
from graftline.serving.versions.base_path import Disk
from graftline.serving.versions.locate import Model, find_models

_FILES = pathlib.Path(__file__).with_name("files")


def write(path: str, directory: str) -> list[str]:
    """Write the folder, over an earlier one, and return the names of the models that it serves.

    The container watches the folder of the models and its `models.config`, so a later push needs no new folder. A model
    that `models.config` does not list yet is added to it.

    `path` is a workspace or a TF Serving base path; `directory` is created if it is missing.

    Raises:
      UserError: there are no models at `path`, or a SavedModel alone; Compose cannot take the path; `models.config`
        cannot be read or lists other paths; the folder cannot be written; tensorflow-serving-api is not installed.
    """
    if importlib.util.find_spec("tensorflow_serving") is None:  # it has the messages of `models.config`
        raise not_installed("tensorflow_serving", "serve")
    models = find_models(path)
    folder = _folder_of(models, path)
    for model in models:
        _add_to_config(model)
    try:
        _fill(pathlib.Path(directory), folder)
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror}; name another folder") from error
    return [model.name for model in models]


def _fill(target: pathlib.Path, folder: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in _FILES.iterdir():
        shutil.copy(file, target)
    (target / "smoke.sh").chmod(0o755)  # an installation may lose the mode
    options = ServerOptions()
    (target / "batching.config").write_text(configs.batching(options.batching))
    (target / "monitoring.config").write_text(configs.monitoring(True, options.monitoring_path))
    (target / ".env").write_text(f"GRAFTLINE_MODELS='{folder}'\n")


def _folder_of(models: list[Model], path: str) -> str:
    """Return the folder that holds the base paths, which is the same for all."""
    base_path = models[0].base_path
    if base_path is None:
        raise UserError(
            f"{path} is a single SavedModel: TensorFlow Serving serves folders of numbered versions; name a workspace, "
            "or the folder above a numbered version"
        )
    folder = os.path.dirname(base_path)
    if "'" in folder or "\n" in folder:
        raise UserError(f"{folder!r} has a quote or a line end in its path, which Compose cannot take: move it")
    return folder


def _add_to_config(model: Model) -> None:
    """Add a model to `models.config` unless it is listed. Raises UserError if it is listed under another path."""
    base = Disk(str(model.base_path))
    if labels.canary_version(base) is None:
        newest_two = sorted(model.versions)[-2:]
        labels.update(base, stable=newest_two[0], canary=newest_two[-1])
    labels.relocate(os.path.dirname(base.path))  # the container finds the models at their path on this machine
    path = labels.config_path(base)
    configs = model_config.decode(model_config.read_bytes(path), path)
    if base.path not in {config.base_path for config in configs}:
        raise UserError(f"{path} lists no model at {base.path}: remove the file, then try again")
