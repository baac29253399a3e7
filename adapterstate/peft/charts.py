"""What a PEFT model runs by: the charts of this package, with what PEFT's methods cannot do declared as guards."""

from __future__ import annotations

from collections.abc import Sequence

from adapterstate import errors
from adapterstate.machine.charts import CHARTS
from adapterstate.machine.guards import guard
from adapterstate.machine.records import Event, Refusal, Situation


@guard("what is taken apart is a sum over adapters", errors.NotMergeableError)
def contributions_add(situation: Situation, event: Event) -> Sequence[Refusal]:
    """An adapter is merged apart from others, or has a weight, only where its method adds to the output."""
    found = event.reports.get("contributions_add", {})
    return [Refusal("contributions_add", where, reason, event.adapters) for where, reason in found.items()]


@guard("at most one adapter is active", errors.SingleActiveError)
def single_active(_: Situation, event: Event) -> Sequence[Refusal]:
    """Some of PEFT's methods, such as prompt learning, run with one adapter at a time."""
    names = tuple(dict.fromkeys(event.adapters))
    if len(names) < 2:
        return ()
    reason = f"{len(names)} adapters {list(names)} are named; this PEFT method runs with one at a time"
    return [Refusal("single_active", "", reason, names)]


@guard("the layers of each adapter are its own")
def layers_apart(_: Situation, event: Event) -> Sequence[Refusal]:
    """Adding an adapter moves no other adapter's layers, and puts none into a copy that an adapter trains."""
    found = event.reports.get("layers_apart", {})
    return [Refusal("layers_apart", where, reason, event.adapters) for where, reason in found.items()]


MADE_WITH_THE_MODEL = "PEFT makes a mixture of LoRAs together with the model; unload() gives the model back without"
"""Why nothing is added to a mixture, and why it is not deleted, other than by unloading."""


@guard("the model is not made with its one adapter")
def made_with_the_model(_: Situation, event: Event) -> Sequence[Refusal]:
    """PEFT makes a mixture of LoRAs when it makes the model: it can neither add one later nor leave the model without."""
    found = event.reports.get("made_with_the_model", {})
    if event.name == "add_adapter":
        found = {"": MADE_WITH_THE_MODEL}
    return [Refusal("made_with_the_model", where, reason, event.adapters) for where, reason in found.items()]


PEFT_CHARTS = (
    CHARTS.with_guard("merge_adapter", contributions_add)
    .with_guard("set_adapter", contributions_add)
    .with_guard("add_adapter", layers_apart)
)
"""The charts of models that carry PEFT's layers."""

ALONE_CHARTS = PEFT_CHARTS.with_guard("set_adapter", single_active)
"""The charts of models whose method runs with one adapter at a time, such as prompt learning."""

MIXTURE_CHARTS = PEFT_CHARTS.with_guard("add_adapter", made_with_the_model).with_guard("delete_adapter", made_with_the_model)
"""The charts of mixtures of LoRAs (X-LoRA)."""
