"""The contexts of a state: disabled for a while, other adapters for a while, no events for a while."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

from adapterstate.errors import ContextError, ObserverError


class StateContext:
    """Does one thing when entered and another when left. Good for one use; warns when it is thrown away without one.

    Args:
        name: the method that made it.
        enter: called on entering.
        leave: called on leaving. A refusal becomes a warning: leaving never raises.

    Attributes:
        kept: what `enter` keeps for `leave`.
    """

    def __init__(self, name: str, enter: Callable[[StateContext], None], leave: Callable[[StateContext], None]) -> None:
        self._name = name
        self._enter = enter
        self._leave = leave
        self._entered = False
        self._holds = False
        self.kept: Any = None

    def __enter__(self) -> None:
        if self._entered:
            raise ContextError(self._name)
        self._entered = True
        try:
            self._enter(self)
        except ObserverError:
            self._leave(self)  # the event is complete, but the body will not run
            raise
        self._holds = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._holds:
            warnings.warn(f"{self._name}() was left without being in force: it was not entered, or left before", stacklevel=2)
            return
        try:
            self._leave(self)
            self._holds = False
        except MemoryError:
            raise
        except Exception as refused:  # an interrupt passes; whatever else would hide the error of the body
            self._holds = not isinstance(refused, ObserverError)  # after which the event is complete
            warnings.warn(f"leaving {self._name}() was refused, the state stays as it is: {refused}", stacklevel=2)

    def __del__(self) -> None:
        if not getattr(self, "_entered", True):
            warnings.warn(f"{self._name}() was called without `with`, so it has done nothing", stacklevel=2)
