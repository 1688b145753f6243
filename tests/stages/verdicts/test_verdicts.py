import math
from xml.etree import ElementTree

import pytest
from pydantic import TypeAdapter, ValidationError

from convaudit.stages.errors import ConfigError
from convaudit.stages.specs import Finding, Measurement, Summary
from convaudit.stages.verdicts.gates import GRAVITY, Gate, judge, worst
from convaudit.stages.verdicts.junit import junit
from convaudit.stages.verdicts.stage import Verdicts, headline

from ...stored_fake import StoredFake, make_subject, settle


def measured(value, name="predictions/accuracy", low=None, high=None, n=540):
    return Measurement(name, value, "1", "higher", n, "predictions/predicted", "share", low, high)


def found(severity):
    return Finding("filters/at-chance", severity, "chance", "detail")


@pytest.mark.parametrize(
    ("value", "limits", "level", "status"),
    [
        (0.95, {"min": 0.9}, "error", "PASS"),
        (0.90, {"min": 0.9}, "error", "PASS"),
        (math.nextafter(0.9, 0), {"min": 0.9}, "error", "FAIL"),
        (math.nextafter(0.9, 0), {"min": 0.9}, "warn", "WARN"),
        (0.05, {"max": 0.05}, "error", "PASS"),
        (math.nextafter(0.05, 1), {"max": 0.05}, "error", "FAIL"),
        (0.0, {"max": 0}, "warn", "PASS"),
        (1.0, {"max": 0}, "warn", "WARN"),
        (-0.1, {"min": 0, "max": 1}, "error", "FAIL"),
        (0.0, {"min": 0, "max": 1}, "error", "PASS"),
        (1.1, {"min": 0, "max": 1}, "error", "FAIL"),
        (math.nan, {"min": 0.9}, "error", "ERROR"),
        (math.nan, {"max": 0.9}, "warn", "ERROR"),
        (math.inf, {"min": 0.9}, "error", "ERROR"),
        (-math.inf, {"max": 0.9}, "error", "ERROR"),
        (0.1, {"min": 0.9}, "off", "SKIP"),
        (0.1, {"min": 0.9}, False, "SKIP"),
    ],
)
def test_judge(value, limits, level, status):
    assert judge(measured(value), Gate("predictions/accuracy", level=level, **limits)).status == status


@pytest.mark.parametrize(
    ("absence", "on_missing", "status"),
    [
        ("", "error", "ERROR"),
        ("", "skip", "ERROR"),
        ("not part of this run", "error", "ERROR"),
        ("not part of this run", "skip", "SKIP"),
    ],
)
def test_missing_measurements_are_never_a_pass(absence, on_missing, status):
    gate = Gate("confusion/ece", level="warn", max=1, on_missing=on_missing)
    assert judge(None, gate, absence).status == status


@pytest.mark.parametrize(
    ("value", "low", "high", "uncertain", "status"),
    [
        (0.92, 0.88, 0.95, True, "PASS"),
        (0.88, 0.85, 0.91, True, "FAIL"),
        (0.92, 0.91, 0.95, False, "PASS"),
        (0.92, 0.90, 0.95, False, "PASS"),
        (0.92, None, None, False, "PASS"),
    ],
)
def test_an_interval_over_the_limit_is_uncertain_but_judged_by_its_value(value, low, high, uncertain, status):
    judgement = judge(measured(value, low=low, high=high), Gate("predictions/accuracy", min=0.9))
    assert (judgement.uncertain, judgement.status) == (uncertain, status)
    assert ("both sides" in judgement.reason) == uncertain


@pytest.mark.parametrize(
    "settings", [{}, {"min": math.nan}, {"max": math.inf}, {"min": 2, "max": 1}, {"min": None, "max": None}]
)
def test_gates_that_cannot_judge_are_refused(settings):
    with pytest.raises(ConfigError, match="gate on predictions/accuracy"):
        Gate("predictions/accuracy", **settings)


def test_worst_is_the_gravest_and_nothing_judged_is_an_error():
    for position, status in enumerate(GRAVITY[1:], 1):
        for other in GRAVITY[: position + 1]:
            assert worst([other, status]) == worst([status, other]) == status
    assert worst([]) == "ERROR"
    assert worst(["SKIP", "SKIP"]) == "ERROR"
    assert worst(["SKIP", "PASS"]) == "PASS"


def judged(gates, summaries, failures=(), **settings):
    stored = StoredFake({}, summaries, failures)
    return settle(Verdicts(gates, **settings), make_subject([0, 1]), stored, []).notes


GATES = {
    "accuracy": Gate("predictions/accuracy", min=0.9),
    "calibration": Gate("confusion/ece", level="warn", max=0.1, on_missing="skip"),
}
GOOD = {
    "predictions": Summary(measurements=(measured(0.989, low=0.976, high=0.995),)),
    "confusion": Summary(measurements=(measured(0.02, "confusion/ece"),)),
}


def test_all_well():
    notes = judged(GATES, GOOD)
    assert notes["verdict"] == "PASS"
    assert headline(notes) == "PASS  2 of 2 gates; accuracy 98.9 % [97.6, 99.5] n=540"
    row = notes["gates"][0]
    assert row["limit"] == ">= 0.9"
    assert {k: row[k] for k in ("name", "level", "status", "measurement", "value", "low", "high", "unit", "n")} == {
        "name": "accuracy",
        "level": "error",
        "status": "PASS",
        "measurement": "predictions/accuracy",
        "value": 0.989,
        "low": 0.976,
        "high": 0.995,
        "unit": "1",
        "n": 540,
    }


def test_the_verdict_is_the_worst_gate():
    confusion = Summary(measurements=(measured(0.3, "confusion/ece"),))
    notes = judged(GATES, GOOD | {"confusion": confusion})
    assert notes["verdict"] == "WARN"
    assert headline(notes).startswith("WARN  1 of 2 gates; not passed: calibration; accuracy")
    assert judged(GATES, {**GOOD, "predictions": Summary(measurements=(measured(0.5),))})["verdict"] == "FAIL"


def test_a_stage_that_was_not_asked_for_is_not_judged_and_not_counted():
    notes = judged(GATES, {"predictions": GOOD["predictions"]})
    assert notes["verdict"] == "PASS"
    assert notes["gates"][1]["status"] == "SKIP"
    assert "1 of 1 gates (1 not judged)" in headline(notes)


def test_a_stage_that_does_not_apply_is_not_judged():
    confusion = Summary(notes={"status": "not applicable", "reason": "no labels"})
    notes = judged(GATES, GOOD | {"confusion": confusion})
    assert (notes["verdict"], notes["gates"][1]["status"]) == ("PASS", "SKIP")
    assert "no labels" in notes["gates"][1]["reason"]


@pytest.mark.parametrize(("on_missing", "status"), [("skip", "SKIP"), ("error", "ERROR")])
def test_a_measurement_that_its_stage_says_does_not_apply(on_missing, status):
    gates = {"worst": Gate("confusion/worst_recall", min=0.5, on_missing=on_missing)}
    confusion = Summary(notes={"not_applicable": {"confusion/worst_recall": "too few images"}})
    notes = judged(
        GATES | gates, GOOD | {"confusion": Summary((), GOOD["confusion"].measurements, (), confusion.notes)}
    )
    assert notes["gates"][2]["status"] == status
    assert "too few images" in notes["gates"][2]["reason"]


def test_a_name_that_a_finished_stage_does_not_know_is_an_error():
    gates = GATES | {"typo": Gate("confusion/eec", level="warn", max=0.1, on_missing="skip")}
    notes = judged(gates, GOOD)
    assert (notes["verdict"], notes["gates"][2]["status"]) == ("ERROR", "ERROR")


def test_a_failed_stage_is_an_error_with_its_reason():
    notes = judged(GATES, {"predictions": GOOD["predictions"]}, {"confusion": "out of luck"})
    assert notes["verdict"] == "ERROR"
    assert notes["gates"][1]["status"] == "ERROR"
    assert "out of luck" in notes["gates"][1]["reason"]


def test_a_failed_stage_that_no_gate_looks_at_is_an_error_too():
    notes = judged(GATES, GOOD, {"attributions/saliency": "out of luck"})
    assert notes["verdict"] == "ERROR"
    assert "failed: attributions/saliency" in headline(notes)


def test_a_failed_method_does_not_hide_what_another_measured():
    gates = {"explained": Gate("embeddings/pca_explained", min=0.1)}
    good = Summary(measurements=(measured(0.5, "embeddings/pca_explained"),))
    notes = judged(gates, {"embeddings/pca": good}, {"embeddings/tsne": "out of luck"})
    assert notes["gates"][0]["status"] == "PASS"
    assert notes["verdict"] == "ERROR"


@pytest.mark.parametrize(
    ("level", "severity", "verdict"),
    [
        ("warn", "error", "WARN"),
        ("error", "error", "FAIL"),
        ("off", "error", "PASS"),
        (False, "error", "PASS"),
        ("warn", "warning", "PASS"),
        ("error", "info", "PASS"),
    ],
)
def test_findings_of_severity_error_raise_the_verdict(level, severity, verdict):
    notes = judged(GATES, GOOD | {"filters": Summary(findings=(found(severity),))}, findings_level=level)
    assert notes["verdict"] == verdict


def test_findings_do_not_lower_an_error():
    notes = judged({}, {"filters": Summary(findings=(found("error"),))})
    assert notes["verdict"] == "ERROR"


def test_accuracy_that_is_nan_is_not_quoted():
    notes = judged(GATES, GOOD | {"predictions": Summary(measurements=(measured(math.nan),))})
    assert headline(notes) == "ERROR  1 of 2 gates; not passed: accuracy"


def test_its_own_earlier_verdict_is_not_read():
    assert judged(GATES, GOOD | {"verdicts": Summary(findings=(found("error"),))})["verdict"] == "PASS"


def test_plain_config_becomes_gates():
    plain = {"gates": {"a": {"measurement": "x/y", "max": 1}}, "findings_level": False}
    stage = TypeAdapter(Verdicts).validate_python(plain)
    assert stage.gates == {"a": Gate("x/y", max=1)}
    with pytest.raises(ValidationError):
        TypeAdapter(Verdicts).validate_python({"gates": {"a": {"measurement": "x/y", "max": 1, "level": "wrn"}}})


def test_junit_tells_every_gate_and_failure():
    nasty = {'<a> & "b"\x00\x1b': Gate("predictions/accuracy", min=0.99, reason="why <b>")}
    gates = GATES | nasty | {"idle": Gate("x/y", level="off", max=1)}
    confusion = Summary(measurements=(measured(0.3, "confusion/ece"),))
    notes = judged(gates, GOOD | {"confusion": confusion}, {"features": "gone \x07"})
    root = ElementTree.fromstring(junit(notes))
    assert {key: root.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    cases = {case.get("name"): [child.tag for child in case] for case in root}
    assert cases == {
        "accuracy": ["system-out"],
        "calibration": ["system-out"],
        '<a> & "b"\ufffd\ufffd': ["failure"],
        "idle": ["skipped"],
        "features": ["error"],
    }
    assert root[1][0].text.startswith("WARN ")
    assert "why <b>" in root[2][0].text
    assert junit(notes) == junit(notes)
