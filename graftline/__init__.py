"""Graftline: from a folder of labelled images to a served classifier.

The public names are those of the client, which needs no TensorFlow. Each is imported when it is first used.
The rooms `pipeline`, `components`, `trainer` and `serving` are links to the folders of the same names in the
repository.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftline.serving.client import (
        AsyncClient,
        Client,
        Prediction,
        Retry,
        ServiceError,
        Signature,
        TensorSpec,
        VersionStatus,
    )

__all__ = [
    "AsyncClient",
    "Client",
    "Prediction",
    "Retry",
    "ServiceError",
    "Signature",
    "TensorSpec",
    "VersionStatus",
    "__version__",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public class when it is first used, so that `import graftline` alone costs nothing."""
    if name in __all__:
        return getattr(importlib.import_module("graftline.serving.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
