"""A Sphinx extension that draws charts. Other projects can use it: ``extensions = ["adapterstate.sphinx"]``.

``.. adapterstate-chart:: package.module.CHART`` draws a chart, or with a `Charts` all of them, from the import path. Options:

- ``:format:`` is ``svg`` (the default, by Graphviz), ``mermaid`` (its text) or ``table``;
- ``:events:`` shows only the rows of these events.

``.. adapterstate-guards:: package.module.CHARTS`` makes the table of the guards of the whole model.

Where the pages are not HTML, or Graphviz is missing, the table takes the place of the picture. For the latter a note in the page says
so; it is no warning, so that a build with ``-W`` succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from adapterstate.diagrams import chart_picture, chart_table, guards_table, has_graphviz, mermaid, svg
from adapterstate.diagrams.finding import found, found_chart
from adapterstate.diagrams.table import Code, Line, Table
from adapterstate.errors import ArgumentError
from adapterstate.machine.charts import Chart, Charts

FORMATS = ("svg", "mermaid", "table")


class ChartDirective(SphinxDirective):
    """Draw a chart."""

    required_arguments = 1
    option_spec: ClassVar[Any] = {
        "format": lambda given: directives.choice(given, FORMATS),
        "events": lambda given: directives.unchanged_required(given).replace(",", " ").split(),
    }

    def run(self) -> list[nodes.Node]:
        """Make the nodes."""
        try:
            what = found_chart(self.arguments[0])
            charts = [what] if isinstance(what, Chart) else list(what)
            return [node for chart in charts for node in self._drawn(chart)]
        except ArgumentError as error:
            raise self.error(str(error)) from error

    def _drawn(self, chart: Chart) -> list[nodes.Node]:
        form, events = self.options.get("format", "svg"), self.options.get("events")
        picture = chart_picture(chart, events=events)
        if form == "mermaid":
            text = mermaid(picture)
            return [nodes.literal_block(text, text, language="text")]
        if form == "table":
            return table_nodes(chart_table(chart, events=events))
        if self.env.app.builder.format != "html":
            return table_nodes(chart_table(chart, events=events))
        if not has_graphviz():
            said = "Graphviz was not installed where this page was built; the table takes the place of the diagram."
            return [nodes.note("", nodes.paragraph("", said)), *table_nodes(chart_table(chart, events=events))]
        drawn = svg(picture, description="The table of the chart says the same in text.")
        around = f'<div class="adapterstate-chart" style="overflow-x:auto">{drawn}</div>'
        return [nodes.raw("", around, format="html")]


class GuardsDirective(SphinxDirective):
    """Make the table of the guards of the whole model."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the nodes."""
        try:
            what = found(self.arguments[0])
            if not isinstance(what, (Charts, dict)):
                raise ArgumentError(f"{self.arguments[0]} is of type {type(what).__name__}; Charts, or a dict of guards, is expected")
        except ArgumentError as error:
            raise self.error(str(error)) from error
        return table_nodes(guards_table(what))


def table_nodes(table: Table) -> list[nodes.Node]:
    """A table as nodes of a page, with its notes."""
    group = nodes.tgroup("", cols=len(table.columns))
    for at, column in enumerate(table.columns):
        lines = [column, *("".join(line) for row in table.rows for line in row[at])]
        word = max(len(word) for line in lines for word in line.split())
        # Words stay whole, and sentences share what is left.
        group += nodes.colspec(colwidth=max(word, min(34, max(map(len, lines)))))
    head, body = nodes.thead(), nodes.tbody()
    head += nodes.row("", *(nodes.entry("", nodes.paragraph("", column)) for column in table.columns))
    for row in table.rows:
        body += nodes.row("", *(nodes.entry("", *(nodes.paragraph("", "", *_spans(line)) for line in cell)) for cell in row))
    group += [head, body]
    made = nodes.table("", nodes.title("", table.title), group, classes=["colwidths-given"])
    # Six columns are many for a page of text. Themes differ, so the size is set here and not in one of their style sheets.
    small = nodes.raw("", '<div style="font-size:0.8em;line-height:1.4">', format="html")
    return [small, made, *(nodes.paragraph("", "", *_spans(note)) for note in table.notes), nodes.raw("", "</div>", format="html")]


def _spans(line: Line) -> Sequence[nodes.Node]:
    return [nodes.literal("", span) if isinstance(span, Code) else nodes.Text(span) for span in line]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's hook."""
    app.add_directive("adapterstate-chart", ChartDirective)
    app.add_directive("adapterstate-guards", GuardsDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
