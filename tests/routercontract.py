"""What every Router owes, whatever carries the traffic: inherit `RouterContract` and give it a `gateway`.

A gateway here is the router with what it writes to, played or real. Its clock is turned by the tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import pytest

from luthier.errors import Conflict, NameConflict
from luthier.plan import Json, Traffic

SOON = 120.0
"""No way from one list to another takes longer, in seconds, once a gateway confirms."""


class PlayedGateway(ABC):
    """A router under test, and what it writes to."""

    @abstractmethod
    def traffic(self, weights: dict[str, int], cohort: tuple[str, str] | None = None) -> Traffic:
        """Return the wish for these percentages by Service, with the version as read now.

        Args:
            weights: Of requests without the header.
            cohort: A value of the header, and the Service that gets requests with it.
        """

    @abstractmethod
    async def write(self, traffic: Traffic) -> float | None:
        """Call the router."""

    @abstractmethod
    def shares(self) -> dict[str, float]:
        """Return which part of the requests goes where now."""

    @abstractmethod
    def by_header(self, value: str) -> str | None:
        """Return the Service that gets requests with this value of the header; None: they go by the weights."""

    @abstractmethod
    def known(self) -> frozenset[str]:
        """Return the Services that proxies keep connections to now."""

    @abstractmethod
    def known_by_header(self) -> frozenset[str]:
        """Return the Services that proxies keep connections to for requests with the header."""

    @abstractmethod
    def has_header_rule(self) -> bool:
        """Say whether anything is written for requests with the header, whether one can match or not."""

    @abstractmethod
    def confirm(self) -> None:
        """Let proxies take what was written, and say so."""

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Turn the clock."""

    @abstractmethod
    def restart(self) -> None:
        """Begin again with a new process: nothing is remembered."""

    @abstractmethod
    def edit(self, weights: dict[str, int]) -> None:
        """Let somebody else write weights by hand."""

    @abstractmethod
    def take_name(self, owner: Json) -> None:
        """Let an object of another owner be there under the name."""

    @property
    @abstractmethod
    def writes(self) -> int:
        """How many times something was written by the router."""


async def arrive(
    gateway: PlayedGateway, weights: dict[str, int], cohort: tuple[str, str] | None = None
) -> list[dict[str, float]]:
    """Ask for weights until they are there; return the shares after each write."""
    seen: list[dict[str, float]] = []
    waited = 0.0
    while True:
        before = gateway.writes
        wait = await gateway.write(gateway.traffic(weights, cohort))
        if gateway.writes > before:
            seen.append(gateway.shares())
            gateway.confirm()
        if wait is None:
            return seen
        assert waited < SOON, f"{gateway.shares()} after {waited} s"
        # A router may say how long to wait at the latest; a confirmation brings it back earlier.
        wait = min(wait, 1.0)
        gateway.wait(wait)
        waited += wait


def rounded(shares: dict[str, float]) -> dict[str, int]:
    return {name: round(100 * share) for name, share in shares.items() if round(100 * share)}


class RouterContract:
    """Inherited by the tests of each Router."""

    WISHES: ClassVar[list[dict[str, int]]] = [
        {"r1": 75, "r2": 25},
        {"r1": 1, "r2": 99},
        {"r1": 0, "r2": 100},
        {"r1": 100},
        {"r2": 100},
        {"r2": 90, "r3": 10},
        {"r1": 100},
    ]

    COHORTS: ClassVar[list[tuple[dict[str, int], tuple[str, str] | None]]] = [
        ({"r1": 100}, ("beta", "r2")),
        ({"r1": 90, "r2": 10}, ("beta", "r2")),
        ({"r1": 90, "r2": 10}, ("gamma", "r2")),
        ({"r1": 50, "r2": 50}, None),
        ({"r2": 100}, ("gamma", "r3")),
        ({"r2": 100}, ("gamma", "r4")),
        ({"r2": 100}, None),
    ]

    async def test_the_first_write_is_the_wish(self, gateway):
        assert await gateway.write(gateway.traffic({"r1": 100})) is None
        assert rounded(gateway.shares()) == {"r1": 100}

    async def test_each_wish_is_reached_and_then_written_no_more(self, gateway):
        await arrive(gateway, {"r1": 100})
        for wish in self.WISHES:
            await arrive(gateway, wish)
            assert rounded(gateway.shares()) == {name: share for name, share in wish.items() if share}
            before = gateway.writes
            assert await gateway.write(gateway.traffic(wish)) is None
            assert gateway.writes == before

    async def test_less_traffic_is_in_the_first_write(self, gateway):
        await arrive(gateway, {"r1": 60, "r2": 40})
        first, *_ = await arrive(gateway, {"r1": 100})
        assert rounded(first) == {"r1": 100}

    async def test_who_keeps_a_weight_of_nothing_comes_back_in_one_write(self, gateway):
        await arrive(gateway, {"r1": 50, "r2": 50})
        await arrive(gateway, {"r1": 0, "r2": 100})
        first, *_ = await arrive(gateway, {"r1": 100})
        assert rounded(first) == {"r1": 100}

    async def test_nobody_gets_a_share_who_is_not_known_yet(self, gateway):
        await arrive(gateway, {"r1": 100})
        for wish in self.WISHES:
            while True:
                known, before = gateway.known(), gateway.writes
                wait = await gateway.write(gateway.traffic(wish))
                strangers = {n for n, share in gateway.shares().items() if share > 1e-5} - known
                assert not strangers, f"{strangers} on the way to {wish}"
                if gateway.writes > before:
                    gateway.confirm()
                if wait is None:
                    break
                gateway.wait(min(wait, 1.0))

    async def test_a_new_process_goes_on_from_anywhere(self, gateway):
        await arrive(gateway, {"r1": 100})
        for stop_after in (1, 2):
            for wish in self.WISHES:
                for _ in range(stop_after):
                    await gateway.write(gateway.traffic(wish))
                    gateway.confirm()
                    gateway.wait(1.0)
                gateway.restart()
            await arrive(gateway, {"r1": 100})
            assert rounded(gateway.shares()) == {"r1": 100}

    async def test_weights_that_somebody_else_wrote_are_put_back(self, gateway):
        await arrive(gateway, {"r1": 90, "r2": 10})
        gateway.edit({"r1": 20, "r2": 80})
        await arrive(gateway, {"r1": 90, "r2": 10})
        assert rounded(gateway.shares()) == {"r1": 90, "r2": 10}

    async def test_what_changed_since_it_was_read_is_not_overwritten(self, gateway):
        await arrive(gateway, {"r1": 90, "r2": 10})
        wish = gateway.traffic({"r1": 50, "r2": 50})
        gateway.edit({"r1": 20, "r2": 80})
        with pytest.raises(Conflict):
            await gateway.write(wish)
        assert rounded(gateway.shares()) == {"r1": 20, "r2": 80}

    async def test_what_came_since_it_was_absent_is_not_overwritten(self, gateway):
        wish = gateway.traffic({"r2": 100})
        await arrive(gateway, {"r1": 100})
        with pytest.raises(Conflict):
            await gateway.write(wish)
        assert rounded(gateway.shares()) == {"r1": 100}

    async def test_what_belongs_to_somebody_else_is_not_touched(self, gateway):
        gateway.take_name({"uid": "another", "controller": True, "kind": "Deployment", "name": "x"})
        before = gateway.writes
        with pytest.raises(NameConflict):
            await gateway.write(gateway.traffic({"r1": 100}))
        assert gateway.writes == before

    async def test_each_cohort_is_reached_and_then_written_no_more(self, gateway):
        await arrive(gateway, {"r1": 100})
        for weights, cohort in self.COHORTS:
            await arrive(gateway, weights, cohort)
            reached = {value: gateway.by_header(value) for value in ("beta", "gamma")}
            assert reached == {"beta": None, "gamma": None} | dict([cohort] if cohort else [])
            assert rounded(gateway.shares()) == weights
            before = gateway.writes
            assert await gateway.write(gateway.traffic(weights, cohort)) is None
            assert gateway.writes == before
        assert not gateway.has_header_rule()

    async def test_a_cohort_goes_back_with_the_first_write(self, gateway):
        await arrive(gateway, {"r1": 60, "r2": 40}, ("beta", "r2"))
        await gateway.write(gateway.traffic({"r1": 100}))
        assert gateway.by_header("beta") is None
        assert rounded(gateway.shares()) == {"r1": 100}

    async def test_a_cohort_reaches_nobody_who_is_not_known_yet(self, gateway):
        await arrive(gateway, {"r1": 100})
        for weights, cohort in self.COHORTS:
            while True:
                known, before = gateway.known_by_header(), gateway.writes
                wait = await gateway.write(gateway.traffic(weights, cohort))
                reached = {gateway.by_header(value) for value in ("beta", "gamma")} - {None}
                assert reached <= known, f"{reached} on the way to {cohort}"
                if gateway.writes > before:
                    gateway.confirm()
                if wait is None:
                    break
                gateway.wait(min(wait, 1.0))

    async def test_what_a_cohort_went_to_is_kept_until_proxies_know_that_it_goes_there_no_more(self, gateway):
        await arrive(gateway, {"r1": 100}, ("beta", "r2"))
        assert await gateway.write(gateway.traffic({"r1": 100})) is not None
        for _ in range(3):
            gateway.wait(1.0)
            await gateway.write(gateway.traffic({"r1": 100}))
            assert gateway.has_header_rule()
        gateway.confirm()
        await arrive(gateway, {"r1": 100})
        assert not gateway.has_header_rule()

    async def test_a_new_process_goes_on_with_a_cohort_from_anywhere(self, gateway):
        for stop_after in (1, 2, 3):
            for weights, cohort in self.COHORTS:
                for _ in range(stop_after):
                    await gateway.write(gateway.traffic(weights, cohort))
                    gateway.confirm()
                    gateway.wait(1.0)
                gateway.restart()
            await arrive(gateway, {"r1": 100}, ("beta", "r2"))
            assert gateway.by_header("beta") == "r2"
            gateway.restart()
            await arrive(gateway, {"r1": 100})
            assert not gateway.has_header_rule()
