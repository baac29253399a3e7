"""Rules that every transition keeps. They read neither charts, guards nor planner."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from adapterstate.errors import AdapterNameError, DuplicateAdapterError, EventRefusedError, UnknownAdapterError
from adapterstate.explore.asked import Broken, Change
from adapterstate.machine.records import Facts, Refusal


def base_remembered(change: Change) -> Broken:
    """Leaving no trace: base parameters get their own requires_grad back after the last delete; it is stored from the first add on."""
    if change.accepted:
        proposal = change.event.proposal
        wanted = proposal.base_trainable if proposal is not None and not change.before.adapters else change.before.base_trainable
        wanted = wanted if change.after.adapters else ()
        if change.after.base_trainable != wanted:
            yield f"base parameters that were trainable: {list(wanted)}", f"{list(change.after.base_trainable)}"


def first_adapter_only(change: Change) -> Broken:
    """Rule 2: an added adapter activates itself if and only if the model had none; no other event activates a name it was not given.

    Deleting the last active adapter leaves none active.
    """
    if not change.accepted:
        return
    event, before, after = change.event, change.before, change.after
    if event.name == "add_adapter":
        wanted = before.active if before.adapters else event.adapters
        if after.active != wanted:
            yield f"active {list(wanted)} after adding to {len(before.adapters)} adapter(s)", f"active {list(after.active)}"
    elif event.name == "delete_adapter":
        wanted = tuple(name for name in before.active if name not in event.adapters)
        if after.active != wanted:
            yield f"active {list(wanted)}: the others stay as they were", f"active {list(after.active)}"
    elif not set(after.active) <= {*before.active, *event.adapters}:
        yield f"nothing active but {list(before.active)} and what was named", f"active {list(after.active)}"


def independent_axes(change: Change) -> Broken:
    """Rule 6: enabling, disabling, switching and deleting never change trainability; set_requires_grad never changes activation.

    And set_adapter never enables; only adding and deleting change which adapters there are.
    """
    if not change.accepted:
        return
    event, before, after = change.event, change.before, change.after
    if event.name not in ("enable_adapters", "disable_adapters"):
        switches = [(f.enablement, f.disabled_by_call, f.disabled_by_contexts) for f in (before, after)]
        if switches[0] != switches[1]:
            yield f"enablement as it was: {switches[0]}", f"{switches[1]}"
    wanted = {name: adapter.trainability for name, adapter in before.adapters.items()}
    if event.name == "add_adapter":
        wanted[event.adapters[0]] = event.wanted
    elif event.name == "delete_adapter":
        wanted = {name: was for name, was in wanted.items() if name not in event.adapters}
    elif event.name == "set_requires_grad":
        wanted.update(dict.fromkeys(event.adapters, event.wanted))
    found = {name: adapter.trainability for name, adapter in after.adapters.items()}
    if found != wanted:
        yield f"trainability {wanted}", f"{found}"
    asked = {name: adapter.asked for name, adapter in before.adapters.items()}
    if event.name == "set_requires_grad":
        asked.update(dict.fromkeys(event.adapters, event.wanted == "trainable"))
    said = {name: adapter.asked for name, adapter in after.adapters.items()}
    if any(said[name] != asked.get(name, False) for name in said):
        yield f"asked to be trainable: {asked}", f"{said}"
    if event.name in ("enable_adapters", "disable_adapters", "set_requires_grad"):
        places = [(f.active, f.merged, f.weights, f.on_overlap, f.modules) for f in (before, after)]
        if places[0] != places[1]:
            yield f"activation as it was: active {list(before.active)}, merged {list(before.merged)}", _activation(after)
    if event.name in ("enable_adapters", "disable_adapters"):
        yield from _switched(change)


def _switched(change: Change) -> Broken:
    """The call holds from disable_adapters() to enable_adapters(); each context for itself."""
    event, before, after = change.event, change.before, change.after
    disabling = event.name == "disable_adapters"
    call = disabling if event.holder == "call" else before.disabled_by_call
    contexts = before.disabled_by_contexts + ((1 if disabling else -1) if event.holder == "context" else 0)
    if (after.disabled_by_call, after.disabled_by_contexts) != (call, contexts):
        yield f"held by call {call}, by {contexts} context(s)", f"by call {after.disabled_by_call}, by {after.disabled_by_contexts}"


def path_independent(change: Change) -> Broken:
    """Rule 7: the activation after set_adapter(names, weights, on_overlap) depends on its arguments alone, and nothing is merged after it.

    Twice is once; ``[a, b]`` and ``[b, a]`` differ only in order.
    """
    event, before, after = change.event, change.before, change.after
    if event.name != "set_adapter":
        return
    given = (1.0,) * len(event.adapters) if event.weights is None else event.weights
    weights = {name: weight for name, weight in zip(event.adapters, given, strict=False) if weight != 1}
    named = event.on_overlap if event.adapters else None
    wanted = (event.adapters, (), weights, named)
    if change.accepted and (after.active, after.merged, after.weights, after.on_overlap) != wanted:
        yield f"active {list(event.adapters)}, merged [], weights {weights}, policy {named!r}", _activation(after)
    fits = len(given) == len(event.adapters) and not event.reports
    if fits and not change.accepted and (before.active, before.merged, before.weights, before.on_overlap) == wanted:
        yield "accepted: what is asked for is in force already", f"refused: {change.refusals[0]}"
    arguments = frozenset(zip(event.adapters, given, strict=False)), event.on_overlap, len(event.adapters), event.weights is None
    other = change.memory.setdefault(("set_adapter", arguments, repr(event.reports)), change)
    if isinstance(other, Change) and other.accepted != change.accepted:
        yes, no = (other, change) if other.accepted else (change, other)
        yield f"accepted, as {list(yes.event.adapters)} is", f"{list(no.event.adapters)} is refused: {no.refusals[0]}"


def partial_merge(change: Change) -> Broken:
    """Rule 10, of names: merging some of the active adapters keeps the others active, and what was merged stays merged."""
    event, before, after = change.event, change.before, change.after
    if not change.accepted or event.name not in ("merge_adapter", "unmerge_adapter"):
        return
    merged = {*before.merged, *event.adapters} if event.name == "merge_adapter" else set[str]()
    wanted = tuple(name for name in before.active if name in merged)
    if (after.active, after.merged) != (before.active, wanted):
        yield f"active {list(before.active)}, merged {list(wanted)}", _activation(after)


def carried(change: Change) -> Broken:
    """Combining: how an adapter combines is what it was added with, and no other event changes it."""
    if change.accepted:
        wanted = {name: adapter.on_overlap for name, adapter in change.before.adapters.items()}
        if change.event.name == "add_adapter":
            wanted[change.event.adapters[0]] = change.event.on_overlap or "error"
        found = {name: adapter.on_overlap for name, adapter in change.after.adapters.items()}
        if any(wanted.get(name) != policy for name, policy in found.items()):
            yield f"carried policies {wanted}", f"{found}"
        if change.event.name not in ("set_adapter", "delete_adapter") and change.after.on_overlap != change.before.on_overlap:
            yield f"the named policy stays {change.before.on_overlap!r} until the next set_adapter", f"{change.after.on_overlap!r}"


def accepts_an_add(change: Change) -> Broken:
    """Rule 11, of events: a model with no adapter accepts an add."""
    event = change.event
    fits = event.name == "add_adapter" and event.adapters[0] in change.world.adapters and not event.reports
    if fits and not change.before.adapters and not change.accepted:
        yield f"{event.adapters[0]!r} can be added to a model without adapters", f"refused: {change.refusals[0]}"


def bad_input_is_an_error(change: Change) -> Broken:
    """Rule 13, of names: unknown, repeated and illegal names are typed errors that say what was given."""
    names = change.event.adapters
    if change.event.name == "add_adapter":
        bad = [name for name in names if not name or "." in name or name in change.before.adapters]
    else:
        bad = [name for name in names if name not in change.before.adapters or names.count(name) > 1]
    if not bad:
        return
    if change.accepted:
        yield f"refused: {bad} cannot be named here, with {sorted(change.before.adapters)} present", "accepted"
    elif change.error is not _type_of(change.refusals, change.error):
        yield _type_of(change.refusals, change.error).__name__, change.error.__name__
    elif not any(repr(name) in refusal.reason for name in bad for refusal in change.refusals):
        yield f"a reason that says {bad}", f"{[refusal.reason for refusal in change.refusals]}"


def _type_of(refusals: tuple[Refusal, ...], given: type[Exception]) -> type[Exception]:
    """The class to be raised: that of all refusals, or their root when they differ. What a derived chart raises is its own matter."""
    guards = {refusal.guard for refusal in refusals}
    if guards - set(_TYPES):
        return given if issubclass(given, EventRefusedError) else EventRefusedError
    types = {_TYPES[guard] for guard in guards}
    return types.pop() if len(types) == 1 else EventRefusedError


_TYPES: Mapping[str, type[EventRefusedError]] = MappingProxyType(
    {
        "name_is_legal": AdapterNameError,
        "name_is_new": DuplicateAdapterError,
        "known": UnknownAdapterError,
        "distinct": DuplicateAdapterError,
    }
)
"""The errors for names."""


def _activation(facts: Facts) -> str:
    """The activation of a state, in words."""
    return f"active {list(facts.active)}, merged {list(facts.merged)}, weights {dict(facts.weights)}, policy {facts.on_overlap!r}"
