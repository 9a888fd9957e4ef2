"""Gives Keras the settings that training needs. `graftline.own_keras` keeps others out of the environment."""

import keras


def set_keras() -> None:
    """Give Keras its own defaults again, whatever `keras.json` says. Call it before a model is built.

    On a cluster TFX imports Keras before any module of Graftline.

    Raises:
      RuntimeError: Keras was imported with another backend, which cannot be changed.
    """
    if keras.config.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras was imported with the backend {keras.config.backend()}: set KERAS_BACKEND=tensorflow before"
        )
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy("float32")  # made from floatx when it is first asked for
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
