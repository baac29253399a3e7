"""The rules by name, each in one sentence: what a failure says was broken."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Call = tuple[str, Sequence[Any], Mapping[str, Any]]
"""A method of `Trial`, and what it was called with."""

RULES = {
    "atomic": "after an event that raised, everything is as it was: states, parameters, output, random generators",
    "first_adapter_only": "an added adapter activates itself exactly if the model had none; no other event activates what it was not given",
    "same_everywhere": "on every module, active are the model's active adapters that are present there, in the same order",
    "all_doors": "tuners and auxiliary modules move by the same event, and an adapter is present exactly where its recipe says",
    "no_overlap": "two adapters that replace the same rows are active together exactly if one policy combines them",
    "independent_axes": "activation, enablement and trainability do not move one another",
    "path_independent": "what set_adapter leaves depends on its arguments alone, and nothing is merged after it",
    "disabled_is_base": "disabled output is that of the untouched base model bit for bit, merged or not",
    "merge_is_exact": "merged output equals unmerged within tolerance, and unmerging gives back the base bit for bit",
    "partial_merge": "merging some of the active adapters merges these, and keeps the others in force",
    "zero_adapters": "a model without adapters works, computes as the base and accepts an add",
    "leave_no_trace": "after the last delete everything is as it was before the first add",
    "bad_input_is_an_error": "unknown, duplicate and malformed arguments are refused, and names are compared whole",
    # What follows is said elsewhere: in the charts, and where combining is described.
    "accepted": "an event that no rule refuses is accepted",
    "enablement": "adapters are disabled exactly while disable_adapters() or a context holds; contexts count",
    "trainability": "an adapter's parameters require grad as its config and set_requires_grad said",
    "merged_are_active": "only active adapters are merged, and a merged one is not deleted",
    "inactive_has_no_part": "the output depends on the active adapters and on no other",
    "combining": "weights and policies enter the output as specified, and last until the next set_adapter",
    "normal_form": "the output is that of the base with the active copies and rows put in, in order, plus the active tuners' deltas",
    "arguments_are_copied": "lists that were given to an event belong to the caller, before and after",
    "deterministic": "a forward changes nothing and gives the same output again",
}
"""Name of a rule -> what it says."""


class Broken(AssertionError):
    """A rule is broken. The text says which, by which events, and what was expected.

    Attributes:
        finding: the rule, the event and what was seen, such as ``"first_adapter_only/delete_adapter/active"``.
        calls: the methods of `Trial` that were called, with their arguments.
    """

    def __init__(self, text: str, finding: str = "", calls: Sequence[Call] = ()) -> None:
        super().__init__(text)
        self.finding = finding
        self.calls = tuple(calls)


def is_tolerated(finding: str, deviations: Collection[str]) -> bool:
    """Whether a finding, such as ``"first_adapter_only/delete_adapter/active"``, is a known deviation or part of a coarser one."""
    parts = finding.split("/")
    return any("/".join(parts[:length]) in deviations for length in range(1, len(parts) + 1))


def refuse_unknown(deviations: Collection[str]) -> None:
    """Refuse deviations that no finding can match.

    Raises:
        ValueError: one of them does not begin with the name of a rule.
    """
    wrong = [name for name in deviations if name.split("/")[0] not in RULES]
    if wrong:
        raise ValueError(f"deviations names {wrong}, which begin with no rule's name; rules are {', '.join(RULES)}")
