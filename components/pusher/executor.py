"""The Pusher's executor: checks the blessings and finds the model as TFX does, and publishes the model as a version."""

import json
from typing import Any

from tfx import types
from tfx.components.pusher import executor as tfx_executor
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

from graftline.blessings import NEW_VERSION, REFUSED
from graftline.components.pusher.settings import PushSettings
from graftline.components.storage.versions import destination, local_copy
from graftline.serving.versions import publish
from graftline.serving.versions.withdrawals import WithdrawnError


class Executor(tfx_executor.Executor):
    """Publishes by `serving.versions.publish`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Push the model, or mark the output as not pushed."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed_model = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed_model)
            return
        push_destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties["push_destination"], push_destination)
        base_path = destination(push_destination.filesystem.base_directory)
        settings = PushSettings.model_validate(json.loads(exec_properties["custom_config"])["settings"])
        try:
            with local_copy(self.GetModelPath(input_dict)) as saved_model:
                published = publish.push(saved_model, base_path, settings.keep_versions, settings.allow_withdrawn)
        except WithdrawnError as error:
            # Rare: Graftline's ServingValidator refuses withdrawn models earlier.
            self._MarkNotPushed(pushed_model)
            pushed_model.set_string_custom_property(REFUSED, str(error))
            return
        self._MarkPushed(pushed_model, pushed_destination=published.path, pushed_version=str(published.version))
        pushed_model.set_int_custom_property(NEW_VERSION, int(published.new))
