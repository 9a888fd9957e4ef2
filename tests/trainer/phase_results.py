"""Results of phases, for the tests of the report and its figures."""

from collections.abc import Sequence
from typing import Any


def phase_result(name: str, val_loss: Sequence[float], best: int, **changed: object) -> dict[str, Any]:
    """Return a phase as `asdict` gives it, which ended with the weights of epoch `best`, from 0."""
    history = {
        "loss": [value + 0.1 for value in val_loss],
        "accuracy": [0.5 + epoch / 1000 for epoch in range(len(val_loss))],
        "val_loss": list(val_loss),
        "val_accuracy": [0.4 + epoch / 1000 for epoch in range(len(val_loss))],
        "learning_rate": [1e-3] * len(val_loss),
    }
    return {
        "name": name,
        "epochs": len(val_loss),
        "ended": "plateau",
        "accuracy": history["accuracy"][best],
        "val_accuracy": history["val_accuracy"][best],
        "val_loss": history["val_loss"][best],
        "kept": True,
        "history": history,
        **changed,
    }


TWO_PHASES = [phase_result("feature_extraction", [1.0, 0.7, 0.5, 0.6], 2), phase_result("fine_tuning", [0.45, 0.40], 1)]
