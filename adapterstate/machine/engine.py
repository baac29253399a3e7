"""The engine: real `transitions` machines take the rows that the planner selected. The only file that imports `transitions`.

A machine holds no model. Each move is run on a small subject of its own, made for it and dropped after it: it starts in the state that is
stored, the machine decides and moves it, and what it says must be what the planner said.
"""

from __future__ import annotations

from collections.abc import Callable

from transitions.core import Machine, MachineError

from adapterstate.errors import InternalError
from adapterstate.machine.charts import Chart, Charts, Row
from adapterstate.machine.guards import Guard
from adapterstate.machine.plan import Plan
from adapterstate.machine.records import Event, Situation

Condition = Callable[[Situation, Event], bool]


class Subject:
    """What a machine moves: one attribute with the state, nothing else."""

    __slots__ = ("state",)

    def __init__(self, state: str) -> None:
        self.state = state


class Engine:
    """One machine per chart, run by `transitions`."""

    def __init__(self, charts: Charts) -> None:
        self._machines = {chart.name: _machine(chart) for chart in charts}

    def run(self, plan: Plan) -> None:
        """Let the machines take every move of `plan`.

        Raises:
            InternalError: a machine refuses a move, or ends elsewhere than the planner said. Nothing has changed: nothing is written here.
        """
        for step in plan.steps:
            for move in step.moves:  # one subject stands for those that are alike
                after = self.move(move.chart, move.before, move.situation, step.event)
                if after != move.after:
                    raise InternalError(
                        f"{step.event}: the {move.chart} machine takes {move.situation.subject!r} from {move.before!r} to {after!r}, "
                        f"the plan to {move.after!r}; nothing has changed"
                    )

    def move(self, chart: str, state: str, situation: Situation, event: Event) -> str | None:
        """Trigger `event` on a subject in `state`; return its state after it, or None when the machine refuses or has no row."""
        found = self._machines[chart].events.get(event.name)
        if found is None:
            return None
        subject = Subject(state)
        try:
            moved = found.trigger(subject, situation, event)
        except MachineError:  # no row of the event starts from this state
            return None
        return subject.state if moved is True else None


def _machine(chart: Chart) -> Machine:
    """Build the machine of a chart: rows become transitions, whose conditions are the case and the guards."""
    machine = Machine(
        model=None,
        states=list(chart.states),
        initial=chart.initial,
        auto_transitions=False,
        model_attribute="state",
        model_override=True,
        send_event=False,
    )
    for row in chart.rows:
        machine.add_transition(row.event, list(row.sources), row.target, conditions=[*_conditions(row)])
    return machine


def _conditions(row: Row) -> list[Condition]:
    """The case and the guards of a row as booleans."""
    conditions = [_permits(guard) for guard in row.guards]
    choice, value = row.choice, row.value
    if choice is not None:
        conditions.insert(0, lambda situation, event: choice.select(situation, event) == value)
    return conditions


def _permits(guard: Guard) -> Condition:
    """A guard as a boolean: no refusals."""
    return lambda situation, event: not guard.judge(situation, event)
