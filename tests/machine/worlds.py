"""A small world to plan in, and a naive reference of what the rules demand of it.

Two modules and four adapters: `a` on M1, `b` on both, `c` on M2, `d` on both. `a` and `d` replace the same row on M1, `b` and `c` on M2;
all other pairs are disjoint. The reference keeps a few lists and sets for the model and derives everything about modules from them, rule by
rule; it shares no code with the planner.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from adapterstate.machine.charts import CHARTS, Charts
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts, Footprint, Policy, Proposal, SlotFacts

SHAPE = (8, 4)
LORA = SlotFacts(("lora",), tunes=True)


def whole(shape: tuple[int, ...] = SHAPE) -> SlotFacts:
    """A copy of the whole weight."""
    return SlotFacts(("modules_to_save",), tunes=False, replaces={"weight": Footprint(None, shape)})


def rows(*indices: int, weight: str = "weight") -> SlotFacts:
    """Some trained rows of the weight."""
    return SlotFacts(("trainable_token_indices",), tunes=False, replaces={weight: Footprint(frozenset(indices), SHAPE)})


PLACES: Mapping[str, Mapping[str, SlotFacts]] = {
    "a": {"M1": whole()},
    "b": {"M1": LORA, "M2": rows(0, 1)},
    "c": {"M2": rows(1, 2)},
    "d": {"M1": rows(5), "M2": rows(3)},
}
OVERLAPS = {("M1", frozenset("ad")), ("M2", frozenset("bc"))}


def adding(
    name: str,
    slots: Mapping[str, SlotFacts] | None = None,
    *,
    wanted: str = "trainable",
    base: tuple[str, ...] = (),
    on_overlap: Policy | None = None,
) -> Event:
    """`add_adapter` of an adapter of the world, or of one with these slots."""
    proposal = Proposal(f"config of {name}", PLACES[name] if slots is None else slots, base)
    return Event("add_adapter", (name,), wanted=wanted, on_overlap=on_overlap, proposal=proposal)


def naming(event: str, *names: str, **more: Any) -> Event:
    """An event that names adapters."""
    return Event(event, names, **more)


def planned(facts: Facts, *events: Event, charts: Charts = CHARTS) -> Plan:
    """The plan of events that are accepted."""
    found = plan(charts, facts, events)
    assert found.accepted, found.refusals
    return found


def after(*events: Event, start: Facts | None = None, charts: Charts = CHARTS) -> Facts:
    """The facts that accepted events leave."""
    return planned(start or Facts(), *events, charts=charts).after


def refused(facts: Facts, *events: Event, charts: Charts = CHARTS) -> Plan:
    """The plan of events the last judged of which is refused."""
    found = plan(charts, facts, events)
    assert not found.accepted
    return found


class Reference:
    """What the rules say about the world, in the simplest words there are."""

    def __init__(self) -> None:
        self.adapters: list[str] = []
        self.active: list[str] = []
        self.merged: set[str] = set()
        self.frozen: set[str] = set()
        self.carried: dict[str, Policy] = {}
        self.weights: dict[str, float] = {}
        self.named: Policy | None = None
        self.call = False
        self.contexts = 0

    def copy(self) -> Reference:
        other = Reference()
        other.adapters, other.active = list(self.adapters), list(self.active)
        other.merged, other.frozen = set(self.merged), set(self.frozen)
        other.carried, other.weights, other.named = dict(self.carried), dict(self.weights), self.named
        other.call, other.contexts = self.call, self.contexts
        return other

    def refusals(self, event: Event) -> set[tuple[str, str]]:
        """(guard, where) of every refusal that the rules demand."""
        names = event.adapters
        if event.name == "add_adapter":
            return {("name_is_new", "") for name in names if name in self.adapters}
        no = {("known", "") for name in names if name not in self.adapters}
        no |= {("distinct", "") for name in names if names.count(name) > 1}
        here = [name for name in names if name in self.adapters]
        if event.name == "set_adapter":
            pairs = [frozenset(pair) for pair in itertools.combinations(here, 2)]
            for module, pair in OVERLAPS:
                policies = {event.on_overlap or self.carried[name] for name in pair if name in self.adapters}
                if pair in pairs and policies not in ({"sum"}, {"override"}):
                    no.add(("no_overlap", module))
            weights = event.weights
            if weights is not None and (len(weights) != len(names) or not all(map(math.isfinite, weights))):
                no.add(("weights_match", ""))
        if event.name == "merge_adapter":
            no |= {("named_are_active", "") for name in here if name not in self.active}
        if event.name == "delete_adapter":
            no |= {("not_merged_here", module) for name in here if name in self.merged for module in PLACES[name]}
        return no

    def apply(self, event: Event) -> None:
        """Follow an accepted event."""
        names = list(event.adapters)
        if event.name == "add_adapter":
            self.active += names if not self.adapters else []  # rule 2: the first now present, and no other
            self.adapters += names
            self.carried[names[0]] = event.on_overlap or "error"
            self.frozen |= set(names) if event.wanted == "frozen" else set()
        elif event.name == "set_adapter":
            self.active, self.merged = names, set()  # rule 7: the arguments alone, nothing merged
            self.weights = dict(zip(names, event.weights or [1.0] * len(names), strict=True))
            self.named = event.on_overlap if names else None
        elif event.name == "merge_adapter":
            self.merged |= set(names)
        elif event.name == "unmerge_adapter":
            self.merged = set()
        elif event.name == "delete_adapter":
            self.adapters = [name for name in self.adapters if name not in names]
            self.active = [name for name in self.active if name not in names]
            self.frozen -= set(names)
            self.weights = {name: weight for name, weight in self.weights.items() if name not in names}
            self.named = self.named if self.active else None
        elif event.name == "set_requires_grad":
            self.frozen = self.frozen | set(names) if event.wanted == "frozen" else self.frozen - set(names)
        elif event.holder == "call":
            self.call = event.name == "disable_adapters"
        else:
            self.contexts += 1 if event.name == "disable_adapters" else -1

    def modules(self) -> dict[str, tuple[str, list[str], list[str], list[str]]]:
        """State, present, active and merged of each wrapped module (rule 3)."""
        found = {}
        for path in ("M1", "M2"):
            present = [name for name in self.adapters if path in PLACES[name]]
            active = [name for name in self.active if name in present]
            merged = [name for name in active if name in self.merged]
            if present:
                found[path] = ("merged" if merged else "active" if active else "inactive", present, active, merged)
        return found

    def agrees_with(self, facts: Facts) -> None:
        """Assert that the planner's facts are those of the rules."""
        assert list(facts.adapters) == self.adapters
        assert list(facts.active) == self.active
        assert list(facts.merged) == [name for name in self.active if name in self.merged]
        assert {name: adapter.trainability for name, adapter in facts.adapters.items()} == {
            name: "frozen" if name in self.frozen else "trainable" for name in self.adapters
        }
        assert facts.enabled == (not self.call and self.contexts == 0)
        assert {name: facts.weights.get(name, 1.0) for name in facts.active} == {name: self.weights.get(name, 1.0) for name in self.active}
        assert facts.on_overlap == (self.named if self.active else None)
        for path, module in facts.modules.items():
            here = [name for name in self.active if path in PLACES[name]]
            assert {name: module.context.weights.get(name, 1.0) for name in here} == {name: self.weights.get(name, 1.0) for name in here}
            replacing = [name for name in here if PLACES[name][path].replaces]
            assert {name: module.context.policies.get(name, "error") for name in replacing} == {
                name: self.named or self.carried[name] for name in replacing
            }
            assert set(module.context.weights) <= set(here)
            assert set(module.context.policies) <= set(replacing)
        stored = {
            path: (module.activation, list(module.context.present), list(module.context.active), list(module.context.merged))
            for path, module in facts.modules.items()
        }
        assert stored == self.modules()


NAMES = st.sampled_from("abcd")
SOME_NAMES = st.lists(st.sampled_from("abcdz"), max_size=3).map(tuple)
WANTED = st.sampled_from(("trainable", "frozen"))
HOLDER = st.sampled_from(("call", "context"))
POLICY = st.sampled_from(("error", "sum", "override"))
MAYBE_POLICY = st.none() | POLICY
WEIGHT = st.sampled_from((1.0, 0.5, 0.0, -2.0))


def _setting(names: list[str], weights: list[float] | None, policy: Policy | None) -> Event:
    """`set_adapter` with as many weights as names, if any."""
    return Event("set_adapter", tuple(names), weights=None if weights is None else tuple(weights[: len(names)]), on_overlap=policy)


WEIGHTS = st.none() | st.lists(WEIGHT, min_size=3, max_size=3)
BAD_WEIGHTS = st.lists(st.sampled_from((1.0, float("nan"), float("inf"))), max_size=4).map(tuple)
EVENT = st.one_of(
    st.builds(lambda name, wanted, policy: adding(name, wanted=wanted, on_overlap=policy), NAMES, WANTED, MAYBE_POLICY),
    st.builds(_setting, st.lists(NAMES, max_size=3, unique=True), WEIGHTS, MAYBE_POLICY),
    st.builds(lambda names, weights: Event("set_adapter", names, weights=weights), SOME_NAMES, BAD_WEIGHTS),
    st.builds(Event, st.just("set_adapter"), st.lists(NAMES, max_size=3).map(tuple)),
    st.builds(Event, st.sampled_from(("set_adapter", "merge_adapter", "delete_adapter")), SOME_NAMES),
    st.builds(lambda name: naming("merge_adapter", name), NAMES),
    st.builds(lambda name: naming("delete_adapter", name), NAMES),
    st.just(Event("unmerge_adapter")),
    st.builds(lambda names, wanted: Event("set_requires_grad", names, wanted=wanted), SOME_NAMES, WANTED),
    st.builds(lambda name, holder: Event(name, holder=holder), st.sampled_from(("enable_adapters", "disable_adapters")), HOLDER),
)
EVENTS = st.builds(
    lambda names, policies, then: [*(adding(n, on_overlap=p) for n, p in zip(names, policies, strict=False)), *then],
    st.lists(NAMES, unique=True),
    st.lists(MAYBE_POLICY, min_size=4, max_size=4),
    st.lists(EVENT, max_size=20),
)
"""Some adapters, and then random events, legal or not."""


def life(events: list[Event], charts: Charts = CHARTS) -> Iterator[tuple[Event, Plan]]:
    """Plan each event on what the accepted ones before it leave. A context that is not held is not released: nobody can leave it."""
    facts = Facts()
    for event in events:
        if event.name == "enable_adapters" and event.holder == "context" and not facts.disabled_by_contexts:
            continue
        found = plan(charts, facts, [event])
        yield event, found
        if found.accepted:
            facts = found.after
