"""What would be refused: the page says what `explain` says, and each of it is what happens."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from adapterstate import EventRefusedError
from adapterstate.inspector.book import Book
from adapterstate.inspector.page import page
from adapterstate.inspector.questions import NAMED, _questions, answers

from .models import data_of, paths_of, small


def test_each_answer_is_what_happens() -> None:
    """Every event is also run on a copy: it raises what the page says, for these reasons, or changes as many modules as it says."""
    state = small()
    state.merge_adapter("poet")
    data = data_of(page(state))
    answers = {one["text"]: one for one in data["asked"]["accepted"] + data["asked"]["refused"]}
    asked = list(_questions(state))
    assert asked
    assert set(answers) == {text for *_, text in asked}
    for event, args, kwargs, text in asked:
        other = copy.deepcopy(state)
        if "error" in answers[text]:
            with pytest.raises(EventRefusedError) as raised:
                getattr(other, event)(*args, **kwargs)
            assert answers[text]["error"] == type(raised.value).__name__
            assert _said(data, answers[text]) == sorted(str(refusal) for refusal in raised.value.refusals)
        else:
            getattr(other, event)(*args, **kwargs)
            entry = other.journal[-1]
            changed = len(entry.changed)
            said = "nothing" if entry.is_noop else "no module" if not changed else f"{changed} module{'s' * (changed != 1)}"
            assert answers[text]["changes"] == f"changes {said}"


def _said(data: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    """The reasons as `explain` prints them, one for each module."""
    found = []
    for reason in answer["reasons"]:
        end = f"{reason['reason']}  [{reason['guard']}]"
        kinds = f" ({reason['kinds']})" if reason["kinds"] else ""
        places = [] if reason["where"] is None else paths_of(data, reason["where"])
        found += [f"{path}{kinds}: {end}" for path in places] or [end]
    return sorted(found)


def test_what_is_refused_of_a_merged_and_overlapping_pair() -> None:
    """The list a reader looks for: the taken name, the pair that overlaps in both orders, the stranger, the inactive and the merged one."""
    state = small()
    state.merge_adapter("poet")
    refused = [one["text"] for one in data_of(page(state))["asked"]["refused"]]
    assert refused == [
        "add_adapter('poet', its config)",
        "add_adapter('chemist', its config)",
        "set_adapter(['poet', 'chemist'])",
        "set_adapter(['chemist', 'poet'])",
        "set_adapter(['stranger'])",
        "set_adapter(['poet', 'poet'])",
        "merge_adapter(['chemist'])",
        "delete_adapter('poet')",
        "delete_adapter('stranger')",
    ]


def test_the_same_reason_on_many_modules_is_said_once() -> None:
    """Six layers are merged; the page has one line for them."""
    state = small()
    state.merge_adapter("poet")
    data = data_of(page(state))
    (delete,) = [one for one in data["asked"]["refused"] if one["text"] == "delete_adapter('poet')"]
    assert [paths_of(data, reason["where"]) for reason in delete["reasons"]] == [list("012345"), ["6"]]


def test_many_adapters_are_counted() -> None:
    """The list is finite: only some are asked about, and the page says so."""
    state = small()
    for number in range(NAMED):
        state.add_adapter(f"a{number}", state.facts.adapters["poet"].config)  # type: ignore[arg-type]
    found = answers(state, Book())
    assert found["notice"] == f"The first {NAMED} adapters are asked about; 2 more are not."
    assert not [one for one in found["accepted"] if f"a{NAMED - 1}" in one["text"]]
