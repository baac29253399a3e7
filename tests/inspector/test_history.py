"""The time line: the facts after each event are those that there were, or the page says that they are not known."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest

from adapterstate import AdapterState, LoraConfig
from adapterstate.inspector.history import History, history_of
from adapterstate.inspector.page import page
from adapterstate.machine.records import Facts
from adapterstate.state import JOURNAL_LENGTH

from .models import data_of, paths_of, small


def recorded(state: AdapterState) -> list[Facts]:
    """The facts after each event that is still to come."""
    found: list[Facts] = []
    state.subscribe(lambda entry: found.append(state.facts))
    return found


def history(state: AdapterState) -> History:
    return history_of(state.charts, state.journal, state.facts)


def many(state: AdapterState) -> None:
    """Every kind of event."""
    state.set_adapter(["chemist", "poet"], weights=[0.5, 2.0], on_overlap="sum")
    state.merge_adapter("poet")
    with state.disable_adapter():
        state.set_requires_grad("poet", False)
        with state.use_adapter("chemist"):
            state.disable_adapters()
        state.repair()
    state.unmerge_adapter()
    state.enable_adapters()
    before = state.snapshot()
    state.set_adapter([])
    state.restore(before)
    state.set_adapter("poet")
    state.delete_adapter("chemist")
    state.add_adapter("critic", LoraConfig(r=1, target_modules=["0"]), on_overlap="sum")


def test_every_fact_is_what_it_was() -> None:
    """From the first event on, the facts that the planner gives again are those that there were."""
    state = small()
    before = state.facts
    was = recorded(state)
    many(state)
    found = history(state)
    assert found.start == 0
    assert found.before == Facts()
    assert [plan.after for plan in found.plans] == [*[plan.after for plan in found.plans[:2]], *was]
    assert found.plans[1].after == before


def test_rows_and_modules_in_the_page() -> None:
    """Each event has its call, the modules changed, the rows taken and the view of what came after."""
    state = small()
    state.set_adapter("chemist")
    state.set_adapter("chemist")
    told = data_of(page(state))
    first, _, third, fourth = told["history"]["entries"]
    assert told["views"][told["history"]["before"]]["adapters"] == []
    assert first["events"] == ["add_adapter('poet', its config, on_overlap='error')"]
    assert paths_of(told, first["changed"]) == list("0123456")
    assert [(move["before"], move["after"]) for move in first["moves"]] == [("absent", "trainable"), ("unwrapped", "active")]
    assert [(move["before"], move["after"], paths_of(told, move["modules"])) for move in third["moves"]] == [
        ("active", "active", ["0", "1", "6"]),
        ("active", "inactive", list("2345")),
    ]
    views = [told["views"][entry["view"]] for entry in told["history"]["entries"]]
    assert [[name for name, *_ in view["adapters"]] for view in views] == [["poet"], *[["poet", "chemist"]] * 3]
    assert [view["summary"].partition("active: ")[2] for view in views] == ["poet", "poet", "chemist", "chemist"]
    assert (fourth["noop"], fourth["changed"], fourth["moves"], fourth["view"]) == (True, None, [], told["now"])


def cut(state: AdapterState) -> None:
    """Drop what the journal would have dropped, had it been full."""
    for _ in range(JOURNAL_LENGTH):
        state.set_requires_grad("poet", True)


def test_a_journal_that_was_cut_off() -> None:
    """After an activation the facts are known again, and not before; the page says so."""
    state = small()
    cut(state)
    state.set_requires_grad("poet", False)
    state.set_adapter(["poet", "chemist"], weights=[1.0, 0.25], on_overlap="override")
    was = recorded(state)
    state.merge_adapter()
    with state.disable_adapter(), state.use_adapter("poet"):
        pass
    found = history(state)
    assert found.start == JOURNAL_LENGTH - len(was)
    assert [plan.after for plan in found.plans] == was
    assert "what came before event 10 is no longer known" in found.notice
    assert f"before event {found.entries[found.start].number - 1} cannot be recomputed" in found.notice
    entries = data_of(page(state))["history"]["entries"]
    assert [entry["view"] is None for entry in entries].count(False) == len(was) + 1
    assert [entry["moves"] is None for entry in entries].count(False) == len(was)


def test_nothing_is_guessed() -> None:
    """An activation is no beginning where something that it does not say changed later: what was the case before that is not known."""
    state = small()
    cut(state)
    state.set_adapter("poet")
    state.set_requires_grad("chemist", False)
    state.set_adapter("chemist")
    was = recorded(state)
    state.set_adapter([])
    found = history(state)
    assert [plan.after for plan in found.plans] == was


def test_after_unloading_there_is_nothing() -> None:
    """So the facts are known again from there on, whatever was cut off."""
    state = small()
    cut(state)
    state.unload()
    was = recorded(state)
    state.add_adapter("critic", LoraConfig(r=1, target_modules=["0"]))
    state.merge_adapter()
    assert [plan.after for plan in history(state).plans] == was


def test_a_copy_begins_in_the_middle() -> None:
    """The journal of a copy counts from 1, but it does not begin without adapters."""
    state = copy.deepcopy(small())
    state.merge_adapter()
    found = history(state)
    assert (found.start, found.before, found.plans) == (1, state.facts, ())
    assert "only the present is shown" in found.notice
    entry = data_of(page(state))["history"]["entries"][0]
    assert (entry["view"], entry["moves"]) == (data_of(page(state))["now"], None)


def test_a_replay_that_ends_elsewhere_is_not_believed() -> None:
    """Every event agrees with the journal, but not the end with what is the case now: then something else has happened too."""
    state = small()
    elsewhere = attrs.evolve(state.facts, weights={"poet": 0.5})
    found = history_of(state.charts, state.journal, elsewhere)
    assert (found.start, found.before, found.plans) == (2, elsewhere, ())


@pytest.mark.parametrize("change", [{"changed": ("0",)}, {"is_noop": True}], ids=str)
def test_a_replay_that_disagrees_is_not_believed(change: dict[str, Any]) -> None:
    """The journal says what changed; if a replay says otherwise, it is not what happened."""
    state = small()
    state.disable_adapters()
    state.enable_adapters()
    entries = list(state.journal)
    entries[2] = attrs.evolve(entries[2], **change)
    found = history_of(state.charts, entries, state.facts)
    assert (found.start, found.plans) == (len(entries), ())
