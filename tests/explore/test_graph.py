"""The reachable graph: plain, the same each time, complete, and small enough for a page."""

from __future__ import annotations

import json
import math
import sys

import pytest

from adapterstate.explore import SIMULATOR, Exploration, Report, Trial, World, explore, rows, tuner
from adapterstate.explore.calls import call, public_call
from adapterstate.explore.graph import Graph
from adapterstate.explore.menu import Menu
from adapterstate.machine.charts import EVENTS
from adapterstate.machine.records import Event, Facts


@pytest.fixture(scope="module")
def exploration() -> Exploration:
    return explore(SIMULATOR)


@pytest.fixture(scope="module")
def graph(exploration: Exploration) -> Graph:
    return exploration.graph()


def test_it_is_plain_data(graph: Graph) -> None:
    """JSON gives back what it was given, NaN excluded."""
    assert json.loads(json.dumps(graph, allow_nan=False)) == graph


def test_it_is_the_same_each_time(exploration: Exploration, graph: Graph) -> None:
    """Byte for byte."""
    assert json.dumps(exploration.graph()) == json.dumps(graph)


def test_it_is_complete(exploration: Exploration, graph: Graph) -> None:
    """A state for each state, and for each its edges: one for each event tried in it, refused ones with their reasons."""
    assert len(graph["states"]) == len(graph["edges"]) == exploration.states
    assert sum(map(len, graph["edges"])) == exploration.transitions
    for edges in graph["edges"]:
        assert all(("to" in edge) != ("refused" in edge) for edge in edges)
    assert all(graph["refusals"])


def test_events_are_said_as_a_model_is_asked(graph: Graph) -> None:
    """Beside the call of a `Trial` stands what a user of a model writes: a config, one name, a context."""
    said = {event["text"]: event["said"] for event in graph["events"]}
    assert said["add_adapter('chemist', inference_mode=True, on_overlap='error')"] == (
        "add_adapter('chemist', its config with inference_mode=True, on_overlap='error')"
    )
    assert said["add_adapter('poet', on_overlap='error')"] == "add_adapter('poet', its config, on_overlap='error')"
    assert said["delete_adapter(['poet'])"] == "delete_adapter('poet')"
    assert said["set_requires_grad(['poet'], False)"] == "set_requires_grad(['poet'], False)"
    assert said["set_adapter([])"] == "set_adapter([])"
    assert public_call(Event("disable_adapters", holder="context")) == "enter disable_adapter()"
    assert public_call(Event("enable_adapters", holder="context")) == "leave disable_adapter()"
    assert public_call(Event("delete_adapter", ("a", "b"))) == "delete_adapter(['a', 'b'])"


def test_it_is_compact(graph: Graph) -> None:
    """The simulator's world fits into a page."""
    assert len(json.dumps(graph, separators=(",", ":"))) < 500_000


def test_a_walk_in_the_graph_is_a_walk_of_the_machine(graph: Graph) -> None:
    """Following edges by the text of their events gives what the pure machine gives."""
    follow = {(at, graph["events"][edge["event"]]["text"]): edge for at, edges in enumerate(graph["edges"]) for edge in edges}
    trial, state = Trial(SIMULATOR), 0
    for text in (
        "add_adapter('poet', on_overlap='error')",
        "add_adapter('chemist', inference_mode=True, on_overlap='error')",
        "set_adapter(['chemist', 'poet'], on_overlap='override')",
        "merge_adapter(['poet'])",
        "disable_adapters()",
        "set_requires_grad(['poet'], False)",
    ):
        eval(f"trial.{text}", {"trial": trial})
        state = follow[state, text]["to"]
    assert graph["states"][state]["active"] == list(trial.facts.active) == ["chemist", "poet"]
    assert graph["states"][state]["merged"] == ["poet"]
    assert graph["states"][state]["enablement"] == "disabled"
    assert graph["states"][state]["on_overlap"] == "override"
    assert graph["states"][state]["adapters"]["poet"]["trainability"] == "frozen"
    assert graph["states"][state]["modules"]["lm_head"]["state"] == "merged"
    refused = follow[state, "delete_adapter(['poet'])"]
    assert graph["refusals"][refused["refused"]] == [
        "q_proj (lora): 'poet' is merged  [not_merged_here]",
        "lm_head (modules_to_save): 'poet' is merged  [not_merged_here]",
    ]


def test_moves_name_rows(graph: Graph) -> None:
    """The moves of an edge lead from the state of the subject before to that after, by the row they name."""
    for source, edges in enumerate(graph["edges"]):
        for edge in edges:
            for at, subject, number in graph["moves"][edge["moves"]] if "moves" in edge else ():
                chart = graph["charts"][at]
                row = chart["rows"][number]
                assert row["event"] == graph["events"][edge["event"]]["name"]
                if chart["name"] == "activation":
                    before, after = (
                        graph["states"][state]["modules"].get(subject, {"state": "unwrapped"})["state"] for state in (source, edge["to"])
                    )
                    assert before in row["from"]
                    assert after == (before if row["to"] == "=" else row["to"])


def test_one_of_several_worlds() -> None:
    """With several worlds the graph of each is asked for by name."""
    two = explore([World("one", {"a": {"x": tuner()}}), World("two", {"b": {"y": rows(1)}})])
    assert two.graph("two")["world"] == {
        "name": "two",
        "adapters": {
            "b": {"y": {"kinds": ["trainable_token_indices"], "tunes": False, "replaces": {"weight": {"rows": [1], "shape": [8, 4]}}}}
        },
    }


def test_networkx(exploration: Exploration, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as a multigraph: every state is reached from the first; without networkx the error says so."""
    networkx = pytest.importorskip("networkx")
    made = exploration.networkx()
    assert isinstance(made, networkx.MultiDiGraph)
    assert (made.number_of_nodes(), made.number_of_edges()) == (exploration.states, exploration.transitions)
    assert set(networkx.descendants(made, 0)) | {0} == set(made)
    depths = networkx.single_source_shortest_path_length(made, 0)
    assert all(depths[number] == data["depth"] for number, data in made.nodes(data=True))
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ModuleNotFoundError, match="networkx"):
        exploration.networkx()


def test_every_call_is_understood() -> None:
    """Each event of a world with everything in it is written as a call that makes that event again."""
    world = World(
        "everything",
        {"a": {"x": tuner()}, "b": {"x": rows(1)}},
        carried=("sum",),
        named=(None, "override"),
        weights=(0.5,),
        reports=(Report("merge_adapter", "mergeable", "x"), Report("add_adapter", "swappable", "x")),
        enablement=True,
        contexts=2,
        trainability=True,
        bad_input=True,
    )

    class Recorder(Trial):
        def run(self, event: Event) -> object:  # type: ignore[override]
            heard.append(event)
            return None

    trial, recorder = Trial(world), Recorder(world)
    for name in world.adapters:
        trial.add_adapter(name)
    trial.disable_adapters(holder="context")
    events = [*Menu(world).events(Facts()), *Menu(world).events(trial.facts)]
    assert {event.name for event in events} == set(EVENTS)
    for event in events:
        heard: list[Event] = []
        eval(f"recorder.{call(event)}", {"recorder": recorder})
        if not any(map(math.isnan, event.weights or ())):  # NaN is not equal to itself
            assert heard == [event]
