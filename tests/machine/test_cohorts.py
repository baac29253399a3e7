"""Modules that are alike are judged as one, and what comes of it is what judging each by itself would say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterstate.errors import EventRefusedError
from adapterstate.machine.charts import CHARTS, Chart, Charts
from adapterstate.machine.guards import Guard
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Cohort, Event, Facts, ModuleFacts, Refusal, Situation, SlotFacts, cohorts

from .worlds import LORA, adding, after, naming, refused, rows

OTHER = SlotFacts(("lora",), tunes=True)
PATHS = tuple(f"layers.{i}" for i in range(6))
ADAPTERS = {
    "everywhere": dict.fromkeys(PATHS, LORA),
    "odd": dict.fromkeys(PATHS[1::2], OTHER),
    "last": {PATHS[5]: LORA, PATHS[4]: rows(0, 1)},
    "rows": {PATHS[4]: rows(1, 2), PATHS[0]: OTHER},
}
NAMES = tuple(ADAPTERS)


def first_layer_is_mine(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Nothing is merged, and nothing active is deleted, on the first and on the fourth module."""
    mine = situation.subject in (PATHS[0], PATHS[3])
    return [Refusal("first_layer_is_mine", situation.subject, "mine", event.adapters)] if mine else ()


def not_both(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Two adapters named together are not both present on one module."""
    here = tuple(name for name in event.adapters if name in situation.context.present)
    return [Refusal("not_both", situation.subject, "both are here", here)] if len(here) > 1 else ()


MINE = Guard("first_layer_is_mine", "not the first layer", EventRefusedError, first_layer_is_mine)
NOT_BOTH = Guard("not_both", "only one is here", EventRefusedError, not_both, by_context=True)
DERIVED = CHARTS.with_chart(
    CHARTS.activation.with_guard("merge_adapter", MINE, source="active")
    .with_guard("delete_adapter", MINE, source="active")
    .with_guard("set_adapter", NOT_BOTH, value="some")
)


def alone(charts: Charts) -> Charts:
    """The same charts, none of whose choices and guards says that it looks at the context alone: every module is judged by itself."""

    def rewritten(chart: Chart) -> Chart:
        rows = []
        for row in chart.rows:
            choice = attrs.evolve(row.choice, by_context=False) if row.choice else None
            rows.append(attrs.evolve(row, choice=choice, guards=tuple(attrs.evolve(guard, by_context=False) for guard in row.guards)))
        return attrs.evolve(chart, rows=tuple(rows))

    return charts.with_chart(rewritten(charts.activation))


def said(found: Plan) -> tuple[object, ...]:
    """Everything that a plan says, with each subject by itself. Only the order of the moves is that of the cohorts."""
    moves = [
        sorted(
            (m.chart, one.subject, id(one.context), m.row.event, m.row.sources, m.row.case, m.row.target, m.before, m.after)
            for m in step.moves
            for one in m.situations
        )
        for step in found.steps
    ]
    return found.refusals, found.error, found.after, found.changed, moves


def named(event: str) -> st.SearchStrategy[Event]:
    """An event that names some adapters."""
    return st.lists(st.sampled_from(NAMES), max_size=3, unique=True).map(lambda names: naming(event, *names))


EVENTS = st.lists(
    st.one_of(
        st.sampled_from(NAMES).map(lambda name: adding(name, ADAPTERS[name])),
        *map(named, ("set_adapter", "set_adapter", "merge_adapter", "delete_adapter")),
        st.just(Event("unmerge_adapter")),
        st.just(Event("disable_adapters")),
    ),
    max_size=12,
)


def lives(events: Sequence[Event], charts: Charts) -> Iterator[tuple[Facts, Event]]:
    """The facts that each event meets, refused events being passed over."""
    facts = Facts()
    for event in events:
        yield facts, event
        found = plan(charts, facts, [event])
        facts = found.after if found.accepted else facts


@given(EVENTS, st.sampled_from([CHARTS, DERIVED]))
def test_as_if_each_were_judged_by_itself(events: list[Event], charts: Charts) -> None:
    """Refusals and their order, the facts afterwards and every move are the same."""
    for facts, event in lives([adding("everywhere", ADAPTERS["everywhere"]), *events], charts):
        assert said(plan(charts, facts, [event])) == said(plan(alone(charts), facts, [event]))


def test_alike_is_one_move() -> None:
    """Modules that share their context take their row in one move, which names all of them."""
    start = after(adding("everywhere", ADAPTERS["everywhere"]), adding("odd", ADAPTERS["odd"]))
    step = plan(CHARTS, start, [naming("set_adapter", "odd")]).steps[0]
    assert [[*move.subjects] for move in step.moves] == [[*PATHS[::2]], [*PATHS[1::2]]]
    assert len(plan(alone(CHARTS), start, [naming("set_adapter", "odd")]).steps[0].moves) == len(PATHS)


def test_a_refusal_names_every_module_in_order() -> None:
    """Where modules are refused as one, each is named, in the order of the modules and not of the cohorts."""
    start = after(adding("everywhere", ADAPTERS["everywhere"]), adding("odd", ADAPTERS["odd"]), naming("merge_adapter", "everywhere"))
    found = refused(start, naming("delete_adapter", "everywhere"))
    assert [no.where for no in found.refusals] == [*PATHS]
    assert {no.guard for no in found.refusals} == {"not_merged_here"}


def test_a_guard_that_looks_at_the_module_is_asked_about_each() -> None:
    """A guard that does not say `by_context` may refuse some of the modules that share a context."""
    start = after(adding("everywhere", ADAPTERS["everywhere"]), charts=DERIVED)
    found = refused(start, naming("merge_adapter", "everywhere"), charts=DERIVED)
    assert [no.where for no in found.refusals] == [PATHS[0], PATHS[3]]


def test_what_looks_at_the_module_is_known_to() -> None:
    """One choice or guard of an event that does not say `by_context` is enough for every module to be judged by itself."""
    chart = CHARTS.activation
    assert [event for event in chart.events if not chart.judges_by_context(event)] == ["merge_adapter"]
    asking = attrs.evolve(
        chart, rows=tuple(attrs.evolve(row, choice=row.choice and attrs.evolve(row.choice, by_context=False)) for row in chart.rows)
    )
    assert [event for event in chart.events if asking.judges_by_context(event)] == ["unmerge_adapter"]


def test_cohorts_of_two_states() -> None:
    """Modules are together when they shared their record before and share it after; those whose record stays are left out."""
    one, two, three = (ModuleFacts(state, after(adding("b")).modules["M1"].context) for state in ("active", "inactive", "merged"))
    before = {"w": one, "v": two, "x": one, "y": two, "z": one, "gone": two}
    later = {"w": three, "v": three, "x": three, "y": two, "z": two, "new": one}
    assert cohorts(before, later) == (
        Cohort(one, three, ["w", "x"]),
        Cohort(two, three, ["v"]),
        Cohort(one, two, ["z"]),
        Cohort(two, None, ["gone"]),
        Cohort(None, one, ["new"]),
    )
    assert cohorts(before, before) == ()


@pytest.mark.parametrize("by_context", [True, False])
def test_a_guard_without_an_answer_ends_the_event(by_context: bool) -> None:
    """A guard of a row that returns None has said neither yes nor no: the plan fails, and nothing is accepted."""

    def mute(_: Situation, __: Event) -> Sequence[Refusal]:
        """Says nothing."""
        return None  # type: ignore[return-value]

    silent = Guard("mute", "says nothing", EventRefusedError, mute, by_context=by_context)
    charts = CHARTS.with_chart(CHARTS.activation.with_guard("set_adapter", silent, value="some"))
    start = after(adding("everywhere", ADAPTERS["everywhere"]), adding("odd", ADAPTERS["odd"]))
    with pytest.raises(TypeError):
        plan(charts, start, [naming("set_adapter", "odd")])
