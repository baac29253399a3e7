"""Which rule is broken, when what is observed after an event is not what was expected."""

from __future__ import annotations

from collections.abc import Sequence

from adapterstate.testing.reference import Reference
from adapterstate.testing.report import Difference

SWITCHES = ("set_adapter", "enter_use", "leave_use")
ENABLING = ("enable_adapters", "disable_adapters", "enter_disable", "leave_disable")


def rule_of_state(event: str, args: Sequence[object], after: Reference, differences: Sequence[Difference]) -> str:
    """The rule that an accepted event broke, from the first thing that is not as expected."""
    first = differences[0]
    if first.aspect == "present":
        return "leave_no_trace" if event == "delete_adapter" else "all_doors"
    if first.aspect == "active":
        return _rule_of_active(event, after, [one for one in differences if one.aspect == "active"])
    if first.aspect == "merged":
        return _rule_of_merged(event, after)
    if first.aspect == "enabled":
        return "enablement" if event in ENABLING else "independent_axes"
    own = event == "set_requires_grad" or (event == "add_adapter" and first.where == repr(args[0]))
    return "trainability" if own else "independent_axes"


def _rule_of_active(event: str, after: Reference, differences: Sequence[Difference]) -> str:
    if event == "add_adapter":
        return "first_adapter_only"
    if event in SWITCHES:
        tuned = {part.path for name in after.adapters for part in after.parts(name) if part.kind == "tuner"}
        return "all_doors" if tuned and not tuned & {one.where for one in differences} else "same_everywhere"
    if event == "delete_adapter":
        more = any(set(one.observed.split(", ")) - set(one.expected.split(", ")) - {"none"} for one in differences)
        return "first_adapter_only" if more else "same_everywhere"
    return "partial_merge" if event == "merge_adapter" else "independent_axes"


def _rule_of_merged(event: str, after: Reference) -> str:
    if event in SWITCHES:
        return "path_independent"
    if event == "merge_adapter":
        return "merge_is_exact" if after.merged == set(after.activation.names) else "partial_merge"
    return {"unmerge_adapter": "merge_is_exact", "delete_adapter": "merged_are_active"}.get(event, "independent_axes")


def rule_of_refusal(event: str, before: Reference, after: Reference) -> str:
    """The rule that a system broke by refusing what it must accept."""
    if not before.adapters:
        return "zero_adapters"
    names = after.activation.names if event in SWITCHES else ()
    if any(True for _ in after.overlaps(names)):
        return "combining"
    replaced = [{(part.path, part.weight) for part in after.parts(name) if part.kind != "tuner"} for name in names]
    meet = any(one & two for at, one in enumerate(replaced) for two in replaced[at + 1 :])
    return "no_overlap" if meet else "accepted"


def rule_of_output(event: str, after: Reference) -> str:
    """The rule that a wrong output breaks."""
    activation = after.activation
    if not after.enabled:
        return "disabled_is_base"
    if not after.adapters:
        return "zero_adapters"
    if not activation.names:
        return "inactive_has_no_part"
    if after.merged:
        return "merge_is_exact" if after.merged == set(activation.names) else "partial_merge"
    if event == "unmerge_adapter":
        return "merge_is_exact"
    if any(weight != 1 for weight in activation.weights) or any(True for _ in after.overlaps(activation.names)):
        return "combining"
    return "normal_form"
