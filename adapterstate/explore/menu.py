"""The events that are tried in each state of a world."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import attrs

from adapterstate.explore.calls import call
from adapterstate.explore.worlds import World, adding
from adapterstate.machine.records import Event, Facts


class Menu:
    """The events of a world, made once per situation that they depend on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._made: dict[tuple[object, ...], tuple[Event, ...]] = {}

    def events(self, facts: Facts) -> tuple[Event, ...]:
        """Every event that is tried in a state. It depends on who is present, what is active and which contexts hold."""
        situation = (frozenset(facts.adapters), frozenset(facts.active), facts.disabled_by_contexts)
        if situation not in self._made:
            made: dict[str, Event] = {}
            for event in self._all(*situation):
                made.setdefault(call(event), event)
            self._made[situation] = tuple(made.values())
        return self._made[situation]

    def _all(self, present: frozenset[str], active: frozenset[str], contexts: int) -> Iterator[Event]:
        world = self._world
        have = [name for name in world.adapters if name in present] + sorted(present - set(world.adapters))
        good = list(self._good(have, [name for name in have if name in active]))
        yield from good
        yield from self._switches(have, contexts)
        if world.bad_input:
            yield from self._bad(have)
        for event in good:
            yield from self._reported(event)

    def _good(self, have: list[str], active: list[str]) -> Iterator[Event]:
        """Events of the activation chart."""
        world = self._world
        yield from (adding(world, name, policy) for name in world.adapters for policy in world.carried)
        for count in range(len(have) + 1):
            for names in itertools.permutations(have, count):
                yield from self._settings(names)
        yield from (Event("delete_adapter", names) for names in self._named_together(have))
        if world.merging:
            merged = [*self._named_together(have), tuple(active)]
            yield from (Event("merge_adapter", names) for names in merged)
            yield Event("unmerge_adapter")

    def _settings(self, names: tuple[str, ...]) -> Iterator[Event]:
        """`set_adapter` with these names, and every policy and choice of weights."""
        world = self._world
        choices: Iterable[tuple[float, ...] | None] = (None,)
        if world.weights and names:
            choices = (None, *itertools.product((1.0, *world.weights), repeat=len(names)))
        for weights, policy in itertools.product(choices, world.named):
            yield Event("set_adapter", names, weights=weights, on_overlap=policy)

    def _named_together(self, have: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The names of events for which several names mean each of them."""
        for count in range(len(have) + 1) if self._world.every_order else (1,):
            yield from itertools.permutations(have, count)

    def _switches(self, have: list[str], contexts: int) -> Iterator[Event]:
        """Events of the other two charts."""
        world = self._world
        if world.trainability:
            yield from (adding(world, name, policy, "frozen") for name in world.adapters for policy in world.carried)
            for names in self._named_together(have):
                yield from (Event("set_requires_grad", names, wanted=wanted) for wanted in ("trainable", "frozen"))
        if world.enablement:
            yield from (Event(name) for name in ("enable_adapters", "disable_adapters"))
            if contexts < world.contexts:
                yield Event("disable_adapters", holder="context")
            if contexts:  # nobody can leave a context that was not entered
                yield Event("enable_adapters", holder="context")

    def _bad(self, have: list[str]) -> Iterator[Event]:
        """Names that are unknown, repeated or illegal, weights that do not fit, and a policy that is not given."""
        world = self._world
        yield from (adding(world, name) for name in world.adapters)
        yield from (adding(world, name, world.carried[0]) for name in ("", "a.b"))
        known = have[:1]
        strangers = [name for name in world.adapters if name not in have]
        strangers += [other for name in known for other in (name[:-1], name + "x", name.upper()) if other and other not in have]
        bad: list[tuple[str, ...]] = [(name,) for name in strangers or ["stranger"]]
        bad += [tuple(order) for name in known for order in ((name, strangers[0]), (strangers[0], name), (name, name))]
        bad += [(have[0], have[1], have[0]) for _ in have[1:2]]
        for names, event in itertools.product(bad, ("set_adapter", "delete_adapter", "merge_adapter", "set_requires_grad")):
            yield Event(event, names)
        for name in known:
            yield from (Event("set_adapter", (name,), weights=weights) for weights in ((), (0.5, 0.5), (math.nan,), (math.inf,)))

    def _reported(self, event: Event) -> Iterator[Event]:
        """The event with each report about it, and with all of them."""
        about = [report for report in self._world.reports if report.event == event.name]
        for report in about:
            yield attrs.evolve(event, reports={report.guard: {report.where: report.text}})
        if len(about) > 1:
            together: dict[str, dict[str, str]] = {}
            for report in about:
                together.setdefault(report.guard, {})[report.where] = report.text
            yield attrs.evolve(event, reports=together)
