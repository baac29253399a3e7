"""Charts as pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adapterstate.diagrams.picture import Arrow, Group, Node, Picture, plain
from adapterstate.diagrams.wording import words_of
from adapterstate.errors import ArgumentError, type_of
from adapterstate.machine.charts import Chart


def chart_picture(chart: Chart, *, events: Iterable[str] | None = None, lit: Mapping[str, str] | None = None) -> Picture:
    """Draw a chart.

    Args:
        chart: any chart, derived ones too.
        events: only the rows of these; None for all.
        lit: the states that something is in now, with a note on what, such as ``"2 modules"``; None draws the chart alone.

    Raises:
        ArgumentError: the chart has no rows for one of `events`, or it is no `Chart`.
    """
    refuse_no_chart(chart)
    only = None if events is None else tuple(events)
    for event in only or ():
        if event not in chart.events:
            raise ArgumentError(f"the {chart.name} chart has no rows for {event!r}; it has {list(chart.events)}")
    title = _title(chart) + (f": {', '.join(only)}" if only is not None else "")
    return Picture(plain(title), (_group(chart, "", only, lit or {}),))


def charts_picture(charts: Iterable[Chart], *, lit: Mapping[str, Mapping[str, str]] | None = None) -> Picture:
    """Draw several charts side by side, each in a frame.

    Args:
        charts: such as `adapterstate.machine.charts.CHARTS`.
        lit: name of a chart -> the states that something is in now.

    Raises:
        ArgumentError: they are no charts.
    """
    if not isinstance(charts, Iterable):
        raise ArgumentError(f"{type_of(charts)} was given; charts are expected, such as CHARTS")
    charts = tuple(charts)
    for chart in charts:
        refuse_no_chart(chart)
    groups = [_group(chart, _title(chart), None, (lit or {}).get(chart.name, {})) for chart in charts]
    return Picture("charts" if lit is None else "charts, with what is the case now", tuple(groups))


def refuse_no_chart(given: object) -> None:
    """Refuse what is no chart.

    Raises:
        ArgumentError: it is no `Chart`.
    """
    if not isinstance(given, Chart):
        raise ArgumentError(f"{type_of(given)} was given; a Chart is expected, such as CHARTS.activation")


def _title(chart: Chart) -> str:
    return plain(f"{chart.name}, one for each {chart.subject}")


def _group(chart: Chart, title: str, only: tuple[str, ...] | None, lit: Mapping[str, str]) -> Group:
    rows = [row for row in chart.rows if only is None or row.event in only]
    nodes = [
        Node(
            name=state,
            title=plain(state),
            kind=state,
            notes=(f"now: {plain(lit[state])}",) if state in lit else (),
            stays=tuple(words_of(row) for row in rows if state in row.sources and row.leads_to(state) == state),
            lit=state in lit,
            initial=state == chart.initial,
            final=state in chart.final,
        )
        for state in chart.states
    ]
    arrows = [Arrow(s, row.leads_to(s), words_of(row)) for row in rows for s in row.sources if row.leads_to(s) != s]
    return Group(chart.name, title, tuple(nodes), tuple(arrows))
