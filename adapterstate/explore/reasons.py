"""What is to be refused, and why: said a second time, from the words of the rules. Reads neither charts, guards nor planner."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from adapterstate.explore.asked import Broken, Change, overlapping
from adapterstate.explore.worlds import World
from adapterstate.machine.records import Event, Facts


def reasons(change: Change) -> Broken:
    """Refusing: an event is refused for every reason that there is, and, by the guards of this package, for no other.

    Other guards belong to a derived chart, which may refuse for reasons of its own; so may a chart without a row.
    """
    wanted = set(_reasons(change.world, change.before, change.event))
    found = {(refusal.guard, refusal.where) for refusal in change.refusals}
    own = {(guard, where) for guard, where in found if guard in _KNOWN}
    if own - wanted or (wanted - own and own == found):
        yield f"refusals {sorted(wanted) or 'none'}", f"{sorted(found) or 'none'}"


_KNOWN = frozenset(
    {
        "name_is_legal",
        "name_is_new",
        "config_is_supported",
        "targets_match",
        "no_self_overlap",
        "swappable",
        "forward_is_called",
        "known",
        "distinct",
        "weights_match",
        "named_are_active",
        "outermost_class_is_ours",
        "no_overlap",
        "sum_has_meaning",
        "mergeable",
        "not_merged_here",
    }
)
"""The guards of this package."""


def _reasons(world: World, facts: Facts, event: Event) -> Iterator[tuple[str, str]]:
    """(guard, where) of every refusal that the rules demand."""
    names = event.adapters
    here = [name for name in dict.fromkeys(names) if name in facts.adapters]
    if event.name == "add_adapter":
        yield from (("name_is_legal", "") for name in names if not name or "." in name)
        yield from (("name_is_new", "") for name in here)
        for guard in ("config_is_supported", "targets_match", "no_self_overlap", "swappable", "forward_is_called"):
            yield from ((guard, where) for where in event.reports.get(guard, ()))
        return
    if len(here) < len(set(names)):
        yield "known", ""
    if len(set(names)) < len(names):
        yield "distinct", ""
    if event.name == "set_adapter":
        yield from _reasons_against_setting(world, facts, event, here)
    if event.name == "merge_adapter":
        yield from (("named_are_active", "") for name in here if name not in facts.active)
        for path in event.reports.get("mergeable", ()):
            # only where it would change what is merged: the others are not asked
            changing = [name for name in here if path in world.places(name) and name in facts.active and name not in facts.merged]
            active = any(path in world.places(name) for name in facts.active)
            if changing and active:
                yield "mergeable", path
    if event.name == "delete_adapter":
        yield from (("not_merged_here", path) for name in here if name in facts.merged for path in world.places(name))
        for path in event.reports.get("outermost_class_is_ours", ()):
            present = {name for name in facts.adapters if path in world.places(name)}
            if present and present <= set(here):
                yield "outermost_class_is_ours", path


def _reasons_against_setting(world: World, facts: Facts, event: Event, here: list[str]) -> Iterator[tuple[str, str]]:
    """Rows replaced twice, sums and weights without a meaning, weights that do not fit."""
    for one, two in itertools.combinations(here, 2):
        policies = [event.on_overlap or facts.adapters[name].on_overlap for name in (one, two)]
        for path, weights in overlapping(world, one, two).items():
            if policies not in (["sum", "sum"], ["override", "override"]):
                yield "no_overlap", path
            elif policies[0] == "sum" and any(world.places(one)[path].replaces[weight].fixed for weight in weights):
                yield "sum_has_meaning", path
    if event.weights is None:
        return
    if len(event.weights) != len(event.adapters) or not all(map(math.isfinite, event.weights)):
        yield "weights_match", ""
    for name, weight in zip(event.adapters, event.weights, strict=False):
        if name in here and weight != 1:
            for path, slot in world.places(name).items():
                if any(footprint.fixed for footprint in slot.replaces.values()):
                    yield "sum_has_meaning", path
