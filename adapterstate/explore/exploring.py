"""Explore: walk worlds, check every rule in every state and on every transition, count, and stop at the first counterexample."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from adapterstate.errors import ArgumentError, type_of
from adapterstate.explore import rules
from adapterstate.explore.asked import Change
from adapterstate.explore.coverage import ChartCoverage
from adapterstate.explore.menu import Menu
from adapterstate.explore.report import Counterexample, Exploration, Walk
from adapterstate.explore.standard import STANDARD
from adapterstate.explore.walk import Key, Node, Transition, key, turned, walk
from adapterstate.explore.worlds import World
from adapterstate.machine.charts import CHARTS, Charts
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts

Progress = Callable[[str, int, int], None]
"""Told now and then: the name of the world, states finished, states known so far."""

EVERY = 7
"""Every how many events of a state the reversed order of presence is judged too."""


def explore(
    worlds: World | Iterable[World] = STANDARD,
    *,
    charts: Charts = CHARTS,
    deviations: Sequence[str] = (),
    progress: Progress | None = None,
) -> Exploration:
    """Visit every reachable state of small models and check every rule there and on every transition.

    It works on facts alone: no model is made and torch is not needed. It stops at the first counterexample, which is a shortest one.

    Args:
        worlds: the models; by default the standard ones, which take less than a minute together.
        charts: what may happen: the charts as they are, or derived ones.
        deviations: names of rules (`RULES`) that the charts break on purpose. They are counted and do not end the walk.
        progress: told now and then how far it is; `adapterstate.explore.printing.bar` makes one.

    Raises:
        ArgumentError: there is no world, two have one name, a deviation is no rule, or an argument has the wrong type.
    """
    if not isinstance(charts, Charts):
        raise ArgumentError(f"explore was given {type_of(charts)} as charts; Charts are expected, such as CHARTS.with_chart(...)")
    given = (worlds,) if isinstance(worlds, World) else worlds
    chosen = tuple(given) if isinstance(given, Iterable) else ()
    if not all(isinstance(world, World) for world in chosen) or not isinstance(given, Iterable):
        raise ArgumentError(f"explore was given {worlds!r}; a World or several are expected")
    strange = [rule for rule in deviations if rule not in rules.RULES]
    if strange:
        raise ArgumentError(f"explore was given {strange} as deviations; names out of {list(rules.RULES)} are expected")
    names = [world.name for world in chosen]
    if not names or len(set(names)) < len(names):
        raise ArgumentError(f"explore was given worlds named {names}; at least one is expected, and each with a name of its own")
    walks: list[Walk] = []
    for world in chosen:
        walks.append(_Explorer(world, charts, deviations, progress).run())
        if walks[-1].counterexample is not None:
            break
    return Exploration(charts, tuple(walks), tuple(deviations))


Finding = tuple[str, str, str]
"""Rule, expected, observed."""


class _Explorer:
    """The walk of one world, with its checks."""

    def __init__(self, world: World, charts: Charts, deviations: Sequence[str], progress: Progress | None) -> None:
        self._world, self._charts, self._deviations, self._progress = world, charts, deviations, progress
        self._coverage = ChartCoverage(charts)
        self._deviated: Counter[str] = Counter()
        self._nodes: list[Node] = []
        self._memory: dict[object, object] = {}
        self._turned: Facts | None = None
        self._place: Key = ()
        self._results: dict[tuple[Key, int], Key] = {}
        self._prints = {0: repr(Facts())}
        self._transitions = self._accepted = 0

    def run(self) -> Walk:
        """Walk until the end or the first counterexample."""
        began = time.perf_counter()
        found = self._search()
        depth = max(node.depth for node in self._nodes) if self._nodes else 0
        return Walk(
            self._world,
            len(self._nodes),
            self._transitions,
            self._accepted,
            depth,
            self._coverage,
            dict(self._deviated),
            found,
            time.perf_counter() - began,
        )

    def _search(self) -> Counterexample | None:
        """Check every transition."""
        last = Transition(Node(0, Facts()), _START, None)
        found = self._first(last, self._of_state(last.source.facts))
        if found is not None:
            return found
        for transition in walk(self._world, self._charts, self._nodes):
            if last.source is not transition.source:
                found = self._written_to(last)
                self._begin(transition.source)
            last = transition
            self._count(transition)
            found = found or self._first(transition, self._findings(transition))
            if found is not None:
                return found
        return self._written_to(last)

    def _begin(self, node: Node) -> None:
        """Prepare for the events of the next state."""
        self._memory.clear()
        if self._world.every_order:
            self._place = key(node.facts, ordered=False)
        else:
            self._turned = turned(node.facts)
        if self._progress is not None and node.number % 50 == 0:
            self._progress(self._world.name, node.number, len(self._nodes))

    def _count(self, transition: Transition) -> None:
        """Count a transition, and remember a new state as it is found, before any event is judged in it."""
        self._transitions += 1
        if transition.plan is not None:
            self._coverage.add(transition.plan)
        if transition.target is not None:
            self._accepted += 1
            if transition.new:
                self._prints[transition.target.number] = repr(transition.target.facts)

    def _first(self, transition: Transition, findings: Iterator[Finding]) -> Counterexample | None:
        """The first finding that is no deviation; but if the state was written to, everything else may follow from that."""
        for rule, expected, observed in findings:
            if rule not in self._deviations:
                path = () if transition.event is _START else transition.path
                found = Counterexample(rule, self._world, path, expected, observed, transition.raised)
                return self._written_to(transition) or found
            self._deviated[rule] += 1
        return None

    def _written_to(self, last: Transition) -> Counterexample | None:
        """Rule 1: after events were judged in a state it is what it was, since planning writes nothing."""
        source, was = last.source, self._prints[last.source.number]
        if repr(source.facts) == was:
            return None
        if rules.ATOMIC in self._deviations:
            self._deviated[rules.ATOMIC] += 1
            return None
        for event in Menu(self._world).events(source.facts):
            facts, was = Facts(), ""
            with suppress(Exception):  # what it raises is not asked here
                facts = plan(self._charts, facts, source.path).after
                was = repr(facts)
                plan(self._charts, facts, (event,))
            if was and repr(facts) != was:
                return Counterexample(rules.ATOMIC, self._world, (*source.path, event), f"the state as it was: {was}", repr(facts))
        return Counterexample(rules.ATOMIC, self._world, last.path, f"the state as it was: {was}", repr(source.facts))

    def _findings(self, transition: Transition) -> Iterator[Finding]:
        """Everything that is broken by one transition."""
        if transition.plan is None:
            raised = transition.raised
            yield rules.AS_DECLARED, "the event is planned", f"{type(raised).__name__}: {raised}"
            return
        before = transition.source.facts
        after = transition.plan.after if transition.target is not None else before
        change = Change(self._world, before, transition.event, transition.plan.refusals, transition.plan.error, after, self._memory)
        for name, rule in rules.EVENTS.items():
            for expected, observed in rule(change):
                yield name, expected, observed
        if transition.new:
            yield from self._of_state(after)
        for name, rule in rules.LAST.items():
            for expected, observed in rule(change):
                yield name, expected, observed
        if self._world.every_order:
            yield from self._as_the_others(transition)
        elif self._transitions % EVERY == 0:
            yield from self._as_turned(transition)

    def _of_state(self, facts: Facts) -> Iterator[Finding]:
        """Everything that is broken in a state."""
        for name, rule in rules.STATES.items():
            for expected, observed in rule(self._world, facts):
                yield name, expected, observed

    def _as_turned(self, transition: Transition) -> Iterator[Finding]:
        """The state with the order of presence reversed gives the same: what the reduction assumes."""
        assert transition.plan is not None
        assert self._turned is not None
        wanted = _result(transition.plan)
        try:
            found = _result(plan(self._charts, self._turned, (transition.event,)))
        except Exception as raised:  # as in the walk itself: a finding
            found = ("raised", repr(raised))
        if wanted != found:
            yield rules.ONE_ORDER, f"with the order of presence reversed, {wanted}", f"{found}"

    def _as_the_others(self, transition: Transition) -> Iterator[Finding]:
        """States that differ only in the order of presence give the same. The menu offers them the same event objects."""
        assert transition.plan is not None
        found = _result(transition.plan)
        wanted = self._results.setdefault((self._place, id(transition.event)), found)
        if wanted != found:
            yield rules.ONE_ORDER, f"with another order of presence, {wanted}", f"{found}"


def _result(found: Plan) -> Key:
    """What came of an event, without the order of presence."""
    if found.accepted:
        return (key(found.after, ordered=False),)
    return ("refused", *sorted({(no.guard, no.where, tuple(sorted(no.adapters))) for no in found.refusals}))


_START = Event("(start)")
"""Stands for the event that led to the first state: there is none."""
