"""Events and threads: one at a time, never from inside another, and none while `hold` is in force."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import nn

import adapterstate
from adapterstate import AdapterState, ArgumentError, EventInProgressError, JournalEntry, LoraConfig, ObserverError

PATIENCE = 30
"""Seconds after which something that must happen counts as not happening."""
MOMENT = 0.1
"""Seconds during which something that must not happen is looked out for."""


@pytest.fixture
def state() -> Iterator[AdapterState]:
    """Three linear layers with adapters a and b, of which a is active."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = adapterstate.attach(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)))
        for name in "ab":
            made.add_adapter(name, LoraConfig(r=2, target_modules=["0", "1", "2"], init_lora_weights=False))
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def announced(pool: ThreadPoolExecutor, act: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Do something in another thread; return when it is about to begin."""
    begun = threading.Event()

    def run() -> Any:
        begun.set()
        return act(*arguments)

    future = pool.submit(run)
    assert begun.wait(PATIENCE)
    return future


def is_waiting(future: Future[Any]) -> bool:
    """Whether what was begun has not come to an end for a moment."""
    try:
        future.exception(MOMENT)
    except concurrent.futures.TimeoutError:  # another class than the builtin before Python 3.11
        return True
    return False


def test_an_event_waits_for_that_of_another_thread(state: AdapterState, pool: ThreadPoolExecutor) -> None:
    """While an observer of one thread's event is at work, another thread's event has not happened; afterwards it does."""
    entered, leave = threading.Event(), threading.Event()

    def observer(entry: JournalEntry) -> None:
        if entry.name == "disable_adapters":
            entered.set()
            assert leave.wait(PATIENCE)

    state.subscribe(observer)
    try:
        first = pool.submit(state.disable_adapters)
        assert entered.wait(PATIENCE)
        second = announced(pool, state.set_adapter, "b")
        assert is_waiting(second)
        assert state.active_adapters == ("a",)
        assert not first.done()
    finally:
        leave.set()
    first.result(PATIENCE)
    second.result(PATIENCE)
    assert [entry.name for entry in state.journal[-2:]] == ["disable_adapters", "set_adapter"]
    assert state.active_adapters == ("b",)
    assert state.check() == ()


def test_events_of_many_threads_are_numbered_without_a_gap(state: AdapterState, pool: ThreadPoolExecutor) -> None:
    """Four threads that switch at once leave one sequence of events, and torch as the last one says."""
    barrier, before = threading.Barrier(4), len(state.journal)

    def switch(names: str | list[str]) -> None:
        barrier.wait(PATIENCE)
        for _ in range(25):
            state.set_adapter(names)

    for future in [pool.submit(switch, names) for names in ("a", "b", ["a", "b"], [])]:
        future.result(PATIENCE)
    assert [entry.number for entry in state.journal] == list(range(1, before + 101))
    assert state.active_adapters == state.journal[-1].events[-1].adapters
    assert state.check() == ()


def test_an_event_of_an_observer_is_refused(state: AdapterState) -> None:
    """An event started by an observer is refused, the one that is observed is complete, and later ones are accepted."""
    end = state.subscribe(lambda _: state.set_adapter("a"))
    with pytest.raises(ObserverError, match="set_adapter is complete") as raised:
        state.set_adapter("b")
    assert [type(error) for error in raised.value.exceptions] == [EventInProgressError]
    assert "set_adapter(['a']) refused; nothing has changed" in str(raised.value.exceptions[0])
    assert state.active_adapters == ("b",)
    end()
    state.set_adapter("a")
    assert state.active_adapters == ("a",)


def entered(context: AbstractContextManager[Any]) -> None:
    with context:
        pass


HELD: list[tuple[Callable[[AdapterState], Any], str]] = [
    (lambda state: state.set_adapter("b"), "set_adapter(['b'])"),
    (lambda state: state.set_adapter(names=["b", "a"], weights=[1, 2]), "set_adapter(['b', 'a'], weights=[1.0, 2.0])"),
    (lambda state: state.set_adapter(3, weights="x"), "set_adapter([])"),
    (lambda state: state.add_adapter("c", LoraConfig(target_modules=["0"]), "sum"), "add_adapter(['c'], on_overlap='sum')"),
    (lambda state: state.set_requires_grad("a", False), "set_requires_grad(['a'], False)"),
    (lambda state: state.merge_and_unload(adapter_names=["a"]), "merge_and_unload(['a'])"),
    (lambda state: entered(state.disable_adapter()), "disable_adapter()"),
    (lambda state: entered(state.use_adapter("b")), "use_adapter(['b'])"),
    (lambda state: entered(state.hold()), "hold()"),
    (lambda state: state.repair(), "repair()"),
    (lambda state: state.delete_adapter(), "delete_adapter()"),
    (lambda state: state.delete_adapter("a", "b"), "delete_adapter()"),
]
"""What is called, and what the refusal calls it."""


@pytest.mark.filterwarnings("ignore:.*was called without `with`:UserWarning")  # see test_a_refused_context_was_entered
@pytest.mark.parametrize(("act", "call"), HELD, ids=[call for _, call in HELD])
def test_hold_refuses_events_of_its_own_thread(state: AdapterState, act: Callable[[AdapterState], Any], call: str) -> None:
    """Inside `hold` an event of the same thread is refused by the call that it was, not waited for, whichever it is.

    Reading goes on; afterwards events are accepted.
    """
    facts = state.facts
    with state.hold():
        with pytest.raises(EventInProgressError, match="hold") as raised:
            act(state)
        assert str(raised.value).startswith(f"{call} refused; nothing has changed.")
        assert state.explain("set_adapter", "b").accepted
        assert state.check() == ()
        assert state.facts is facts
        with pytest.raises(EventInProgressError):
            state.set_adapter("b")
    state.set_adapter("b")
    assert state.active_adapters == ("b",)


def test_a_refused_context_was_entered(state: AdapterState) -> None:
    """A context whose entering was refused does not claim, when it is collected, to have been called without ``with``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with state.hold(), pytest.raises(EventInProgressError):
            entered(state.disable_adapter())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_hold_lets_other_threads_wait(state: AdapterState, pool: ThreadPoolExecutor) -> None:
    """While one thread holds, another's event waits, a second `hold` too; both get their turn, after an error as well."""

    def hold() -> tuple[str, ...]:
        with state.hold():
            return state.active_adapters

    futures = []
    with pytest.raises(KeyError), state.hold():  # noqa: PT012
        futures = [announced(pool, state.set_adapter, "b"), announced(pool, hold)]
        assert all(is_waiting(future) for future in futures)
        assert state.active_adapters == ("a",)
        raise KeyError
    futures[0].result(PATIENCE)
    assert futures[1].result(PATIENCE) in (("a",), ("b",))
    assert state.active_adapters == ("b",)


def outputs(state: AdapterState, x: torch.Tensor, names: str) -> torch.Tensor:
    """Pass `x` through the layers, each with the adapter that `names` gives for it."""
    for layer, name in zip(state.model, names, strict=True):
        state.set_adapter(name)
        x = layer(x)
    state.set_adapter("a")
    return x


def test_an_event_during_a_forward_takes_effect_module_by_module(state: AdapterState, pool: ThreadPoolExecutor) -> None:
    """Without `hold`, a switch during a forward counts for the modules that come after it."""
    x = torch.randn(2, 4)
    expected = {names: outputs(state, x, names) for names in ("aaa", "abb", "bbb")}
    hook = state.model[1].register_forward_pre_hook(lambda *_: pool.submit(state.set_adapter, "b").result(PATIENCE))
    assert torch.equal(state.model(x), expected["abb"])
    hook.remove()
    assert torch.equal(state.model(x), expected["bbb"])
    assert not torch.allclose(expected["aaa"], expected["abb"])
    assert not torch.allclose(expected["bbb"], expected["abb"])


def test_a_forward_under_hold_sees_one_state(state: AdapterState, pool: ThreadPoolExecutor) -> None:
    """Under `hold` a switch during a forward waits until the hold is over: all modules compute with the same adapter."""
    x, futures = torch.randn(2, 4), []
    expected = {names: outputs(state, x, names) for names in ("aaa", "bbb")}

    def switch(*_: object) -> None:
        futures.append(announced(pool, state.set_adapter, "b"))
        assert is_waiting(futures[0])

    hook = state.model[1].register_forward_pre_hook(switch)
    with state.hold():
        assert torch.equal(state.model(x), expected["aaa"])
        assert not futures[0].done()
    hook.remove()
    futures[0].result(PATIENCE)
    assert torch.equal(state.model(x), expected["bbb"])


def test_an_observer_that_raises_on_entering_leaves_no_context_behind(state: AdapterState) -> None:
    """When an observer raises while a context is entered, adapters are not left disabled with no way to enable them."""

    def observer(entry: JournalEntry) -> None:
        raise KeyError(entry.name)

    end = state.subscribe(observer)
    with pytest.raises(ObserverError):
        entered(state.disable_adapter())
    end()
    state.enable_adapters()
    assert state.enabled


def test_only_functions_observe(state: AdapterState) -> None:
    """What cannot be called is refused at once, and later events have no observer that fails."""
    with pytest.raises(ArgumentError, match=r"subscribe was given 3.*nothing has changed"):
        state.subscribe(3)  # type: ignore[arg-type]
    state.set_adapter("b")


def test_a_subscription_may_be_ended_twice(state: AdapterState) -> None:
    """Ending twice ends once: another subscription of the same function stays."""
    heard: list[str] = []

    def observer(entry: JournalEntry) -> None:
        heard.append(entry.name)

    end, other = state.subscribe(observer), state.subscribe(observer)
    end()
    end()
    state.set_adapter("b")
    assert heard == ["set_adapter"]
    other()
    state.set_adapter("a")
    assert heard == ["set_adapter"]
