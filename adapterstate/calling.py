"""Which call of the public face a method was, for errors that are raised before its arguments are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapterstate.errors import ArgumentError
from adapterstate.machine.arguments import refuse_strange_policy, weights_of
from adapterstate.machine.records import Event

_PUBLIC = {
    "_enter_disable": "disable_adapter",
    "_leave_disable": "disable_adapter",
    "_enter_use": "use_adapter",
    "_leave_use": "use_adapter",
}
"""What enters and leaves the contexts -> the method that makes them."""


def call_of(method: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Event:
    """Return the call as an event; arguments that no event could have are left out.

    Args:
        method: the method, unbound.
        args: as it was given them, the state included.
        kwargs: as it was given them.
    """
    try:
        given = inspect.signature(method).bind_partial(*args, **kwargs).arguments
    except TypeError:
        given = {}
    name = given.get("door") or _PUBLIC.get(method.__name__, method.__name__.removeprefix("peft_"))
    names = next((given[key] for key in ("names", "name", "adapter_names") if key in given), ())
    wanted = "frozen" if given.get("requires_grad") is False else "trainable"
    adapters = (names,) if isinstance(names, str) else tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    try:
        weights, policy = weights_of(name, given.get("weights")), given.get("on_overlap")
        refuse_strange_policy(name, policy, carried=True)
    except ArgumentError:
        weights = policy = None
    return Event(name, adapters, wanted, weights=weights, on_overlap=policy)
