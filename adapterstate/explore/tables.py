"""Plain text tables: what is printed without rich."""

from __future__ import annotations

from collections.abc import Sequence


def table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns under their titles, a rule below them; numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(titles, *lines, strict=True)]
    numbers = [all(_is_number(line[at]) for line in lines) and bool(lines) for at in range(len(titles))]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([_line(titles, widths, numbers), rule, *(_line(line, widths, numbers) for line in lines)])


def _line(cells: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> str:
    """One line."""
    aligned = [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(cells, widths, numbers, strict=True)]
    return "  ".join(aligned).rstrip()


def _is_number(cell: str) -> bool:
    """Whether a cell holds a number as these tables print it."""
    return cell.replace(",", "").replace(".", "").isdecimal()
