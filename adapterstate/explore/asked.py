"""What rules are asked about beside a state: one event and what came of it, and where adapters overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import attrs

from adapterstate.explore.worlds import World
from adapterstate.machine.records import Event, Facts, Footprint, Refusal

Broken = Iterator[tuple[str, str]]
"""Expected and observed, in words."""


@attrs.frozen
class Change:
    """One event and what came of it.

    Attributes:
        world: the model.
        before: the state that the event met.
        event: the event.
        refusals: every reason against it; empty when it was accepted.
        error: the class that is raised for them.
        after: the state after it: `before` when it was refused.
        memory: kept by the rules between the events of one state, emptied for the next.
    """

    world: World
    before: Facts
    event: Event
    refusals: tuple[Refusal, ...]
    error: type[Exception]
    after: Facts
    memory: dict[object, object]

    @property
    def accepted(self) -> bool:
        """Whether the event was accepted."""
        return not self.refusals


@lru_cache(maxsize=4096)
def overlapping(world: World, one: str, two: str) -> Mapping[str, tuple[str, ...]]:
    """Where two adapters replace the same row of the same weight: path of the module -> names of the weights."""
    places, others = world.places(one), world.places(two)
    found = {
        path: tuple(
            weight
            for weight, mine in places[path].replaces.items()
            if weight in others[path].replaces and _replaced(mine) & _replaced(others[path].replaces[weight])
        )
        for path in places
        if path in others
    }
    return {path: weights for path, weights in found.items() if weights}


def _replaced(footprint: Footprint) -> frozenset[int]:
    """Row numbers; a weight without rows counts as one."""
    if footprint.rows is not None:
        return footprint.rows
    return frozenset(range(footprint.shape[0] if footprint.shape else 1))
