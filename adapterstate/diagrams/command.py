"""What ``python -m adapterstate diagram`` does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from adapterstate.diagrams.charting import chart_picture, charts_picture
from adapterstate.diagrams.dot import dot
from adapterstate.diagrams.finding import NAMED, found_chart
from adapterstate.diagrams.markdown import document
from adapterstate.diagrams.mermaid import mermaid
from adapterstate.diagrams.picture import Picture
from adapterstate.diagrams.svg import GraphvizError, svg
from adapterstate.diagrams.table import chart_table, guards_table
from adapterstate.errors import ArgumentError
from adapterstate.machine.charts import Chart, Charts

DRAWERS: Mapping[str, Callable[[Picture], str]] = {"mermaid": mermaid, "dot": dot, "svg": svg}
ENDINGS: Mapping[str, str] = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".md": "markdown", ".mmd": "mermaid"}
"""Endings of files -> the format that they say."""


def drawn(what: Chart | Charts, form: str) -> str:
    """Print a chart, or all charts of a model, in a format.

    Args:
        what: a chart or charts; with charts, the tables include the guards of the whole model.
        form: ``"mermaid"``, ``"dot"``, ``"markdown"`` or ``"svg"``.

    Raises:
        GraphvizError: SVG is asked for and Graphviz is not installed.
    """
    if form != "markdown":
        return DRAWERS[form](chart_picture(what) if isinstance(what, Chart) else charts_picture(what))
    return document(chart_table(what)) if isinstance(what, Chart) else document(*map(chart_table, what), guards_table(what))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "chart",
        nargs="?",
        default="all",
        metavar="CHART",
        help=f"{', '.join(NAMED)} (default: all), or a chart of your own as MODULE:NAME, such as mypackage.charts:CAUTIOUS",
    )
    parser.add_argument(
        "--format",
        choices=(*DRAWERS, "markdown"),
        help="mermaid (GitHub and JupyterLab draw it), dot (for Graphviz), svg (drawn by Graphviz), markdown (tables); "
        "by default as the ending of FILE says (.mmd, .dot, .gv, .svg, .md), and mermaid for any other",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write to FILE instead of the screen")


def _form(given: argparse.Namespace) -> str:
    """The format that is asked for: by name, else by the ending of the file."""
    return given.format or ("mermaid" if given.output is None else ENDINGS.get(given.output.suffix.lower(), "mermaid"))


def diagram(given: argparse.Namespace) -> int:
    """Print what is asked for; return the exit code."""
    try:
        text = drawn(found_chart(given.chart), _form(given))
    except (ArgumentError, GraphvizError) as error:
        print(f"diagram: {error}", file=sys.stderr)
        return 2
    if given.output is None:
        print(text, end="")
        return 0
    try:
        given.output.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"--output {given.output}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


DESCRIPTION = (
    "Draw the charts: the tables that say what may happen to a wrapped module (activation), to the model (enablement) and to an adapter "
    "(trainability). A chart is drawn from the very table that the state machine runs by. Boxes are states; an arrow is an event, with the "
    "case in which it is taken and the guards that can refuse it. Nothing is trained, downloaded or changed."
)
EPILOG = (
    "Exit code: 0 if the diagram was printed or written, 2 if the command was used wrongly, FILE cannot be written, or Graphviz is needed "
    "and not installed.  Example:  python -m adapterstate diagram activation --output activation.svg"
)
