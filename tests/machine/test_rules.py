"""The rules of the design that are about the machine alone, on random events. Each test has the name of its rule."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from adapterstate.machine.charts import CHARTS
from adapterstate.machine.plan import plan
from adapterstate.machine.records import Event, Facts, Policy

from .worlds import EVENTS, MAYBE_POLICY, WEIGHTS, Reference, adding, after, life


def trainabilities(facts: Facts) -> dict[str, str]:
    return {name: adapter.trainability for name, adapter in facts.adapters.items()}


def what_is_active(facts: Facts) -> tuple[object, ...]:
    """Everything of the activation axis, without what an adapter's trainability is."""
    return facts.active, facts.merged, facts.modules


def switches(facts: Facts) -> tuple[object, ...]:
    """Everything of the enablement axis."""
    return facts.enablement, facts.disabled_by_call, facts.disabled_by_contexts


@given(EVENTS)
def test_as_the_reference(events: list[Event]) -> None:
    """Random events are accepted or refused, and change what they change, as the naive reference says."""
    reference = Reference()
    for event, found in life(events):
        assert {(no.guard, no.where) for no in found.refusals} == reference.refusals(event)
        if found.accepted:
            reference.apply(event)
            reference.agrees_with(found.after)
        else:
            reference.agrees_with(found.before)


@given(EVENTS)
def test_first_adapter_only(events: list[Event]) -> None:
    """An added adapter activates itself if and only if the model had none; no other event activates a name that it was not given."""
    for event, found in life(events):
        before, now = found.before, found.after
        if not found.accepted:
            continue
        if event.name == "add_adapter":
            assert now.active == (event.adapters if not before.adapters else before.active)
        else:
            assert set(now.active) <= set(before.active) | set(event.adapters)
        if event.name == "delete_adapter":
            assert now.active == tuple(name for name in before.active if name not in event.adapters)


@given(EVENTS)
def test_same_everywhere(events: list[Event]) -> None:
    """On every module, active = the model's active adapters that are present there, in the same order; merged likewise."""
    for _, found in life(events):
        if not found.accepted:
            continue
        facts = found.after
        assert set(facts.modules) == {path for adapter in facts.adapters.values() for path in adapter.modules}
        for path, module in facts.modules.items():
            present = [name for name, adapter in facts.adapters.items() if path in adapter.modules]
            assert list(module.context.present) == present
            assert module.context.active == tuple(name for name in facts.active if name in present)
            assert module.context.merged == tuple(name for name in facts.merged if name in present)


@given(EVENTS)
def test_independent_axes(events: list[Event]) -> None:
    """Only adding, deleting and `set_requires_grad` touch trainability, only the two events of enablement enable; neither activates."""
    for event, found in life(events):
        before, now = found.before, found.after
        if not found.accepted:
            continue
        stay = {name: was for name, was in trainabilities(before).items() if name in now.adapters}
        if event.name == "set_requires_grad":
            stay.update(dict.fromkeys(event.adapters, event.wanted))
        if event.name == "add_adapter":
            stay[event.adapters[0]] = event.wanted
        assert trainabilities(now) == stay
        if event.name in ("enable_adapters", "disable_adapters", "set_requires_grad"):
            assert what_is_active(now) == what_is_active(before)
        if event.name not in ("enable_adapters", "disable_adapters"):
            assert switches(now) == switches(before)


@given(EVENTS, st.permutations("abcd"), st.integers(0, 3), WEIGHTS, MAYBE_POLICY)
def test_path_independent(events: list[Event], order: list[str], count: int, weights: list[float] | None, policy: Policy | None) -> None:
    """What is active after a set depends on its arguments alone, nothing is merged after it, and twice is once."""
    facts = Facts()
    for _, found in life(events):
        facts = found.after if found.accepted else facts
    names = [name for name in order if name in facts.adapters][:count]
    event = Event("set_adapter", tuple(names), weights=weights and tuple(weights[: len(names)]), on_overlap=policy)
    once = plan(CHARTS, facts, [event])
    straight = plan(CHARTS, Facts(), [*(adding(n, on_overlap=a.on_overlap) for n, a in facts.adapters.items()), event])
    assert {(no.guard, no.where) for no in once.refusals} == {(no.guard, no.where) for no in straight.refusals}
    if not once.accepted:
        assert {no.guard for no in once.refusals} == {"no_overlap"}
        return
    assert (once.after.active, once.after.merged) == (tuple(names), ())
    assert (once.after.weights, once.after.on_overlap) == (straight.after.weights, straight.after.on_overlap)
    assert what_is_active(once.after) == what_is_active(straight.after)
    again = plan(CHARTS, once.after, [event])
    assert again.steps[0].is_noop
    assert what_is_active(again.after) == what_is_active(once.after)
    turned_weights = event.weights and tuple(reversed(event.weights))
    turned = after(Event("set_adapter", tuple(reversed(names)), weights=turned_weights, on_overlap=policy), start=facts)
    assert turned.active == tuple(reversed(names))
    for path, module in turned.modules.items():
        mirrored = attrs.evolve(module.context, active=tuple(reversed(module.context.active)))
        assert attrs.evolve(module, context=mirrored) == once.after.modules[path]
