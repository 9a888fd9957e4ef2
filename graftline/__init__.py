"""Graftline: from a folder of labelled images to a served classifier.

The public names are those of the client, which needs no TensorFlow. Each is imported when it is first used.
The rooms `pipeline`, `components`, `trainer` and `serving` are links to the folders of the same names in the
repository.
"""

from typing import TYPE_CHECKING

from graftline.faces import face

if TYPE_CHECKING:
    # Kubeflow and Vertex import an artifact type by the name of its type: one module, and the class.
    from graftline.components.image_example_gen import Quarantine
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

__all__ = ["AsyncClient", "Client", "Prediction", "Retry", "ServiceError", "Signature", "TensorSpec", "VersionStatus"]
__all__ += ["__version__"]

__version__ = "0.1.0"

__getattr__ = face(__name__)
