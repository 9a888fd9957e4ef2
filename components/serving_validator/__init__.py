"""ServingValidator: serves the candidate as TFX's InfraValidator does, without docker.

`component` is the node and `executor` runs it. `validation` sends the requests, `server_process` is the server.
"""

from typing import TYPE_CHECKING

from graftline.faces import face

if TYPE_CHECKING:
    from graftline.components.serving_validator.component import serving_validator as make_serving_validator
    from graftline.components.serving_validator.settings import ServingValidationSettings

__getattr__ = face(__name__)
