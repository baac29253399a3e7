"""The reachable graph, as `adapterstate.explore` writes it."""

from __future__ import annotations

import json

import pytest

from adapterstate.diagrams import dot, graph_picture, mermaid
from adapterstate.errors import ArgumentError
from adapterstate.explore import World, explore, tuner

from .reading import from_dot, from_mermaid

GRAPH = json.loads(json.dumps(explore([World("one adapter", {"poet": {"q_proj": tuner()}}, enablement=True)]).graph()))
SIZE = len(GRAPH["states"])


@pytest.mark.parametrize(("render", "read"), [(mermaid, from_mermaid), (dot, from_dot)], ids=["mermaid", "dot"])
def test_every_state_and_every_event(render: object, read: object) -> None:
    """Every state is a box and every event tried in it an arrow, or, when it was refused, a line in the box."""
    found = read(render(graph_picture(GRAPH, at=1)))  # type: ignore[operator]
    assert found.titles == [f"state {number}" for number in range(SIZE)]
    assert found.initial == ["state 0"]
    accepted = sorted(
        (f"state {number}", f"state {edge['to']}", GRAPH["events"][edge["event"]]["text"])
        for number, edges in enumerate(GRAPH["edges"])
        for edge in edges
        if "to" in edge
    )
    assert sorted((way.source, way.target, way.event) for way in found.ways) == accepted
    refused = sorted(
        (f"state {number}", f"refused: {GRAPH['events'][edge['event']]['text']}")
        for number, edges in enumerate(GRAPH["edges"])
        for edge in edges
        if "refused" in edge
    )
    assert sorted(note for note in found.notes if note[1].startswith("refused")) == refused
    assert ("state 0", "no adapter") in found.notes
    assert [box for box, note in found.notes if note == "now"] == ["state 1"]


def test_as_far_as_some_events_lead() -> None:
    """With a depth, only the states that so few events reach are drawn, and what leads from one of them to another."""
    found = from_mermaid(mermaid(graph_picture(GRAPH, depth=1)))
    near = {f"state {number}" for number, state in enumerate(GRAPH["states"]) if state["depth"] <= 1}
    assert set(found.titles) == near < {f"state {number}" for number in range(SIZE)}
    assert {way.target for way in found.ways} <= near


def test_too_many_states() -> None:
    """More states than anybody can read are refused, with what to do."""
    many = {**GRAPH, "states": GRAPH["states"] * 20, "edges": GRAPH["edges"] * 20}
    with pytest.raises(ArgumentError, match="smaller depth"):
        graph_picture(many)
