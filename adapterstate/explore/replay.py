"""Replay: the transitions of a walk, run again through the real machines of `transitions`."""

from __future__ import annotations

from typing import Protocol

from adapterstate.explore.report import Exploration
from adapterstate.explore.walk import walk
from adapterstate.explore.worlds import World
from adapterstate.machine.charts import Charts
from adapterstate.machine.engine import Engine
from adapterstate.machine.records import Event, Situation


class Mover(Protocol):
    """What takes one subject through one event: `Engine`, or a faster path that claims to be equal."""

    def move(self, chart: str, state: str, situation: Situation, event: Event) -> str | None:
        """The state after the event; None when it is refused there."""


def replay(exploration: Exploration, engine: Mover | None = None) -> int:
    """Let machines take every move of the walks, refused ones included, and compare with what the planner said.

    Args:
        exploration: the walks.
        engine: the machines; by default those of the charts.

    Returns:
        How many moves were compared.

    Raises:
        AssertionError: a machine moves elsewhere, moves what is refused, or refuses what is planned.
    """
    charts = exploration.charts
    machines = engine if engine is not None else Engine(charts)
    return sum(_replayed(walked.world, charts, machines) for walked in exploration.walks)


def _replayed(world: World, charts: Charts, machines: Mover) -> int:
    """Compare the moves of one world."""
    compared = 0
    for transition in walk(world, charts):
        if transition.plan is None:
            continue
        step = transition.plan.steps[-1]
        refused = {(refusal.guard, refusal.where) for refusal in transition.plan.refusals}
        for move, situation in ((one, each) for one in step.moves for each in one.situations):
            no = any((guard.name, situation.subject) in refused for guard in move.row.guards)
            found = machines.move(move.chart, move.before, situation, transition.event)
            compared += 1
            wanted = None if no else move.after
            if found != wanted:
                raise AssertionError(
                    f"in {world.name!r}, {transition.event} takes {situation.subject!r} in the {move.chart} machine from "
                    f"{move.before!r} to {_said(found)}; the planner said {_said(wanted)}"
                )
    return compared


def _said(state: str | None) -> str:
    """A state, or that there is none."""
    return "a refusal" if state is None else repr(state)
