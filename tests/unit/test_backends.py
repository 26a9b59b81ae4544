"""How one list of backends becomes another: no write brings or takes a backend together with its traffic."""

import random

import pytest

from luthier.backends import MILLION, next_backends, shares

FULL = MILLION - 1


def backends(weights):
    return [{"name": name, "weight": weight} for name, weight in weights]


def way(live, wanted):
    """Return all lists that are written, each after the one before has settled."""
    written = []
    while (now := next_backends(live, wanted, settled=True)) != live:
        written.append([(b["name"], b["weight"]) for b in now])
        live = now
        assert len(written) < 10, written
    return written


@pytest.mark.parametrize(
    ("why", "live", "wanted", "written"),
    [
        ("nobody is served yet", [], [("a", 75), ("b", 25)], [[("a", 75), ("b", 25)]]),
        ("a share grows", [("a", 75), ("b", 25)], [("a", 50), ("b", 50)], [[("a", 50), ("b", 50)]]),
        ("one enters", [("a", 100)], [("a", 75), ("b", 25)], [[("a", FULL), ("b", 1)], [("a", 75), ("b", 25)]]),
        ("one leaves", [("a", 75), ("b", 25)], [("a", 100)], [[("a", FULL), ("b", 1)], [("a", 100)]]),
        ("0 stays ready", [("a", 75), ("b", 25)], [("a", 0), ("b", 100)], [[("a", 1), ("b", FULL)]]),
        ("and comes back at once", [("a", 1), ("b", FULL)], [("a", 100)], [[("a", FULL), ("b", 1)], [("a", 100)]]),
        (
            "one takes over",
            [("a", 50), ("b", 50)],
            [("b", 100)],
            [[("a", 1), ("b", FULL)], [("b", 0), ("b", 100)]],
        ),
        (
            "at once from nothing",
            [("a", 100)],
            [("b", 100)],
            [[("a", FULL), ("b", 1)], [("a", 1), ("b", FULL)], [("b", 0), ("b", 100)]],
        ),
        (
            "into the empty place",
            [("b", 0), ("b", 100)],
            [("b", 90), ("c", 10)],
            [[("c", 1), ("b", FULL)], [("c", 10), ("b", 90)]],
        ),
        (
            "one enters as one leaves",
            [("a", 50), ("b", 50)],
            [("a", 90), ("c", 10)],
            [
                [("a", 500_000), ("b", 499_999), ("c", 1)],
                [("a", 900_000), ("b", 1), ("c", 99_999)],
                [("a", 90), ("a", 0), ("c", 10)],
            ],
        ),
        ("a hand's list", [("x", 0), ("a", 1), ("a", 1)], [("a", 100)], [[("a", 0), ("a", 100)]]),
    ],
)
def test_each_way_from_one_list_to_another(why, live, wanted, written):
    assert way(backends(live), backends(wanted)) == written, why


@pytest.mark.parametrize(
    ("why", "live", "wanted", "written"),
    [
        ("more waits for the gateway", [("a", FULL), ("b", 1)], [("a", 75), ("b", 25)], [("a", FULL), ("b", 1)]),
        ("less does not", [("a", 75), ("b", 25)], [("a", 100)], [("a", FULL), ("b", 1)]),
        ("going waits", [("a", FULL), ("b", 1)], [("a", 100)], [("a", FULL), ("b", 1)]),
        ("a share that is there grows", [("a", 75), ("b", 25)], [("a", 50), ("b", 50)], [("a", 50), ("b", 50)]),
    ],
)
def test_what_waits_until_the_gateway_has_the_list(why, live, wanted, written):
    for unknown in ("b", None):
        now = next_backends(backends(live), backends(wanted), settled=False, unknown=unknown)
        assert [(b["name"], b["weight"]) for b in now] == written, why


def test_a_way_back_waits_for_nobody():
    for unknown in ((), None):
        now = next_backends(backends([("a", 1), ("b", FULL)]), backends([("a", 100)]), settled=False, unknown=unknown)
        assert shares(now) == {"a": 100, "b": 0}


def test_no_way_brings_or_takes_a_backend_together_with_its_traffic():
    chance = random.Random(7)
    live = backends([("a", 100)])
    for _ in range(500):
        names = chance.sample("abcd", chance.randint(1, 2))
        share = chance.randint(1, 99)
        wanted = backends([(names[0], share if names[1:] else 100), *((name, 100 - share) for name in names[1:])])
        for _ in range(5):
            now = next_backends(live, wanted, settled=chance.random() < 0.7, unknown=chance.choice(["abcd", None]))
            assert_no_jump(live, now)
            live = now
        while (now := next_backends(live, wanted, settled=True)) != live:
            assert_no_jump(live, now)
            live = now
        assert {n: s for n, s in shares(live).items() if s} == {b["name"]: b["weight"] for b in wanted}


def assert_no_jump(live, now):
    """A backend that comes, goes or changes its place has one part in a million before and after."""
    before, after = places(live), places(now)
    for name in before.keys() | after.keys():
        if before.get(name, (None, 0))[0] != after.get(name, (None, 0))[0]:
            assert max(before.get(name, (0, 0))[1], after.get(name, (0, 0))[1]) < 3e-6, (live, now)
    assert sum(b["weight"] for b in now) in (100, MILLION)


def places(refs):
    total = sum(b["weight"] for b in refs)
    return {b["name"]: (place, b["weight"] / total) for place, b in enumerate(refs) if b["weight"]}


def test_a_trace_is_read_as_nothing():
    assert shares(backends([("a", FULL), ("b", 1)])) == {"a": 100, "b": 0}
