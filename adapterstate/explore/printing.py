"""What the command line prints: the report as tables, and a progress bar, with rich where it is installed and plainly where it is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from adapterstate.explore.exploring import Progress
from adapterstate.explore.report import Exploration

WIDTH = 160
"""How wide tables may be that are not printed on a terminal, in characters."""


@contextmanager
def bar() -> Iterator[Progress | None]:
    """Show how far an exploration is, on standard error.

    Use it as ``with bar() as progress: explore(progress=progress)``. When rich is not installed it gives None, which `explore` takes for
    "tell nobody".
    """
    if importlib.util.find_spec("rich") is None:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("states"), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def progress(world: str, finished: int, known: int) -> None:
            if world not in tasks:
                tasks[world] = bars.add_task(world)
            bars.update(tasks[world], completed=finished, total=known)

        yield progress


def show(exploration: Exploration) -> None:
    """Print the report on standard output."""
    if importlib.util.find_spec("rich") is None:
        print(exploration)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # a file has no width to fit into
        console = Console(width=WIDTH)

    def shown(title: str, *columns: str, lines: list[tuple[str, ...]]) -> None:
        made = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            made.add_column(column, justify="right" if number and all(line[number][:1].isdigit() for line in lines) else "left")
        for line in lines:
            made.add_row(*map(escape, line))
        console.print(made)

    shown("Walks", *exploration.TITLES, lines=exploration.lines)
    coverage = exploration.coverage
    shown("Rows of the charts", *coverage.ROW_TITLES, lines=coverage.row_lines)
    shown("Refusals", *coverage.REFUSAL_TITLES, lines=coverage.refusal_lines)
    for text in exploration.notes:
        console.print(escape(text), highlight=False, soft_wrap=True)
        console.print()
