"""What has been decided before is not decided again: events that a state has met already are carried out from memory.

A plan depends on the charts, the stored facts and the event alone, and what it writes on nothing else. So the plan of an event, and its
writes, are kept under the facts that it met; when the same event meets the same facts again, its writes are done as one batch. The planner
and the engine decide whatever is met for the first time, and remain the reference: without this file everything works the same, slower.

Facts that are equal are made one object, so that switching there and back meets the same facts. Nothing is kept across a change of the
adapters that are there, or after tensors have moved.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs

from adapterstate.commit import Batch
from adapterstate.machine.plan import Plan
from adapterstate.machine.records import Facts
from adapterstate.modules.wrapping import moves

LIMIT = 256
"""How many events are kept; the oldest goes first."""


@attrs.frozen(eq=False)
class Known:
    """An event that was planned before.

    Attributes:
        before: the facts that it meets.
        plan: what was decided.
        batch: what it writes; None where that is not known yet, or nothing that could be done again.
        changed: paths of the modules whose state changes.
        moves: how often tensors had moved when it was written down.
    """

    before: Facts
    plan: Plan
    batch: Batch | None
    changed: tuple[str, ...]
    moves: int


class Memory:
    """The events that one state has met."""

    def __init__(self) -> None:
        self._known: dict[tuple[Hashable, int], Known] = {}
        self._facts: dict[Hashable, Facts] = {}

    def find(self, key: Hashable, facts: Facts) -> Known | None:
        """Return what is known of the event `key` in the state `facts`."""
        known = self._known.get((key, id(facts)))
        if known is None or known.before is not facts or known.moves != moves():
            return None
        return known

    def keep(self, key: Hashable, plan: Plan, batch: Batch | None) -> None:
        """Keep what was decided, and what was written."""
        if len(self._known) >= LIMIT:
            del self._known[next(iter(self._known))]
        self._known[key, id(plan.before)] = Known(plan.before, plan, batch, plan.changed, moves())

    def same(self, facts: Facts) -> Facts:
        """Return the one object that stands for facts equal to these."""
        if len(self._facts) >= LIMIT:
            self._facts.clear()
        return self._facts.setdefault(_signature(facts), facts)

    def forget(self) -> None:
        """Forget everything: other adapters are there now."""
        self._known.clear()
        self._facts.clear()


def _signature(facts: Facts) -> Hashable:
    """What tells facts apart while the same adapters are there. The facts are kept, so the identity of their adapters stays theirs."""
    switches = facts.enablement, facts.disabled_by_call, facts.disabled_by_contexts
    return id(facts.adapters), facts.active, facts.merged, tuple(facts.weights.items()), facts.on_overlap, switches


def key_of(name: str, *arguments: Any) -> Hashable:
    """Return what tells events apart that are called with these arguments; None for those that are not kept.

    Types count: ``True`` equals ``1.0``, and is refused as a weight all the same.
    """
    parts = [(*value, *map(type, value)) if isinstance(value, list | tuple) else (value, type(value)) for value in arguments]
    key = (name, *parts)
    try:
        hash(key)
    except TypeError:
        return None
    return key
