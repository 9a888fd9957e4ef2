"""The client of a model server: TensorFlow Serving's API over gRPC or REST, blocking or on an event loop.

    with Client("localhost:8500", "flowers") as client:        # or "http://localhost:8501"
        for found in client.classify(["rose.jpg", image_bytes]):
            print(found.label, found.score)

`AsyncClient` has the same methods to await. No TensorFlow is needed: `pip install graftline` brings all that is.
"""

from graftline.serving.client.clients import AsyncClient, Client
from graftline.serving.client.exchange import Retry
from graftline.serving.client.results import Prediction, ServiceError, Signature, TensorSpec, VersionStatus

__all__ = [
    "AsyncClient",
    "Client",
    "Prediction",
    "Retry",
    "ServiceError",
    "Signature",
    "TensorSpec",
    "VersionStatus",
]
