"""The page: one file with everything in it, which asks for nothing from anywhere."""

from __future__ import annotations

import html
import json
import re
from importlib import resources

from adapterstate.diagrams import grid_html, present_states
from adapterstate.diagrams.palette import LOOKS, TEXT
from adapterstate.errors import AdapterStateError
from adapterstate.explore import SIMULATOR, World
from adapterstate.inspector.book import Book, Data
from adapterstate.inspector.drawing import PAST, SIMULATED, charts_data, charts_html, plain_charts_html
from adapterstate.inspector.history import history_of
from adapterstate.inspector.questions import answers
from adapterstate.inspector.simulation import simulation
from adapterstate.inspector.telling import told
from adapterstate.machine.charts import CHARTS, Charts
from adapterstate.state import AdapterState

SCRIPTS = ("common.js", "present.js", "timeline.js", "simulator.js")


def page(state: AdapterState, *, world: World = SIMULATOR) -> str:
    """Write what is known about a state as one self-contained HTML page. Changes nothing; equal states give equal text.

    Args:
        state: of any model.
        world: the small model of the simulator, which runs by the charts of `state`.
    """
    with state._lock:  # one state throughout; re-entrant, so that observers can write pages
        status, facts, charts = state.status(), state.facts, state.charts
        book = Book()
        now = book.facts(facts)
        history = told(history_of(charts, state.journal, facts), charts, book)
        asked = answers(state, book)
        findings = [str(finding) for finding in state.check()]
    simulated, model_charts, notice = _simulated(world, charts)
    data = {
        "now": now,
        "findings": findings,
        "history": history,
        "asked": asked,
        "charts": charts_data(charts),
        "simulator": simulated | {"charts": charts_data(model_charts), "notice": notice},
        **book.data(),
    }
    name = type(state.model).__name__
    return _filled(
        _read("page.html"),
        {
            "title": html.escape(f"{name}: adapters"),
            "model": html.escape(name),
            "summary": html.escape(status.summary),
            "style": _looks() + _read("page.css"),
            "grid": grid_html(status),
            "charts": charts_html(charts, present_states(status)),
            "past_charts": plain_charts_html(charts, PAST, "The time line") if history["entries"] else "",
            "simulated_charts": plain_charts_html(model_charts, SIMULATED, "The simulator"),
            "data": _json(data),
            "script": "\n".join(_read(script) for script in SCRIPTS),
        },
    )


def _simulated(world: World, charts: Charts) -> tuple[Data, Charts, str]:
    """The reachable graph by these charts; by the library's own where a guard of these fails on the small model."""
    try:
        return simulation(world, charts), charts, ""
    except Exception as error:  # a user's guard may ask for more than a small model has
        if charts is CHARTS:
            raise
        kind = "" if isinstance(error, AdapterStateError) else f"{type(error).__name__}: "
        notice = f"The charts of this model cannot run on the small model ({kind}{error}); the library's own are used here."
        return simulation(world, CHARTS), CHARTS, notice


def _read(name: str) -> str:
    """One of the files beside this one."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _filled(template: str, parts: dict[str, str]) -> str:
    """Fill the template in one pass, so that nothing that is filled in is read as a place to fill."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _json(data: Data) -> str:
    """JSON that can stand in a script element whatever is in it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _looks() -> str:
    """The palette as classes."""
    return "".join(
        f".s-{state}{{background:{look.fill};color:{TEXT};border:{look.width}px {'dashed' if look.dashed else 'solid'} {look.stroke}}}\n"
        for state, look in LOOKS.items()
    )
