"""Choices and guards: pure functions of the stored facts and the event, each with a label for diagrams and a docstring.

A *choice* has a closed set of results and selects the row of a chart. A *guard* looks at one subject and returns its refusals; an empty
tuple means yes. Neither writes, draws random numbers or knows torch: what only modules can know arrives in `Event.reports`.
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from adapterstate import errors
from adapterstate.machine.records import Event, Footprint, Policy, Refusal, Situation

Judge = Callable[[Situation, Event], Sequence[Refusal]]
Select = Callable[[Situation, Event], str]


@attrs.frozen
class Choice:
    """A pure function with a closed set of results.

    Attributes:
        name: how rows and tables call it.
        values: every result it can have.
        label: the question it answers, for diagrams.
        select: the function.
        by_context: whether, of a wrapped module, it looks at the context alone: then modules that share theirs are asked as one.
    """

    name: str
    values: tuple[str, ...]
    label: str
    select: Select
    by_context: bool = False

    @property
    def doc(self) -> str:
        """The docstring of the function."""
        return (self.select.__doc__ or "").strip()

    def __reduce__(self) -> Any:
        return _reduced(self, self.select)


@attrs.frozen
class Guard:
    """A pure test on a transition.

    Attributes:
        name: how rows, tables and refusals call it.
        label: what it demands, for diagrams.
        error: the class that is raised when only guards of this class refuse.
        judge: the function; it returns the refusals, none for yes.
        by_context: whether, of a wrapped module, it looks at the context alone: then modules that share theirs are judged as one, and
            each by itself only where one is refused.

    Raises:
        ArgumentError: the error class does not derive from `EventRefusedError`.
    """

    name: str
    label: str
    error: type[errors.EventRefusedError]
    judge: Judge
    by_context: bool = False

    def __attrs_post_init__(self) -> None:
        if not (isinstance(self.error, type) and issubclass(self.error, errors.EventRefusedError)):
            given = self.error.__name__ if isinstance(self.error, type) else repr(self.error)
            raise errors.ArgumentError(f"the guard {self.name!r} was given the error {given}; a subclass of EventRefusedError is expected")

    @property
    def doc(self) -> str:
        """The docstring of the function."""
        return (self.judge.__doc__ or "").strip()

    def __reduce__(self) -> Any:
        return _reduced(self, self.judge)


def _reduced(part: Choice | Guard, function: Callable[..., Any]) -> Any:
    """Pickle a choice or guard by the name under which it was declared; one without such a name as it is."""
    where = function.__module__, function.__qualname__
    if getattr(sys.modules.get(where[0]), where[1], None) is part:
        return _named, where
    return type(part), tuple(getattr(part, field.name) for field in attrs.fields(type(part)))


def _named(module: str, name: str) -> Any:
    """The choice or guard of that name."""
    return getattr(importlib.import_module(module), name)


def choice(label: str, *values: str, by_context: bool = False) -> Callable[[Select], Choice]:
    """Declare the decorated function as a choice with these results."""
    return lambda select: Choice(select.__name__, values, label, select, by_context)


def guard(
    label: str, error: type[errors.EventRefusedError] = errors.EventRefusedError, *, by_context: bool = False
) -> Callable[[Judge], Guard]:
    """Declare the decorated function as a guard; `error` is raised when guards of that class alone refuse."""
    return lambda judge: Guard(judge.__name__, label, error, judge, by_context)


# ---------------------------------------------------------------------------------------------------------------- choices


@choice("is it the model's first adapter?", "yes", "no", by_context=True)
def first(situation: Situation, _: Event) -> str:
    """Whether the model has no adapter now. After the last one is deleted, the next one is the first again."""
    return "no" if situation.facts.adapters else "yes"


@choice("is a named adapter present here?", "some", "none", by_context=True)
def named_here(situation: Situation, event: Event) -> str:
    """Whether any adapter that the event names has weights on this module."""
    return "some" if any(name in situation.context.present for name in event.adapters) else "none"


@choice("what is left here without it?", "active", "inactive", "nothing", by_context=True)
def left_here(situation: Situation, event: Event) -> str:
    """What this module keeps when the named adapters go: an active one, only inactive ones, or nothing."""
    context = situation.context
    if any(name not in event.adapters for name in context.active):
        return "active"
    return "inactive" if any(name not in event.adapters for name in context.present) else "nothing"


@choice("does anything still hold adapters disabled?", "yes", "no")
def still_held(situation: Situation, event: Event) -> str:
    """Whether, after this release, `disable_adapters()` or a context still holds."""
    facts = situation.facts
    contexts = max(0, facts.disabled_by_contexts - (event.holder == "context"))
    return "yes" if contexts > 0 or (facts.disabled_by_call and event.holder != "call") else "no"


@choice("trainable or frozen?", "trainable", "frozen")
def wanted(_: Situation, event: Event) -> str:
    """What the event asks for: `inference_mode=True` and `set_requires_grad(name, False)` want frozen."""
    return event.wanted


# ----------------------------------------------------------------------------------------------------- guards of the model


@guard("the name is a non-empty string without a dot", errors.AdapterNameError)
def name_is_legal(_: Situation, event: Event) -> Sequence[Refusal]:
    """An adapter's name is any non-empty string without a dot, since it becomes one part of a parameter's path."""
    return [
        Refusal("name_is_legal", "", f"{name!r} is given as a name; a non-empty string without a dot is expected", (name,))
        for name in event.adapters
        if not name or "." in name
    ]


@guard("no adapter has that name", errors.DuplicateAdapterError)
def name_is_new(situation: Situation, event: Event) -> Sequence[Refusal]:
    """An adapter is never overwritten by another one of the same name."""
    return [
        Refusal("name_is_new", "", f"there is an adapter {name!r} already; delete it first, or choose another name", (name,))
        for name in event.adapters
        if name in situation.facts.adapters
    ]


@guard("every named adapter exists", errors.UnknownAdapterError)
def known(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Every name is that of an adapter of this model, compared whole."""
    have = list(situation.facts.adapters)
    return [
        Refusal("known", "", f"there is no adapter {name!r}; the model has {have}", (name,))
        for name in dict.fromkeys(event.adapters)
        if name not in situation.facts.adapters
    ]


@guard("no adapter is named twice", errors.DuplicateAdapterError)
def distinct(_: Situation, event: Event) -> Sequence[Refusal]:
    """No name is given twice: it would be unclear what its second place in the order means."""
    twice = [name for name in dict.fromkeys(event.adapters) if event.adapters.count(name) > 1]
    return [Refusal("distinct", "", f"{name!r} is named {event.adapters.count(name)} times; once is expected", (name,)) for name in twice]


@guard("there is one finite weight for each name", errors.AdapterWeightsError)
def weights_match(_: Situation, event: Event) -> Sequence[Refusal]:
    """Weights come as many as names, and are finite."""
    if event.weights is None:
        return ()
    names, weights = event.adapters, event.weights
    if len(weights) != len(names):
        reason = f"{len(weights)} weights {list(weights)} are given for {len(names)} adapters {list(names)}; one for each is expected"
        return [Refusal("weights_match", "", reason, names)]
    return [
        Refusal("weights_match", "", f"the weight {weight} of {name!r} is not finite; a finite number is expected", (name,))
        for name, weight in zip(names, weights, strict=True)
        if not math.isfinite(weight)
    ]


@guard("every named adapter is active", errors.NotActiveError)
def named_are_active(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Only active adapters can be merged, since merged ones take part in the forward pass."""
    active = situation.facts.active
    return [
        Refusal("named_are_active", "", f"{name!r} is not active; active are {list(active)}. Call set_adapter first", (name,))
        for name in event.adapters
        if name in situation.facts.adapters and name not in active
    ]


@guard("no module would be replaced twice by the new adapter", errors.SelfOverlapError)
def no_self_overlap(_: Situation, event: Event) -> Sequence[Refusal]:
    """Within one adapter, no row of a base weight is replaced twice at the same end of a tie."""
    return _reported("no_self_overlap", event)


def _reported(name: str, event: Event) -> Sequence[Refusal]:
    """Refuse with what the modules reported for the guard of that name."""
    return [Refusal(name, where, reason, event.adapters) for where, reason in event.reports.get(name, {}).items()]


@guard("the config is supported", errors.ConfigError)
def config_is_supported(_: Situation, event: Event) -> Sequence[Refusal]:
    """Every field of the config holds a value that this package supports."""
    return _reported("config_is_supported", event)


@guard("the targets match modules that can be adapted", errors.TargetError)
def targets_match(_: Situation, event: Event) -> Sequence[Refusal]:
    """Every target matches a module, each of a class that the method can wrap, with all its indices in range."""
    return _reported("targets_match", event)


@guard("the modules' classes can be exchanged", errors.NotSwappableError)
def swappable(_: Situation, event: Event) -> Sequence[Refusal]:
    """A module's class can be exchanged for a generated subclass: it is no script module and accepts attributes."""
    return _reported("swappable", event)


@guard("the modules' forward is called", errors.ForwardNotCalledError)
def forward_is_called(_: Situation, event: Event) -> Sequence[Refusal]:
    """A tuner works only where `forward` is called; some parents read a child's weights instead."""
    return _reported("forward_is_called", event)


@guard("no class was put on top", errors.CoveredClassError)
def outermost_class_is_ours(situation: Situation, event: Event) -> Sequence[Refusal]:
    """A module that loses its last adapter gets its class back, so no other class may sit on top of the generated one."""
    covered = event.reports.get("outermost_class_is_ours", {})
    leaving = [path for path in covered if path in situation.facts.modules and _leaves_nothing(situation, path, event)]
    return [Refusal("outermost_class_is_ours", path, covered[path], event.adapters) for path in leaving]


def _leaves_nothing(situation: Situation, path: str, event: Event) -> bool:
    """Whether deleting the named adapters leaves `path` without any."""
    here = attrs.evolve(situation, subject=path, context=situation.facts.modules[path].context)
    return left_here.select(here, event) == "nothing"


# ---------------------------------------------------------------------------------------------- guards of wrapped modules


@guard("no two replace the same rows, or one policy combines them", errors.AdapterOverlapError, by_context=True)
def no_overlap(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Two adapters that replace the same rows of the same base weight at the same end are active together only by a policy of both.

    They have one when both carry the same, which is not ``"error"``, or the event names one. Each pair that overlaps is judged by itself.
    """
    refusals = []
    for pair, weight, footprint, rows in _overlaps(situation, event):
        policies = [_policy(situation, event, name) for name in pair]
        if policies[0] == policies[1] != "error":
            continue
        one, two = pair
        reason = f"{one!r} and {two!r} both replace {rows} of {weight} {footprint.shape}"
        if policies[0] != policies[1]:
            reason += f", by the policies {policies[0]!r} and {policies[1]!r}"
        refusals.append(Refusal("no_overlap", situation.subject, reason, pair, _kinds(situation, pair)))
    return refusals


@guard("what is summed or weighted has a meaning as a sum", errors.NotSummableError, by_context=True)
def sum_has_meaning(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Values that training updates, or that are no floating-point numbers, are neither summed nor weighted: they stand as they are."""
    refusals = []
    for pair, weight, footprint, _ in _overlaps(situation, event):
        if footprint.fixed and all(_policy(situation, event, name) == "sum" for name in pair):
            one, two = pair
            reason = f"the copies of {weight} {footprint.shape} in {one!r} and {two!r} cannot be summed: it is {footprint.fixed}"
            refusals.append(Refusal("sum_has_meaning", situation.subject, reason, pair, _kinds(situation, pair)))
    for name, share in zip(event.adapters, event.weights or (), strict=False):
        slot = situation.context.present.get(name)
        for weight, footprint in slot.replaces.items() if slot and share != 1 else ():
            if footprint.fixed:
                reason = f"the copy of {weight} {footprint.shape} in {name!r} cannot have the weight {share}: it is {footprint.fixed}"
                refusals.append(Refusal("sum_has_meaning", situation.subject, reason, (name,), _kinds(situation, (name,))))
    return refusals


def _overlaps(situation: Situation, event: Event) -> Iterator[tuple[tuple[str, str], str, Footprint, str]]:
    """Every two named adapters that replace the same rows here: the pair, the base tensor, the footprint of one, and the rows in words."""
    present = situation.context.present
    here = [name for name in dict.fromkeys(event.adapters) if name in present and present[name].replaces]
    for one, two in itertools.combinations(here, 2):
        for weight, footprint, rows in present[one].overlaps(present[two]):
            yield (one, two), weight, footprint, rows


def _policy(situation: Situation, event: Event, name: str) -> Policy:
    """The policy that the event would put in force for an adapter."""
    return event.on_overlap or situation.facts.adapters[name].on_overlap


def _kinds(situation: Situation, names: Sequence[str]) -> tuple[str, ...]:
    """What these adapters are here, each kind once."""
    return tuple(dict.fromkeys(kind for name in names for kind in situation.context.present[name].kinds))


@guard("the merge has a meaning here", errors.NotMergeableError)
def mergeable(situation: Situation, event: Event) -> Sequence[Refusal]:
    """The weight is whole and stored, and with `safe_merge` the result is finite."""
    reason = event.reports.get("mergeable", {}).get(situation.subject)
    if reason is None:
        return ()
    here = tuple(name for name in event.adapters if name in situation.context.present)
    return [Refusal("mergeable", situation.subject, reason, here)]


@guard("the named adapter is not merged here", errors.MergedError, by_context=True)
def not_merged_here(situation: Situation, event: Event) -> Sequence[Refusal]:
    """A merged adapter is not deleted: its part would have to leave the merged weight first."""
    return [
        Refusal("not_merged_here", situation.subject, f"{name!r} is merged", (name,), situation.context.present[name].kinds)
        for name in event.adapters
        if name in situation.context.merged
    ]
