"""What the rows of the three charts mean for torch, in words. A row of a chart of one's own has no entry, and its cell stays empty."""

from __future__ import annotations

from collections.abc import Mapping

from adapterstate.machine.charts import Chart, Row

NOTHING = "nothing changes here"

EFFECTS: Mapping[tuple[str, str, str | None, str], str] = {
    ("activation", "add_adapter", "yes", "active"): (
        "the module's class becomes a generated subclass; the adapter's parameters are registered and take part in the forward pass"
    ),
    ("activation", "add_adapter", "no", "inactive"): (
        "the module's class becomes a generated subclass; the adapter's parameters are registered, the forward pass stays the base's"
    ),
    ("activation", "add_adapter", None, "="): "the adapter's parameters are registered; what the module computes stays",
    ("activation", "set_adapter", "some", "active"): (
        "the named adapters take part in the forward pass, in the order given; a merged weight is dropped"
    ),
    ("activation", "set_adapter", "none", "inactive"): "the forward pass is the base's; a merged weight is dropped",
    ("activation", "merge_adapter", "some", "merged"): (
        "the weight with the merged adapters is computed once and kept beside the base weight, which is not written"
    ),
    ("activation", "merge_adapter", "none", "="): NOTHING,
    ("activation", "unmerge_adapter", None, "active"): "the merged weight is dropped; the adapters are evaluated in the forward pass again",
    ("activation", "unmerge_adapter", None, "="): NOTHING,
    ("activation", "delete_adapter", None, "merged"): "the adapter's parameters go; the merged weight stays",
    ("activation", "delete_adapter", "active", "active"): "the adapter's parameters go; the active ones that are left still take part",
    ("activation", "delete_adapter", "inactive", "inactive"): "the adapter's parameters go; the forward pass is the base's",
    ("activation", "delete_adapter", "nothing", "unwrapped"): "the adapter's parameters go; the module gets its own class back",
    ("enablement", "disable_adapters", None, "disabled"): "every read and every forward pass is the base's, merged or not",
    ("enablement", "enable_adapters", "no", "enabled"): "what is active takes part again",
    ("enablement", "enable_adapters", "yes", "disabled"): "one holder less; every read is still the base's",
    ("trainability", "add_adapter", "trainable", "trainable"): "the adapter's parameters get requires_grad=True",
    ("trainability", "add_adapter", "frozen", "frozen"): "the adapter's parameters get requires_grad=False",
    ("trainability", "set_requires_grad", "trainable", "trainable"): "the adapter's parameters get requires_grad=True",
    ("trainability", "set_requires_grad", "frozen", "frozen"): "the adapter's parameters get requires_grad=False",
    (
        "trainability",
        "delete_adapter",
        None,
        "absent",
    ): "the adapter's parameters are gone; after the last one the base has its own flags back",
}
"""Name of the chart, event, case and target -> words. Flags are those of ``grad_follows="trainability"``, the default."""


def effect_of(chart: Chart, row: Row) -> str:
    """What taking the row means for torch; empty when nobody has said it."""
    return EFFECTS.get((chart.name, row.event, row.value, row.target), "")
