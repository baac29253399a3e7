"""How charts and states show themselves in notebooks: the bundles that ``_repr_mimebundle_`` returns, mime type -> text."""

from __future__ import annotations

from collections.abc import Iterable

from adapterstate.diagrams.charting import chart_picture, charts_picture
from adapterstate.diagrams.markdown import document
from adapterstate.diagrams.mermaid import mermaid
from adapterstate.diagrams.present import grid_html, grid_table
from adapterstate.diagrams.table import chart_table, guards_table
from adapterstate.inspection import Status
from adapterstate.machine.charts import Chart, Charts


def chart_bundle(chart: Chart, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> dict[str, str]:
    """A chart as Mermaid, and as Markdown that holds the same diagram and the table.

    JupyterLab prefers HTML to Markdown and Markdown to Mermaid, and draws Mermaid inside Markdown. So there is no HTML here, which would
    hide the diagram, and the Markdown brings it along.

    Args:
        chart: any chart, derived ones too.
        include: only these mime types; None for all.
        exclude: not these.
    """
    return _chosen(_bundle(mermaid(chart_picture(chart)), document(chart_table(chart)), repr(chart)), include, exclude)


def charts_bundle(charts: Charts, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> dict[str, str]:
    """All charts of a model, and its guards; see `chart_bundle`."""
    tables = document(*(chart_table(chart) for chart in charts), guards_table(charts))
    return _chosen(_bundle(mermaid(charts_picture(charts)), tables, repr(charts)), include, exclude)


def status_bundle(status: Status, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> dict[str, str]:
    """A state as a table of modules and adapters; see `chart_bundle`."""
    bundle = {"text/html": grid_html(status), "text/markdown": document(grid_table(status)), "text/plain": str(status)}
    return _chosen(bundle, include, exclude)


def _bundle(drawn: str, tables: str, text: str) -> dict[str, str]:
    return {"text/vnd.mermaid": drawn, "text/markdown": f"```mermaid\n{drawn}```\n\n{tables}", "text/plain": text}


def _chosen(bundle: dict[str, str], include: Iterable[str] | None, exclude: Iterable[str] | None) -> dict[str, str]:
    """What is asked for."""
    wanted = set(bundle if include is None else include) - set(exclude or ())
    return {mime: text for mime, text in bundle.items() if mime in wanted}
