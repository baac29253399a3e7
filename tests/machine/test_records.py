"""The small derivations of records: shared rows, and the texts of events and refusals."""

from __future__ import annotations

import pytest

from adapterstate.machine.records import NOTHING, Context, Event, Facts, Footprint, ModuleFacts, Refusal

TABLE = (32000, 2048)


def some(*rows: int) -> Footprint:
    return Footprint(frozenset(rows), TABLE)


WHOLE = Footprint(None, TABLE)


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (WHOLE, WHOLE, "rows 0-31999"),
        (WHOLE, some(7), "row 7"),
        (some(7), WHOLE, "row 7"),
        (some(1, 2, 3, 7), some(0, 1, 2, 3, 7, 9), "rows 1-3, 7"),
        (some(1, 2), some(3, 4), ""),
        (some(), WHOLE, ""),
        (WHOLE, some(*range(0, 16, 2)), "rows 0, 2, 4, 6, 8, 10, 12, 14"),
        (WHOLE, some(*range(0, 18, 2)), "rows 0, 2, 4, 6, 8, 10, 12, 14, ..."),
        (Footprint(None, ()), Footprint(None, ()), "all"),
    ],
)
def test_shared_rows(one: Footprint, other: Footprint, text: str) -> None:
    """The rows that both replace are named in runs, at most eight of them; none share an empty text, which means no overlap."""
    assert one.shared_rows(other) == text
    assert other.shared_rows(one) == text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("set_adapter", ("a", "b")), "set_adapter(['a', 'b'])"),
        (Event("set_adapter"), "set_adapter([])"),
        (Event("unmerge_adapter"), "unmerge_adapter()"),
        (Event("delete_adapter", ("a",)), "delete_adapter(['a'])"),
        (Event("set_requires_grad", ("a",), "trainable"), "set_requires_grad(['a'])"),
        (Event("set_requires_grad", ("a",), "frozen"), "set_requires_grad(['a'], False)"),
    ],
)
def test_event_text(event: Event, text: str) -> None:
    """An event prints as the call that it stands for."""
    assert str(event) == text


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (Refusal("known", "", "there is no 'x'"), "there is no 'x'  [known]"),
        (Refusal("mergeable", "lm_head", "sharded"), "lm_head: sharded  [mergeable]"),
        (
            Refusal("no_overlap", "lm_head", "both", ("a",), ("lora", "modules_to_save")),
            "lm_head (lora, modules_to_save): both  [no_overlap]",
        ),
    ],
)
def test_refusal_text(refusal: Refusal, text: str) -> None:
    """A refusal prints the path, what is there, the reason and the guard; one of the model has no path."""
    assert str(refusal) == text


def test_a_fresh_model_is_enabled() -> None:
    """A model without adapters has nothing active or merged and is enabled."""
    assert Facts().enabled
    assert not Facts(enablement="disabled").enabled
    assert (Facts().active, Facts().merged, dict(Facts().modules)) == ((), (), {})


def test_a_module_without_adapters_has_an_empty_context() -> None:
    """The context of a path is that of its module, and an empty one where no adapter has weights."""
    here = Context(active=("a",))
    facts = Facts(modules={"x": ModuleFacts("active", here)})
    assert facts.context_of("x") is here
    assert facts.context_of("y") is NOTHING
