"""The route's second rule, which sends requests with a header to one revision, and how it comes and goes: pure.

A gateway may route by a rule before its proxies know the rule's backend, and drop a backend that they still route to
(docs/adr/0017). So the rule comes closed, with a header that no client sends, opens when the gateway has confirmed it,
closes in one write, and goes when that is confirmed. It is always the second one: gateways name backends by place.
"""

from __future__ import annotations

from dataclasses import dataclass

from luthier.plan import Json

_NOBODY = {"type": "Exact", "name": "x-luthier-closed", "value": "86c0b7f43a4e8c2b9d51c6a1f02be97d"}
"""What a closed rule asks for. Who sends it on purpose gets, for a moment, what the header of the test would bring."""


@dataclass(frozen=True, kw_only=True)
class OpenRule:
    """A rule that requests can match."""

    service: str
    headers: tuple[tuple[str, str], ...]
    """(name, value): a request needs all of them."""


def open_rule(route: Json) -> OpenRule | None:
    """Return the second rule of a route; None: it has none, or a closed one."""
    rule = second_rule(route)
    if rule is None or not _is_open(rule):
        return None
    headers = rule["matches"][0].get("headers", []) if rule.get("matches") else []
    return OpenRule(service=_service(rule), headers=tuple((h["name"], h["value"]) for h in headers))


def second_rule(route: Json) -> Json | None:
    """Return it as it is written."""
    rules: list[Json] = route.get("spec", {}).get("rules") or []
    return rules[1] if len(rules) > 1 else None


def next_rule(live: Json | None, wanted: Json | None, *, settled: bool) -> Json | None:
    """Return the rule to write now, on the way from one to another; None: there is to be none.

    Args:
        live: What the route says.
        wanted: What it should say.
        settled: The gateway sends traffic by `live`, and has done so for a while.
    """
    if live is None:
        return _closed(wanted) if wanted is not None else None
    if wanted is None:
        return None if settled and not _is_open(live) else _closed(live)
    if _service(live) != _service(wanted):
        return _closed(live if _is_open(live) or not settled else wanted)
    return wanted if settled or _is_open(live) else _closed(wanted)


def _closed(rule: Json) -> Json:
    path = {key: match[key] for match in rule.get("matches", [])[:1] for key in ("path",) if key in match}
    return {**rule, "matches": [{**path, "headers": [dict(_NOBODY)]}]}


def _is_open(rule: Json) -> bool:
    return all(_NOBODY["name"] not in [h["name"] for h in m.get("headers", [])] for m in rule.get("matches", []))


def _service(rule: Json) -> str:
    return next((str(backend["name"]) for backend in rule.get("backendRefs", [])), "")
