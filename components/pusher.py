"""The Pusher: publishes a blessed model as the next version, atomically; the very model that is served adds none.

TFX's own copies file by file into a directory named by the second, and says "pushed" when that was there already.
"""

from typing import Any

from tfx import types
from tfx.components.pusher import component as tfx_component
from tfx.components.pusher import executor as tfx_executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

from serving import publish


class Executor(tfx_executor.Executor):
    """Checks the blessing and finds the model as TFX does, and publishes by `serving.publish`."""

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
        published = publish.publish(self.GetModelPath(input_dict), destination.filesystem.base_directory)
        self._MarkPushed(pushed_model, pushed_destination=published.path, pushed_version=str(published.version))
        pushed_model.set_int_custom_property("new_version", int(published.new))


class Pusher(tfx_component.Pusher):
    """See Executor."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
