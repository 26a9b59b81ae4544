"""A dead watch is not healthy; an API server that is away is not our illness."""

import pytest

from luthier.health import complaint

LONG_AGO = float("inf")


def test_young_watches_are_healthy():
    assert complaint({"jobs": 70.0, "pods": 299.0}, LONG_AGO) is None
    assert complaint({}, LONG_AGO) is None


@pytest.mark.row(12)
def test_a_dead_watch_is_named():
    assert complaint({"jobs": 301.0, "pods": 3.0}, LONG_AGO) == "nothing was heard for 300 s of: jobs"


@pytest.mark.row(12)
def test_while_the_api_server_is_away_a_restart_helps_nobody():
    assert complaint({"jobs": 900.0}, 5.0) is None
    assert complaint({"jobs": 900.0}, 121.0) is not None
