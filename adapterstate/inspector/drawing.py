"""The charts in a page: drawn by Graphviz where it is installed, and always as tables."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from adapterstate.diagrams import chart_picture, chart_table, guards_table, has_graphviz, html_table, svg
from adapterstate.diagrams.dot import anchor
from adapterstate.diagrams.wording import case_of
from adapterstate.inspector.book import Data
from adapterstate.machine.charts import Chart, Charts

NO_GRAPHVIZ = "Graphviz was not installed where this page was written, so the charts are shown as tables and not as diagrams."

SIMULATED = "sim-"
"""Begins the identifiers of the diagrams in which the simulator lights states."""
PAST = "past-"
"""Begins those of the diagrams in which the time line does."""


def charts_html(charts: Charts, lit: Mapping[str, Mapping[str, str]]) -> str:
    """The charts with what is the case now, each with its table.

    Args:
        charts: those that the model runs by.
        lit: name of a chart -> state -> what is in it now.
    """
    drawn = has_graphviz()
    parts = [] if drawn else [f'<p class="note">{html.escape(NO_GRAPHVIZ)}</p>']
    blocks: list[str] = []
    for chart in charts:
        now = "; ".join(f"{state}: {what}" for state, what in lit[chart.name].items()) or "nothing is in a state of this chart"
        block = f"<h3>{html.escape(chart.name.capitalize())}</h3><p>One for each {html.escape(chart.subject)}. Now {html.escape(now)}.</p>"
        block += _figure(chart, lit[chart.name], "now-", f"Now {now}.") if drawn else ""
        blocks.append(f"<div>{block}{_table(html_table(chart_table(chart)), f'Rows of the {chart.name} chart', opened=not drawn)}</div>")
    parts.append(f'<div class="{"diagrams" if drawn else "tables"}">{"".join(blocks)}</div>')
    parts.append("<h3>Guards of the whole model</h3>")
    parts.append(_table(html_table(guards_table(charts)), "What is judged before the charts", opened=False))
    return "\n".join(parts)


def plain_charts_html(charts: Charts, prefix: str, who: str) -> str:
    """The charts with nothing lit, for the part of the page that lights them; empty without Graphviz."""
    return "\n".join(_figure(chart, {}, prefix, f"{who} lights its states.") for chart in charts) if has_graphviz() else ""


def charts_data(charts: Charts) -> list[Data]:
    """The words of the charts, and where their states and rows are in a diagram."""
    return [
        {
            "name": chart.name,
            "states": {state: anchor(chart.name, state) for state in chart.states},
            "rows": [
                {
                    "event": row.event,
                    "case": case_of(row),
                    "guards": [[guard.name, guard.label, guard.error.__name__] for guard in row.guards],
                    "arrows": arrows,
                }
                for row, arrows in zip(chart.rows, _arrows(chart), strict=True)
            ],
        }
        for chart in charts
    ]


def _arrows(chart: Chart) -> list[dict[str, str]]:
    """For each row: the state that an arrow of it starts from -> the arrow's identifier. Rows that stay have none."""
    found: list[dict[str, str]] = []
    number = 0
    for row in chart.rows:
        found.append({})
        for source in row.sources:
            if row.leads_to(source) != source:
                found[-1][source] = anchor(chart.name, "arrow", number)
                number += 1
    return found


def _figure(chart: Chart, lit: Mapping[str, str], prefix: str, said: str) -> str:
    """One diagram in a frame that scrolls. Its identifiers get a prefix: each chart is drawn several times in a page."""
    drawn = svg(chart_picture(chart, lit=lit), description=said)
    drawn = re.sub(r'<g id="(?:a_)?(?:graph|node|edge|clust)\d+"', "<g", drawn)  # Graphviz numbers what has no name, in each diagram alike
    drawn = re.sub(r' id="', f' id="{prefix}', drawn)
    drawn = re.sub(r' xmlns(?::xlink)?="[^"]*"', "", drawn)  # inside HTML they say nothing
    label = _label(f"Diagram of the {chart.name} chart")
    return f'<figure class="chart" data-chart="{html.escape(chart.name, quote=True)}" {label}>{drawn}</figure>'


def _table(table: str, title: str, *, opened: bool) -> str:
    """A table in something that opens."""
    shown = " open" if opened else ""
    return f'<details{shown}><summary>{html.escape(title)}</summary><div class="scroll" {_label(title)}>{table}</div></details>'


def _label(text: str) -> str:
    """The attributes of something that scrolls: the keyboard can reach it, and it has a name."""
    return f'tabindex="0" role="group" aria-label="{html.escape(text, quote=True)}"'
