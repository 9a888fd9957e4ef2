"""The user's own callbacks: `training.callbacks` names functions or classes that make them."""

import importlib
from collections.abc import Sequence

import keras

from graftline.errors import UserError, did_you_mean

_KEY = "training.callbacks"


def make(paths: Sequence[str]) -> list[keras.callbacks.Callback]:
    """Return a new callback for each import path `package.module:factory`; the factory is called without arguments.

    Raises:
      UserError: a module cannot be imported, has no such name, or what it gives is no keras.callbacks.Callback.
    """
    return [_make(path) for path in paths]


def _make(path: str) -> keras.callbacks.Callback:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything
        raise UserError(
            f"{_KEY}: '{module_name}' cannot be imported ({type(error).__name__}: {error}): install the package, or "
            "put its folder on PYTHONPATH"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        near = did_you_mean(name, [key for key, value in vars(module).items() if callable(value)])
        raise UserError(f"{_KEY}: module '{module_name}' has no function or class '{name}'{near}")
    try:
        callback = factory()
    except Exception as error:
        raise UserError(f"{_KEY}: {path}() failed ({type(error).__name__}: {error})") from error
    if not isinstance(callback, keras.callbacks.Callback):
        raise UserError(f"{_KEY}: {path}() gives a {type(callback).__name__}, but must give a keras.callbacks.Callback")
    return callback
