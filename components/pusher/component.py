"""The Pusher's node: publishes a blessed model as the next version, atomically; an unchanged model adds no version.

TFX's own Pusher copies file by file into a directory named by the current second, and reports "pushed" when that
directory exists already. TFX's extension pushes to a Vertex Endpoint.
"""

from tfx.components.pusher import component as tfx_component
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import BaseChannel

from graftline.components.pusher.executor import Executor
from graftline.components.pusher.settings import PushSettings


class Pusher(tfx_component.Pusher):
    """TFX's Pusher with Graftline's executor."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)


def pusher(
    settings: PushSettings,
    base_path: str,
    model_name: str,
    *,
    model: BaseChannel,
    model_blessing: BaseChannel,
    infra_blessing: BaseChannel,
    served: str,
    code: str,
) -> tfx_component.Pusher:
    """Return the node that pushes to a folder, or to a Vertex Endpoint where the settings name its project.

    `base_path` is the folder or URI of the model's versions; an endpoint that the settings do not name is called
    `model_name`. `served` and `code`, a hash of the sources, only enter the cache key: a push comes from the cache only
    while the model that it pushed is served.
    """
    inputs = {"model": model, "model_blessing": model_blessing, "infra_blessing": infra_blessing}
    if settings.vertex.project is None:
        return Pusher(
            **inputs,
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=base_path)
            ),
            custom_config={"settings": settings.model_dump(mode="json"), "served": served, "code": code},
        )
    # Imported here: Google's client has 1,500 modules, which take two seconds.
    from tfx.extensions.google_cloud_ai_platform import constants
    from tfx.extensions.google_cloud_ai_platform.pusher import component as vertex_component

    vertex = settings.vertex
    return vertex_component.Pusher(
        **inputs,
        custom_config={
            constants.ENABLE_VERTEX_KEY: True,
            constants.VERTEX_REGION_KEY: vertex.region,
            constants.VERTEX_CONTAINER_IMAGE_URI_KEY: vertex.image,
            constants.SERVING_ARGS_KEY: {
                "project_id": vertex.project,
                "endpoint_name": vertex.endpoint or model_name,
                "machine_type": vertex.machine_type,
            },
        },
    )
