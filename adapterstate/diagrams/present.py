"""What a model's state is now: the grid of modules and adapters, and the charts with the present states lit."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from adapterstate.diagrams.charting import charts_picture
from adapterstate.diagrams.page import box_style
from adapterstate.diagrams.picture import Group, Node, Picture
from adapterstate.diagrams.table import Code, Line, Table
from adapterstate.inspection import Status
from adapterstate.machine.charts import CHARTS, Chart

NAMED = 4
"""How many modules of a situation are named before the rest is counted."""

Situation = tuple[tuple[str, str], ...]
"""What each adapter is on a module: its state and its methods."""


def grid_picture(status: Status) -> Picture:
    """Draw modules x adapters: a frame for each situation that modules are in, with a box for each adapter that has weights there."""
    groups = []
    for number, (situation, paths) in enumerate(_situations(status).items()):
        nodes = [
            Node(
                name=name,
                title=name,
                kind=state,
                border=status.adapters[name],
                notes=(f"{state}, {status.adapters[name]}{_weight(status, name, state)}", kinds),
            )
            for name, (state, kinds) in zip(status.adapters, situation, strict=True)
            if state
        ]
        groups.append(Group(f"situation{number}", _modules(paths), tuple(nodes)))
    return Picture(status.summary, tuple(groups))


def present_picture(status: Status, charts: Iterable[Chart] = CHARTS) -> Picture:
    """Draw the charts with the states lit that something is in now, and say what.

    Args:
        status: what ``state.status()`` returns.
        charts: those that the model runs by.
    """
    return charts_picture(charts, lit=present_states(status))


def present_states(status: Status) -> Mapping[str, Mapping[str, str]]:
    """Name of a chart -> state -> what is in it now."""
    activation: dict[str, list[str]] = {}
    for situation, paths in _situations(status).items():
        states = {state for state, _ in situation}
        here = next((state for state in ("merged", "active", "inactive") if state in states), "unwrapped")
        activation.setdefault(here, []).extend(paths)
    trainability: dict[str, list[str]] = {}
    for name, state in status.adapters.items():
        trainability.setdefault(state, []).append(name)
    return {
        "activation": {state: _modules(paths) for state, paths in activation.items()},
        "enablement": {"enabled" if status.enabled else "disabled": "the model"},
        "trainability": {state: ", ".join(names) for state, names in trainability.items()},
    }


def grid_table(status: Status) -> Table:
    """Make the table of modules x adapters; modules in the same situation share a row."""
    rows = []
    for situation, paths in _situations(status).items():
        cells: list[tuple[Line, ...]] = [((_modules(paths),),)]
        cells += [((state, " ", Code(kinds)),) if state else (("-",),) for state, kinds in situation]
        rows.append(tuple(cells))
    return Table(status.summary, status.header, tuple(rows))


def grid_html(status: Status) -> str:
    """Print modules x adapters as HTML: each cell says its state in words, on the colour of that state."""
    head = "".join(f'<th scope="col" style="text-align:left">{html.escape(title)}</th>' for title in status.header)
    body = []
    for situation, paths in _situations(status).items():
        cells = "".join(
            f'<td style="{box_style(state, status.adapters[name])}"><b>{state}</b> {html.escape(kinds)}</td>' if state else "<td>-</td>"
            for name, (state, kinds) in zip(status.adapters, situation, strict=True)
        )
        every = html.escape(", ".join(paths), quote=True)
        body.append(f'<tr><th scope="row" style="text-align:left" title="{every}">{html.escape(_modules(paths))}</th>{cells}</tr>')
    caption = f'<caption style="text-align:left">{html.escape(status.summary)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _situations(status: Status) -> dict[Situation, list[str]]:
    """Situation -> the modules in it, in the order of the first of each."""
    found: dict[Situation, list[str]] = {}
    for path, cells in status.modules.items():
        situation = tuple((cells[name], status.kinds[path].get(name, "")) for name in status.adapters)
        found.setdefault(situation, []).append(path)
    return found


def _modules(paths: list[str]) -> str:
    """Modules by name, as long as there are few."""
    named = ", ".join(path or "the model" for path in paths[:NAMED])
    if len(paths) == 1:
        return named
    return f"{len(paths)} modules: {named}" + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")


def _weight(status: Status, name: str, state: str) -> str:
    """The weight of an active adapter, when it is not 1."""
    weight = status.weights.get(name, 1.0)
    return f", weight {weight:g}" if weight != 1 and state != "inactive" else ""
