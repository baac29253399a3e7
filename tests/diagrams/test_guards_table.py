"""The table of the model's guards: each guard once, with every event that it is asked for."""

from __future__ import annotations

from adapterstate.diagrams import guards_table, html_table, markdown
from adapterstate.machine.charts import CHARTS, MODEL_GUARDS

from .charts import AWKWARD, ODD_GUARD
from .reading import from_html, from_markdown, one_line


def events(cell: str) -> set[str]:
    """The events that a cell speaks of."""
    if cell.startswith("every event"):
        return set(MODEL_GUARDS) - set(cell.removeprefix("every event").removeprefix(" but ").split(", "))
    return set(cell.split(", "))


def test_every_guard_with_its_events() -> None:
    """Read back, the table holds what the machine asks, and no more."""
    asked = {(guard.name, event) for event, guards in MODEL_GUARDS.items() for guard in guards}
    for rows in (from_markdown(markdown(guards_table(CHARTS))), from_html(html_table(guards_table(MODEL_GUARDS)))):
        assert ("every event but add_adapter",) in {row[1] for row in rows}
        assert len(rows) == len({name for name, _ in asked})
        assert {(row[0][0], event) for row in rows for event in events(row[1][0])} == asked
        told = {row[0][0]: (row[2][0], row[3][0]) for row in rows}
        assert told == {g.name: (g.label, g.error.__name__) for guards in MODEL_GUARDS.values() for g in guards}


def test_a_guard_of_ones_own() -> None:
    """A derived guard is in the table, however odd its words; one that every event asks says so."""
    charts = CHARTS
    for event in MODEL_GUARDS:
        charts = charts.with_guard(event, ODD_GUARD)
    rows = [row for row in from_markdown(markdown(guards_table(charts))) if row[0] == (ODD_GUARD.name,)]
    assert rows == [((ODD_GUARD.name,), ("every event",), (one_line(AWKWARD),), ("EventRefusedError",))]
