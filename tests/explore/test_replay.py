"""The walk's moves, run again through the real machines of `transitions`, are what the planner said."""

from __future__ import annotations

import attrs
import pytest

from adapterstate.explore import QUICK, SIMULATOR, World, explore, replay, rows, tuner, whole
from adapterstate.machine.charts import ACTIVATION, CHARTS
from adapterstate.machine.engine import Engine
from adapterstate.machine.records import Event, Situation

WORLD = World("w", {"a": {"x": tuner(), "y": whole()}, "b": {"y": rows(0)}}, enablement=True, trainability=True)


def test_the_machines_agree() -> None:
    """Every move of small worlds, refused ones included, reports included."""
    small = [WORLD, SIMULATOR, *(world for world in QUICK if world.name in ("reports", "bad input", "three adapters, error"))]
    assert replay(explore(small)) > 10_000


def test_the_machines_of_a_derived_chart_agree() -> None:
    """By default the machines are those of the charts that were explored."""
    charts = CHARTS.with_chart(ACTIVATION.without("merge_adapter", source="merged"))
    assert replay(explore(WORLD, charts=charts)) > 0


def test_a_machine_that_differs_is_found() -> None:
    """The machines of other charts, and one that moves what is refused, are told apart."""
    exploration = explore(attrs.evolve(WORLD, carried=("override",)))
    with pytest.raises(AssertionError, match="merge_adapter"):
        replay(exploration, Engine(CHARTS.with_chart(ACTIVATION.without("merge_adapter", source="merged"))))

    class Careless:
        def move(self, chart: str, state: str, situation: Situation, event: Event) -> str | None:
            table = {one.name: one for one in CHARTS}[chart]
            row = table.select(state, situation, event)
            return row.leads_to(state) if row else None

    with pytest.raises(AssertionError, match="the planner said a refusal"):
        replay(exploration, Careless())
