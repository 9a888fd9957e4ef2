"""Tests of the findings as files, messages and warnings."""

import pytest

from graftline import features
from graftline.components.data_validation import findings
from graftline.errors import UserError
from tests.components.data_validation.drawn_statistics import drawn, found, split, usual


def test_findings_survive_their_file() -> None:
    told = found(split(drawn(200, 1, ("a", "ü")), 1), usual())
    assert {finding.check for finding in told} >= {"new_label", "missing_class"}
    assert findings.from_json(findings.to_json(told)) == told


def test_what_only_warns_stops_nothing() -> None:
    warning = findings.Finding("drift", "warn", features.LABEL, "labels differ", "Look")
    findings.require_none_to_stop([warning])
    with pytest.raises(UserError) as stopped:
        findings.require_none_to_stop([warning, findings.Finding("skew", "stop", "", "they differ", "Look again")])
    assert str(stopped.value).splitlines()[1:] == ["- they differ. Look again, or set data.validation.skew=warn"]


def test_the_summary_warns_and_the_json_lists() -> None:
    from graftline.pipeline import console
    from graftline.pipeline.run_summary import RunSummary

    warning = findings.Finding("new_label", "warn", features.LABEL, "class 'd' (3 images): not in x", "Look", ("d",))
    run = RunSummary("1", True, None, None, None, None, 60, 0, 0, {}, data_findings=[warning])
    assert "WARNING: new label: class 'd' (3 images): not in x" in console.summary(run, "ws")
    (listed,) = run.as_json()["data_findings"]
    assert (listed["check"], listed["action"], list(listed["classes"])) == ("new_label", "warn", ["d"])
