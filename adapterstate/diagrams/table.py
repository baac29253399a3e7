"""Tables, whoever prints them: a cell is lines of text, and some of the text is code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from adapterstate.diagrams.charting import refuse_no_chart
from adapterstate.diagrams.effects import effect_of
from adapterstate.diagrams.picture import plain
from adapterstate.diagrams.wording import case_of
from adapterstate.machine.charts import SAME, Chart, Charts
from adapterstate.machine.guards import Guard


class Code(str):
    """Text that is a name, and is printed as code."""

    __slots__ = ()


Line = tuple[str, ...]
"""Pieces of text, `Code` or not, that stand beside each other."""


@attrs.frozen
class Table:
    """A table.

    Attributes:
        title: what it is about.
        columns: their titles.
        rows: cells, each a tuple of lines.
        notes: sentences below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[Line, ...], ...], ...]
    notes: tuple[Line, ...] = ()


def chart_table(chart: Chart, *, events: Iterable[str] | None = None) -> Table:
    """Make the table of a chart: event, from, case, to, guards and the effect on torch, a line for each row of the chart.

    Args:
        chart: any chart, derived ones too.
        events: only the rows of these; None for all.

    Raises:
        ArgumentError: it is no `Chart`.
    """
    refuse_no_chart(chart)
    only = None if events is None else tuple(events)
    rows = [
        (
            _cell(_code(row.event)),
            _cell(_listed(row.sources)),
            _cell((case_of(row), " (", _code(row.case), ")")) if row.case else (),
            _cell(("stays the same",)) if row.target == SAME else _cell(_code(row.target)),
            tuple(_guard(guard) for guard in row.guards),
            _cell((effect_of(chart, row),)) if effect_of(chart, row) else (),
        )
        for row in chart.rows
        if only is None or row.event in only
    ]
    notes = [
        ("Cannot occur: ", Code(one.event), " from ", Code(one.source), " with the result ", Code(one.value), ".")
        for one in chart.impossible
        if only is None or one.event in only
    ]
    title = plain(f"The {chart.name} chart, one for each {chart.subject}")
    return Table(title, ("event", "from", "case", "to", "guards", "effect on torch"), tuple(rows), tuple(notes))


def guards_table(guards: Charts | Mapping[str, Sequence[Guard]]) -> Table:
    """Make the table of the guards of the whole model: which events ask them, what they demand, and what is raised otherwise."""
    found: Mapping[str, Sequence[Guard]] = guards.model_guards if isinstance(guards, Charts) else guards
    rows: list[Any] = []
    for guard in dict.fromkeys(guard for judged in found.values() for guard in judged):
        events = tuple(event for event, judged in found.items() if guard in judged)
        cells = [_code(guard.name), _asked_by(events, tuple(found)), (plain(guard.label),), _code(guard.error.__name__)]
        rows.append(tuple((cell if isinstance(cell, tuple) else (cell,),) for cell in cells))
    return Table("Guards of the whole model, judged before the charts", ("guard", "events", "demands that", "else"), tuple(rows))


def _asked_by(events: tuple[str, ...], known: tuple[str, ...]) -> Line:
    """Events, or which are not among them where that is shorter."""
    others = tuple(event for event in known if event not in events)
    if len(events) <= len(others) + 1:
        return _listed(events)
    return ("every event but ", *_listed(others)) if others else ("every event",)


def _code(text: str) -> Code:
    return Code(plain(text))


def _cell(line: str | Line) -> tuple[Line, ...]:
    """A cell of one line."""
    return (line,) if isinstance(line, tuple) else ((line,),)


def _listed(names: Sequence[str]) -> Line:
    """Names, with commas between them."""
    return tuple(piece for name in names for piece in (", ", _code(name)))[1:]


def _guard(guard: Guard) -> Line:
    return (_code(guard.name), ": ", plain(guard.label), ", else ", _code(guard.error.__name__))
