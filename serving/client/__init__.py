"""The client of a model server: TensorFlow Serving's API over gRPC or REST, blocking or on an event loop.

Applications import these names from `graftline`: `Client` has an example. `AsyncClient` has the same methods, to be
awaited. `pip install graftline` installs all that it needs; TensorFlow is not among that.
"""

from graftline.serving.client.clients import AsyncClient, Client
from graftline.serving.client.exchange import Retry
from graftline.serving.client.results import Prediction, ServiceError, Signature, TensorSpec, VersionStatus

__all__ = ["AsyncClient", "Client", "Prediction", "Retry", "ServiceError", "Signature", "TensorSpec", "VersionStatus"]
