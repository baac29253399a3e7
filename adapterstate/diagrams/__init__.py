"""Pictures and tables of charts, of a model's present state, and of what is reachable: drawn from the machine, never by hand.

A `Picture` or a `Table` says what is shown; `mermaid`, `dot`, `svg`, `markdown` and `html_table` print it. Equal charts give equal text.
"""

from adapterstate.diagrams.charting import chart_picture, charts_picture
from adapterstate.diagrams.display import chart_bundle, charts_bundle, status_bundle
from adapterstate.diagrams.dot import dot
from adapterstate.diagrams.markdown import document, markdown
from adapterstate.diagrams.mermaid import mermaid
from adapterstate.diagrams.page import html_table
from adapterstate.diagrams.picture import Arrow, Group, Node, Picture, Words
from adapterstate.diagrams.present import grid_html, grid_picture, grid_table, present_picture, present_states
from adapterstate.diagrams.reachable import graph_picture
from adapterstate.diagrams.svg import GraphvizError, has_graphviz, svg
from adapterstate.diagrams.table import Code, Table, chart_table, guards_table

__all__ = [
    "Arrow",
    "Code",
    "GraphvizError",
    "Group",
    "Node",
    "Picture",
    "Table",
    "Words",
    "chart_bundle",
    "chart_picture",
    "chart_table",
    "charts_bundle",
    "charts_picture",
    "document",
    "dot",
    "graph_picture",
    "grid_html",
    "grid_picture",
    "grid_table",
    "guards_table",
    "has_graphviz",
    "html_table",
    "markdown",
    "mermaid",
    "present_picture",
    "present_states",
    "status_bundle",
    "svg",
]
