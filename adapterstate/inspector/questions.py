"""What is asked of the present state: a finite list of events, each put to `explain`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from adapterstate.errors import AdapterStateError, ArgumentError
from adapterstate.inspector.book import Book, Data
from adapterstate.records import Explanation
from adapterstate.state import AdapterState

NAMED = 6
"""How many adapters are asked about. Pairs and policies make the list grow with its square."""

Question = tuple[str, tuple[Any, ...], Mapping[str, Any], str]
"""Name of the method, its arguments, and the call in words."""


def answers(state: AdapterState, book: Book) -> Data:
    """Put every question to `explain` and write down what it says. Nothing changes."""
    accepted: list[Data] = []
    refused: list[Data] = []
    for event, args, kwargs, text in _questions(state):
        try:
            found = state.explain(event, *args, **kwargs)
        except ArgumentError:
            continue  # the config of an adapter that another library made is none that can be added here
        except AdapterStateError as error:
            refused.append({"text": text, "event": event, "error": type(error).__name__, "reasons": [_reason("", str(error))]})
            continue
        if found.accepted:
            accepted.append({"text": text, "event": event, "changes": _changes(found)})
        else:
            refused.append({"text": text, "event": event, "error": found.plan.error.__name__, "reasons": _reasons(found, book)})
    return {"accepted": accepted, "refused": refused, "notice": _notice(state)}


def _notice(state: AdapterState) -> str:
    """Which adapters are asked about, when it is not all."""
    more = len(state.adapters) - NAMED
    return f"The first {NAMED} adapters are asked about; {more} more are not." if more > 0 else ""


def _changes(found: Explanation) -> str:
    """What an accepted event would change, in words."""
    plan = found.plan
    if plan.after == plan.before:
        return "changes nothing"
    return f"changes {len(plan.changed)} module{'s' * (len(plan.changed) != 1)}" if plan.changed else "changes no module"


def _reasons(found: Explanation, book: Book) -> list[Data]:
    """Every reason against an event; what is said of several modules in the same words is said once."""
    where: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for refusal in found.refusals:
        where.setdefault((refusal.guard, refusal.reason, refusal.kinds), []).append(refusal.where)
    return [
        _reason(guard, reason, ", ".join(kinds), book.group(paths) if any(paths) else None)
        for (guard, reason, kinds), paths in where.items()
    ]


def _reason(guard: str, reason: str, kinds: str = "", where: int | None = None) -> Data:
    return {"guard": guard, "reason": reason, "kinds": kinds, "where": where}


def _questions(state: AdapterState) -> Iterator[Question]:
    """Every event that is asked about."""
    names = state.adapters[:NAMED]
    stranger = next(name for name in (f"stranger{number or ''}" for number in itertools.count()) if name not in state.adapters)
    for name in names:
        yield "add_adapter", (name, state.facts.adapters[name].config), {}, f"add_adapter({name!r}, its config)"
    chosen: list[list[str]] = [[], *([name] for name in names)]
    yield from (_call("set_adapter", some) for some in chosen)
    for pair in itertools.permutations(names, 2):
        yield from (_call("set_adapter", list(pair), **policy) for policy in ({}, {"on_overlap": "sum"}, {"on_overlap": "override"}))
    yield _call("set_adapter", [stranger])
    yield from (_call("set_adapter", [name, name]) for name in names[:1])
    yield from (_call("merge_adapter", [name]) for name in names)
    yield _call("merge_adapter")
    yield _call("unmerge_adapter")
    yield from (_call("delete_adapter", name) for name in (*names, stranger))
    yield from (_call(event) for event in ("disable_adapters", "enable_adapters"))
    yield from (_call("set_requires_grad", name, flag) for name in names for flag in (True, False))
    yield from (_call(event) for event in ("unload", "merge_and_unload"))


def _call(event: str, *args: Any, **kwargs: Any) -> Question:
    said = ", ".join([*(repr(arg) for arg in args), *(f"{key}={value!r}" for key, value in kwargs.items())])
    return event, args, kwargs, f"{event}({said})"
