from convaudit.reports.reliability import reliability

BINS = [
    {"low": 0.0, "high": 0.5, "n": 0, "confidence": None, "accuracy": None, "bounds": [None, None]},
    {"low": 0.5, "high": 1.0, "n": 4, "confidence": 0.75, "accuracy": 0.5, "bounds": [0.15, 0.85]},
]
TRUST = {
    "error": 0.25, "errors": {"2": 0.25, "10": 0.3}, "bins": 2, "edges": "bins of equal width", "chance": 0.1,
    "chance_high": 0.2, "classwise": 0.2, "nll": 0.9, "brier": 0.5,
    "temperature": {"value": None, "halves": [None, None], "images": 4, "between": [0.01, 100], "error": None,
                    "nll": None},
}  # fmt: skip


def test_diagram_has_a_bar_per_bin_with_images():
    shown = reliability({"calibration": BINS})
    assert shown.plot is not None
    bars = next(mark.d for mark in shown.plot.marks if mark.role == "right")
    # From 0 up to the accuracy of one half, over the upper half of the axis.
    assert bars == "M193 218V113H339V218z"
    assert [bin.name for bin in shown.bins] == ["0.5 to 1"]
    assert not shown.facts


def test_facts_say_bins_edges_and_what_is_unknown():
    facts = {fact.name: fact for fact in reliability({"calibration": BINS, "trust": TRUST}).facts}
    assert "0.3000 with 10" in facts["Calibration error, 2 bins"].meaning
    assert facts["Temperature"].value == "none"


def test_nothing_measured_shows_nothing():
    shown = reliability({})
    assert (shown.bins, shown.plot, shown.facts) == ((), None, ())
