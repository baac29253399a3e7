"""The reachable graph that `explore` exports, made small for a page that walks it. No rule is in here, nor in the page: both read edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapterstate.explore.graph import Graph, graph_of
from adapterstate.explore.worlds import World
from adapterstate.inspection import Status
from adapterstate.inspector.book import Book, Data
from adapterstate.machine.charts import Charts


def simulation(world: World, charts: Charts) -> Data:
    """Write down the reachable graph of a world.

    Returns:
        What a `Book` returns, and these keys.

        - ``world``: what each adapter is on each module, in words.
        - ``events``: each as a call and by name.
        - ``moves``, ``refusals``: combinations of rows taken, and of reasons.
        - ``states``: of each state its view.
        - ``edges``: for each state, the events tried in it: ``[event, target, moves]``, or ``[event, -1, refusals]``.
    """
    graph = graph_of(world, charts)
    book = Book()
    states = [book.view(_status(graph, state), _activations(state), _held(state)) for state in graph["states"]]
    moves: dict[str, int] = {}
    kept: list[list[Data]] = []
    edges: list[list[list[int]]] = []
    for number, tried in enumerate(graph["edges"]):
        edges.append([])
        for edge in tried:
            if "refused" in edge:
                edges[-1].append([edge["event"], -1, edge["refused"]])
                continue
            taken = _taken(graph, charts, edge["moves"], number, edge["to"])
            place = moves.setdefault(repr(taken), len(kept))
            if place == len(kept):
                kept.append(taken)
            edges[-1].append([edge["event"], edge["to"], place])
    return book.data() | {
        "world": [
            [name, path, ", ".join(slot["kinds"])] for name, places in graph["world"]["adapters"].items() for path, slot in places.items()
        ],
        "events": [[event["said"], event["name"]] for event in graph["events"]],
        "moves": kept,
        "refusals": graph["refusals"],
        "states": states,
        "edges": edges,
    }


def _status(graph: Graph, state: Mapping[str, Any]) -> Status:
    """A state of the graph as the table that a model's own state would be.

    Adapters stand in the order of the world: the graph holds one order for all in which they can have come, and columns stay in place.
    """
    worn = graph["world"]["adapters"]
    names = [name for name in worn if name in state["adapters"]]
    return Status(
        adapters={name: state["adapters"][name]["trainability"] for name in names},
        active=tuple(state["active"]),
        weights={name: state["weights"].get(name, 1.0) for name in state["active"]},
        on_overlap=state["on_overlap"],
        enabled=state["enablement"] == "enabled",
        modules={
            path: {name: _first(name, merged=here["merged"], active=here["active"], inactive=here["present"]) for name in names}
            for path, here in state["modules"].items()
        },
        kinds={path: {name: ", ".join(worn[name][path]["kinds"]) for name in here["present"]} for path, here in state["modules"].items()},
    )


def _first(name: str, **lists: list[str]) -> str:
    """The first of the lists that holds the name; empty when none does."""
    return next((said for said, names in lists.items() if name in names), "")


def _activations(state: Mapping[str, Any]) -> dict[str, str]:
    return {path: here["state"] for path, here in state["modules"].items()}


def _held(state: Mapping[str, Any]) -> str:
    """What keeps adapters disabled."""
    contexts = state["held"]["contexts"]
    said = ["disable_adapters()"] if state["held"]["call"] else []
    return " and ".join([*said, *([f"{contexts} disable_adapter() context(s)"] if contexts else [])])


def _taken(graph: Graph, charts: Charts, combination: int, source: int, target: int) -> list[Data]:
    """The rows taken on an edge, each with the states of its subject before and after."""
    found: list[Data] = []
    for at, subject, row in graph["moves"][combination]:
        before, after = (_state_of(graph["states"][number], charts, at, subject) for number in (source, target))
        found.append({"chart": at, "row": row, "before": before, "after": after, "subjects": [subject or "the model"]})
    return found


def _state_of(state: Mapping[str, Any], charts: Charts, at: int, subject: str) -> str:
    """The state of a subject in a chart; the initial one of a subject that is not there."""
    chart = tuple(charts)[at]
    if chart is charts.enablement:
        return str(state["enablement"])
    if chart is charts.trainability:
        return str(state["adapters"].get(subject, {}).get("trainability", chart.initial))
    return str(state["modules"].get(subject, {}).get("state", chart.initial))
