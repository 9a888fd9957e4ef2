"""Keeps Python's garbage collector away from the objects that imports of TensorFlow, Keras and TFX make."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def exempt_from_gc() -> Iterator[None]:
    """Exempt the objects of the imports inside the `with` from garbage collection: they live until the process ends.

    These are a million objects. Collections that looked through them took 1.5 s of the imports, 2 s of the stages of a
    run, and 2.5 s of the end of the process. If TensorFlow was imported before, nothing is exempted: there may be
    garbage then, such as models, that must be freed.
    """
    is_first_import, was_enabled = "tensorflow" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
    if is_first_import:
        gc.freeze()
