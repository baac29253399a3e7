"""Charts show themselves in notebooks.

The machine must not know how it is drawn, so its classes get the method that notebooks look for from here. What draws is imported only
when something is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapterstate.machine.charts import Chart, Charts

Mimes = Iterable[str] | None


def _show_chart(self: Chart, include: Mimes = None, exclude: Mimes = None) -> dict[str, str]:
    """The chart as Mermaid and Markdown, by mime type."""
    from adapterstate.diagrams.display import chart_bundle

    return chart_bundle(self, include, exclude)


def _show_charts(self: Charts, include: Mimes = None, exclude: Mimes = None) -> dict[str, str]:
    """All charts as Mermaid and Markdown, by mime type."""
    from adapterstate.diagrams.display import charts_bundle

    return charts_bundle(self, include, exclude)


setattr(Chart, "_repr_mimebundle_", _show_chart)  # noqa: B010 - a plain assignment is an error to type checkers: there is no such attribute
setattr(Charts, "_repr_mimebundle_", _show_charts)  # noqa: B010
