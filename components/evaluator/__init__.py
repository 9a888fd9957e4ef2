"""Evaluator: runs TFMA on candidate and served model, and the gate that judges their answers.

`component` is the node and `executor` runs it. `predictions` keeps what both models answered, `scored` and `metrics`
compute figures, `uncertainty` intervals and tests, `judging` applies the thresholds, `verdict` is the outcome.
"""
