"""An event as the call that makes it: what reports, counterexamples and graphs print. `Trial` understands each of them."""

from __future__ import annotations

import math

from adapterstate.machine.records import Event


def call(event: Event) -> str:
    """Write the event as a call, with the names of the methods of `AdapterState`; every argument that is not the default is said."""
    said: list[str] = []
    if event.name == "add_adapter":
        said += [repr(event.adapters[0])]
        said += ["inference_mode=True"] if event.wanted == "frozen" else []
    elif event.name == "set_requires_grad":
        said += [repr(list(event.adapters)), str(event.wanted == "trainable")]
    elif event.adapters or event.name in ("set_adapter", "merge_adapter", "delete_adapter"):
        said += [repr(list(event.adapters))]
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
