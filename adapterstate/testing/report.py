"""What is printed: a broken rule with the events that break it, and what a run did and could not do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import attrs

from adapterstate.testing.rules import RULES
from adapterstate.testing.system import FEATURES


@attrs.frozen
class Difference:
    """One thing that is not as expected.

    Attributes:
        aspect: ``"active"``, ``"output"`` and so on.
        where: a module, an adapter, or ``""``.
        expected: as text.
        observed: as text.
    """

    aspect: str
    where: str
    expected: str
    observed: str


def failure_text(finding: str, lines: Sequence[str], differences: Sequence[Difference], why: str) -> str:
    """Say which rule is broken, by which lines of code, and what was expected."""
    rule = finding.split("/")[0]
    text = [f"the rule {rule} is broken: {RULES[rule]}", f"  [{finding}]"]
    text += [f"  {why}"] if why else []
    text += ["", *(f"    {line}" for line in lines), "", "After the last line:"]
    rows = [(f"{one.where} {one.aspect}".strip(), one.expected, one.observed) for one in differences]
    return "\n".join([*text, *_table([("", "expected", "observed"), *rows])])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@attrs.define
class Report:
    """What a run did.

    Attributes:
        examples: how many sequences of events were tried.
        events: event -> how often it was accepted and refused, as ``"set_adapter accepted"``.
        skipped: what was not checked, and why.
        tolerated: finding -> how often it was met and tolerated.
        unseen: deviations that were named and not met. They may be repaired by now.
    """

    examples: int = 0
    events: Counter[str] = attrs.field(factory=Counter)
    skipped: dict[str, str] = attrs.field(factory=dict)
    tolerated: Counter[str] = attrs.field(factory=Counter)
    unseen: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.examples} sequences, {sum(self.events.values())} events; no rule is broken"]
        lines += [f"  not checked: {what} ({why})" for what, why in self.skipped.items()]
        lines += [f"  tolerated: {finding} ({times} times)" for finding, times in sorted(self.tolerated.items())]
        lines += [f"  not met any more: {name}" for name in self.unseen]
        return "\n".join(lines)


NEEDS = {
    "set_requires_grad": ("trainability", "independent_axes of trainability"),
    "merge_adapter": ("merge_is_exact", "partial_merge", "merged_are_active"),
    "disable_adapters": ("enablement by calls",),
    "disable_adapter": ("enablement by contexts",),
    "use_adapter": ("path_independent in contexts",),
}
"""Event -> the rules, or parts of rules, that cannot be checked without it."""


def skipped_rules(lacking: Collection[str], *, tensors: bool, fingerprint: bool) -> dict[str, str]:
    """Return what cannot be checked of a system that lacks these, and why."""
    skipped = {rule: f"the system has no {event}" for event, rules in NEEDS.items() if event in lacking for rule in rules}
    skipped |= {f"that {FEATURES[name]}": "the system does not support it" for name in FEATURES if name in lacking}
    if {"disable_adapters", "disable_adapter"} <= set(lacking):
        skipped["disabled_is_base"] = "the system cannot be disabled"
    if not tensors:
        skipped["normal_form and combining, against dense weights"] = "the system shows no tensors()"
    if not fingerprint:
        skipped["leave_no_trace, and identities in atomic"] = "the system shows no fingerprint()"
    return skipped
