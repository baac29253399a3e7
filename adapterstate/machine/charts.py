"""The charts: three tables of rows, and the table of the model's guards. What is not in here does not happen.

A chart is an immutable value. For every (event, state) its rows either have no case, or all belong to one choice and cover each of its
results once, unless the result is declared impossible there. So exactly one row is selected, and only its guards can refuse. All of that
is checked when a chart is made, derived ones included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from adapterstate.errors import ArgumentError, ChartError, type_of
from adapterstate.machine import guards as g
from adapterstate.machine.guards import Choice, Guard
from adapterstate.machine.records import Event, Situation

SAME = "="
"""The target of a row that leaves the state as it is."""


@attrs.frozen
class Row:
    """One row: in each of the states `sources`, `event` leads to `target` when the choice has the value, if no guard refuses."""

    event: str
    sources: tuple[str, ...]
    choice: Choice | None
    value: str | None
    target: str
    guards: tuple[Guard, ...] = ()

    def leads_to(self, state: str) -> str:
        """The state after this row was taken from `state`."""
        return state if self.target == SAME else self.target

    @property
    def case(self) -> str:
        """The case in words, such as ``"first: yes"``; empty for a row without one."""
        return f"{self.choice.name}: {self.value}" if self.choice else ""


@attrs.frozen
class Impossible:
    """A declaration that a result of a choice cannot occur for an event in a state; exploration proves it."""

    event: str
    source: str
    value: str


@attrs.frozen
class Chart:
    """One declared machine.

    Attributes:
        name: what its states are called, such as ``"activation"``.
        subject: what has one, such as ``"wrapped module"``.
        states: all of them, in the order of diagrams.
        initial: the state of a subject that the machine has not seen yet.
        final: states that end a subject's life.
        rows: the table.
        impossible: cases that cannot occur.

    Raises:
        ChartError: the table is not well formed; it lists everything that is wrong.
    """

    name: str
    subject: str
    states: tuple[str, ...]
    initial: str
    final: tuple[str, ...]
    rows: tuple[Row, ...]
    impossible: tuple[Impossible, ...] = ()

    def __attrs_post_init__(self) -> None:
        offenders = list(_offenders(self))
        if offenders:
            raise ChartError(self.name, offenders)

    @property
    def events(self) -> tuple[str, ...]:
        """The events of the rows, in the order of the table."""
        return tuple(dict.fromkeys(row.event for row in self.rows))

    def judges_by_context(self, event: str) -> bool:
        """Return whether all choices and guards of an event look at the context of a module alone, and not at which module it is."""
        return all(part.by_context for row in self.rows if row.event == event for part in (*row.guards, row.choice) if part is not None)

    def select(self, state: str, situation: Situation, event: Event) -> Row | None:
        """Return the one row for `event` in `state`; None when the chart has none, or the case was declared impossible."""
        for row in self.rows:
            if row.event == event.name and state in row.sources and (not row.choice or row.choice.select(situation, event) == row.value):
                return row
        return None

    def with_guard(self, event: str, guard: Guard, *, source: str | None = None, value: str | None = None) -> Chart:
        """Derive a chart in which the rows of `event` also demand `guard`.

        Args:
            event: name of the event.
            guard: what they also demand.
            source: only from this state; rows of several states are split.
            value: only in this case of the row's choice.

        Raises:
            ArgumentError: it is no `Guard`.
            ChartError: no row matches.
        """
        _refuse_no_guard(guard)
        rows: list[Row] = []
        found = False
        for row in self.rows:
            if row.event != event or (value is not None and row.value != value) or (source is not None and source not in row.sources):
                rows.append(row)
                continue
            found = True
            demanding = attrs.evolve(row, guards=(*row.guards, guard))
            if source is None:
                rows.append(demanding)
                continue
            rest = tuple(state for state in row.sources if state != source)
            rows.append(attrs.evolve(demanding, sources=(source,)))
            if rest:
                rows.append(attrs.evolve(row, sources=rest))
        if not found:
            raise ChartError(self.name, [_no_such_row(event, source, value)])
        return attrs.evolve(self, rows=tuple(rows))

    def without(self, event: str, *, source: str | None = None) -> Chart:
        """Derive a chart without the rows of `event`, or without those from `source`: there the event is refused.

        Raises:
            ChartError: no row matches, or what is left is not well formed.
        """
        rows: list[Row] = []
        for row in self.rows:
            gone = row.sources if source is None else (source,)
            if row.event != event:
                rows.append(row)
            elif rest := tuple(state for state in row.sources if state not in gone):
                rows.append(attrs.evolve(row, sources=rest))
        if rows == list(self.rows):
            raise ChartError(self.name, [_no_such_row(event, source, None)])
        impossible = tuple(i for i in self.impossible if i.event != event or (source is not None and i.source != source))
        return attrs.evolve(self, rows=tuple(rows), impossible=impossible)


def _refuse_no_guard(guard: object) -> None:
    """Refuse what is no guard."""
    if not isinstance(guard, Guard):
        raise ArgumentError(f"with_guard was given {type_of(guard)}; a Guard is expected, such as the decorator `guard` makes")


def _no_such_row(event: str, source: str | None, value: str | None) -> str:
    """Say which row was looked for in vain."""
    return f"there is no row for {event!r}" + (f" from {source!r}" if source else "") + (f" with the case {value!r}" if value else "")


# ------------------------------------------------------------------------------------------------- checks at definition time


def _offenders(chart: Chart) -> Iterator[str]:
    """Say everything that is wrong with a chart."""
    known = set(chart.states)
    if len(known) < len(chart.states):
        yield f"a state is listed twice in {list(chart.states)}"
    mentioned = {chart.initial, *chart.final}.union(*((*row.sources, row.leads_to(row.sources[0])) for row in chart.rows if row.sources))
    for state in sorted(mentioned - known):
        yield f"state {state!r} is used but not listed in {list(chart.states)}"
    for state in sorted(known - _reachable(chart)):
        yield f"state {state!r} cannot be reached from {chart.initial!r}"
    for row in chart.rows:
        if not row.sources:
            yield f"a row of {row.event!r} starts from no state"
        if len(set(row.sources)) < len(row.sources):
            yield f"a row of {row.event!r} lists a state twice in {list(row.sources)}"
        if row.choice is None and row.value is not None:
            yield f"a row of {row.event!r} has the case {row.value!r} of no choice"
    for event in chart.events:
        for state in chart.states:
            yield from _offenders_of_cell(chart, event, state)
    for stray in chart.impossible:
        if stray.event not in chart.events or stray.source not in known:
            yield f"{stray.event!r} from {stray.source!r} is declared impossible, but the chart has no such event or state"
    yield from _undocumented(chart)


def _reachable(chart: Chart) -> set[str]:
    """The states that rows lead to from the initial one."""
    seen = {chart.initial}
    while new := {row.leads_to(state) for row in chart.rows for state in row.sources if state in seen} - seen:
        seen |= new
    return seen


def _offenders_of_cell(chart: Chart, event: str, state: str) -> Iterator[str]:
    """Say what is wrong with the rows of one (event, state): exactly one must be selected, whatever the choice says."""
    rows = [row for row in chart.rows if row.event == event and state in row.sources]
    declared = [i.value for i in chart.impossible if i.event == event and i.source == state]
    where = f"{event!r} from {state!r}"
    choices = {row.choice.name if row.choice else None for row in rows}
    if len(choices) > 1:
        yield f"{where}: its rows mix the choices {sorted(map(str, choices))}"
        return
    if any(row.choice != rows[0].choice for row in rows):
        yield f"{where}: its rows mix different choices of one name, {rows[0].choice.name if rows[0].choice else ''!r}"
        return
    selector = rows[0].choice if rows else None
    if selector is None:
        if len(rows) > 1:
            yield f"{where}: {len(rows)} rows without a case"
        if declared:
            yield f"{where}: {declared} are declared impossible, but there is no choice"
        return
    covered = [str(row.value) for row in rows] + declared
    for value in selector.values:
        if covered.count(value) == 0:
            yield f"{where}: no row for the case {selector.name}: {value}"
        if covered.count(value) > 1:
            yield f"{where}: the case {selector.name}: {value} is covered {covered.count(value)} times"
    for value in sorted(set(covered) - set(selector.values)):
        yield f"{where}: {value!r} is no result of {selector.name}; it has {list(selector.values)}"


def _undocumented(chart: Chart) -> Iterator[str]:
    """Say which choices and guards of the chart have no label or no docstring."""
    parts: list[Choice | Guard] = []
    for row in chart.rows:
        parts += [part for part in (row.choice, *row.guards) if part is not None and part not in parts]
    yield from _unexplained(parts)


def _unexplained(parts: Iterable[Choice | Guard]) -> Iterator[str]:
    """Say which of `parts` have no label or no docstring."""
    for part in parts:
        if not part.label:
            yield f"{part.name!r} has no label for diagrams"
        if not part.doc:
            yield f"{part.name!r} has no docstring"


# ------------------------------------------------------------------------------------------------------------- the tables

EVENTS = (
    "add_adapter",
    "set_adapter",
    "delete_adapter",
    "merge_adapter",
    "unmerge_adapter",
    "enable_adapters",
    "disable_adapters",
    "set_requires_grad",
)
"""Every event there is."""

WRAPPED = ("inactive", "active", "merged")
"""The states of a module that holds at least one adapter."""

ACTIVATION = Chart(
    name="activation",
    subject="wrapped module",
    states=("unwrapped", *WRAPPED),
    initial="unwrapped",
    final=("unwrapped",),
    rows=(
        Row("add_adapter", ("unwrapped",), g.first, "yes", "active"),
        Row("add_adapter", ("unwrapped",), g.first, "no", "inactive"),
        Row("add_adapter", WRAPPED, None, None, SAME),
        Row("set_adapter", WRAPPED, g.named_here, "some", "active", (g.no_overlap, g.sum_has_meaning)),
        Row("set_adapter", WRAPPED, g.named_here, "none", "inactive"),
        Row("merge_adapter", ("active", "merged"), g.named_here, "some", "merged", (g.mergeable,)),
        Row("merge_adapter", WRAPPED, g.named_here, "none", SAME),
        Row("unmerge_adapter", ("merged",), None, None, "active"),
        Row("unmerge_adapter", ("inactive", "active"), None, None, SAME),
        Row("delete_adapter", ("merged",), None, None, "merged", (g.not_merged_here,)),
        Row("delete_adapter", ("active",), g.left_here, "active", "active"),
        Row("delete_adapter", ("active", "inactive"), g.left_here, "inactive", "inactive"),
        Row("delete_adapter", ("active", "inactive"), g.left_here, "nothing", "unwrapped"),
    ),
    impossible=(
        Impossible("merge_adapter", "inactive", "some"),  # named_are_active
        Impossible("delete_adapter", "inactive", "active"),  # nothing is active there
    ),
)

ENABLEMENT = Chart(
    name="enablement",
    subject="model",
    states=("enabled", "disabled"),
    initial="enabled",
    final=(),
    rows=(
        Row("disable_adapters", ("enabled", "disabled"), None, None, "disabled"),
        Row("enable_adapters", ("enabled", "disabled"), g.still_held, "no", "enabled"),
        Row("enable_adapters", ("disabled",), g.still_held, "yes", "disabled"),
    ),
    impossible=(Impossible("enable_adapters", "enabled", "yes"),),  # enabled means that nothing holds
)

TRAINABILITY = Chart(
    name="trainability",
    subject="adapter",
    states=("absent", "trainable", "frozen"),
    initial="absent",
    final=("absent",),
    rows=(
        Row("add_adapter", ("absent",), g.wanted, "trainable", "trainable"),
        Row("add_adapter", ("absent",), g.wanted, "frozen", "frozen"),
        Row("set_requires_grad", ("trainable", "frozen"), g.wanted, "trainable", "trainable"),
        Row("set_requires_grad", ("trainable", "frozen"), g.wanted, "frozen", "frozen"),
        Row("delete_adapter", ("trainable", "frozen"), None, None, "absent"),
    ),
)

MODEL_GUARDS: Mapping[str, tuple[Guard, ...]] = {
    "add_adapter": (
        g.name_is_legal,
        g.name_is_new,
        g.config_is_supported,
        g.targets_match,
        g.no_self_overlap,
        g.swappable,
        g.forward_is_called,
    ),
    "set_adapter": (g.known, g.distinct, g.weights_match),
    "delete_adapter": (g.known, g.distinct, g.outermost_class_is_ours),
    "merge_adapter": (g.known, g.distinct, g.named_are_active),
    "unmerge_adapter": (g.known, g.distinct),
    "enable_adapters": (g.known, g.distinct),
    "disable_adapters": (g.known, g.distinct),
    "set_requires_grad": (g.known, g.distinct),
}
"""Guards of the whole model, judged before the charts, in this order."""


@attrs.frozen
class Charts:
    """The charts and the model's guards that one model runs by: the argument of ``attach(model, charts=...)``.

    Raises:
        ChartError: the model's guards are not well formed; it lists everything that is wrong.
    """

    activation: Chart = ACTIVATION
    enablement: Chart = ENABLEMENT
    trainability: Chart = TRAINABILITY
    model_guards: Mapping[str, tuple[Guard, ...]] = attrs.field(factory=lambda: dict(MODEL_GUARDS))

    def __attrs_post_init__(self) -> None:
        offenders = [f"{event!r} is no event; there are {list(EVENTS)}" for event in self.model_guards if event not in EVENTS]
        offenders += _unexplained(dict.fromkeys(guard for guards in self.model_guards.values() for guard in guards))
        strange = [(chart.name, event) for chart in self for event in chart.events if event not in EVENTS]
        offenders += [f"the {name} chart has rows for {event!r}, which is no event" for name, event in strange]
        for field in ("activation", "enablement", "trainability"):
            name = getattr(self, field).name
            offenders += [f"the chart {name!r} stands in the place of {field!r}"] if name != field else []
        if offenders:
            raise ChartError("", offenders)

    def __iter__(self) -> Iterator[Chart]:
        return iter((self.activation, self.enablement, self.trainability))

    def with_guard(self, event: str, guard: Guard) -> Charts:
        """Derive charts in which `event` also demands `guard` of the whole model.

        Raises:
            ArgumentError: it is no `Guard`.
            ChartError: there is no such event, or the guard has no label or docstring.
        """
        _refuse_no_guard(guard)
        return attrs.evolve(self, model_guards={**self.model_guards, event: (*self.model_guards.get(event, ()), guard)})

    def with_chart(self, chart: Chart) -> Charts:
        """Derive charts in which `chart` stands in place of the one of its name.

        Raises:
            ArgumentError: it is no `Chart`.
            ChartError: none has its name.
        """
        if not isinstance(chart, Chart):
            raise ArgumentError(f"with_chart was given {type_of(chart)}; a Chart is expected")
        if chart.name not in {own.name for own in self}:
            raise ChartError(chart.name, [f"there is no chart of that name; there are {[own.name for own in self]}"])
        changes: dict[str, Any] = {chart.name: chart}
        return attrs.evolve(self, **changes)


CHARTS = Charts()
"""The charts that a model runs by unless told otherwise."""
