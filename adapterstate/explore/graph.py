"""The reachable graph of a world as plain data, for diagrams and simulators."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from adapterstate.explore.calls import call, public_call
from adapterstate.explore.walk import walk
from adapterstate.explore.worlds import World
from adapterstate.machine.charts import Charts
from adapterstate.machine.plan import Plan
from adapterstate.machine.records import Event, Facts, SlotFacts

Graph = dict[str, Any]
"""Lists, dicts with text keys, text, numbers, booleans and None."""

FORMAT = 1
"""The version of the format that `graph_of` returns."""


def graph_of(world: World, charts: Charts) -> Graph:
    """Walk the world and write down what is reached.

    Returns:
        A dict with these keys.

        - ``format``: the version, 1.
        - ``world``: ``name``, and ``adapters``: name -> path of a module -> ``kinds``, ``tunes`` and ``replaces``.
        - ``charts``: for each its ``name``, ``subject``, ``states`` and ``rows``.
        - ``events``: each event once: ``text`` as a call, ``name``, ``adapters``, and the arguments that are not the default.
        - ``moves``: each combination of moves once: a list of triples: which chart, name of the subject, which row of the chart.
        - ``refusals``: each combination of refusals once: a list of texts.
        - ``states``: in the order in which they are found; the first is the model without adapters.
        - ``edges``: for each state the list of what was tried in it: ``event``, and either ``to`` and ``moves``, or ``refused``. These
          are places in the lists above, counted from 0.

        Equal worlds and charts give equal graphs.
    """
    events, moves, refusals = _Once(), _Once(), _Once()
    states = [_state(Facts(), 0)]
    edges: list[list[Graph]] = []
    numbers = {id(row): (at, number) for at, chart in enumerate(charts) for number, row in enumerate(chart.rows)}
    for transition in walk(world, charts):
        if transition.plan is None:
            assert transition.raised is not None
            raise transition.raised
        edge: Graph = {"event": events.place(_event(transition.event))}
        if transition.target is None:
            edge["refused"] = refusals.place([str(refusal) for refusal in transition.plan.refusals])
        else:
            edge |= {"to": transition.target.number, "moves": moves.place(_moves(transition.plan, numbers))}
            if transition.new:
                states.append(_state(transition.target.facts, transition.target.depth))
        if transition.source.number == len(edges):
            edges.append([])
        edges[-1].append(edge)
    return {
        "format": FORMAT,
        "world": {
            "name": world.name,
            "adapters": {name: {path: _slot(slot) for path, slot in places.items()} for name, places in world.adapters.items()},
        },
        "charts": [
            {
                "name": chart.name,
                "subject": chart.subject,
                "states": list(chart.states),
                "rows": [
                    {
                        "event": row.event,
                        "from": list(row.sources),
                        "case": row.case,
                        "to": row.target,
                        "guards": [guard.name for guard in row.guards],
                    }
                    for row in chart.rows
                ],
            }
            for chart in charts
        ],
        "events": events.values,
        "moves": moves.values,
        "refusals": refusals.values,
        "states": states,
        "edges": edges,
    }


def to_networkx(graph: Graph) -> object:
    """Make a `networkx.MultiDiGraph`: states as nodes with their data, edges with ``event`` and ``moves`` or ``refused`` in words.

    Raises:
        ModuleNotFoundError: networkx is not installed.
    """
    make: Callable[[], Any] = importlib.import_module("networkx").MultiDiGraph
    made = make()
    for number, state in enumerate(graph["states"]):
        made.add_node(number, **state)
    for number, edges in enumerate(graph["edges"]):
        for edge in edges:
            event = graph["events"][edge["event"]]["text"]
            if "to" in edge:
                moves = [(graph["charts"][at]["name"], subject, row) for at, subject, row in graph["moves"][edge["moves"]]]
                made.add_edge(number, edge["to"], event=event, moves=moves)
            else:
                made.add_edge(number, number, event=event, refused=graph["refusals"][edge["refused"]])
    return made


class _Once:
    """Values, each kept once; an equal one gets the place of the first."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self._places: dict[str, int] = {}

    def place(self, value: object) -> int:
        """Where the value stands."""
        place = self._places.setdefault(repr(value), len(self.values))
        if place == len(self.values):
            self.values.append(value)
        return place


def _moves(plan: Plan, numbers: dict[int, tuple[int, int]]) -> list[list[object]]:
    """Chart, subject and row of each move."""
    found: list[list[object]] = []
    for step in plan.steps:
        for move in step.moves:
            chart, row = numbers[id(move.row)]
            found += [[chart, subject, row] for subject in move.subjects]
    return found


def _event(event: Event) -> Graph:
    """An event; what is the default is left out."""
    said: Graph = {"text": call(event), "said": public_call(event), "name": event.name, "adapters": list(event.adapters)}
    if event.name in ("add_adapter", "set_requires_grad"):
        said["wanted"] = event.wanted
    if event.name in ("enable_adapters", "disable_adapters"):
        said["holder"] = event.holder
    if event.weights is not None:
        said["weights"] = [str(weight) if weight != weight else weight for weight in event.weights]  # JSON has no NaN
    if event.on_overlap is not None:
        said["on_overlap"] = event.on_overlap
    if event.reports:
        said["reports"] = {guard: dict(found) for guard, found in event.reports.items()}
    return said


def _state(facts: Facts, depth: int) -> Graph:
    """A state."""
    return {
        "depth": depth,
        "adapters": {name: {"trainability": one.trainability, "on_overlap": one.on_overlap} for name, one in facts.adapters.items()},
        "active": list(facts.active),
        "merged": list(facts.merged),
        "weights": dict(facts.weights),
        "on_overlap": facts.on_overlap,
        "enablement": facts.enablement,
        "held": {"call": facts.disabled_by_call, "contexts": facts.disabled_by_contexts},
        "modules": {
            path: {"state": one.activation, "present": list(one.context.present), "active": list(one.context.active)}
            | {"merged": list(one.context.merged)}
            for path, one in facts.modules.items()
        },
    }


def _slot(slot: SlotFacts) -> Graph:
    """What an adapter is on a module."""
    return {
        "kinds": list(slot.kinds),
        "tunes": slot.tunes,
        "replaces": {
            name: {"rows": None if one.rows is None else sorted(one.rows), "shape": list(one.shape)} for name, one in slot.replaces.items()
        },
    }
