"""The node between Trainer and Evaluator: can this model be served?"""

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

NODE = "ServingValidator"  # the node's id, with either engine
_DOCKER_TAG = "2.16.1"  # of the image tensorflow/serving; the version of the TensorFlow that exports the model
_DOCKER_EXAMPLES = 32


class ServingValidatorSpec(ComponentSpec):
    """Takes a model, gives an infra blessing."""

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
    """Serves the candidate in a new process and sends it the requests of clients; see `validation`.

    TFX's InfraValidator runs after the Evaluator. There, a model that is blessed and then refused stays blessed in the
    metadata, which nobody can edit on Vertex, and becomes a baseline and the start of a warm start. So this node runs
    before the Evaluator, which does not bless a model that this node refused.

    For the same reason this node refuses a model that was rolled back from.

    Outputs:
      blessing: InfraBlessing as TFX's, with the report of the validation in it.
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
        """Make the node for the Trainer's model, with the reference predictions beside it.

        `served` is the folder or URI of the served versions, where rollbacks write their withdrawals; it may be "".
        With `allow_withdrawn` models pass that were rolled back from. `withdrawn`, the withdrawals when the run begins
        ("" where they are not known), and `code`, a hash of the sources, only enter the cache key.
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
    """Return the node for the engine in the settings.

    TFX's InfraValidator, with TensorFlow Serving's docker image, checks that the model loads and answers. It does not
    compile for Kubeflow and Vertex. With it, only the Pusher refuses a model that was rolled back from. It alone takes
    its requests from `examples`; the other arguments are those of `ServingValidator`.
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
