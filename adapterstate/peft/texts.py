"""The first lines that PEFT's users match on: each error of an attached model begins with what PEFT says, before it says the rest."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from peft.tuners.mixed import MixedModel

from adapterstate.errors import NotMergeableError
from adapterstate.machine.records import Event, Refusal
from adapterstate.peft.hosts import Host, TokenHost

MERGED_SWITCH = "Adapter cannot be set when the model is merged. Unmerging the model first."
NOTHING_TO_UNMERGE = "Already unmerged. Nothing to do."
ALL_MERGED = "All adapters are already merged, nothing to do."


NOT_FINITE = "NaNs detected in the merged weights"
OVERLAPPING_ROWS = "Token indices of adapter {} are already defined and would result in undefined merging behavior."
SHADOW_ALONE = "ShadowPEFT requires exactly one active adapter, but got {} adapters."


class Objection(str):
    """A reason that is an exception of PEFT's own.

    Attributes:
        said: the exception's own text.
        kind: its class, which PEFT's users may catch.
    """

    said: str
    kind: type[Exception]

    def __new__(cls, text: str, error: Exception) -> Objection:
        found = super().__new__(cls, text)
        found.said, found.kind = str(error), type(error)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.kind(self.said))


def as_peft_raises(error: NotMergeableError) -> NotMergeableError:
    """Return the error as one that is of PEFT's class too, where PEFT itself objects with one class everywhere."""
    kinds = {getattr(refusal.reason, "kind", None) for refusal in error.refusals}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None or isinstance(error, kind):
        return error
    return _of_both(kind, error.__reduce__()[1])


def _of_both(kind: type[Exception], args: tuple[Any, ...]) -> NotMergeableError:
    return _class_of_both(kind)(*args)  # type: ignore[arg-type]  # classes are hashable


@functools.cache
def _class_of_both(kind: type[Exception]) -> type[NotMergeableError]:
    """The class of refusals that are `kind` too; it has the same name."""

    def reduce(self: NotMergeableError) -> Any:
        return _of_both, (kind, NotMergeableError.__reduce__(self)[1])

    body = {"__module__": NotMergeableError.__module__, "__doc__": NotMergeableError.__doc__, "__reduce__": reduce}
    return type(NotMergeableError.__name__, (NotMergeableError, kind), body)


def opening(event: Event, refusals: Sequence[Refusal], hosts: Mapping[str, Host], known: Sequence[str], tuner: object) -> str:
    """Return PEFT's own words for the first refusal that it has words for; empty when it has none.

    Args:
        event: what is refused.
        refusals: why.
        hosts: PEFT's layers and wrappers, by path.
        known: the names of all adapters.
        tuner: PEFT's tuner, since not all have the same words.
    """
    for refusal in refusals:
        names = list(refusal.adapters)
        if refusal.guard == "name_is_new":
            return f"Adapter with name '{names[0]}' already exists."
        if refusal.guard == "known" and isinstance(tuner, MixedModel):
            return f"Adapter(s) {sorted(set(event.adapters) - set(known))} not found, available adapters: {sorted(known)}"
        if refusal.guard == "known":
            return f"Adapter {names[0]} does not exist" if event.name == "delete_adapter" else f"Adapter {names[0]} not found."
        if refusal.guard == "not_merged_here":
            return f"Cannot delete adapter(s) {names} while they are merged. Please unmerge them first."
        if refusal.guard == "no_overlap" and refusal.where in hosts:
            host = hosts[refusal.where]
            more = f": {OVERLAPPING_ROWS.format(names[-1])}" if isinstance(host, TokenHost) else ""
            return f"Only one adapter can be set at a time for {type(host.module).__name__}, got {len(names)}{more}"
        if refusal.guard == "single_active" and type(tuner).__name__ == "ShadowModel":
            return SHADOW_ALONE.format(len(names))
        if isinstance(refusal.reason, Objection):
            return refusal.reason.said
    return ""


def deleted(gone: str, fallback: str) -> str:
    """The warning that another adapter has become active."""
    return f"Adapter {gone} was active which is now deleted. Setting active adapter to {fallback}."


def merging_more(merged: Sequence[str], names: Sequence[str]) -> str:
    """The warning that adapters are merged beside others."""
    return f"Already following adapters were merged {','.join(merged)}. You are now additionally merging {','.join(names)}."


def matches_nothing(config: object) -> str:
    """Why an adapter without any weights is refused; older releases of PEFT accept one."""
    targets = getattr(config, "target_modules", None)
    return f"Target modules {targets} not found in the base model. Please check the target modules and try again."
