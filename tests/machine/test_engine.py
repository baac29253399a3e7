"""Real `transitions` machines take every row that the planner selected, and say so if they would not."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given

from adapterstate.errors import InternalError
from adapterstate.machine.charts import ACTIVATION, CHARTS, SAME
from adapterstate.machine.engine import Engine, Subject
from adapterstate.machine.plan import Plan
from adapterstate.machine.records import Event, Facts, Situation

from .worlds import EVENTS, adding, after, life, naming, planned

ENGINE = Engine(CHARTS)
WORLD = after(adding("a"), adding("b"), adding("c"), adding("d"))


@given(EVENTS)
def test_machines_move_as_planned(events: list[Event]) -> None:
    """On random events each machine ends where the planner said, and refuses exactly the moves whose guards refuse."""
    for event, found in life(events):
        for move in found.steps[0].moves:
            no = any(guard.judge(move.situation, event) for guard in move.row.guards)
            assert ENGINE.move(move.chart, move.before, move.situation, event) == (None if no else move.after)
        if found.accepted:
            ENGINE.run(found)


def test_run_of_several_steps() -> None:
    """Every step of a plan is run, each with its own event."""
    ENGINE.run(
        planned(WORLD, naming("merge_adapter", "a"), naming("set_adapter", "b"), naming("delete_adapter", "a"), Event("disable_adapters"))
    )


def test_rows_become_transitions() -> None:
    """A machine has the states of its chart, one transition per row and state, and nothing that it made up."""
    for chart in CHARTS:
        machine = ENGINE._machines[chart.name]
        assert list(machine.states) == list(chart.states)
        assert set(machine.events) == set(chart.events)
        assert machine.models == []
        for event in chart.events:
            made = [(state, transition.dest) for state, listed in machine.events[event].transitions.items() for transition in listed]
            rows = [(state, row.leads_to(state)) for row in chart.rows if row.event == event for state in row.sources]
            assert sorted(made) == sorted(rows)


def lie(found: Plan, **changes: object) -> Plan:
    """The plan with its last move changed."""
    step = found.steps[-1]
    moves = (*step.moves[:-1], attrs.evolve(step.moves[-1], **changes))  # type: ignore[arg-type]
    return attrs.evolve(found, steps=(*found.steps[:-1], attrs.evolve(step, moves=moves)))


def test_a_plan_that_lies_about_the_end() -> None:
    """A machine that ends elsewhere than the plan says is an internal error that names both."""
    with pytest.raises(InternalError) as caught:
        ENGINE.run(lie(planned(WORLD, naming("set_adapter", "b")), after="merged"))
    assert all(word in str(caught.value) for word in ("activation", "'M2'", "'inactive'", "'active'", "'merged'", "nothing has changed"))


def test_a_plan_that_hides_a_refusal() -> None:
    """A machine whose guards refuse the move is an internal error."""
    overlapping = Event("set_adapter", ("b", "c"))
    found = planned(WORLD, naming("set_adapter", "b"))
    with pytest.raises(InternalError, match="to None"):
        ENGINE.run(attrs.evolve(found, steps=(attrs.evolve(found.steps[0], event=overlapping),)))


def test_a_plan_by_other_charts() -> None:
    """A plan that was made by other charts than the machines were is found out."""
    moving = planned(WORLD, naming("set_adapter", "b"))
    rows = tuple(attrs.evolve(row, target=SAME) if (row.event, row.value) == ("set_adapter", "some") else row for row in ACTIVATION.rows)
    with pytest.raises(InternalError):
        Engine(CHARTS.with_chart(attrs.evolve(ACTIVATION, rows=rows))).run(moving)


def test_a_plan_from_a_state_without_a_row() -> None:
    """A move from a state that has no row for the event is refused by the machine, which is an internal error too."""
    with pytest.raises(InternalError):
        ENGINE.run(lie(planned(WORLD, naming("set_adapter", "b")), before="unwrapped"))


def test_an_event_that_a_machine_does_not_have() -> None:
    """A machine without the event refuses it."""
    assert ENGINE.move("trainability", "trainable", Situation(WORLD, "a"), Event("enable_adapters")) is None


def test_subject_is_lean() -> None:
    """A subject holds its state and nothing else, and machines keep none of them."""
    subject = Subject("active")
    with pytest.raises(AttributeError):
        subject.other = 1  # type: ignore[attr-defined]
    ENGINE.move("enablement", "enabled", Situation(Facts()), Event("disable_adapters"))
    assert all(machine.models == [] for machine in ENGINE._machines.values())
