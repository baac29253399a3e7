"""The reachable states of a small model, from the plain data that `adapterstate.explore` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapterstate.diagrams.picture import Arrow, Group, Node, Picture, Words
from adapterstate.errors import ArgumentError

LIMIT = 60
"""How many states are drawn at most: nobody can read more."""


def graph_picture(graph: Mapping[str, Any], *, depth: int | None = None, at: int | None = None) -> Picture:
    """Draw a reachable graph: a box for each state, an arrow for each accepted event, and the refused ones inside the box.

    Args:
        graph: what ``adapterstate.explore`` exports, also when it went through JSON.
        depth: only the states that so many events can reach, and what happens between them; None for all.
        at: the number of the state that the model is in.

    Raises:
        ArgumentError: there are more states than can be read.
    """
    shown = {number: state for number, state in enumerate(graph["states"]) if depth is None or state["depth"] <= depth}
    if len(shown) > LIMIT:
        raise ArgumentError(f"{len(shown)} states are to be drawn, and at most {LIMIT} can be read; give a smaller depth than {depth}")
    stays: dict[int, list[Words]] = {number: [] for number in shown}
    refused: dict[int, list[str]] = {number: [] for number in shown}
    arrows = []
    for source in shown:
        for edge in graph["edges"][source]:
            event = graph["events"][edge["event"]]["text"]
            if "refused" in edge:
                refused[source].append(f"refused: {event}")
            elif edge["to"] == source:
                stays[source].append(Words(event))
            elif edge["to"] in shown:
                arrows.append(Arrow(str(source), str(edge["to"]), Words(event)))
    nodes = [
        Node(
            name=str(number),
            title=f"state {number}",
            kind=_kind(state),
            notes=(*(("now",) if number == at else ()), *_said(state), *refused[number]),
            stays=tuple(stays[number]),
            lit=number == at,
            initial=number == 0,
        )
        for number, state in shown.items()
    ]
    scope = "" if depth is None else f", as far as {depth} events lead"
    return Picture(f"reachable states of {graph['world']['name']!r}{scope}", (Group("reachable", "", tuple(nodes), tuple(arrows)),))


def _kind(state: Mapping[str, Any]) -> str:
    """The colours of a state: those of what matters most for the forward pass."""
    if state["enablement"] == "disabled":
        return "disabled"
    return "merged" if state["merged"] else "active" if state["active"] else "inactive" if state["adapters"] else "unwrapped"


def _said(state: Mapping[str, Any]) -> list[str]:
    """A state in words: a line for each adapter, and one when adapters are disabled."""
    lines = [
        f"{name}: {'merged' if name in state['merged'] else 'active' if name in state['active'] else 'inactive'}, {one['trainability']}"
        for name, one in state["adapters"].items()
    ]
    lines += [f"order: {', '.join(state['active'])}"] if len(state["active"]) > 1 else []
    return (lines or ["no adapter"]) + (["DISABLED"] if state["enablement"] == "disabled" else [])
