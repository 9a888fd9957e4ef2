"""The Pusher: publishes a blessed model as the next version, atomically; the very model that is served adds none.

TFX's own copies file by file into a directory named by the second, and says "pushed" when that was there already.
A Vertex Endpoint is TFX's own extension's.
"""

import json
from typing import Any

from tfx import types
from tfx.components.pusher import component as tfx_component
from tfx.components.pusher import executor as tfx_executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import BaseChannel, artifact_utils
from tfx.utils import proto_utils

from graftline.components.pusher.settings import PushSettings
from graftline.components.storage import versions as object_store
from graftline.serving.versions import publish
from graftline.serving.versions.withdrawals import WithdrawnError

# Properties of the PushedModel, beside TFX's.
NEW_VERSION = "new_version"  # 1 when this push added the version
REFUSED = "refused"  # why a blessed model was not pushed


class Executor(tfx_executor.Executor):
    """Checks the blessings and finds the model as TFX does, and publishes by `serving.versions.publish`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes, or marks the output as not pushed."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed_model = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed_model)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], destination)
        settings = PushSettings.model_validate(json.loads(exec_properties["custom_config"])["settings"])
        try:
            with object_store.local_copy(self.GetModelPath(input_dict)) as saved_model:
                published = publish.push(
                    saved_model,
                    object_store.destination(destination.filesystem.base_directory),
                    settings.keep_versions,
                    settings.allow_withdrawn,
                )
        except WithdrawnError as error:
            # Seldom: the serving validation, if it is ours, has refused it before there was a blessing.
            self._MarkNotPushed(pushed_model)
            pushed_model.set_string_custom_property(REFUSED, str(error))
            return
        self._MarkPushed(pushed_model, pushed_destination=published.path, pushed_version=str(published.version))
        pushed_model.set_int_custom_property(NEW_VERSION, int(published.new))


class Pusher(tfx_component.Pusher):
    """See Executor."""

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
    """The node that pushes to the settings' destination: a folder, or a Vertex Endpoint.

    Args:
      settings: where to, and what stays.
      base_path: folder or URI of the model's versions.
      model_name: what an endpoint is called when the settings don't name it.
      model, model_blessing, infra_blessing: what to push, and that it may be.
      served: for the cache key alone: a push is taken from the cache only while what it pushed is still what is served.
      code: hash of the sources, for the cache key alone.
    """
    blessed = {"model": model, "model_blessing": model_blessing, "infra_blessing": infra_blessing}
    if settings.vertex.project is None:
        return Pusher(
            **blessed,
            push_destination=pusher_pb2.PushDestination(
                filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=base_path)
            ),
            custom_config={"settings": settings.model_dump(mode="json"), "served": served, "code": code},
        )
    # Here, as it brings Google's client: 1,500 modules, two seconds of each start.
    from tfx.extensions.google_cloud_ai_platform import constants
    from tfx.extensions.google_cloud_ai_platform.pusher import component as vertex_component

    vertex = settings.vertex
    return vertex_component.Pusher(
        **blessed,
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
