"""The first lines that PEFT's users match on: each error of an attached model begins with what PEFT says, before it says the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapterstate.machine.records import Event, Refusal
from adapterstate.peft.hosts import Host

MERGED_SWITCH = "Adapter cannot be set when the model is merged. Unmerging the model first."
NOTHING_TO_UNMERGE = "Already unmerged. Nothing to do."
ALL_MERGED = "All adapters are already merged, nothing to do."


def opening(event: Event, refusals: Sequence[Refusal], hosts: Mapping[str, Host]) -> str:
    """Return PEFT's own words for the first refusal that it has words for; empty when it has none."""
    for refusal in refusals:
        names = list(refusal.adapters)
        if refusal.guard == "name_is_new":
            return f"Adapter with name '{names[0]}' already exists."
        if refusal.guard == "known":
            return f"Adapter {names[0]} does not exist" if event.name == "delete_adapter" else f"Adapter {names[0]} not found."
        if refusal.guard == "not_merged_here":
            return f"Cannot delete adapter(s) {names} while they are merged. Please unmerge them first."
        if refusal.guard == "no_overlap" and refusal.where in hosts:
            kind = type(hosts[refusal.where].module).__name__
            return f"Only one adapter can be set at a time for {kind}, got {len(names)}"
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
