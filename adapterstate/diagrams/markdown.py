"""Tables as Markdown, for GitHub, MyST and notebooks."""

from __future__ import annotations

import re

from adapterstate.diagrams.picture import plain
from adapterstate.diagrams.table import Code, Line, Table


def markdown(table: Table) -> str:
    """Print a table as Markdown. The same table gives the same text."""
    lines = [
        _line([escaped(column) for column in table.columns]),
        _line(["---"] * len(table.columns)),
        *(_line(["<br>".join(_spans(line) for line in cell) for cell in row]) for row in table.rows),
    ]
    lines += [part for note in table.notes for part in ("", _spans(note))]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as Markdown can hold it on one line: punctuation that could mean something gets a backslash."""
    return re.sub(r"([^\w\s.,?':;()=/-]|(?<!\w)_|_(?!\w))", r"\\\1", plain(text))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _spans(line: Line) -> str:
    """One line of a cell. A name with unusual letters is printed as text: in code, a bar or a backquote cannot be escaped."""
    return "".join(f"`{span}`" if isinstance(span, Code) and _is_tame(span) else _keeping_spaces(span) for span in line)


def _is_tame(name: str) -> bool:
    return re.fullmatch(r"[\w.:, =-]+", name) is not None and name == name.strip()


def _keeping_spaces(text: str) -> str:
    """Escape, but keep the spaces at the ends: more may follow on the line."""
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return before + escaped(text) + (after if text.strip() else "")


def document(*tables: Table) -> str:
    """Print tables as Markdown, each under its title."""
    return "\n".join(f"**{escaped(table.title)}**\n\n{markdown(table)}" for table in tables)
