"""Tables as HTML, for notebooks and pages. Colours are set beside words, never in their place."""

from __future__ import annotations

import html
from collections.abc import Sequence

from adapterstate.diagrams.palette import TEXT, look
from adapterstate.diagrams.table import Code, Line, Table


def html_table(table: Table) -> str:
    """Print a table as HTML. The same table gives the same text."""
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    body = "".join("<tr>" + "".join(f'<td style="text-align:left">{_cell(cell)}</td>' for cell in row) + "</tr>" for row in table.rows)
    notes = "".join(f"<p>{spans(note)}</p>" for note in table.notes)
    caption = f"<caption>{html.escape(table.title)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def spans(line: Line) -> str:
    """One line of a cell."""
    return "".join(f"<code>{html.escape(span)}</code>" if isinstance(span, Code) else html.escape(span) for span in line)


def box_style(kind: str, border: str = "") -> str:
    """The look of a box of a picture, as CSS."""
    found = look(kind, border)
    line = "dashed" if found.dashed else "solid"
    return f"background:{found.fill};color:{TEXT};border:{found.width}px {line} {found.stroke};text-align:left"


def _cell(lines: Sequence[Line]) -> str:
    return "<br>".join(spans(line) for line in lines)
