"""The verdict as JUnit XML, which every CI system reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

# XML 1.0 has no way at all to write these, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(notes: Mapping[str, Any], suite: str = "convaudit") -> str:
    """Write a verdict as JUnit XML: one test case per gate and one per failed leaf.

    Parameters
    ----------
    notes
        The notes of the ``verdicts`` leaf.
    suite
        Name of the test suite.

    Returns
    -------
    str
        XML text with its declaration. FAIL is a failure, ERROR an error, SKIP is skipped; WARN passes and is told in
        ``system-out``, as CI systems know no warning.
    """
    gates, failures = notes["gates"], notes["failures"]
    count = {status: sum(gate["status"] == status for gate in gates) for status in ("FAIL", "ERROR", "SKIP")}
    root = ElementTree.Element(
        "testsuite",
        name=_text(suite),
        tests=str(len(gates) + len(failures)),
        failures=str(count["FAIL"]),
        errors=str(count["ERROR"] + len(failures)),
        skipped=str(count["SKIP"]),
    )
    for gate in gates:
        _gate(root, gate)
    for row in failures:
        case = ElementTree.SubElement(root, "testcase", classname="stages", name=_text(row["leaf"]))
        ElementTree.SubElement(case, "error", message=_text(row["reason"]), type="ERROR")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _gate(root: ElementTree.Element, gate: Mapping[str, Any]) -> None:
    case = ElementTree.SubElement(root, "testcase", classname="gates", name=_text(gate["name"]))
    told = f"{gate['measurement']} {gate['limit']}: {gate['reason']}"
    element = {"FAIL": "failure", "ERROR": "error", "SKIP": "skipped"}.get(gate["status"])
    if element:
        node = ElementTree.SubElement(case, element, message=_text(gate["reason"]))
        if element != "skipped":
            node.set("type", gate["status"])
            node.text = _text(" ".join(part for part in (told, gate["why"]) if part))
    else:
        ElementTree.SubElement(case, "system-out").text = _text(f"{gate['status']} {told}")


def _text(value: str) -> str:
    return _FORBIDDEN.sub("\ufffd", value)
