"""Frozen records of the public face: what a user keeps, prints or compares."""

from __future__ import annotations

import attrs

from adapterstate.machine.plan import Plan
from adapterstate.machine.records import Event, Policy, Refusal


@attrs.frozen
class Snapshot:
    """A state to come back to. It holds names, no tensors.

    Attributes:
        adapters: in the order in which they were added.
        active: in activation order.
        merged: those of the active that are merged.
        weights: one for each of the active.
        on_overlap: the policy that the activation named; None for those that the adapters carry.
        enabled: whether adapters are applied at all.
        trainable: those of the adapters that are trainable.
    """

    adapters: tuple[str, ...]
    active: tuple[str, ...]
    merged: tuple[str, ...]
    weights: tuple[float, ...]
    on_overlap: Policy | None
    enabled: bool
    trainable: tuple[str, ...]


@attrs.frozen
class JournalEntry:
    """One accepted event, or several that were committed as one.

    Attributes:
        number: counts from 1.
        name: the method that was called, such as ``"set_adapter"``.
        events: the events of the charts, in order; empty for `repair`.
        changed: paths of the modules whose state changed.
        is_noop: nothing changed anywhere, and nothing was written.
    """

    number: int
    name: str
    events: tuple[Event, ...] = attrs.field(repr=lambda events: f"[{', '.join(map(str, events))}]")
    changed: tuple[str, ...] = attrs.field(repr=lambda paths: f"{len(paths)} modules" if len(paths) > 3 else repr(paths))
    is_noop: bool


@attrs.frozen(repr=False)
class Explanation:
    """What an event would do. Nothing has changed.

    Attributes:
        accepted: whether it would be accepted.
        refusals: every reason why not.
        plan: the steps it would take, with the rows of the charts.
    """

    accepted: bool
    refusals: tuple[Refusal, ...]
    plan: Plan

    def __repr__(self) -> str:
        head = " then ".join(str(step.event) for step in self.plan.steps)
        if self.accepted:
            return f"<Explanation: {head} accepted, {len(self.plan.changed)} modules change>"
        return f"<Explanation: {head} refused by {', '.join(dict.fromkeys(refusal.guard for refusal in self.refusals))}>"

    def __str__(self) -> str:
        head = " then ".join(str(step.event) for step in self.plan.steps)
        if self.accepted:
            return f"{head} would be accepted and change {len(self.plan.changed)} modules"
        return "\n".join([f"{head} would be refused:", *(f"  {refusal}" for refusal in self.refusals)])


@attrs.frozen
class Finding:
    """One place where torch differs from what the state says.

    Attributes:
        where: path of a module or name of a parameter.
        what: what differs.
        expected: as the state says.
        found: as it is.
        mendable: whether `repair` can put it right; not so where modules were exchanged or base parameters overwritten.
    """

    where: str
    what: str
    expected: str
    found: str
    mendable: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: expected {self.expected}, found {self.found}"
