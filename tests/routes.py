"""What a route says about revisions, as a person reads it: percentages by number; a trace is nothing."""

from __future__ import annotations

import re
from typing import Any

from luthier.headerrule import open_rule
from luthier.router import route_weights


def revision_in(name: str) -> str:
    """Return `r2` of a child's name."""
    found = re.search(r"-(r\d+)-", name)
    assert found, name
    return found[1]


def weights_in(route: dict[str, Any]) -> dict[str, int]:
    """Return the percentages of those that have any."""
    return {revision_in(name): weight for name, weight in route_weights(route).items() if weight}


def cohort_in(route: dict[str, Any]) -> str | None:
    """Return who gets the requests with a header; None: nobody by it."""
    rule = open_rule(route)
    return revision_in(rule.service) if rule is not None else None
