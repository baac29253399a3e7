"""Every reachable state of a small world, every event in each: the tables cover all of it, and each result is what the rules say."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator

import attrs
import pytest

from adapterstate.machine.charts import ACTIVATION, CHARTS, Row
from adapterstate.machine.engine import Engine
from adapterstate.machine.plan import plan
from adapterstate.machine.records import Context, Event, Facts, Situation

from .worlds import PLACES, Reference, adding, naming

Key = tuple[object, ...]


@attrs.define
class Walked:
    """What a walk has met."""

    states: int
    judged: int
    moved: Counter[Row]
    selected: Counter[Row]
    refusals: Counter[str]


def activation_events(facts: Facts) -> Iterator[Event]:
    """Every event of the activation axis, with every choice of names, as far as it can matter."""
    have = tuple(facts.adapters)
    yield from (adding(name) for name in PLACES if name not in have)
    yield from (naming("delete_adapter", name) for name in have)
    yield from (Event("set_adapter", ("a", "d"), weights=weights, on_overlap="sum") for weights in (None, (0.5, 1.0)) if {*"ad"} <= {*have})
    yield from (naming("set_adapter", *names) for count in range(4) for names in itertools.permutations(have, count))
    yield from (naming("merge_adapter", *names) for count in range(3) for names in itertools.combinations(have, count))
    yield Event("unmerge_adapter")


def all_events(facts: Facts) -> Iterator[Event]:
    """Every event, with two adapters, up to two contexts, unknown and repeated names."""
    have = tuple(facts.adapters)
    yield from (adding(name, wanted=wanted) for name in "bc" for wanted in ("trainable", "frozen"))
    for names in ((), ("b",), ("c",), ("b", "c"), ("c", "b"), ("b", "b"), ("z",), ("z", "c")):
        yield from (naming(event, *names) for event in ("set_adapter", "delete_adapter", "merge_adapter"))
        yield from (naming("set_requires_grad", *names, wanted=wanted) for wanted in ("trainable", "frozen"))
    yield Event("unmerge_adapter")
    yield from (Event("set_adapter", ("b", "c"), on_overlap=policy) for policy in ("error", "override"))
    yield from (Event("set_adapter", ("b",), weights=weights) for weights in ((0.5,), (0.5, 1.0), (float("nan"),)))
    yield from (Event(event) for event in ("enable_adapters", "disable_adapters"))
    if have and facts.disabled_by_contexts < 2:
        yield Event("disable_adapters", holder="context")
    if facts.disabled_by_contexts:
        yield Event("enable_adapters", holder="context")


def key(facts: Facts) -> Key:
    """Facts as a value that can be in a set."""
    modules = tuple(
        sorted((path, m.activation, tuple(m.context.present), m.context.active, m.context.merged) for path, m in facts.modules.items())
    )
    adapters = tuple((name, adapter.trainability, adapter.asked, adapter.on_overlap) for name, adapter in facts.adapters.items())
    switches = facts.enablement, facts.disabled_by_call, facts.disabled_by_contexts
    return modules, adapters, facts.active, facts.merged, tuple(facts.weights.items()), facts.on_overlap, switches


def everywhere(facts: Facts, event: Event) -> Iterator[tuple[str, str, Row | None]]:
    """The row that the activation chart selects on each module of the world, whether the event changes anything there or not."""
    for path in ("M1", "M2"):
        module = facts.modules.get(path)
        state, context = (module.activation, module.context) if module else ("unwrapped", Context())
        if event.name == "add_adapter" and path not in PLACES[event.adapters[0]]:
            continue
        if state != "unwrapped" or event.name == "add_adapter":
            if event.name == "delete_adapter" and not any(name in context.present for name in event.adapters):
                continue
            yield path, state, ACTIVATION.select(state, Situation(facts, path, context), event)


def walk(events: Callable[[Facts], Iterator[Event]]) -> Walked:
    """Go through all reachable facts, breadth first, and judge every event in each against the reference and the real machines."""
    engine = Engine(CHARTS)
    queue = deque([(Facts(), Reference())])
    seen = {key(Facts())}
    walked = Walked(1, 0, Counter(), Counter(), Counter())
    while queue:
        facts, reference = queue.popleft()
        for event in events(facts):
            walked.judged += 1
            found = plan(CHARTS, facts, [event])
            assert {(no.guard, no.where) for no in found.refusals} == reference.refusals(event), (facts, event)
            if not found.accepted:
                walked.refusals.update({no.guard for no in found.refusals})
                continue
            expected = reference.copy()
            expected.apply(event)
            expected.agrees_with(found.after)
            engine.run(found)
            modules = expected.modules()
            offered = {path: move for move in found.steps[0].moves if move.chart == "activation" for path in move.subjects}
            walked.moved.update(move.row for move in offered.values())
            if event.name in ACTIVATION.events:
                for path, state, row in everywhere(facts, event):
                    assert row is not None, (facts, event, path)
                    assert row.leads_to(state) == (modules[path][0] if path in modules else "unwrapped"), (facts, event, path)
                    assert path in offered or facts.modules.get(path) == found.after.modules.get(path)
                    walked.selected[row] += 1
            place = key(found.after)
            if place not in seen:
                seen.add(place)
                queue.append((found.after, expected))
                walked.states += 1
    return walked


@pytest.fixture(scope="module")
def activation_walk() -> Walked:
    return walk(activation_events)


@pytest.fixture(scope="module")
def whole_walk() -> Walked:
    return walk(all_events)


def test_every_row_fires(activation_walk: Walked) -> None:
    """Each row of the activation chart is selected somewhere; what is selected where nothing changes keeps the state."""
    assert [row for row in ACTIVATION.rows if not activation_walk.selected[row]] == []


def test_rows_that_change_nothing_are_not_offered(activation_walk: Walked) -> None:
    """An event is offered where it changes something: of the rows, only a merge of others and an unmerge of nothing never do."""
    never = [(row.event, row.case) for row in ACTIVATION.rows if not activation_walk.moved[row]]
    assert never == [("merge_adapter", "named_here: none"), ("unmerge_adapter", "")]


def test_every_refusal_is_one_of_the_rules(activation_walk: Walked) -> None:
    """Every kind of refusal that the rules know of comes up, and no other (the walk compares each with the reference)."""
    assert set(activation_walk.refusals) == {"no_overlap", "named_are_active", "not_merged_here"}


def test_the_walk_is_not_trivial(activation_walk: Walked) -> None:
    """The world has at least the states and judged events of the prototype that the design reports."""
    assert activation_walk.states >= 1_214
    assert activation_walk.judged >= 43_632


def test_all_charts_together(whole_walk: Walked) -> None:
    """With enablement, trainability and bad names in the walk, every result is still what the rules say."""
    rules = {"name_is_new", "known", "distinct", "weights_match", "no_overlap", "named_are_active", "not_merged_here"}
    assert set(whole_walk.refusals) == rules
    assert whole_walk.states > 300
