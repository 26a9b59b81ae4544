"""Findings: what is found is masked wherever it is shown."""

import json
from pathlib import Path
from typing import get_args

from luthier_trainer import findings
from luthier_trainer.findings import MAX_EXAMPLES, Action, Finding, Level, excerpt


def test_an_excerpt_masks_every_span_and_keeps_the_words_around_it() -> None:
    text = "call me at 555-0100 or write to ada@example.org please"
    spans = [(text.index("555"), text.index(" or")), (text.index("ada"), text.index(" please"))]
    assert excerpt(text, spans) == "call me at ████████ or write to ███████████████ please"


def test_an_excerpt_of_a_long_text_stands_around_the_first_span() -> None:
    text = "a" * 500 + " secret " + "b" * 500
    shown = excerpt(text, [(501, 507)])
    assert "██████" in shown
    assert "secret" not in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert len(shown) <= 122


def test_a_finding_as_json_has_every_part() -> None:
    finding = Finding(
        code="ExactDuplicates", level="Warning", action="Dropped", rows=3, share=0.03, message="m", hint="h"
    )
    assert finding.to_json() == {
        "code": "ExactDuplicates", "level": "Warning", "action": "Dropped", "rows": 3, "share": 0.03,
        "message": "m", "hint": "h", "examples": (),
    }  # fmt: skip


def test_levels_and_actions_are_those_of_the_reports_schema() -> None:
    schema = json.loads(Path(findings.__file__).with_name("report.schema.json").read_text())
    finding = schema["$defs"]["finding"]["properties"]
    assert finding["level"]["enum"] == list(get_args(Level))
    assert finding["action"]["enum"] == list(get_args(Action))
    assert finding["examples"]["maxItems"] == MAX_EXAMPLES
    assert sorted(finding) == sorted(schema["$defs"]["finding"]["required"])
