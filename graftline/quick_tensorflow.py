"""Import TensorFlow without Keras, so that `graftline serve` and `graftline predict` start sooner.

Measured on two cores with TensorFlow 2.16.2: 8.0 s of CPU with Keras, which imports pandas and scikit-learn, and 4.9 s
without.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator

from graftline import imports
from graftline.errors import UserError, not_installed


@contextlib.contextmanager
def _blocked(*packages: str) -> Iterator[None]:
    """Make `import` of these packages fail inside the `with`, unless they have been imported already."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes an import fail
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def import_tensorflow() -> None:
    """Import TensorFlow quietly and without Keras, unless it is imported already.

    `tensorflow/__init__.py` imports Keras for `tf.saved_model.load` on models that `Model.save` wrote, and continues
    when Keras is missing. A SavedModel that runs in a session needs no Keras. Keras can be imported as usual
    afterwards; no other thread may import it during this call.

    Raises:
      UserError: TensorFlow is not installed.
    """
    # Otherwise TensorFlow logs about the CPU and about CUDA plugins. Failures still raise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules:
        if importlib.util.find_spec("tensorflow") is None:
            missing = not_installed("TensorFlow", "serve")
            raise UserError(f"{missing}, or ask a running server with `graftline predict --server`")
        with imports.exempt_from_gc(), _blocked("keras", "tf_keras"):
            import tensorflow  # noqa: F401
