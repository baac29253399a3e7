"""A row in words, from the labels of its choice and its guards: the same in every picture and table."""

from __future__ import annotations

from adapterstate.diagrams.picture import Words, plain
from adapterstate.machine.charts import Row
from adapterstate.machine.guards import Guard


def case_of(row: Row) -> str:
    """The question and its answer, such as ``"is a named adapter present here? some"``; empty for a row without a case."""
    return plain(f"{row.choice.label} {row.value}") if row.choice else ""


def demand_of(guard: Guard) -> str:
    """What a guard demands, and what is raised otherwise."""
    return plain(f"{guard.label}, else {guard.error.__name__}")


def words_of(row: Row) -> Words:
    """What the arrow of a row says."""
    return Words(plain(row.event), case_of(row), tuple(demand_of(guard) for guard in row.guards))
