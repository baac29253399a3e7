"""Looking at a state: the table of modules and adapters, and whether torch looks as the state says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs
from torch import nn

from adapterstate.changes import parameters_of
from adapterstate.machine.records import Context, Facts
from adapterstate.modules.slots import Slot, slots_of
from adapterstate.modules.wiring import stamp_of
from adapterstate.modules.wrapping import BINDINGS, WIRING, is_wrapped
from adapterstate.projection import GradFollows, Shares, requires_grad, view_of
from adapterstate.records import Finding


@attrs.frozen
class Status:
    """The state of a model as a table: a row per wrapped module, a column per adapter.

    Attributes:
        adapters: name -> ``"trainable"`` or ``"frozen"``.
        active: in activation order.
        weights: the weight of each active adapter.
        on_overlap: the policy that the activation named; None for those that the adapters carry.
        enabled: whether adapters are applied at all.
        modules: path -> adapter -> ``""`` (no weights there), ``"inactive"``, ``"active"`` or ``"merged"``.
        kinds: path -> adapter -> its methods there.
    """

    adapters: Mapping[str, str]
    active: tuple[str, ...]
    weights: Mapping[str, float]
    on_overlap: str | None
    enabled: bool
    modules: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, Mapping[str, str]]

    @property
    def header(self) -> tuple[str, ...]:
        """Titles of the columns."""
        return ("module", *(f"{name} ({trainability})" for name, trainability in self.adapters.items()))

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Cells by row, as text."""
        return tuple(
            (path, *(f"{cells[name]} {self.kinds[path][name]}" if cells[name] else "-" for name in self.adapters))
            for path, cells in self.modules.items()
        )

    @property
    def summary(self) -> str:
        """One line above the table."""
        active = [name if self.weights[name] == 1 else f"{name} (weight {self.weights[name]:g})" for name in self.active]
        policy = f"; on overlap: {self.on_overlap}" if self.on_overlap else ""
        return f"adapters {'enabled' if self.enabled else 'DISABLED'}; active: {', '.join(active) or 'none'}{policy}"

    def __str__(self) -> str:
        table = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([self.summary, *lines])

    def _repr_mimebundle_(self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None) -> dict[str, str]:
        """The table for notebooks; every cell says its state in words."""
        from adapterstate.diagrams.display import status_bundle  # it draws what is defined here

        return status_bundle(self, include, exclude)


def status_of(facts: Facts) -> Status:
    """Make the table of a state."""
    return Status(
        adapters={name: adapter.trainability for name, adapter in facts.adapters.items()},
        active=facts.active,
        weights={name: facts.weights.get(name, 1.0) for name in facts.active},
        on_overlap=facts.on_overlap,
        enabled=facts.enabled,
        modules={path: {name: _cell(record.context, name) for name in facts.adapters} for path, record in facts.modules.items()},
        kinds={
            path: {name: ", ".join(slot.kinds) for name, slot in record.context.present.items()} for path, record in facts.modules.items()
        },
    )


def _cell(context: Context, name: str) -> str:
    """What an adapter is on one module."""
    if name not in context.present:
        return ""
    return "merged" if name in context.merged else "active" if name in context.active else "inactive"


# ------------------------------------------------------------------------------------------------------------------- check


def findings(model: nn.Module, facts: Facts, modules: Mapping[str, nn.Module], follows: GradFollows) -> Iterator[Finding]:
    """Name everything in torch that is not as the state says. Writes nothing."""
    here = dict(model.named_modules(remove_duplicate=False))
    sound = []
    for path, module in modules.items():
        if here.get(path) is not module:
            found = type(here[path]).__name__ if path in here else "nothing"
            yield Finding(path or "the model", "the module that was wrapped here", "the same module", found, mendable=False)
        elif not is_wrapped(module) or WIRING not in module.__dict__ or BINDINGS not in module.__dict__:
            yield Finding(path or "the model", "class of a wrapped module", "a generated class", type(module).__name__, mendable=False)
        else:
            sound.append(path)
            yield from _wired(path, module, facts)
    known = {id(module) for module in modules.values()}
    for path, module in here.items():
        if is_wrapped(module) and id(module) not in known:
            what = "a module with adapters that the state does not know"
            yield Finding(path or "the model", what, "a plain module", type(module).__name__, mendable=False)
    yield from _misplaced(here)
    yield from _gradients(model, facts, {path: modules[path] for path in sound}, follows)


def _misplaced(here: Mapping[str, nn.Module]) -> Iterator[Finding]:
    """Find adapters' parameters that were registered as a base parameter, as when a weight is tied to what a read returned."""
    slots = {id(tensor) for module in here.values() if isinstance(module, Slot) for tensor in module._parameters.values()}
    for path, module in here.items():
        if not isinstance(module, Slot):
            for name, tensor in module._parameters.items():
                if tensor is not None and id(tensor) in slots:
                    where = f"{path}.{name}" if path else name
                    yield Finding(where, "a base parameter", "the base's own", "an adapter's parameter", mendable=False)


def _wired(path: str, module: nn.Module, facts: Facts) -> Iterator[Finding]:
    """Compare one module with its view."""
    context = facts.modules[path].context
    bindings, wiring = module.__dict__[BINDINGS], module.__dict__[WIRING]
    if list(bindings) != list(context.present):
        yield Finding(path, "adapters with weights here", str(list(context.present)), str(list(bindings)))
        return
    registered = [name for name, binding in bindings.items() if binding.slot is not None]
    if list(slots_of(module)) != registered or any(slots_of(module)[name] is not bindings[name].slot for name in registered):
        yield Finding(path, "registered slots", str(registered), str(list(slots_of(module))))
    view = view_of(context, enabled=facts.enabled)
    if [id(part) for part in wiring.tuners] != [id(part) for share in view.live for part in bindings[share.name].tuners]:
        yield Finding(path, "tuners that run in forward", _said(view.live), f"{len(wiring.tuners)} others")
    cached = wiring.cache.shares if wiring.cache is not None else ()
    if cached != view.cached:
        yield Finding(path, "adapters in the merged weight", _said(view.cached), _said(cached))
    elif wiring.cache is not None and wiring.cache.stamp != stamp_of(module, bindings, cached):
        yield Finding(path, "the merged weight", "computed from the present tensors", "stale: one of them has changed since")
    own = {id(part): name for name, binding in bindings.items() for part in binding.parts}
    read = {own.get(id(part), "another module's") for found in wiring.reads.values() for part in getattr(found, "parts", ())}
    if not read <= {share.name for share in view.replacing + view.cached}:
        yield Finding(path, "adapters whose rows are read", _said(view.replacing), str(sorted(read)))
    if wiring.view != view:
        yield Finding(path, "how adapters take part", str(view), str(wiring.view))


def _said(shares: Shares) -> str:
    """The names, with their weights where they are not 1."""
    return str([share.name if share.weight == 1 else f"{share.name} ({share.weight:g})" for share in shares])


def _gradients(model: nn.Module, facts: Facts, modules: Mapping[str, nn.Module], follows: GradFollows) -> Iterator[Finding]:
    """Compare `requires_grad` of every parameter."""
    expected: dict[int, bool] = {}
    for name, adapter in facts.adapters.items():
        for path in adapter.modules:
            binding = modules[path].__dict__[BINDINGS].get(name) if path in modules else None
            if binding is not None:
                expected.update({id(parameter): requires_grad(facts, name, follows) for parameter in parameters_of(binding)})
    slots = {id(parameter) for module in model.modules() if isinstance(module, Slot) for parameter in module._parameters.values()}
    for name, parameter in model.named_parameters():
        base = id(parameter) not in slots
        if base and not facts.adapters:
            continue  # without adapters the flags are the user's
        want = expected.get(id(parameter), False)
        if (base or id(parameter) in expected) and parameter.requires_grad is not want:
            yield Finding(name, "requires_grad of a base parameter" if base else "requires_grad", str(want), str(parameter.requires_grad))
