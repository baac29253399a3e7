"""Which rows and refusals a run exercised: all of them, by the exploration with the reports that modules can give."""

from __future__ import annotations

import pytest

from adapterstate.explore import ChartCoverage, Exploration, Trial, World, explore, rows, tuner, whole
from adapterstate.explore.standard import REPORTS
from adapterstate.machine import guards as g
from adapterstate.machine.charts import CHARTS
from adapterstate.machine.guards import Guard
from adapterstate.machine.plan import DECLARED
from adapterstate.machine.records import Event, Facts

WORLD = World("w", {"a": {"x": tuner(), "y": whole()}, "b": {"y": rows(0)}})


def test_every_row_and_every_refusal_is_exercised(quick: Exploration) -> None:
    """The quick worlds take every row and meet every refusal.

    Two rows are only ever selected: a merge of adapters that are elsewhere and an unmerge where nothing is merged change nothing on a
    module, so it is not offered the event.
    """
    coverage = quick.coverage
    assert coverage.missing_rows == ()
    assert coverage.missing_refusals == ()
    assert [coverage.row_text(name) for name in coverage.never_taken] == [
        "merge_adapter from inactive, active, merged [named_here: none] to same",
        "unmerge_adapter from inactive, active to same",
    ]


def test_every_guard_that_reads_reports_gets_one(quick: Exploration) -> None:
    """The list of reports is that of the guards which refuse only by a report."""
    reported = {report.guard for report in REPORTS}
    quiet = ChartCoverage()
    for walked in quick.walks:
        if not walked.world.reports:
            quiet.update(walked.coverage)
    assert set(quiet.missing_refusals) == reported


def test_refusals_are_guards() -> None:
    """Every guard that is declared in the machine is in the list."""
    declared = {value.name for value in vars(g).values() if isinstance(value, Guard)}
    assert set(ChartCoverage().guards) == declared


def test_plans_are_fed() -> None:
    """A run counts what it was told of: rows of what is accepted, reasons of what is refused."""
    coverage, trial = ChartCoverage(), Trial(WORLD)
    coverage.add(trial.add_adapter("a"))
    coverage.add(trial.add_adapter("b"))
    assert coverage.taken["activation", 0] == 2  # x and y
    assert coverage.taken["activation", 2] == 1  # y again
    assert coverage.taken["trainability", 0] == 2
    found = coverage.plan(CHARTS, trial.facts, [Event("set_adapter", ("a", "b"))])
    assert not found.accepted
    assert coverage.refusals == {"no_overlap": 1}
    assert "MISSING" in str(coverage)
    assert coverage.missing_refusals[0] == "name_is_legal"


def test_steps_before_a_refused_one_are_not_lost() -> None:
    """A plan of several events counts the rows of those that were accepted, and the refusal of the last."""
    coverage, trial = ChartCoverage(), Trial(WORLD)
    adding = trial.add_adapter("a").steps[0].event
    coverage.plan(CHARTS, Facts(), [adding, Event("merge_adapter", ("a",)), adding])
    assert coverage.taken["activation", 5] == 2
    assert coverage.refusals == {"name_is_new": 1}


def test_a_selected_row_is_not_taken() -> None:
    """Unmerging where nothing is merged selects the row that keeps the state."""
    coverage, trial = ChartCoverage(), Trial(WORLD)
    trial.add_adapter("a")
    coverage.add(trial.unmerge_adapter())
    assert coverage.never_taken == (("activation", 8),)
    assert "selected 2 times, never moved" in str(coverage)


def test_it_stands_in_for_the_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test run of one's own is recorded by putting `coverage.plan` where the planner is called."""
    from adapterstate.explore import trial as module

    coverage = ChartCoverage()
    monkeypatch.setattr(module, "plan", coverage.plan)
    Trial(WORLD).add_adapter("a")
    assert coverage.taken["activation", 0] == 2


def test_a_missing_row_refuses() -> None:
    """A chart without a row refuses with a reason of its own, which is counted beside the guards."""
    charts = CHARTS.with_chart(CHARTS.activation.without("unmerge_adapter", source="merged"))
    coverage = explore(WORLD, charts=charts).coverage
    assert coverage.refusals[DECLARED.name] > 0
    assert DECLARED.name in str(coverage)


def test_charts_are_recognised_by_value() -> None:
    """Plans made by a copy of the charts count for the same rows."""
    coverage = ChartCoverage()
    table = CHARTS.activation
    charts = CHARTS.with_chart(table.with_guard("unmerge_adapter", g.distinct).without("unmerge_adapter", source="merged"))
    trial = Trial(WORLD, charts)
    coverage.add(trial.add_adapter("a"))
    assert coverage.taken["activation", 0] == 2
