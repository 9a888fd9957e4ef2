"""Keeps settings of the user's other projects away from Keras, TensorFlow and protobuf.

Keras reads them from `~/.keras/keras.json` and from the environment. Training needs the TensorFlow backend, images with
their channels last, and float32 (keras issues 7106 and 18955). The rooms that train call `set_environment` when they
are imported, so before Keras is, and child processes inherit the result. The client and `ModelServer` do not: they need
no Keras, and a program that uses the client may need its own.
"""

import json
import os

from graftline.errors import UserError

# What the user's shell may hold for other projects, and what a run would go by.
_LEFT_OUT = (
    "TF_USE_LEGACY_KERAS",  # tf.keras would be Keras 2
    "KERAS_MAX_EPOCHS",  # training would end early, without a word
    "KERAS_MAX_STEPS_PER_EPOCH",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION",  # a work-around of other versions; "python" is many times slower
)

# What Keras asserts about keras.json when it is imported.
_VALUES = {"floatx": ("float16", "float32", "float64"), "image_data_format": ("channels_last", "channels_first")}
_ADVICE = "repair or remove the file"


def set_environment() -> None:
    """Choose Keras' backend, and drop variables that change how Keras or protobuf work."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for name in _LEFT_OUT:
        os.environ.pop(name, None)


def check_file() -> None:
    """Raise UserError for a `keras.json` with which Keras cannot be imported."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    path = os.path.join(home, "keras.json")
    if not os.path.exists(path):
        return
    try:
        with open(path) as file:
            settings = json.load(file)
    except OSError as error:
        raise UserError(f"{path} holds Keras' settings and cannot be read: {error.strerror}; {_ADVICE}") from None
    except ValueError:
        return  # Keras goes on without it
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds Keras' settings, but its JSON is no object; {_ADVICE}")
    for key, values in _VALUES.items():
        if settings.get(key, values[0]) not in values:
            raise UserError(f"{path}: {key} is {settings[key]!r}, but Keras takes {' or '.join(values)}; {_ADVICE}")
    if not isinstance(settings.get("epsilon", 1e-7), float):
        raise UserError(f"{path}: epsilon is {settings['epsilon']!r}, but Keras takes a number like 1e-7; {_ADVICE}")
