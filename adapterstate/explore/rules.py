"""The rules that speak of states, by name. Each is a function of its name, written from the words of the rule.

A function yields what it finds broken, as expected and observed in words; nothing means that the rule holds. None reads the charts, the
guards or the planner: a mistake made there is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from adapterstate.explore.asked import Broken, Change
from adapterstate.explore.reasons import reasons
from adapterstate.explore.rules_of_events import (
    accepts_an_add,
    bad_input_is_an_error,
    base_remembered,
    carried,
    first_adapter_only,
    independent_axes,
    partial_merge,
    path_independent,
)
from adapterstate.explore.rules_of_states import all_doors, as_stored, combining, no_overlap, same_everywhere, zero_adapters
from adapterstate.explore.worlds import World
from adapterstate.machine.records import Facts

STATES: Mapping[str, Callable[[World, Facts], Broken]] = MappingProxyType(
    {rule.__name__: rule for rule in (as_stored, same_everywhere, all_doors, no_overlap, combining, zero_adapters)}
)
"""Rules of states, by name."""

EVENTS: Mapping[str, Callable[[Change], Broken]] = MappingProxyType(
    {
        rule.__name__: rule
        for rule in (
            bad_input_is_an_error,
            first_adapter_only,
            independent_axes,
            path_independent,
            partial_merge,
            carried,
            accepts_an_add,
            base_remembered,
        )
    }
)
"""Rules of events, by name."""

LAST: Mapping[str, Callable[[Change], Broken]] = MappingProxyType({reasons.__name__: reasons})
"""Rules of events that are asked when all others hold: what breaks one of those often breaks these too, and says less."""

ATOMIC = "atomic"
"""Rule 1: a refused event leaves the facts identical; planning writes nothing. The walk compares them itself, once per state."""

AS_DECLARED = "as_declared"
"""The charts: no case that was declared impossible comes up, and no row leads elsewhere than the facts. The planner raises otherwise."""

ONE_ORDER = "presence_order"
"""No rule of the library: what the reduction by presence order assumes, and the walk checks."""

RULES = (*STATES, *EVENTS, *LAST, ATOMIC, AS_DECLARED, ONE_ORDER)
"""The names of all of them: what `deviations` may name."""


def words(rule: str) -> str:
    """The rule in one sentence."""
    said = {
        ATOMIC: "Rule 1: after an event that was refused, everything is exactly as before.",
        AS_DECLARED: "The charts: no case that was declared impossible comes up, and each row leads where the facts lead.",
        ONE_ORDER: "The reduction of the walk: states that differ only in the order in which adapters came are judged alike.",
    }
    function: Callable[..., Broken] | None = STATES.get(rule) or EVENTS.get(rule) or LAST.get(rule)
    return said[rule] if function is None else (function.__doc__ or "").partition("\n")[0]
