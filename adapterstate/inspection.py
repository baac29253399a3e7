"""Looking at a state: the table of modules and adapters, and whether torch looks as the state says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs
from torch import nn

from adapterstate.changes import can_accept
from adapterstate.machine.records import Context, Facts
from adapterstate.modules.notices import MergedNotice
from adapterstate.modules.slots import CHILD, slots_of
from adapterstate.modules.wiring import Binding, Wiring, stamp_of
from adapterstate.modules.wrapping import BINDINGS, WIRING, is_wrapped, why_not_called
from adapterstate.projection import GradFollows, Shares, requires_grad, view_of
from adapterstate.records import Finding
from adapterstate.targets.tree import Tree, survey


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
        return ("module", *(f"{on_one_line(name)} ({trainability})" for name, trainability in self.adapters.items()))

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Cells by row, as text."""
        return tuple(
            (on_one_line(path), *(f"{cells[name]} {self.kinds[path][name]}" if cells[name] else "-" for name in self.adapters))
            for path, cells in self.modules.items()
        )

    @property
    def summary(self) -> str:
        """One line above the table."""
        weights = {on_one_line(name): self.weights[name] for name in self.active}
        active = [name if weight == 1 else f"{name} (weight {weight:g})" for name, weight in weights.items()]
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


def on_one_line(name: str) -> str:
    """A name with what cannot be printed escaped, as in a Python string: a line break in it would break a table."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


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


def findings(model: nn.Module, facts: Facts, modules: Mapping[str, nn.Module], follows: GradFollows) -> list[Finding]:
    """Name everything in torch that is not as the state says. Writes nothing."""
    tree = survey(model)
    flags = {name: requires_grad(facts, name, follows) for name in facts.adapters}
    expected: dict[int, Expected] = {}
    found: list[Finding] = []
    for path, module in modules.items():
        if path not in tree.paths.get(module, ()):
            other = next((type(other).__name__ for other, paths in tree.paths.items() if path in paths), "nothing")
            found.append(Finding(path or "the model", "the module that was wrapped here", "the same module", other, mendable=False))
        elif not is_wrapped(module) or WIRING not in module.__dict__ or BINDINGS not in module.__dict__:
            other = type(module).__name__
            found.append(Finding(path or "the model", "class of a wrapped module", "a generated class", other, mendable=False))
        else:
            context = facts.modules[path].context
            if id(context) not in expected:
                expected[id(context)] = Expected(context, flags, enabled=facts.enabled)
            found += _differing(path, module, expected[id(context)])
    known = {id(module) for module in modules.values()}
    for module, paths in tree.paths.items():
        if is_wrapped(module) and id(module) not in known:
            what = "a module with adapters that the state does not know"
            found.append(Finding(paths[0] or "the model", what, "a plain module", type(module).__name__, mendable=False))
    return found + _base(tree, frozen=bool(facts.adapters))


class Expected:
    """What every module of a cohort has to look like: its adapters, how they take part, and which of them accept gradients."""

    __slots__ = ("equal", "flags", "live", "present", "taking_part", "tunes", "view", "weighted")

    def __init__(self, context: Context, flags: Mapping[str, bool], *, enabled: bool) -> None:
        self.present = [*context.present]
        self.flags = flags
        self.tunes = any(slot.tunes for slot in context.present.values())
        self.view = self.equal = view_of(context, enabled=enabled)
        self.live = [share.name for share in self.view.live]
        self.weighted = any(share.weight != 1 for share in self.view.live)
        self.taking_part = {share.name for share in self.view.replacing + self.view.cached}


def _differing(path: str, module: nn.Module, expected: Expected) -> list[Finding]:
    """Compare one module with what is expected of its cohort."""
    own = module.__dict__
    bindings: Mapping[str, Binding] = own[BINDINGS]
    wiring: Wiring = own[WIRING]
    view = expected.view
    found: list[Finding] = []
    if [*bindings] != expected.present:
        lost = any(name not in bindings for name in expected.present)
        return [Finding(path, "adapters with weights here", str(expected.present), str(list(bindings)), mendable=not lost)]
    if "forward" in own and expected.tunes and (reason := why_not_called(module)):
        found.append(Finding(path, "what runs when the module is called", "the wrapped forward", reason, mendable=False))
    slots = slots_of(module)
    registered = [(name, binding.slot) for name, binding in bindings.items() if binding.slot is not None]
    if [*slots.items()] != registered:  # slots are equal when they are the same
        found.append(Finding(path, "registered slots", str([name for name, _ in registered]), str(list(slots))))
    running = [id(live) for live in wiring.live if type(live) is not MergedNotice]
    live = [id(part.live) for name in expected.live for part in bindings[name].parts if part.live is not None]
    if running != live and (len(running) != len(live) or not expected.weighted):  # with a weight, a tuner runs as a copy of itself
        found.append(Finding(path, "tuners that run in forward", _said(view.live), f"{len(running)} others"))
    cache = wiring.cache
    cached = cache.shares if cache is not None else ()
    if cached != view.cached:
        found.append(Finding(path, "adapters in the merged weight", _said(view.cached), _said(cached)))
    elif cache is not None and cache.stamp != stamp_of(module, bindings, cached):
        stale = "stale: one of them has changed since"
        found.append(Finding(path, "the merged weight", "computed from the present tensors", stale))
    if wiring.reads:
        holders = {id(part): name for name, binding in bindings.items() for part in binding.parts}
        read = {holders.get(id(part), "another module's") for reads in wiring.reads.values() for part in getattr(reads, "parts", ())}
        if not read <= expected.taking_part:
            found.append(Finding(path, "adapters whose rows are read", _said(view.replacing), str(sorted(read))))
    if wiring.view is not expected.equal:
        if wiring.view == view:
            expected.equal = wiring.view  # modules that were wired together share theirs
        else:
            found.append(Finding(path, "how adapters take part", str(view), str(wiring.view)))
    for name, slot in registered:
        want = expected.flags[name]
        for key, parameter in slot._parameters.items():
            if parameter is not None and parameter.requires_grad is not want and can_accept(parameter):
                where = ".".join(part for part in (path, CHILD, name, key) if part)
                found.append(Finding(where, "requires_grad", str(want), str(parameter.requires_grad)))
    return found


def _said(shares: Shares) -> str:
    """The names, with their weights where they are not 1."""
    return str([share.name if share.weight == 1 else f"{share.name} ({share.weight:g})" for share in shares])


def _base(tree: Tree, *, frozen: bool) -> list[Finding]:
    """Compare what is registered outside the slots: the base's own parameters, none of which accepts gradients while an adapter is there.

    An adapter's parameter comes to stand there when a weight is tied to what a read returned.
    """
    adapters = {id(tensor) for module in tree.paths for slot in slots_of(module).values() for tensor in slot._parameters.values()}
    found: list[Finding] = []
    told: set[int] = set()
    for module, paths in tree.paths.items():
        for name, tensor in module._parameters.items():
            if tensor is None or (id(tensor) not in adapters and not (frozen and tensor.requires_grad)):
                continue
            where = f"{paths[0]}.{name}" if paths[0] else name
            if id(tensor) in adapters:
                found.append(Finding(where, "a base parameter", "the base's own", "an adapter's parameter", mendable=False))
            elif id(tensor) not in told:  # without adapters the flags are the user's
                told.add(id(tensor))
                found.append(Finding(where, "requires_grad of a base parameter", "False", "True"))
    return found
