"""report.html: one page that opens anywhere. No outside requests, no scripts; every text of a case is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from luthier_eval.gates import Decision, show
from luthier_eval.judge import MetricFound, Sample, SideFound, SuiteFound
from luthier_eval.results import Results
from luthier_eval.stats import Estimate
from luthier_trainer.rows import Message

_MAX_SAMPLES = 12
_TEXT_CHARS = 2000

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--ok:#1a7f37;--bad:#cf222e;--open:#9a6700}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
h1{margin:0;font-size:1.2rem}h2{margin:2rem 0 .5rem;font-size:1.2rem}p{margin:.4rem 0}
.verdict{border-left:.5rem solid;padding:.5rem 1rem;margin:1rem 0}.verdict b{font-size:2rem;line-height:1.2}
.Passed{color:var(--ok)}.Failed{color:var(--bad)}.Inconclusive{color:var(--open)}
.verdict p{color:CanvasText}.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
td{overflow-wrap:normal}td.number,td.Passed,td.Failed,td.Inconclusive{white-space:nowrap}
td.number{font-variant-numeric:tabular-nums}
.bar{position:relative;display:block;min-width:7rem;height:.7rem;border:1px solid var(--line);border-radius:3px}
.bar i{position:absolute;top:0;bottom:0;background:#0969da99;min-width:2px}
.bar u{position:absolute;top:-3px;bottom:-3px;width:2px;background:CanvasText}
details{border:1px solid var(--line);border-radius:6px;padding:.4rem .8rem;margin:.5rem 0}summary{cursor:pointer}
pre{white-space:pre-wrap;background:#8881;padding:.5rem;border-radius:4px;margin:.2rem 0 .8rem}
@media(max-width:40rem){table,tbody,tr,td{display:block}th,td:empty{display:none}tr{border-bottom:1px solid var(--line)}
td,td.number{border:0;padding:.1rem 0;white-space:normal}}
dl{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.1rem 1rem;font-size:.9rem}dd{margin:0}
"""


def render_report(results: Results) -> str:
    """Return the whole page: verdict, values, gates, cases, provenance."""
    config = results.config
    body = [
        f"<h1>{escape(config.name)}</h1>",
        f'<div class="verdict {results.verdict}"><b>{results.verdict}</b><p>{escape(results.summary)}</p></div>',
        *(_suite(suite, config.target.name) for suite in results.suites),
        _gates(results.gates),
        *(_samples(suite, config.target.name) for suite in results.suites),
        _provenance(results),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{results.verdict}: {escape(config.name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _suite(suite: SuiteFound, target: str) -> str:
    chosen = f"{suite.cases} of {suite.available} cases" if suite.cases < suite.available else f"{suite.cases} cases"
    twice = f", {suite.duplicates} duplicates left out" if suite.duplicates else ""
    rows = "".join(_metric_rows(metric, target) for metric in suite.metrics)
    head = "<tr><th>metric</th><th>side</th><th>value and interval</th><th></th><th>target minus baseline</th></tr>"
    return (
        f"<h2>{escape(suite.name)} <small>({suite.type}, {chosen}{twice})</small></h2>"
        f'<div class="wide"><table>{head}{rows}</table></div>' + "".join(map(_side_note, suite.sides))
    )


def _metric_rows(metric: MetricFound, target: str) -> str:
    rows = [_row(metric.name, f"<b>{escape(target)}</b>", metric.target, "")]
    for found in metric.baselines:
        p = "" if found.mcnemar_p is None else f" <small>(McNemar p = {found.mcnemar_p:.2g})</small>"
        rows.append(
            _row("", escape(found.name), found.value, show(found.difference, points=True) + " for the target" + p)
        )
    return "".join(rows)


def _row(metric: str, side: str, value: Estimate, difference: str) -> str:
    return (
        f'<tr><td>{escape(metric)}</td><td>{side}</td><td class="number">{show(value)}</td>'
        f'<td>{_bar(value)}</td><td class="number">{difference}</td></tr>'
    )


def _bar(value: Estimate) -> str:
    low, middle, high = (100 * number for number in (value.low, value.value, value.high))
    return (
        f'<span class="bar" role="img" aria-label="{show(value)}">'
        f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><u style="left:{min(middle, 99):.1f}%"></u></span>'
    )


def _side_note(side: SideFound) -> str:
    notes = [f"{side.prompt_tokens:.0f} prompt and {side.completion_tokens:.0f} answer tokens a case"]
    if side.refused:
        notes.append(f"{side.refused} prompts refused by the engine (counted as wrong)")
    if side.cut:
        notes.append(f"{side.cut} answers cut at maxTokens")
    return f"<p><small>{escape(side.name)}: {', '.join(notes)}.</small></p>"


def _gates(gates: Iterable[Decision]) -> str:
    rows = "".join(
        f'<tr><td class="{gate.outcome}"><b>{gate.outcome}</b></td><td>{escape(gate.suite)} {escape(gate.metric)}</td>'
        f"<td>{escape(gate.message)}</td></tr>"
        for gate in gates
    )
    if not rows:
        return "<h2>Gates</h2><p>There are none: whatever the numbers, the verdict is Passed.</p>"
    meaning = "Passed: the whole interval satisfies the bound. Failed: the whole interval violates it."
    return f'<h2>Gates</h2><p><small>{meaning}</small></p><div class="wide"><table>{rows}</table></div>'


def _samples(suite: SuiteFound, target: str) -> str:
    """Show where the target is wrong; first where a baseline was right."""
    wrong = [sample for sample in suite.samples if sample.scores[target] < 1]
    wrong.sort(key=lambda sample: -max((s for side, s in sample.scores.items() if side != target), default=0.0))
    metric = escape(suite.metrics[0].name)
    title = f"<h2>{escape(suite.name)}: where the target is wrong <small>({len(wrong)} by {metric})</small></h2>"
    return title + "".join(_sample(sample, target) for sample in wrong[:_MAX_SAMPLES]) if wrong else ""


def _sample(sample: Sample, target: str) -> str:
    right = [side for side, score in sample.scores.items() if score == 1 and side != target]
    note = f"right: {', '.join(right)}" if right else "no side is right"
    asked = "\n\n".join(map(_message, sample.case.messages))
    parts = [("Question", asked), ("Right answer", sample.case.expected)]
    for side, answer in sample.answers.items():
        parts.append((side, answer.text if answer.error is None else f"(refused: {answer.error})"))
    body = "".join(f"<b>{escape(title)}</b><pre>{escape(text[:_TEXT_CHARS])}</pre>" for title, text in parts)
    return f"<details><summary>Case {sample.case.id[:12]} <small>({escape(note)})</small></summary>{body}</details>"


def _message(message: Message) -> str:
    return f"{message['role']}: {message['content']}"


def _provenance(results: Results) -> str:
    config = results.config
    facts = {
        "weights": config.model_digest,
        "base": config.base_digest,
        "confidence": f"{config.confidence_percent} % (two-sided intervals)",
        "prompt/completion rows are asked": "by the chat template" if results.render == "Chat" else "as plain text",
        **{f"serving {key}": str(value) for key, value in config.serving_profile.items()},
        **{f"cases of {suite.name}": f"{suite.digest} ({suite.uri})" for suite in results.suites},
        **{f"version of {name}": found for name, found in results.versions.items() if found},
        **{
            f"interval of {suite.name} {metric.name}": ", ".join(
                sorted({metric.target.method, *(found.difference.method for found in metric.baselines)})
            )
            for suite in results.suites
            for metric in suite.metrics
        },
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return f"<h2>What was judged, and how</h2><dl>{rows}</dl><p><small>All numbers: results.json.</small></p>"
