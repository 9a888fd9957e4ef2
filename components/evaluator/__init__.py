"""Evaluator: runs TFMA on candidate and served model, and the gate that judges their answers.

`component` is the node and `executor` runs it. `predictions` keeps what both models answered, `scored` and `metrics`
compute figures, `uncertainty` intervals and tests, `judging` applies the thresholds, `verdict` is the outcome.
"""

from typing import TYPE_CHECKING

from graftline.faces import face

if TYPE_CHECKING:
    from graftline.components.evaluator.component import Evaluator
    from graftline.components.evaluator.settings import (
        AccuracyThreshold,
        GateSettings,
        Threshold,
        always_one,
        check_classes,
        check_folders,
        describe_lookalikes,
        explain_other_classes,
        warn_of_few_images,
    )
    from graftline.components.evaluator.verdict import (
        NOTHING_SERVED,
        VERDICT_FILE,
        VERDICT_TEXT,
        Check,
        Verdict,
        failures,
        sentences,
    )

__getattr__ = face(__name__)
