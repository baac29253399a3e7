"""The words on torch belong to rows that exist."""

from __future__ import annotations

from adapterstate.diagrams.effects import EFFECTS, effect_of
from adapterstate.machine.charts import CHARTS


def test_every_row_has_its_effect_and_no_effect_is_left_over() -> None:
    """Each row of the three charts says what it means for torch, and no words stay behind when a row goes."""
    assert {(chart.name, row.event, row.value, row.target) for chart in CHARTS for row in chart.rows} == set(EFFECTS)
    assert all(effect_of(chart, row) for chart in CHARTS for row in chart.rows)
