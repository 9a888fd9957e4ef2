"""The node on artifacts as the DAG passes them: the report, the mark and the blessing's property."""

import pathlib

from graftline import blessings, references, signatures
from graftline.components.serving_validator import validation
from graftline.components.serving_validator.settings import ServingValidationSettings
from graftline.serving.versions import rollback, withdrawals
from graftline.serving.versions.base_path import Disk, content_digest
from tests.components.serving_validator.references import draw_references
from tests.serving.versions.saved_models import publish


def execute(
    root: pathlib.Path, saved_model: str, served: pathlib.Path, **changed: object
) -> tuple[int, validation.Report]:
    """Runs the executor on a model artifact made of the SavedModel; the blessing's property, and the report."""
    import shutil

    from tfx.types import standard_artifacts

    from graftline.components.serving_validator.executor import Executor

    model, blessing = standard_artifacts.Model(), standard_artifacts.InfraBlessing()
    model.uri, blessing.uri = str(root / "model"), str(root / "blessing")
    shutil.copytree(saved_model, root / "model" / "Format-Serving")
    references.write(draw_references(2), str(root / "model" / signatures.REFERENCES_FILE))
    properties = {
        "settings": ServingValidationSettings(enabled=False).model_dump_json(),
        "served": str(served),
        "allow_withdrawn": 0,
        **changed,
    }
    Executor().Do({"model": [model]}, {"blessing": [blessing]}, properties)
    report = validation.Report.from_json((root / "blessing" / blessings.SERVING_VALIDATION_FILE).read_text())
    assert (root / "blessing" / ("INFRA_BLESSED" if report.passed else "INFRA_NOT_BLESSED")).is_file()
    return blessing.get_int_custom_property("blessed"), report


def test_the_node_validates_the_model_by_the_predictions_beside_it(colours: str, tmp_path: pathlib.Path) -> None:
    settings = ServingValidationSettings().model_dump_json()
    blessed, report = execute(tmp_path, colours, tmp_path / "models" / "roses", settings=settings)
    assert (blessed, report.images, report.reasons) == (1, 2, [])


def test_a_model_that_was_rolled_back_from_is_not_blessed_again_unless_that_is_allowed(
    colours: str, tmp_path: pathlib.Path
) -> None:
    base = tmp_path / "models" / "roses"
    other = tmp_path / "other"
    other.mkdir()
    (other / "saved_model.pb").write_bytes(b"an earlier one")
    publish(str(other), str(base))
    publish(colours, str(base))
    rollback.roll_back(Disk(str(base)))
    assert withdrawals.withdrawn(Disk(str(base))) == {content_digest(colours)}

    blessed, report = execute(tmp_path / "refused", colours, base)
    assert blessed == 0
    (reason,) = report.reasons
    assert (report.withdrawn, report.images) == (True, 0)
    assert reason.startswith("this very model was version 2 and was rolled back from, to version 1, on 2")
    assert reason.endswith("; push.allow_withdrawn=true pushes it all the same")
    _assert_the_verdict_says_withdrawn(tmp_path / "refused" / "blessing", reason)
    assert execute(tmp_path / "allowed", colours, base, allow_withdrawn=1) == (1, validation.Report())


def _assert_the_verdict_says_withdrawn(infra: pathlib.Path, reason: str) -> None:
    from tfx.types import standard_artifacts

    from graftline.components.evaluator import verdict
    from graftline.components.evaluator.executor import _serving_validation

    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(infra)
    (check,) = _serving_validation({"infra_blessing": [blessing]})
    assert not check.passed
    assert verdict.sentence(check) == f"withdrawn: {reason}", "no server was asked, so none refused it"
    assert verdict.failures([check]) == [f"withdrawn: {reason}"]
