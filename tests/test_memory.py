"""Events done from memory are those that the planner decides and the engine takes: the same state, the same torch, the same journal."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import adapterstate
from adapterstate import AdapterState, LoraConfig
from adapterstate.memory import LIMIT, Memory, key_of

X = torch.tensor([[0, 1, 2], [3, 4, 5]])
CONFIGS = {
    "a": LoraConfig(r=2, target_modules=["1"], modules_to_save=["2"], trainable_token_indices={"0": [1, 2]}),
    "b": LoraConfig(r=2, target_modules=["1"], trainable_token_indices={"0": [2, 3]}),
    "c": LoraConfig(r=2, target_modules=["2"]),
}


def build(follows: Any) -> tuple[nn.Module, AdapterState]:
    """A model with three adapters, two of which overlap."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    state = adapterstate.attach(model, grad_follows=follows)
    for name, config in CONFIGS.items():
        state.add_adapter(name, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".adapters." in key:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model, state


NAMES = st.lists(st.sampled_from("abcz"), max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("set_adapter"), st.sampled_from((["a"], ["b"], ["a", "c"], ["c"], [])), st.none(), st.none()),
    st.tuples(st.just("set_adapter"), NAMES, st.none(), st.sampled_from((None, "sum", "override", "error"))),
    st.tuples(st.just("set_adapter"), st.just(["a", "b"]), st.sampled_from((None, [0.5, 2.0], [1.0])), st.just("sum")),
    st.tuples(st.sampled_from(("enable_adapters", "disable_adapters", "merge_adapter", "unmerge_adapter"))),
    st.tuples(st.just("set_requires_grad"), st.sampled_from(("a", "b")), st.booleans()),
    st.tuples(st.just("delete_adapter"), st.sampled_from("abc")),
    st.tuples(st.just("to"), st.sampled_from((torch.float64, torch.float32))),
)


def outcome(model: nn.Module, state: AdapterState, step: tuple[Any, ...]) -> Any:
    """Do one step; everything that can be seen after it."""
    name, *arguments = step
    refusals: Any = ()
    try:
        model.to(*arguments) if name == "to" else getattr(state, name)(*arguments)
    except adapterstate.EventRefusedError as refused:
        refusals = refused.refusals
    return (
        refusals,
        state.facts,
        [parameter.requires_grad for parameter in model.parameters()],
        model(X).tolist(),
        [(entry.number, entry.name, entry.events, entry.changed, entry.is_noop) for entry in state.journal],
        state.check(),
    )


def without_memory(patch: pytest.MonkeyPatch) -> None:
    """Let the planner and the engine do everything."""
    patch.setattr(Memory, "find", lambda *_: None)
    patch.setattr(Memory, "same", lambda _, facts: facts)


@settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=25), st.sampled_from(("trainability", "activation")))
def test_as_without_memory(steps: list[tuple[Any, ...]], follows: str) -> None:
    """Random events, repeated twice: with a memory everything is as without one."""
    with pytest.MonkeyPatch.context() as patch:
        fast, slow = build(follows), build(follows)
        for step in steps + steps:
            seen = outcome(*fast, step)
            without_memory(patch)
            assert outcome(*slow, step) == seen
            patch.undo()


MENU: tuple[tuple[Any, ...], ...] = (
    *(("set_adapter", names) for names in ([], ["a"], ["b"], ["c", "a"], ["a", "b"], ["z"])),
    *(("set_adapter", ["a", "b"], weights, policy) for weights in (None, [0.5, 1.0]) for policy in ("sum", "override")),
    ("set_adapter", ["b", "a"], None, "override"),
    ("merge_adapter", ["a"]),
    ("merge_adapter",),
    ("unmerge_adapter",),
    ("enable_adapters",),
    ("disable_adapters",),
)


def covering() -> list[tuple[Any, ...]]:
    """A sequence that tries every event of the menu in every state that it leads to, states being told apart by what is stored."""
    _, state = build("trainability")
    leads: dict[Any, dict[int, Any]] = {}
    walked: list[tuple[Any, ...]] = []

    def take(number: int) -> None:
        before, (name, *arguments) = told(state), MENU[number]
        with contextlib.suppress(adapterstate.EventRefusedError):
            getattr(state, name)(*arguments)
        leads.setdefault(before, {})[number] = told(state)
        leads.setdefault(told(state), {})
        walked.append(MENU[number])

    take(0)
    while (path := way_to_the_untried(leads, told(state))) is not None:
        for number in path:
            take(number)
    return walked


def told(state: AdapterState) -> Any:
    """What is stored, as a key."""
    facts = state.facts
    return facts.active, facts.merged, tuple(facts.weights.items()), facts.on_overlap, facts.enabled


def way_to_the_untried(leads: dict[Any, dict[int, Any]], start: Any) -> list[int] | None:
    """The shortest way from a state to an event that has not been tried where it ends; None when there is none."""
    ways: dict[Any, list[int]] = {start: []}
    waiting = [start]
    for here in waiting:
        for number in range(len(MENU)):
            if number not in leads[here]:
                return [*ways[here], number]
            there = leads[here][number]
            if there not in ways:
                ways[there] = [*ways[here], number]
                waiting.append(there)
    return None


def test_the_whole_walk_as_without_memory() -> None:
    """Every event in every reachable state, and all of it once more: the second time from memory, and nothing is different."""
    steps = covering()
    fast, slow = build("activation"), build("activation")
    remembered = 0
    with pytest.MonkeyPatch.context() as patch:
        for step in steps + steps:
            planned = fast[1]._memory.find
            found: list[Any] = []
            patch.setattr(fast[1]._memory, "find", lambda *given, look=planned, found=found: found.append(look(*given)) or found[-1])
            seen = outcome(*fast, step)
            patch.undo()
            remembered += any(known is not None for known in found)
            without_memory(patch)
            assert outcome(*slow, step) == seen, step
            patch.undo()
    assert remembered > 50


def test_switching_back_and_forth_is_done_from_memory() -> None:
    """The second time round, neither the planner nor the engine is asked."""
    _, state = build("activation")
    with pytest.MonkeyPatch.context() as patch:
        for name in "abab":
            state.set_adapter(name)
        with state.disable_adapter():
            pass
        patch.setattr("adapterstate.state.plan", None)
        patch.setattr(state, "_engine", None)
        for name in "abab":
            state.set_adapter(name)
        with state.disable_adapter():
            pass
        assert len(state.journal) == 3 + 4 + 2 + 4 + 2
        with pytest.raises(TypeError):
            state.set_adapter(["a", "c"])  # not met before


def test_exchanged_parameters_get_their_flags() -> None:
    """Flags follow the parameter that is there when an event is done, not the one that was there when it was planned."""
    model, state = build("activation")
    for name in "abab":
        state.set_adapter(name)
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    state.repair()
    for name in "abab":
        state.set_adapter(name)
        assert state.check() == ()


def test_nothing_is_kept_of_adapters_that_are_gone() -> None:
    """A deletion forgets what was known, tensors of the deleted adapter included; and what is kept is bounded."""
    import gc
    import weakref

    model, state = build("trainability")
    for name in "abcabc":
        state.set_adapter(name)
    gone = weakref.ref(model.get_submodule("1.adapters").a.lora_A)  # type: ignore[union-attr]
    state.delete_adapter("a")
    gc.collect()
    assert gone() is None
    for i in range(LIMIT + 50):
        state.set_adapter("b", weights=[float(i + 2)])
    assert len(state._memory._known) <= LIMIT
    assert len(state._memory._facts) <= LIMIT


def test_what_cannot_be_told_apart_is_not_kept() -> None:
    """Arguments without a hash have no key."""
    assert key_of("set_adapter", ["a", "b"], None, None) == key_of("set_adapter", ("a", "b"), None, None) is not None
    assert key_of("set_adapter", ["a", "b"], None, None) != key_of("set_adapter", ["a", "b"], [], None)
    assert key_of("set_adapter", "a", [1.0]) != key_of("set_adapter", "a", [True])
    assert key_of("set_adapter", [["a"]]) is None


def test_leaving_a_context_is_no_set_adapter() -> None:
    """What is kept of leaving `use_adapter` does not answer for a `set_adapter` with an empty list of weights."""
    _, state = build("trainability")
    for _ in range(2):
        with state.use_adapter([]):
            pass
    state.set_adapter([])
    with pytest.raises(adapterstate.AdapterWeightsError):
        state.set_adapter(["a"], weights=[])


def test_a_weight_of_the_wrong_type_is_refused_also_after_an_equal_one() -> None:
    """True equals 1.0, and is no weight: what was met before does not let it through."""
    _, state = build("trainability")
    for _ in range(3):
        state.set_adapter("b")
        state.set_adapter(["a"], weights=[1.0])
    for weight in (True, 1 + 0j):
        state.set_adapter("b")
        with pytest.raises(adapterstate.ArgumentError):
            state.set_adapter(["a"], weights=[weight])  # type: ignore[list-item]
