"""Keeps Python's garbage collector off what TensorFlow, Keras and TFX make as they are imported."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """What is imported inside the `with` stays to the process' end, so the garbage collector never looks at it.

    It is a million objects. To look through them, again and again, took a second and a half of the import, two of the
    stages of a run and two and a half of the process' end. Does nothing lasting where TensorFlow has been imported
    before: there may then be garbage, such as models, which must not stay.
    """
    first, enabled = "tensorflow" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
    if first:
        gc.freeze()
