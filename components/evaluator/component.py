"""The Evaluator's node: TFMA runs the served function, and the gate's verdict decides the blessing.

TFX's own Evaluator blesses by TFMA's thresholds. These know neither significance nor ties, crash when the label set has
changed (tfx issue 4390), and cannot take in what a serving validation found.
"""

from tfx.dsl.components.base import executor_spec
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.types import BaseChannel, Channel, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.system_executions import Evaluate

from graftline.components.evaluator.executor import Executor
from graftline.components.evaluator.settings import GateSettings


class EvaluatorSpec(ComponentSpec):
    """Inputs, outputs and properties of Executor; `gate` is `GateSettings` as JSON."""

    PARAMETERS = {  # noqa: RUF012 (TFX's own shape)
        "gate": ExecutionParameter(type=str),
        "served": ExecutionParameter(type=str, optional=True),
        "served_base_path": ExecutionParameter(type=str, optional=True),
        "reset_baseline": ExecutionParameter(type=int, optional=True),
        "code": ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {  # noqa: RUF012
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
        "infra_blessing": ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
    }
    OUTPUTS = {  # noqa: RUF012
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    TYPE_ANNOTATION = Evaluate


class Evaluator(BaseBeamComponent):
    """See Executor. Outputs `evaluation` and `blessing`, as TFX's own."""

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: BaseChannel,
        model: BaseChannel,
        gate: GateSettings,
        *,
        served: str | None = None,
        served_base_path: str | None = None,
        baseline_model: BaseChannel | None = None,
        infra_blessing: BaseChannel | None = None,
        reset_baseline: bool = False,
        code: str = "",
    ) -> None:
        """Make the node. It evaluates `model` on the test split where there is one, otherwise on the eval split.

        `served` is the directory of the served version; "" when none is served; None when it is not known yet. With
        `served_base_path`, the folder or URI of the served versions that is read when the node runs, `served` only
        enters the cache key, as `code` does. When neither is known, `baseline_model` is the served model.
        With `reset_baseline` the model is compared with none, as in a first run. A model that the serving validation
        refused in `infra_blessing` is evaluated and not blessed.
        """
        optional = {
            "served": served,
            "served_base_path": served_base_path,
            "baseline_model": baseline_model,
            "infra_blessing": infra_blessing,
            "reset_baseline": 1 if reset_baseline else None,
        }
        super().__init__(
            EvaluatorSpec(
                examples=examples,
                model=model,
                gate=gate.model_dump_json(exclude_defaults=True),
                code=code,
                evaluation=Channel(type=standard_artifacts.ModelEvaluation),
                blessing=Channel(type=standard_artifacts.ModelBlessing),
                **{name: value for name, value in optional.items() if value is not None},
            )
        )
