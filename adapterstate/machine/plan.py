"""The planner: what an event would do, or every reason why not. Pure: it reads facts and charts, and writes nothing.

A plan is a list of steps. Each is one event, judged on the facts that the earlier steps would leave; they are committed and journalled
as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import attrs

from adapterstate import errors
from adapterstate.machine.charts import Chart, Charts, Row
from adapterstate.machine.guards import Guard
from adapterstate.machine.records import (
    NOTHING,
    AdapterFacts,
    Cohort,
    Context,
    Event,
    Facts,
    ModuleFacts,
    Policy,
    Refusal,
    Situation,
    SlotFacts,
    cohorts,
)

T = TypeVar("T")


@attrs.frozen
class Move:
    """One subject takes one row of one chart, or several that are alike: modules that share their context, before and after.

    Attributes:
        chart: name of the chart.
        situation: of the first subject.
        row: the row that is taken.
        before: the state it is taken from.
        after: the state it leads to.
        subjects: paths of modules, the name of an adapter, or ``""`` for the model.
    """

    chart: str
    situation: Situation
    row: Row
    before: str
    after: str
    subjects: Sequence[str]

    @property
    def situations(self) -> Iterator[Situation]:
        """The situation of each subject."""
        return (attrs.evolve(self.situation, subject=subject) for subject in self.subjects)


@attrs.frozen
class Step:
    """One event of a plan.

    Attributes:
        event: the event.
        moves: the rows taken, by every subject that it concerns.
        before: the facts that it meets.
        after: the facts that it leaves.
        cohorts: the modules whose records change.
    """

    event: Event
    moves: tuple[Move, ...]
    before: Facts
    after: Facts
    cohorts: tuple[Cohort, ...] = ()

    @property
    def is_noop(self) -> bool:
        """Whether nothing changes anywhere."""
        return self.after == self.before


@attrs.frozen
class Plan:
    """The steps that events would take; with refusals, the steps up to and including the refused one.

    Attributes:
        before: the facts that the first step meets.
        steps: in order.
        refusals: every reason against the last step, in the order of the tables; empty when all of it is accepted.
        error: the class to raise for these refusals.
    """

    before: Facts
    steps: tuple[Step, ...]
    refusals: tuple[Refusal, ...] = ()
    error: type[errors.EventRefusedError] = errors.EventRefusedError

    @property
    def accepted(self) -> bool:
        """Whether nothing refuses."""
        return not self.refusals

    @property
    def after(self) -> Facts:
        """The facts that the last step leaves."""
        return self.steps[-1].after if self.steps else self.before

    @property
    def cohorts(self) -> tuple[Cohort, ...]:
        """The modules whose records the whole plan changes."""
        return self.steps[0].cohorts if len(self.steps) == 1 else cohorts(self.before.modules, self.after.modules)

    @property
    def changed(self) -> tuple[str, ...]:
        """Paths of the modules whose facts change."""
        changing = [cohort.paths for cohort in self.cohorts if cohort.before != cohort.after]
        if len(changing) < 2:
            return tuple(*changing)
        paths = {path for some in changing for path in some}
        return tuple(path for path in {**self.before.modules, **self.after.modules} if path in paths)


def plan(charts: Charts, facts: Facts, events: Sequence[Event]) -> Plan:
    """Plan `events`, one after the other, from `facts`.

    Args:
        charts: what may happen.
        facts: the stored state.
        events: in order.

    Returns:
        The plan. If an event is refused, no later one is judged, and the plan lists all refusals of that event.

    Raises:
        InternalError: the charts lead elsewhere than the facts; nothing has changed.
    """
    steps: list[Step] = []
    now = facts
    for event in events:
        found = list(_model_refusals(charts, now, event))
        after = _after(now, event)
        differing = cohorts(now.modules, after.modules)
        moves: list[Move] = []
        refused: dict[tuple[str, str], list[Found]] = {}
        for offer in _offered(charts, now, event, after, differing):
            chart, situation, state = offer.chart, offer.situation, offer.state
            row = chart.select(state, situation, event)
            if row is None:
                for subject in offer.subjects:
                    refused[chart.name, subject] = _no_row(chart, state, event, subject, situation, refused=bool(found or refused))
                continue
            move = Move(chart.name, situation, row, state, row.leads_to(state), offer.subjects)
            refused |= _refused(move, event)
            if not found and not refused and move.after != offer.derived:
                raise errors.InternalError(
                    f"{event}: the {chart.name} chart leads {situation.subject!r} from {state!r} to {move.after!r}, "
                    f"but what is stored there amounts to {offer.derived!r}; nothing has changed"
                )
            moves.append(move)
        steps.append(Step(event, tuple(moves), now, after, differing))
        found += _in_order(refused, charts, now)
        if found:
            classes = {guard.error for guard, _ in found}
            error = classes.pop() if len(classes) == 1 else errors.EventRefusedError
            return Plan(facts, tuple(steps), tuple(refusal for _, refusal in found), error)
        now = after
    return Plan(facts, tuple(steps))


Found = tuple[Guard, Refusal]


def _model_refusals(charts: Charts, facts: Facts, event: Event) -> Iterator[Found]:
    """Judge the guards of the whole model."""
    situation = Situation(facts)
    for guard in charts.model_guards.get(event.name, ()):
        for refusal in guard.judge(situation, event):
            yield guard, refusal


def _refused(move: Move, event: Event) -> dict[tuple[str, str], list[Found]]:
    """Judge the guards of a row: of one subject, and of all of them if that one is refused, since they are alike."""

    def judged(situation: Situation) -> list[Found]:
        return [(guard, refusal) for guard in move.row.guards for refusal in guard.judge(situation, event)]

    if not judged(move.situation):
        return {}
    return {(move.chart, situation.subject): judged(situation) for situation in move.situations}


def _in_order(refused: Mapping[tuple[str, str], list[Found]], charts: Charts, facts: Facts) -> list[Found]:
    """What refuses; of the modules, in their order and not in that of the cohorts they are in."""
    places = {(charts.activation.name, path): place for place, path in enumerate(facts.modules, 1)} if len(refused) > 1 else {}
    last = len(places) + 1
    order = sorted(refused, key=lambda one: places.get(one, last if one[0] == charts.activation.name else 0))
    return [found for one in order for found in refused[one]]


def _undeclared(_: Situation, __: Event) -> Sequence[Refusal]:
    """The chart has a row for the event in the present state."""
    return ()


DECLARED = Guard("declared", "the chart has a row", errors.EventRefusedError, _undeclared)
"""Stands in a refusal for the chart itself, which has no row for the event in this state."""


def _no_row(chart: Chart, state: str, event: Event, subject: str, situation: Situation, *, refused: bool) -> list[Found]:
    """Refuse where the chart has no row; a case that was declared impossible may only be met by an event that is refused anyway."""
    choices = [row.choice for row in chart.rows if row.event == event.name and state in row.sources]
    if choices:
        if refused:
            return []
        selector = choices[0]
        value = selector.select(situation, event) if selector else ""
        if selector and value not in selector.values:
            raise errors.InternalError(
                f"{event}: the choice {selector.name!r} says {value!r} of {subject!r}, which is none of {list(selector.values)}; "
                "nothing has changed"
            )
        raise errors.InternalError(f"{event}: a case that was declared impossible has come up in {subject!r}; nothing has changed")
    reason = f"the {chart.name} chart has no row for {event.name} from {state!r}"
    return [(DECLARED, Refusal(DECLARED.name, subject, reason, event.adapters))]


@attrs.frozen
class Offer:
    """An event meets subjects that are alike: their chart, the situation of the first, their state, what the facts after it amount to."""

    chart: Chart
    situation: Situation
    subjects: Sequence[str]
    state: str
    derived: str


def _offered(charts: Charts, facts: Facts, event: Event, after: Facts, differing: Sequence[Cohort]) -> Iterator[Offer]:
    """Every subject that the event is offered to."""
    if event.name in ("enable_adapters", "disable_adapters"):
        yield Offer(charts.enablement, Situation(facts), ("",), facts.enablement, after.enablement)
    if event.name in ("add_adapter", "set_requires_grad", "delete_adapter"):
        for name in dict.fromkeys(event.adapters):
            had, has = facts.adapters.get(name), after.adapters.get(name)
            if had or has:
                initial = charts.trainability.initial
                state = had.trainability if had and event.name != "add_adapter" else initial
                yield Offer(charts.trainability, Situation(facts, name), (name,), state, has.trainability if has else initial)
    chart = charts.activation
    together = chart.judges_by_context(event.name)
    for cohort in differing:
        old, new = cohort.before, cohort.after
        states = old.activation if old else chart.initial, new.activation if new else chart.initial
        for paths in [cohort.paths] if together else [(path,) for path in cohort.paths]:
            yield Offer(chart, Situation(facts, paths[0], old.context if old else NOTHING), paths, *states)


# --------------------------------------------------------------------------------------------- what is stored after an event


def state_of(context: Context) -> str:
    """The state of the activation chart that a context amounts to."""
    if not context.present:
        return "unwrapped"
    return "merged" if context.merged else "active" if context.active else "inactive"


def _after(facts: Facts, event: Event) -> Facts:
    """The facts after an accepted event. Names that no adapter has are passed over: the event is refused for them elsewhere."""
    return _EFFECTS[event.name](facts, event)


def _add(facts: Facts, event: Event) -> Facts:
    name, proposal = event.adapters[0], event.proposal
    assert proposal is not None
    active = (name,) if not facts.adapters else ()
    added = AdapterFacts(event.wanted, tuple(proposal.slots), proposal.config, on_overlap=event.on_overlap or "error")
    adapters = {**facts.adapters, name: added}

    def grown(path: str, context: Context) -> Context:
        present = {**context.present, name: proposal.slots[path]}
        policies = _policies(adapters, present, active, None) if active else context.policies
        return attrs.evolve(context, present=present, active=context.active + active, policies=policies)

    return attrs.evolve(
        facts,
        adapters=adapters,
        active=facts.active + active,
        modules=_changed(facts, proposal.slots, grown, coming=proposal.slots),
        base_trainable=facts.base_trainable if facts.adapters else proposal.base_trainable,
    )


def _set(facts: Facts, event: Event) -> Facts:
    names = tuple(name for name in event.adapters if name in facts.adapters)
    weights = {name: weight for name, weight in zip(event.adapters, event.weights or (), strict=False) if name in names and weight != 1}

    def switched(_: str, context: Context) -> Context:
        present = context.present
        active = tuple(name for name in names if name in present)
        here = {name: weight for name, weight in weights.items() if name in present} if weights else {}
        return Context(present, active, (), here, _policies(facts.adapters, present, active, event.on_overlap))

    modules = _changed(facts, facts.paths_of(facts.active + names), switched)
    named = event.on_overlap if names else None
    return attrs.evolve(facts, active=names, merged=(), weights=weights, on_overlap=named, modules=modules)


def _merge(facts: Facts, event: Event) -> Facts:
    def merged(_: str, context: Context) -> Context:
        names = tuple(name for name in context.active if name in context.merged or name in event.adapters)
        return attrs.evolve(context, merged=names)

    modules = _changed(facts, facts.paths_of(event.adapters), merged)
    return attrs.evolve(facts, merged=tuple(n for n in facts.active if n in facts.merged or n in event.adapters), modules=modules)


def _unmerge(facts: Facts, _: Event) -> Facts:
    modules = _changed(facts, facts.paths_of(facts.merged), lambda _, context: attrs.evolve(context, merged=()))
    return attrs.evolve(facts, merged=(), modules=modules)


def _delete(facts: Facts, event: Event) -> Facts:
    gone = event.adapters

    def shrunk(_: str, context: Context) -> Context:
        active, merged = _minus(context.active, gone), _minus(context.merged, gone)
        return Context(_without(context.present, gone), active, merged, _without(context.weights, gone), _without(context.policies, gone))

    adapters = _without(facts.adapters, gone)
    active = _minus(facts.active, gone)
    return attrs.evolve(
        facts,
        adapters=adapters,
        active=active,
        merged=_minus(facts.merged, gone),
        weights=_without(facts.weights, gone),
        on_overlap=facts.on_overlap if active else None,
        modules=_changed(facts, facts.paths_of(gone), shrunk),
        base_trainable=facts.base_trainable if adapters else (),
    )


def _disable(facts: Facts, event: Event) -> Facts:
    held = facts.disabled_by_contexts + (event.holder == "context")
    return attrs.evolve(
        facts, enablement="disabled", disabled_by_call=facts.disabled_by_call or event.holder == "call", disabled_by_contexts=held
    )


def _enable(facts: Facts, event: Event) -> Facts:
    contexts = max(0, facts.disabled_by_contexts - (event.holder == "context"))
    call = facts.disabled_by_call and event.holder != "call"
    return attrs.evolve(
        facts, enablement="disabled" if call or contexts else "enabled", disabled_by_call=call, disabled_by_contexts=contexts
    )


def _set_requires_grad(facts: Facts, event: Event) -> Facts:
    asked = event.wanted == "trainable"
    named = {
        name: attrs.evolve(facts.adapters[name], trainability=event.wanted, asked=asked)
        for name in event.adapters
        if name in facts.adapters
    }
    return attrs.evolve(facts, adapters={**facts.adapters, **named})


_EFFECTS: Mapping[str, Callable[[Facts, Event], Facts]] = {
    "add_adapter": _add,
    "set_adapter": _set,
    "delete_adapter": _delete,
    "merge_adapter": _merge,
    "unmerge_adapter": _unmerge,
    "enable_adapters": _enable,
    "disable_adapters": _disable,
    "set_requires_grad": _set_requires_grad,
}


def _minus(names: tuple[str, ...], gone: tuple[str, ...]) -> tuple[str, ...]:
    """`names` without those that go."""
    return tuple(name for name in names if name not in gone)


def _without(mapping: Mapping[str, T], gone: tuple[str, ...]) -> dict[str, T]:
    """`mapping` without the keys that go."""
    return {name: value for name, value in mapping.items() if name not in gone}


def _policies(
    adapters: Mapping[str, AdapterFacts], present: Mapping[str, SlotFacts], active: Sequence[str], named: Policy | None
) -> dict[str, Policy]:
    """The policies in force on one module, for those active adapters that replace something there."""
    found = {name: named or adapters[name].on_overlap for name in active if present[name].replaces}
    return {name: policy for name, policy in found.items() if policy != "error"}


def _same(one: Context, two: Context) -> bool:
    """Whether nothing differs between two contexts of one module. What is present differs only where an adapter came or went."""
    return (
        one.present is two.present
        and one.active == two.active
        and one.merged == two.merged
        and one.weights == two.weights
        and one.policies == two.policies
    )


def _changed(
    facts: Facts,
    paths: Mapping[str, object],
    renew: Callable[[str, Context], Context],
    coming: Mapping[str, SlotFacts] | None = None,
) -> Mapping[str, ModuleFacts]:
    """The modules after each of `paths` got the context that `renew` makes of its own.

    Modules that shared a context share the new one too (where the same slot is `coming` to them), so the work is done once per cohort. A
    module whose context stays the same keeps its record; one with no adapter left is dropped.
    """
    made: dict[tuple[int, int], ModuleFacts | None] = {}
    modules = dict(facts.modules)
    changed: dict[str, ModuleFacts] = {}
    arriving = coming or {}
    was: ModuleFacts | None = None
    came: SlotFacts | None = None
    for path in paths:
        old, comes = modules.get(path), arriving.get(path)
        if not made or old is not was or comes is not came:  # neighbours are alike more often than not
            was, came = old, comes
            cohort = (id(old.context) if old else 0, id(comes))
            if cohort not in made:
                before = old.context if old else Context()
                new = renew(path, before)
                made[cohort] = None if _same(before, new) else ModuleFacts(state_of(new), new)
            record = made[cohort]
        if record is not None:
            changed[path] = record
    if not changed:
        return facts.modules
    modules |= changed
    if any(record is not None and not record.context.present for record in made.values()):
        return {path: record for path, record in modules.items() if record.context.present}
    return modules
