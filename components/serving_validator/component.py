"""The node between Trainer and Evaluator: may this model be served at all?"""

from tfx.components import InfraValidator
from tfx.dsl.components.base import executor_spec
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_node import BaseNode
from tfx.proto import infra_validator_pb2
from tfx.types import BaseChannel, channel_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from graftline import features, signatures
from graftline.components.serving_validator.executor import Executor
from graftline.components.serving_validator.settings import ServingValidationSettings

NODE = "ServingValidator"  # the node's id, whichever engine it has
_DOCKER_TAG = "2.16.1"  # of the image tensorflow/serving: that of the TensorFlow that exports
_DOCKER_EXAMPLES = 32


class ServingValidatorSpec(ComponentSpec):
    """A model in, an infra blessing out."""

    PARAMETERS = {  # noqa: RUF012 (TFX's own shape)
        "settings": ExecutionParameter(type=str),
        "served": ExecutionParameter(type=str),
        "allow_withdrawn": ExecutionParameter(type=int),
        "withdrawn": ExecutionParameter(type=str, optional=True),
        "code": ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {"model": ChannelParameter(type=standard_artifacts.Model)}  # noqa: RUF012
    OUTPUTS = {"blessing": ChannelParameter(type=standard_artifacts.InfraBlessing)}  # noqa: RUF012


class ServingValidator(BaseComponent):
    """Serves the candidate in a fresh process and asks it what clients ask; see `validation`.

    It stands before the Evaluator, where TFX has its InfraValidator after it: a model that was blessed by the one and
    refused by the other stays blessed in the metadata, which Vertex lets nobody edit, and would be a baseline and the
    start of a warm start. So here the Evaluator takes the infra blessing, and blesses nothing that was refused.

    A model that was rolled back from is refused here as well, for the same reason.

    Outputs:
      blessing: InfraBlessing as TFX's own, with `serving_validation.json` in it.
    """

    SPEC_CLASS = ServingValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        model: BaseChannel,
        settings: ServingValidationSettings,
        served: str,
        allow_withdrawn: bool = False,
        withdrawn: str = "",
        code: str = "",
    ) -> None:
        """Makes the node.

        Args:
          model: of the Trainer, with its reference predictions beside it.
          settings: tolerance and budgets.
          served: folder or URI of the versions that are served, where rollbacks leave their withdrawals; may be "".
          allow_withdrawn: let also pass what was rolled back from.
          withdrawn: what lies there now, for the cache key alone; "" where that is not known.
          code: hash of the sources that decide, for the cache key alone.
        """
        super().__init__(
            ServingValidatorSpec(
                model=model,
                settings=settings.model_dump_json(),
                served=served,
                allow_withdrawn=int(allow_withdrawn),
                withdrawn=withdrawn,
                code=code,
                blessing=channel_utils.as_channel([standard_artifacts.InfraBlessing()]),
            )
        )


def serving_validator(
    settings: ServingValidationSettings,
    *,
    model: BaseChannel,
    examples: BaseChannel,
    served: str,
    allow_withdrawn: bool,
    withdrawn: str,
    code: str,
) -> BaseNode:
    """The node of the settings' engine: ours, or TFX's InfraValidator with TensorFlow Serving's docker image.

    That one asks whether the model loads and answers; what was rolled back from the Pusher then refuses. It does not
    compile for Kubeflow and Vertex. `examples` are for it alone; for the other arguments see `ServingValidator`.
    """
    if settings.engine == "graftline" or not settings.enabled:
        return ServingValidator(model, settings, served, allow_withdrawn, withdrawn, code).with_id(NODE)
    node = InfraValidator(
        model=model,
        examples=examples,
        serving_spec=infra_validator_pb2.ServingSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServing(tags=[_DOCKER_TAG]),
            local_docker=infra_validator_pb2.LocalDockerConfig(),
        ),
        validation_spec=infra_validator_pb2.ValidationSpec(max_loading_time_seconds=int(settings.start_seconds)),
        request_spec=infra_validator_pb2.RequestSpec(
            tensorflow_serving=infra_validator_pb2.TensorFlowServingRequestSpec(
                signature_names=[signatures.SERVING_EXAMPLES]
            ),
            split_name=features.EVAL,
            num_examples=_DOCKER_EXAMPLES,
        ),
    )
    return node.with_id(NODE)
