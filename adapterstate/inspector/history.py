"""The journal with the facts after each event, which it does not hold: the planner, which is pure, is asked again.

Where to begin? At the first event there is no adapter. If the journal no longer holds it, then after an `unload`, or at a `set_adapter`
from which on no adapter came or went: what is active after it is what it says, and the rest is as it is now. Each of these is a guess, and
is believed only if every later event changes what the journal says it changed, and the last one leaves what is the case now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from adapterstate.machine.charts import Charts
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts
from adapterstate.records import JournalEntry
from adapterstate.state import JOURNAL_LENGTH

TRIES = 8
"""How many beginnings are tried; each costs a replay."""


@attrs.frozen
class History:
    """The journal, and what could be found out about it.

    Attributes:
        entries: the accepted events, the oldest first.
        start: from which of them on the facts are known; as many as there are when none are.
        before: the facts that this one met.
        plans: what the planner says of it and each later one.
    """

    entries: tuple[JournalEntry, ...]
    start: int
    before: Facts
    plans: tuple[Plan, ...]

    @property
    def notice(self) -> str:
        """What is known and what is not, for the reader."""
        if not self.entries:
            return "No event is in the journal."
        first, last = self.entries[0].number, self.entries[-1].number
        said = []
        if first > 1:
            said += [f"The journal keeps the last {JOURNAL_LENGTH:,} events: what came before event {first} is no longer known."]
        if self.start == len(self.entries):
            said += ["What was the case before the last event cannot be recomputed, so only the present is shown."]
            return " ".join(said)
        known = self.entries[self.start].number
        if self.start:
            said += [f"What was the case before event {known - 1} cannot be recomputed, so events up to it are listed without rows."]
        one = f"event {last}" if known == last else f"each of the events {known} to {last}"
        said += [
            f"The journal holds events, not states. What was the case after {one} was computed again by the planner, and agrees with what "
            "the journal says was changed and with what is the case now."
        ]
        return " ".join(said)


def history_of(charts: Charts, entries: Sequence[JournalEntry], present: Facts) -> History:
    """Replay as much of a journal as is sure.

    Args:
        charts: what the events were judged by.
        entries: the journal.
        present: what is the case after the last of them.
    """
    known = tuple(entries)
    again = _Again(charts)
    not_before = tries = 0
    for start in _beginnings(known):
        if start < not_before or tries == TRIES:
            continue
        tries += 1
        facts = _facts_at(start, known, present, again)
        if facts is None:
            continue
        plans, after = again.replay(known[start:], facts)
        reached = start + len(plans)
        if reached == len(known) and after == present:
            return History(known, start, facts, plans)
        not_before = reached + 1
    return History(known, len(known), present, ())


def _beginnings(entries: tuple[JournalEntry, ...]) -> Iterator[int]:
    """How many entries to pass over so that a replay of the others could succeed."""
    if entries and entries[0].number == 1:
        yield 0
    for place, entry in enumerate(entries, 1):
        if _empties(entry) or (entry.events and entry.events[0].name == "set_adapter"):
            yield place


def _empties(entry: JournalEntry) -> bool:
    """Whether no adapter is left after it."""
    return entry.name in ("unload", "merge_and_unload")


def _facts_at(start: int, entries: tuple[JournalEntry, ...], present: Facts, again: _Again) -> Facts | None:
    """A guess at the facts after the first `start` entries."""
    if start == 0 or _empties(entries[start - 1]):
        return Facts()
    found = again.planned(entries[start - 1], present)
    return found.after if found is not None else None


@attrs.frozen
class _Found:
    """What the planner says of one entry, and what has to agree with the journal. Equal facts are one object here."""

    plan: Plan
    after: Facts
    changed: tuple[str, ...]
    is_noop: bool

    def agrees(self, entry: JournalEntry) -> bool:
        """Whether this can have been what happened; `repair` has no events, and changes no facts."""
        return not entry.events or (self.changed, self.is_noop) == (entry.changed, entry.is_noop)


class _Again:
    """The planner, which is asked once where the same event meets the same facts again, as in a loop that switches to and fro."""

    def __init__(self, charts: Charts) -> None:
        self._charts = charts
        self._met: dict[tuple[object, ...], list[Facts]] = {}
        self._asked: dict[int, list[tuple[tuple[Event, ...], _Found | None]]] = {}

    def replay(self, entries: tuple[JournalEntry, ...], facts: Facts) -> tuple[tuple[Plan, ...], Facts]:
        """The plans of `entries` up to the first that cannot have been what happened, and the facts after them."""
        plans: list[Plan] = []
        for entry in entries:
            found = self.planned(entry, facts)
            if found is None or not found.agrees(entry):
                break
            plans.append(found.plan)
            facts = found.after
        return tuple(plans), facts

    def planned(self, entry: JournalEntry, facts: Facts) -> _Found | None:
        """What the planner says of an entry; None when it would refuse it."""
        facts = self._one(facts)
        asked = self._asked.setdefault(id(facts), [])
        for events, found in asked:
            if events == entry.events:
                return found
        asked.append((entry.events, self._plan(entry, facts)))
        return asked[-1][1]

    def _plan(self, entry: JournalEntry, facts: Facts) -> _Found | None:
        try:
            found = plan(self._charts, facts, entry.events)
        except Exception:  # a guard of a user's own may fail in a state that never was
            return None
        return _Found(found, self._one(found.after), found.changed, found.after == found.before) if found.accepted else None

    def _one(self, facts: Facts) -> Facts:
        """The first of the equal facts that were met. It is kept, so its `id` stays its own."""
        key = (tuple(facts.adapters), facts.active, facts.merged, facts.enablement)
        known = self._met.setdefault(key, [])
        for one in known:
            if one is facts or one == facts:
                return one
        known.append(facts)
        return facts
