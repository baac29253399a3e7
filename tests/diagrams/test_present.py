"""A model's present state: the grid of modules and adapters, and the charts with what is the case now."""

from __future__ import annotations

import re

import pytest
from torch import nn

import adapterstate
from adapterstate import LoraConfig
from adapterstate.diagrams import dot, grid_html, grid_picture, grid_table, markdown, mermaid, present_picture, present_states
from adapterstate.inspection import Status
from adapterstate.machine.charts import CHARTS

from .reading import from_dot, from_html, from_markdown, from_mermaid, ways


def made() -> adapterstate.AdapterState:
    model = nn.Sequential(nn.Embedding(6, 4), *(nn.Linear(4, 4) for _ in range(6)), nn.Linear(4, 2))
    state = adapterstate.attach(model)
    state.add_adapter('po"et', LoraConfig(r=2, target_modules=["1", "2", "3", "4", "5", "6"], modules_to_save=["7"]))
    state.add_adapter("<b>|x", LoraConfig(r=2, target_modules=["1", "2"], trainable_token_indices={"0": [1, 2]}))
    return state


@pytest.fixture
def status() -> Status:
    state = made()
    state.set_adapter(['po"et', "<b>|x"], weights=[1.0, 0.5])
    state.merge_adapter(["<b>|x"])
    state.set_requires_grad('po"et', False)
    return state.status()


GRID = [
    (("2 modules: 1, 2",), ("active lora",), ("merged lora",)),
    (("4 modules: 3, 4, 5, 6",), ("active lora",), ("-",)),
    (("7",), ("active modules_to_save",), ("-",)),
    (("0",), ("-",), ("merged trainable_token_indices",)),
]


def test_the_grid_as_markdown(status: Status) -> None:
    """Modules in the same situation share a row, and each cell says in words what an adapter is there."""
    assert from_markdown(markdown(grid_table(status))) == GRID


def test_the_grid_as_html(status: Status) -> None:
    """The same words stand in the HTML, and each state has a colour beside them."""
    text = grid_html(status)
    assert from_html(text) == [row[1:] for row in GRID]
    assert [title for row in GRID for title in row[0]] == re.findall(r'<th scope="row"[^>]*>([^<]*)</th>', text)
    assert len(set(re.findall(r"background:(#\w+)", text))) == 2
    assert text.count("dashed") == 3  # where the frozen one is
    assert "po&quot;et (frozen)" in text
    assert "&lt;b&gt;|x (trainable)" in text
    assert "<b>|x" not in text


@pytest.mark.parametrize(("render", "read"), [(mermaid, from_mermaid), (dot, from_dot)], ids=["mermaid", "dot"])
def test_the_grid_as_a_picture(status: Status, render: object, read: object) -> None:
    """A frame for each situation holds a box for each adapter, which says what it is there."""
    found = read(render(grid_picture(status)))  # type: ignore[operator]
    assert found.frames == [row[0][0] for row in GRID]
    assert found.titles == ['po"et', "<b>|x", 'po"et', 'po"et', "<b>|x"]
    assert found.ways == []
    assert "dash" in render(grid_picture(status))  # type: ignore[operator]
    assert [note for _, note in found.notes] == [
        *("active, frozen", "lora", "merged, trainable, weight 0.5", "lora"),
        *("active, frozen", "lora", "active, frozen", "modules_to_save"),
        *("merged, trainable, weight 0.5", "trainable_token_indices"),
    ]


@pytest.mark.parametrize(("render", "read"), [(mermaid, from_mermaid), (dot, from_dot)], ids=["mermaid", "dot"])
def test_the_charts_with_what_is_the_case(status: Status, render: object, read: object) -> None:
    """In each chart the present states say what is in them; nothing else changes."""
    found = read(render(present_picture(status)))  # type: ignore[operator]
    assert found.notes == [
        ("active", "now: 5 modules: 3, 4, 5, 6 and 1 more"),
        ("merged", "now: 3 modules: 1, 2, 0"),
        ("enabled", "now: the model"),
        ("trainable", "now: <b>|x"),
        ("frozen", 'now: po"et'),
    ]
    assert found.ways == sorted(way for chart in CHARTS for way in ways(chart))


def test_present_states_are_those_of_the_machine() -> None:
    """What is derived from the table agrees with what the machine has stored, also while disabled and when nothing is active."""
    state = made()
    state.set_adapter([])
    state.disable_adapters()
    states = present_states(state.status())
    assert set(states["activation"]) == {record.activation for record in state._facts.modules.values()} == {"inactive"}
    assert states["enablement"] == {"disabled": "the model"}


def test_no_adapter() -> None:
    """Without adapters there is nothing in the grid, and no module in the activation chart."""
    status = adapterstate.attach(nn.Linear(2, 2)).status()
    assert present_states(status) == {"activation": {}, "enablement": {"enabled": "the model"}, "trainability": {}}
    for render, read in ((mermaid, from_mermaid), (dot, from_dot)):
        assert read(render(grid_picture(status))).titles == []
    assert from_html(grid_html(status)) == []
