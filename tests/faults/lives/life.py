"""What a life is: how it begins, who plays what in it, when it is over, and what must then be there.

A player looks and acts, ten times a second, and is never disturbed itself: kubelet, gateway, clients, people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from faults.world import World

Json = dict[str, Any]
Act = Callable[[World], object]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What is lived before crashes are enumerated, undisturbed: another life covers it."""

    begin: Act
    play: Act
    is_there: Callable[[World], bool]
    seconds: float = 60.0
    is_quiet: bool = True
    """The operator has nothing more to write there; else the life begins at once."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """One way from a first `kubectl apply`, or from where `before` leads to, to an end.

    `begin` is what crashes are enumerated from; `play` acts; `is_over` says when; `state` is what is compared with the
    undisturbed run.
    """

    name: str
    begin: Act
    play: Act
    is_over: Callable[[World], bool]
    state: Callable[[World], Json]
    before: tuple[Stretch, ...] = ()
    seconds: float = 60.0
    settings: dict[str, object] = field(default_factory=dict)
    has_hooks: bool = False
    """A receiver of hooks stands by."""
    is_short: bool = False
    """Little is written after its beginning: the operator is also dead when it begins."""
    hand: Act | None = None
    """What a person does at every write of this life, instead of a crash; the end must be the same whenever it is."""
    judged: dict[int, int] = field(default_factory=dict)
    """How many requests a candidate needs at a weight before it may get more."""
    forgets: bool = False
    """Its status is wiped: what was judged may be gone from it, though never changed."""
    replicas: int | None = None
    """How many pods carry all traffic: no revision may get more of it than its ready ones carry; None: not judged."""
    may_return: frozenset[str] = frozenset()
    """Revisions that lose their traffic by no fault of their own, or by a pin, and get it back."""


def nobody(world: World) -> None:
    """Nobody acts."""


OURS = ("FineTuneJob", "Evaluation", "ModelDeployment")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of our kinds, as it is deleted."""

    plural: str
    name: str
    children: tuple[str, ...]
    """Plurals of what must go with it."""

    def delete(self, world: World, propagation: str = "Background") -> None:
        """Delete the object, once."""
        world.once("delete", lambda: world.place.delete(self.plural, self.name, propagation=propagation))

    def is_gone(self, world: World) -> bool:
        """Say whether it was deleted and all of it is gone."""
        gone = "delete" in world.notes and world.place.get(self.plural, self.name) is None
        return gone and not self.left(world)

    def is_orphaned(self, world: World) -> bool:
        """Say whether it was deleted and nobody owns its children any more."""
        gone = "delete" in world.notes and world.place.get(self.plural, self.name) is None
        return gone and not any(owner in OURS for child in self._children(world) for owner in self._owners(child))

    def left(self, world: World) -> list[str]:
        """Return what is left of it, and whose it is."""
        return sorted(f"{child['kind']} {self._owners(child)}" for child in self._children(world))

    def state(self, world: World) -> Json:
        return {"gone": world.place.get(self.plural, self.name) is None, "left": self.left(world)}

    def _children(self, world: World) -> list[Json]:
        listed = [(plural, world.stage.list(plural)) for plural in self.children]
        return [{**child, "kind": plural} for plural, found in listed for child in found]

    def _owners(self, child: Json) -> list[str]:
        return [owner["kind"] for owner in child["metadata"].get("ownerReferences", ())]

    def deleted(self, name: str, *before: Stretch, play: Act = nobody, propagation: str = "Background") -> Life:
        """Return a life that begins with the deletion, in the phase to which `before` leads."""
        is_orphan = propagation == "Orphan"
        return Life(
            name=name,
            before=before,
            begin=lambda world: self.delete(world, propagation),
            play=play,
            is_over=self.is_orphaned if is_orphan else self.is_gone,
            state=self.state,
            is_short=True,
        )

    def deleted_anywhere(self, name: str, life: Life) -> Life:
        """Return a life that ends with the deletion, or is ended by it at any write."""

        def play(world: World) -> None:
            life.play(world)
            if "delete" not in world.notes and life.is_over(world):
                self.delete(world)

        return Life(
            name=name,
            before=life.before,
            begin=life.begin,
            play=play,
            is_over=self.is_gone,
            state=self.state,
            hand=self.delete,
            seconds=life.seconds,
        )
