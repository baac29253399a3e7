"""The difference of two projections, as writes: what has to change in torch so that it looks as the new state says.

Nothing is written here; a `Transaction` collects it. Whatever can fail (a merge, the generation of a class) happens while collecting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import nn

from adapterstate.commit import Transaction
from adapterstate.machine.records import Cohort, Facts, ModuleFacts
from adapterstate.modules.notices import MergedNotice
from adapterstate.modules.slots import CHILD, Slot, Slots
from adapterstate.modules.wiring import Binding, Cache, wire
from adapterstate.modules.wrapping import BINDINGS, WIRING, generated_class
from adapterstate.projection import GradFollows, View, requires_grad, view_of


@attrs.frozen(eq=False)
class Change:
    """From one state of a model to another.

    Attributes:
        before: the stored facts before.
        after: the stored facts after.
        cohorts: the modules whose records change.
        modules: path -> wrapped module, of both states.
        follows: what `requires_grad` follows.
        coming: name of the adapter that comes; empty where none does.
        added: path -> binding of that adapter.
        caches: path -> a merged part that has been computed already.
        notice: what warns while something merged is trainable.
    """

    before: Facts
    after: Facts
    cohorts: Sequence[Cohort]
    modules: Mapping[str, nn.Module]
    follows: GradFollows
    coming: str = ""
    added: Mapping[str, Binding] = attrs.field(factory=dict)
    caches: Mapping[str, Cache] = attrs.field(factory=dict)
    notice: MergedNotice | None = None

    @property
    def going(self) -> tuple[str, ...]:
        """The adapters that go."""
        before, after = self.before.adapters, self.after.adapters
        if len(before) + bool(self.coming) == len(after):
            return ()  # asked for a thousand adapters, the other way would take a while
        return tuple(name for name in before if name not in after)


def collect(transaction: Transaction, model: nn.Module, change: Change) -> None:
    """Collect every write that leads from one state to the other."""
    coming, going = change.coming, change.going
    for cohort in (*change.cohorts, *_showing(change)):
        old, new = cohort.before, cohort.after
        if new is None:
            _unwrap(transaction, change, cohort)
            continue
        _wiring(transaction, change, cohort, new)
        if coming and coming in new.context.present and (old is None or coming not in old.context.present):
            _come(transaction, change, cohort)
        gone = tuple(name for name in going if old is not None and name in old.context.present)
        if gone:
            _go(transaction, change, cohort, gone)
    _adapters(transaction, change)
    _notice(transaction, change)
    if bool(change.before.adapters) is not bool(change.after.adapters):
        _base(transaction, model, change)


def _showing(change: Change) -> Iterator[Cohort]:
    """The modules whose records stay, where what they compute changes all the same: adapters are enabled or disabled, thawed or frozen."""
    before, after = change.before, change.after
    if before.enablement == after.enablement and merged_and_trainable(before) == merged_and_trainable(after):
        return
    found: dict[int, list[str]] = {}
    for path, record in after.modules.items():
        if before.modules.get(path) is record and record.context.active:
            found.setdefault(id(record), []).append(path)
    for paths in found.values():
        yield Cohort(after.modules[paths[0]], after.modules[paths[0]], paths)


# ----------------------------------------------------------------------------------------------------------------- modules


def _unwrap(transaction: Transaction, change: Change, cohort: Cohort) -> None:
    """Collect the writes that give modules back as they were before the first adapter."""
    modules = [change.modules[path] for path in cohort.paths]
    for module in modules:
        transaction.change_class(module, type(module)._adapterstate_base)  # type: ignore[attr-defined]
    for module in modules:
        own = module.__dict__
        if CHILD in own["_modules"]:
            transaction.without((own,), "_modules", (CHILD,))
        transaction.drop(own, WIRING)
        transaction.drop(own, BINDINGS)


def _come(transaction: Transaction, change: Change, cohort: Cohort) -> None:
    """Collect the writes by which an adapter arrives on modules; those that have no other are wrapped."""
    name, modules, added, is_new = change.coming, change.modules, change.added, cohort.before is None
    writes: list[tuple[dict[str, Any], str, Any]] = []
    for path in cohort.paths:
        own, binding = modules[path].__dict__, added[path]
        writes.append((own, BINDINGS, {name: binding}) if is_new else (own[BINDINGS], name, binding))
        if binding.slot is not None:
            container = own["_modules"].get(CHILD)
            if container is None:
                container = Slots()
                writes.append((own["_modules"], CHILD, container))
            writes.append((container._modules, name, binding.slot))
    transaction.items(writes)
    if is_new:
        for path in cohort.paths:
            transaction.change_class(modules[path], generated_class(modules[path]))


def _go(transaction: Transaction, change: Change, cohort: Cohort, names: tuple[str, ...]) -> None:
    """Collect the writes by which adapters leave modules that keep others."""
    modules = change.modules
    holders = [modules[path].__dict__ for path in cohort.paths]
    emptied, kept = [], []
    for own in holders:
        container = own["_modules"].get(CHILD)
        if container is None:
            continue
        slots = container._modules
        if len(slots) <= len(names) and all(name in names for name in slots):
            emptied.append(own)
        elif not slots.keys().isdisjoint(names):  # at the end of a tie that holds no tensors an adapter has no slot
            kept.append(container.__dict__)
    transaction.without(emptied, "_modules", (CHILD,))
    assert cohort.before is not None
    if tuple(cohort.before.context.present)[-1:] == names:
        transaction.pop([own[BINDINGS] for own in holders], names[0])
        transaction.pop([own["_modules"] for own in kept], names[0])
    else:
        transaction.without(holders, BINDINGS, names)
        transaction.without(kept, "_modules", names)


def _wiring(transaction: Transaction, change: Change, cohort: Cohort, new: ModuleFacts) -> None:
    """Collect what modules consult, if they have to consult anything else than before."""
    old = cohort.before
    view, training = _seen(change.after, new)
    if old is not None and (view, training) == _seen(change.before, old):
        return
    writes: list[tuple[dict[str, Any], str, Any]] = []
    for path in cohort.paths:
        module = change.modules[path]
        own = module.__dict__
        bindings: dict[str, Binding] = own.get(BINDINGS, {})
        if path in change.added:
            bindings = {**bindings, change.coming: change.added[path]}
        known = change.caches.get(path)
        if known is None and old is not None:
            known = own[WIRING].cache
        wiring = wire(module, bindings, view, training=training, known=known, notice=change.notice, path=path)
        writes.append((own, WIRING, wiring))
    transaction.items(writes)


def merged_and_trainable(facts: Facts) -> tuple[str, ...]:
    """The adapters that a forward in training mode warns about."""
    return tuple(name for name in facts.merged if facts.adapters[name].trainability == "trainable")


def _notice(transaction: Transaction, change: Change) -> None:
    """Collect what the warning says from now on; it is given again where an adapter has joined those it was given for."""
    names, notice = merged_and_trainable(change.after), change.notice
    if notice is None or names == notice.names:
        return
    if not set(names) <= set(notice.names):
        transaction.attribute(notice, "said", False)
    transaction.attribute(notice, "names", names)


def _seen(facts: Facts, module: ModuleFacts) -> tuple[View, bool]:
    """The view of a module, and whether something merged in it is trainable."""
    view = view_of(module.context, enabled=facts.enabled)
    return view, any(facts.adapters[share.name].trainability == "trainable" for share in view.cached)


# ---------------------------------------------------------------------------------------------------- parameters' requires_grad


def _adapters(transaction: Transaction, change: Change) -> None:
    """Collect `requires_grad` of the adapters' parameters, for those adapters for which it may differ."""
    after = change.after
    for name in may_accept_otherwise(change.before, after, change.follows):
        accepts = requires_grad(after, name, change.follows)
        if name in change.before.adapters:
            bindings = [change.modules[path].__dict__[BINDINGS][name] for path in after.adapters[name].modules]
        else:
            bindings = [*change.added.values()]
        for binding in bindings:
            for key, parameter in binding.slot._parameters.items() if binding.slot is not None else ():
                if parameter is not None and parameter.requires_grad is not accepts and can_accept(parameter):
                    transaction.accept_gradients(binding.slot._parameters, key, accepts)


def may_accept_otherwise(before: Facts, after: Facts, follows: GradFollows) -> dict[str, None]:
    """The adapters whose parameters may accept gradients otherwise than before."""
    names = {name: None for name, adapter in after.adapters.items() if before.adapters.get(name) is not adapter}
    if follows == "activation" and (before.active != after.active or before.enabled is not after.enabled):
        names |= dict.fromkeys(name for name in before.active + after.active if name in after.adapters)
    return names


def can_accept(tensor: torch.Tensor) -> bool:
    """Whether a tensor can accept gradients at all."""
    return tensor.is_floating_point() or tensor.is_complex()


def parameters_of(binding: Binding) -> Iterator[torch.Tensor]:
    """The parameters of one adapter on one module that can accept gradients at all."""
    for parameter in binding.slot._parameters.values() if binding.slot is not None else ():
        if parameter is not None and can_accept(parameter):
            yield parameter


def _base(transaction: Transaction, model: nn.Module, change: Change) -> None:
    """Freeze the base parameters when the first adapter comes; give them back their own `requires_grad` after the last one went."""
    coming = bool(change.after.adapters)
    names = set((change.after if coming else change.before).base_trainable)
    for name, parameter in model.named_parameters():
        if name in names:
            transaction.accept_gradients((parameter,), 0, not coming)


def _register(transaction: Transaction, module: nn.Module, slots: Mapping[str, Slot]) -> None:
    """Collect the writes that register exactly these slots, in this order."""
    container = module._modules.get(CHILD)
    if not slots:
        if container is not None:
            transaction.without((module.__dict__,), "_modules", (CHILD,))
    elif not isinstance(container, Slots):
        fresh = Slots()
        transaction.item(module._modules, CHILD, fresh)
        transaction.item(fresh.__dict__, "_modules", dict(slots))
    else:
        transaction.item(container.__dict__, "_modules", dict(slots))


def rewire_all(
    transaction: Transaction,
    model: nn.Module,
    facts: Facts,
    modules: Mapping[str, nn.Module],
    follows: GradFollows,
    notice: MergedNotice,
) -> None:
    """Collect the whole projection again, whatever torch looks like now; merged parts are computed anew."""
    for path, record in facts.modules.items():
        module = modules[path]
        view, training = _seen(facts, record)
        bindings = {name: module.__dict__[BINDINGS][name] for name in record.context.present}
        transaction.item(module.__dict__, BINDINGS, bindings)
        _register(transaction, module, {name: binding.slot for name, binding in bindings.items() if binding.slot is not None})
        transaction.item(module.__dict__, WIRING, wire(module, bindings, view, training=training, notice=notice, path=path))
    adapters: set[int] = set()
    for name, adapter in facts.adapters.items():
        for path in adapter.modules:
            for parameter in parameters_of(modules[path].__dict__[BINDINGS][name]):
                adapters.add(id(parameter))
                transaction.accept_gradients((parameter,), 0, requires_grad(facts, name, follows))
    for parameter in model.parameters():
        if id(parameter) not in adapters and facts.adapters:
            transaction.accept_gradients((parameter,), 0, False)
