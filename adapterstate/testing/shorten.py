"""Fewer events for a failure: hypothesis shrinks what it drew, and this leaves out whole events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from adapterstate.testing.rules import Broken, Call
from adapterstate.testing.system import AdapterSystem
from adapterstate.testing.trial import Trial, alone


def shortened(broken: Broken, make_system: Callable[[], AdapterSystem], deviations: Collection[str], output_rate: float) -> Broken:
    """Return the same failure with as few events as it takes: none of them can be left out."""
    at = idle = 0
    while idle < len(simpler := list(_simpler(broken.calls))):  # until each of them has failed since the last that did not
        found = _replayed(simpler[at % len(simpler)], make_system, deviations, output_rate)
        if found is not None and found.finding == broken.finding:
            broken, idle = found, 0
        else:
            at, idle = at + 1, idle + 1
    return broken


def _simpler(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """The same calls without one of the adapters, without one of the calls, or with one of them said more simply."""
    for name in dict.fromkeys(args[0] for event, args, _ in calls if event == "add_adapter"):
        yield [shorter for call in calls if (shorter := _without(call, name)) is not None]
    for at in reversed(range(len(calls))):
        yield [*calls[:at], *calls[at + 1 :]]
    for at, (event, args, options) in enumerate(calls):
        for option in options:
            yield [*calls[:at], (event, args, {key: value for key, value in options.items() if key != option}), *calls[at + 1 :]]


def _without(call: Call, name: str) -> Call | None:
    """A call that leaves out an adapter; None for one that is about that adapter alone."""
    event, (first, *rest), options = call if call[1] else (call[0], ("",), call[2])
    if first == name:
        return None
    if isinstance(first, str) or not hasattr(first, "__iter__") or name not in first:
        return call
    kept = [at for at, other in enumerate(first) if other != name]
    weights = options.get("weights")
    if weights is not None and len(weights) == len(first):
        options = {**options, "weights": [weights[at] for at in kept]}
    return (event, ([first[at] for at in kept], *rest), options) if kept else None


def _replayed(calls: Sequence[Call], make_system: Callable[[], AdapterSystem], deviations: Collection[str], rate: float) -> Broken | None:
    """What these calls break, if they do; calls that make no sense any more break nothing."""
    with alone():
        try:
            trial = Trial(make_system(), deviations=deviations, output_rate=rate)
            for event, args, options in calls:
                getattr(trial, event)(*args, **options)
        except Broken as broken:
            return broken
        except (KeyError, IndexError):  # an adapter or a context that was left out
            return None
    return None
