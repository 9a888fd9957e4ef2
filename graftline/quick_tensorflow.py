"""Import TensorFlow without Keras: a third of the time that `graftline serve` and `predict` take to start.

Measured on two cores, TensorFlow 2.16.2: 8.0 s of CPU with Keras (which brings pandas and scikit-learn), 4.9 s without.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator

from graftline import imports
from graftline.errors import UserError


@contextlib.contextmanager
def _kept_out(*packages: str) -> Iterator[None]:
    """Let `import` of these packages fail for the length of the `with`, unless they have been imported already."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None is how Python marks a refused import
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def import_tensorflow() -> None:
    """Import TensorFlow, unless that has been done, quietly and without Keras.

    `tensorflow/__init__.py` imports Keras for the sake of `tf.saved_model.load` on models saved by `Model.save`, and
    goes on without when it is missing. A SavedModel run in a session needs none. Keras can be imported as usual later;
    no other thread should be importing it during this call. Raises UserError where there is no TensorFlow.
    """
    # TensorFlow reports on the CPU and on CUDA plugins otherwise; what fails still comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules:
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                "this needs TensorFlow, which is not installed: run `pip install 'graftline[serve]'`, or ask a running "
                "server with `graftline predict --server`"
            )
        with imports.exempt_from_gc(), _kept_out("keras", "tf_keras"):
            import tensorflow  # noqa: F401
