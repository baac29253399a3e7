"""The pure machine under the method names of `AdapterState`: what a counterexample prints can be run here, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapterstate.explore.worlds import World, adding
from adapterstate.machine.charts import CHARTS, Charts
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts, Policy

Reports = Mapping[str, Mapping[str, str]]


class Trial:
    """A model of a world that exists as facts only.

    Every method plans its event, keeps the facts that it leaves and returns the plan.

    Args:
        world: which adapters there can be.
        charts: what may happen.

    Raises:
        EventRefusedError: from every method, when the event is refused; `facts` is what it was.
        InternalError: from every method, when the charts lead elsewhere than the facts; `facts` is what it was.
    """

    def __init__(self, world: World, charts: Charts = CHARTS) -> None:
        self.world, self.charts, self.facts = world, charts, Facts()

    def run(self, event: Event) -> Plan:
        """Plan any event."""
        found = plan(self.charts, self.facts, [event])
        if not found.accepted:
            raise found.error(event, found.refusals, len(self.facts.modules))
        self.facts = found.after
        return found

    def add_adapter(
        self, name: str, *, inference_mode: bool = False, on_overlap: Policy | None = None, reports: Reports | None = None
    ) -> Plan:
        """Add an adapter of the world."""
        event = adding(self.world, name, on_overlap, "frozen" if inference_mode else "trainable", reports)
        return self.run(event)

    def set_adapter(
        self,
        names: Sequence[str],
        *,
        weights: Sequence[float] | None = None,
        on_overlap: Policy | None = None,
        reports: Reports | None = None,
    ) -> Plan:
        """Make these adapters active, in this order, and no others."""
        given = None if weights is None else tuple(weights)
        return self.run(Event("set_adapter", tuple(names), weights=given, on_overlap=on_overlap, reports=reports or {}))

    def delete_adapter(self, names: Sequence[str], *, reports: Reports | None = None) -> Plan:
        """Delete these adapters."""
        return self.run(Event("delete_adapter", tuple(names), reports=reports or {}))

    def merge_adapter(self, names: Sequence[str], *, reports: Reports | None = None) -> Plan:
        """Merge these adapters."""
        return self.run(Event("merge_adapter", tuple(names), reports=reports or {}))

    def unmerge_adapter(self) -> Plan:
        """Unmerge all of them."""
        return self.run(Event("unmerge_adapter"))

    def enable_adapters(self, *, holder: str = "call") -> Plan:
        """Release `disable_adapters()`, or a context."""
        return self.run(Event("enable_adapters", holder=holder))

    def disable_adapters(self, *, holder: str = "call") -> Plan:
        """Disable by call, or by a context."""
        return self.run(Event("disable_adapters", holder=holder))

    def set_requires_grad(self, names: Sequence[str], requires_grad: bool) -> Plan:
        """Make these adapters trainable or frozen."""
        return self.run(Event("set_requires_grad", tuple(names), wanted="trainable" if requires_grad else "frozen"))
