"""Whichever tensor operation of an event fails, everything is as before it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .worlds import CASES, IGNORED, World, another_event_works, complete, differences, look, result

pytestmark = [pytest.mark.filterwarnings(text) for text in IGNORED]

COMPUTES = {"first add", "later add", "merge", "partial merge", "safe merge", "leave use_adapter", "restore", "merge_and_unload", "repair"}
"""Events that dispatch operations for certain; were there none, the test would show nothing."""


class Failing(TorchDispatchMode):
    """Lets `left` operations through and fails the next one."""

    def __init__(self, left: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left = left
        self.error = error
        self.fired = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.left == 0 and not self.fired:
            self.fired = True
            raise self.error(f"injected at {func}")
        self.left -= 1
        return func(*args, **(kwargs or {}))


def fails(name: str, world: World, k: int, error: type[BaseException]) -> bool:
    """Run the event with its k-th operation failing; say whether there was one."""
    with Failing(k, error) as mode:
        try:
            CASES[name].act(world)
        except error as raised:
            if "injected" not in str(raised):
                raise
    return mode.fired


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", CASES)
def test_a_failing_operation_leaves_everything_as_before(name: str, error: type[BaseException]) -> None:
    """The event fails at each of its operations in turn; nothing is different after it, and the same event then succeeds in full."""
    wanted = complete(CASES[name])
    for k in itertools.count():
        world = CASES[name].begin()
        before = look(world)
        fired = fails(name, world, k, error)
        if not fired:
            break
        assert differences(before, look(world)) == [], f"operation {k}"
        CASES[name].act(world)
        assert differences(wanted, result(before, look(world))) == [], f"operation {k}"
        world.contexts.clear()
    assert differences(wanted, result(before, look(world))) == []
    another_event_works(world)
    world.contexts.clear()
    assert k > 0 or name not in COMPUTES
