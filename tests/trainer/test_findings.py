"""Findings: what is found is masked wherever it is shown."""

from luthier_trainer.findings import Finding, excerpt


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
