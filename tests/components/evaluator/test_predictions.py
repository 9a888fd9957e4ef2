"""Reading both models' predictions."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graftline.components.evaluator import judging, predictions
from tests.components.evaluator.evaluations import CHANNELS, settings


def test_a_served_model_with_the_same_classes_in_another_order_knows_no_others(tmp_path: pathlib.Path) -> None:
    labels = list(CHANNELS)
    said = np.random.default_rng(0).dirichlet(np.ones(3), 30).astype(np.float32)
    columns = {name: ["x"] * 30 for name in ("image", "class", "folder", "size", "brightness")}
    columns["class"] = labels * 10
    columns |= {"candidate": list(said), "baseline": list(said[:, ::-1])}
    table = pa.table(columns, schema=predictions._schema({"candidate": 3, "baseline": 3}))
    pq.write_table(table, tmp_path / "predictions-00000-of-00001.parquet")
    answers = predictions.read(str(tmp_path), labels, labels[::-1], str(tmp_path))
    assert answers.shared is not None
    ours, theirs = answers.shared
    assert ours is answers.candidate
    assert theirs.predicted.tolist() == ours.predicted.tolist()
    assert np.allclose(theirs.probabilities, ours.probabilities, atol=1e-6)
    verdict = judging.judge(settings(accuracy={"min": 0, "min_change": 0.0}), answers)
    assert (verdict.other_classes, verdict.compared_examples) == (False, 30)
