"""An event as the call that makes it: what reports, counterexamples and graphs print. `Trial` understands each of them."""

from __future__ import annotations

import math

from adapterstate.machine.records import Event


def call(event: Event) -> str:
    """Write the event as a call of a `Trial`; every argument that is not the default is said."""
    if event.name == "add_adapter":
        return _written(event, [repr(event.adapters[0]), *(["inference_mode=True"] if event.wanted == "frozen" else [])])
    return _written(event, [repr(list(event.adapters))] if event.adapters or event.name in _NAMING else [])


def public_call(event: Event) -> str:
    """Write the event as a call of an `AdapterState`, for people: where it takes a config, and one name and not a list."""
    if event.name == "add_adapter":
        config = "its config with inference_mode=True" if event.wanted == "frozen" else "its config"
        return _written(event, [repr(event.adapters[0]), config])
    if event.name == "delete_adapter" and len(event.adapters) == 1:
        return _written(event, [repr(event.adapters[0])])
    if event.holder == "context":
        return f"{'enter' if event.name == 'disable_adapters' else 'leave'} disable_adapter()"
    return call(event)


_NAMING = ("set_adapter", "merge_adapter", "delete_adapter", "set_requires_grad")
"""Events that name adapters, none included."""


def _written(event: Event, said: list[str]) -> str:
    """The call, beginning with these arguments."""
    said += [str(event.wanted == "trainable")] if event.name == "set_requires_grad" else []
    if event.weights is not None:
        said += [f"weights=[{', '.join(map(_number, event.weights))}]"]
    if event.on_overlap is not None:
        said += [f"on_overlap={event.on_overlap!r}"]
    if event.holder != "call":
        said += [f"holder={event.holder!r}"]
    if event.reports:
        said += [f"reports={ {guard: dict(found) for guard, found in event.reports.items()}!r}"]
    return f"{event.name}({', '.join(said)})"


def _number(value: float) -> str:
    """A number as Python reads it."""
    return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
