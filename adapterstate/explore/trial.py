"""The pure machine under the method names of `AdapterState`: what a counterexample prints can be run here, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapterstate.errors import ArgumentError, type_of
from adapterstate.explore.worlds import World, adding
from adapterstate.machine.arguments import names_of, refuse_no_flag, refuse_strange_policy, weights_of
from adapterstate.machine.charts import CHARTS, Charts
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts, Policy

Names = str | Sequence[str]
Reports = Mapping[str, Mapping[str, str]]


class Trial:
    """A model of a world that exists as facts only.

    Every method takes what the one of `AdapterState` takes, plans its event, keeps the facts that it leaves and returns the plan. These
    differ: `add_adapter` takes no config, since the world says what the adapter is, but `inference_mode`; `delete_adapter` also takes
    several names, as the charts do; `reports` is what modules would report; and `holder` is who enables or disables.

    Args:
        world: which adapters there can be.
        charts: what may happen.

    Raises:
        ArgumentError: also from every method, when an argument has the wrong type, and from `add_adapter`, when the world has no such
            adapter; `facts` is what it was.
        EventRefusedError: from every method, when the event is refused; `facts` is what it was.
        InternalError: from every method, when the charts lead elsewhere than the facts; `facts` is what it was.
    """

    def __init__(self, world: World, charts: Charts = CHARTS) -> None:
        if not isinstance(world, World):
            raise ArgumentError(f"Trial was given {type_of(world)}; a World is expected")
        if not isinstance(charts, Charts):
            raise ArgumentError(f"Trial was given {type_of(charts)} as charts; Charts are expected")
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
        """Add an adapter of the world, frozen with `inference_mode`, as a config can say."""
        if not isinstance(name, str):
            raise ArgumentError(f"add_adapter was given {name!r} as a name; a str is expected; nothing has changed")
        if name not in self.world.adapters and name and "." not in name:  # an illegal name is for the guards to refuse
            known = list(self.world.adapters)
            raise ArgumentError(f"the world {self.world.name!r} has no adapter {name!r} to add, only {known}; nothing has changed")
        refuse_no_flag("add_adapter", "inference_mode", inference_mode)
        refuse_strange_policy("add_adapter", on_overlap, carried=True)
        event = adding(self.world, name, on_overlap, "frozen" if inference_mode else "trainable", reports)
        return self.run(event)

    def set_adapter(
        self,
        names: Names,
        weights: Sequence[float] | None = None,
        on_overlap: Policy | None = None,
        *,
        reports: Reports | None = None,
    ) -> Plan:
        """Make these adapters active, in this order, and no others."""
        named = names_of("set_adapter", names)
        refuse_strange_policy("set_adapter", on_overlap, carried=True)
        given = weights_of("set_adapter", weights)
        return self.run(Event("set_adapter", named, weights=given, on_overlap=on_overlap, reports=reports or {}))

    def delete_adapter(self, names: Names, *, reports: Reports | None = None) -> Plan:
        """Delete an adapter, or several at once."""
        return self.run(Event("delete_adapter", names_of("delete_adapter", names), reports=reports or {}))

    def merge_adapter(self, names: Names | None = None, *, reports: Reports | None = None) -> Plan:
        """Merge these adapters, or all that are active."""
        named = self.facts.active if names is None else names_of("merge_adapter", names)
        return self.run(Event("merge_adapter", named, reports=reports or {}))

    def unmerge_adapter(self) -> Plan:
        """Unmerge all of them."""
        return self.run(Event("unmerge_adapter"))

    def enable_adapters(self, *, holder: str = "call") -> Plan:
        """Release `disable_adapters()`, or a context."""
        return self.run(Event("enable_adapters", holder=holder))

    def disable_adapters(self, *, holder: str = "call") -> Plan:
        """Disable by call, or by a context."""
        return self.run(Event("disable_adapters", holder=holder))

    def set_requires_grad(self, names: Names, requires_grad: bool = True) -> Plan:
        """Make these adapters trainable or frozen."""
        refuse_no_flag("set_requires_grad", "requires_grad", requires_grad)
        named = names_of("set_requires_grad", names)
        return self.run(Event("set_requires_grad", named, wanted="trainable" if requires_grad else "frozen"))
