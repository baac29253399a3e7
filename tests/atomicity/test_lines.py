"""Whichever line of the package an event is interrupted at, it has happened completely or not at all."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import adapterstate
from adapterstate import commit

from .worlds import CASES, IGNORED, Case, Look, World, another_event_works, complete, differences, look, result

pytestmark = [pytest.mark.filterwarnings(text) for text in IGNORED]

PACKAGE = os.path.join(os.path.dirname(os.path.abspath(adapterstate.__file__)), "")

ERRORS = (KeyboardInterrupt, MemoryError)

SHORT = {"disable", "enable", "enter disable_adapter", "leave disable_adapter", "freeze"}
"""Events with so few lines that each is hit by both errors; in the others it is hit by one of them, in turn."""


class Interrupt:
    """A tracer that raises at the k-th line that the package executes; `where` is that line, None before it."""

    def __init__(self, k: int, error: type[BaseException]) -> None:
        self.left = k
        self.error = error
        self.where: str | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self.line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and self.where is None:
            if self.left == 0:
                self.where = f"{os.path.relpath(frame.f_code.co_filename, PACKAGE)}:{frame.f_lineno}"
                sys.settrace(None)
                raise self.error(f"injected at {self.where}")
            self.left -= 1
        return self.line


def interrupted(act: Callable[[World], Any], world: World, k: int, error: type[BaseException]) -> str | None:
    """Run an event with its k-th line interrupted; return that line, None if there are fewer."""
    tracer = Interrupt(k, error)
    known = sys.gettrace()
    sys.settrace(tracer)
    try:
        act(world)
    except BaseException as raised:  # a refusal that quotes the error is one way of passing it on
        if tracer.where is None or "injected" not in str(raised):
            raise
    finally:
        sys.settrace(known)
    return tracer.where


def happened(before: Look, after: Look) -> bool:
    """Whether the event is in the journal."""
    return bool(after.seen["journal"] != before.seen["journal"])


def repeated(case: Case, world: World, before: Look, wanted: Look) -> list[str]:
    """Repeat an event that has not happened; name what is not as after it."""
    case.act(world)
    found = differences(wanted, result(before, look(world)))
    another_event_works(world)
    return found


@pytest.mark.parametrize("name", CASES)
def test_an_interrupt_at_any_line_is_before_or_after_the_event(name: str) -> None:
    """Nothing is different, and the event can be repeated; or, once it is in the journal, it is complete. Other events happen then.

    A world in which nothing is different is used again at the next line, so that it sees many interrupts before the event succeeds.
    """
    case = CASES[name]
    wanted = complete(case)
    bad: dict[tuple[str, str], list[str]] = {}
    complete_at = 0
    for error in ERRORS:
        world, before = None, None
        for k in itertools.count() if name in SHORT else itertools.count(ERRORS.index(error), 2):
            if world is None or before is None:
                world = case.begin()
                before = look(world)
            known = len(world.contexts)
            where = interrupted(case.act, world, k, error)
            if where is None:
                assert differences(wanted, result(before, look(world))) == []
                world.contexts.clear()
                break
            after = look(world)
            if happened(before, after):
                complete_at += 1
                found = differences(wanted, result(before, after))
                another_event_works(world)
            else:
                found = differences(before, after)
                if not found and k % 100 > 1:
                    del world.contexts[known:]
                    continue
                found += repeated(case, world, before, wanted)
            if found:
                bad[where, error.__name__] = found
            world.contexts.clear()
            world = None
        assert k > (50 if name == "set from memory" else 200)
    assert bad == {}
    assert complete_at > 0


@pytest.mark.parametrize("name", CASES)
def test_undoing_that_is_interrupted_is_begun_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit fails at its last write and undoing is interrupted at each of the writes in turn; everything is as before all the same."""
    case = CASES[name]
    wanted = complete(case)
    world = case.begin()
    puts = count_puts(case, world, monkeypatch)
    assert puts > 0
    for k in range(puts):
        world = case.begin()
        before = look(world)
        with monkeypatch.context() as patches:
            raised = fail_puts(patches, {puts - 1, puts + k})
            with pytest.raises(KeyboardInterrupt):
                case.act(world)
        assert len(raised) == 2
        assert differences(before, look(world)) == [], f"write {k} of undoing"
        assert repeated(case, world, before, wanted) == [], f"write {k} of undoing"
        world.contexts.clear()


def fail_puts(patches: pytest.MonkeyPatch, at: set[int]) -> list[int]:
    """Let the writes with these numbers be interrupted, undoing included; return those that have been."""
    numbers = itertools.count()
    raised: list[int] = []
    for kind in (commit._Items, commit._Attributes, commit._Classes):
        patches.setattr(kind, "put", staticmethod(_failing(kind.put, numbers, at, raised)))
    return raised


def _failing(put: Callable[..., None], numbers: Any, at: set[int], raised: list[int]) -> Callable[..., None]:
    def failing(holder: Any, key: Any, value: Any) -> None:
        number = next(numbers)
        if number in at:
            raised.append(number)
            raise KeyboardInterrupt(f"injected at write {number}")
        put(holder, key, value)

    return failing


def count_puts(case: Case, world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many writes the event does."""
    with monkeypatch.context() as patches:
        numbers = itertools.count()
        for kind in (commit._Items, commit._Attributes, commit._Classes):
            patches.setattr(kind, "put", staticmethod(_failing(kind.put, numbers, set(), [])))
        case.act(world)
    return next(numbers)
