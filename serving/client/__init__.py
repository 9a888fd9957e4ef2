"""The client of a model server: TensorFlow Serving's API over gRPC or REST, blocking or on an event loop.

Applications import these names from `graftline`:

    from graftline import Client

    with Client("localhost:8500", "flowers") as client:  # or "http://localhost:8501"
        for row in client.classify(["rose.jpg", image_bytes]):
            print(row.label, row.score)

`AsyncClient` has the same methods, to be awaited. `pip install graftline` installs all that it needs; TensorFlow is not
among that.
"""

from graftline.serving.client.clients import AsyncClient, Client
from graftline.serving.client.exchange import Retry
from graftline.serving.client.results import Prediction, ServiceError, Signature, TensorSpec, VersionStatus

__all__ = ["AsyncClient", "Client", "Prediction", "Retry", "ServiceError", "Signature", "TensorSpec", "VersionStatus"]
