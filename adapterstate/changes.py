"""The difference of two projections, as writes: what has to change in torch so that it looks as the new state says.

Nothing is written here; a `Transaction` collects it. Whatever can fail (a merge, the generation of a class) happens while collecting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import nn

from adapterstate.commit import Transaction
from adapterstate.machine.records import Facts, ModuleFacts
from adapterstate.modules.slots import CHILD, Slots
from adapterstate.modules.wiring import Binding, Cache, wire
from adapterstate.modules.wrapping import BINDINGS, WIRING, generated_class
from adapterstate.projection import GradFollows, View, requires_grad, view_of


@attrs.frozen(eq=False)
class Change:
    """From one state of a model to another.

    Attributes:
        before: the stored facts before.
        after: the stored facts after.
        modules: path -> wrapped module, of both states.
        follows: what `requires_grad` follows.
        added: path -> binding of the adapter that comes, if one does.
        caches: path -> a merged part that has been computed already.
    """

    before: Facts
    after: Facts
    modules: Mapping[str, nn.Module]
    follows: GradFollows
    added: Mapping[str, Binding] = attrs.field(factory=dict)
    caches: Mapping[str, Cache] = attrs.field(factory=dict)
    _views: dict[tuple[int, int], tuple[View, bool]] = attrs.field(factory=dict, init=False)

    def seen(self, facts: Facts, module: ModuleFacts) -> tuple[View, bool]:
        """As `_seen`, worked out once for modules that share their context."""
        key = id(facts), id(module.context)
        if key not in self._views:
            self._views[key] = _seen(facts, module)
        return self._views[key]


def collect(transaction: Transaction, model: nn.Module, change: Change) -> None:
    """Collect every write that leads from one state to the other."""
    for path in _paths(change):
        _module(transaction, change, path)
    _adapters(transaction, change)
    if bool(change.before.adapters) is not bool(change.after.adapters):
        _base(transaction, model, change)


def _paths(change: Change) -> Iterator[str]:
    """Paths of the modules whose projection may differ."""
    before, after = change.before, change.after
    everywhere = before.enablement != after.enablement or _trainability(before) != _trainability(after)
    for path in {**before.modules, **after.modules}:
        old, new = before.modules.get(path), after.modules.get(path)
        if old is not new or (everywhere and new is not None and new.context.active):
            yield path


def _trainability(facts: Facts) -> dict[str, str]:
    """The trainability of every merged adapter: a forward in training mode warns about it."""
    return {name: facts.adapters[name].trainability for name in facts.merged}


# ----------------------------------------------------------------------------------------------------------------- modules


def _module(transaction: Transaction, change: Change, path: str) -> None:
    """Collect the writes to one module."""
    module = change.modules[path]
    old, new = change.before.modules.get(path), change.after.modules.get(path)
    own = module.__dict__
    if new is None:
        transaction.change_class(module, type(module)._adapterstate_base)  # type: ignore[attr-defined]
        if CHILD in module._modules:
            transaction.without(own, "_modules", (CHILD,))
        transaction.drop(own, WIRING)
        transaction.drop(own, BINDINGS)
        return
    bindings: dict[str, Binding] = own.get(BINDINGS, {})
    coming = {name: change.added[path] for name in new.context.present if name not in bindings}
    going = tuple(name for name in bindings if name not in new.context.present)
    _wiring(transaction, change, path, {**bindings, **coming} if coming else bindings)
    for name, binding in coming.items():
        _come(transaction, module, name, binding, first=old is None)
    if going:
        _go(transaction, module, going)
    if old is None:
        transaction.change_class(module, generated_class(module))


def _come(transaction: Transaction, module: nn.Module, name: str, binding: Binding, *, first: bool) -> None:
    """Collect the writes by which an adapter arrives on a module."""
    if first:
        transaction.item(module.__dict__, BINDINGS, {name: binding})
    else:
        transaction.item(module.__dict__[BINDINGS], name, binding)
    if binding.slot is None:
        return
    container = module._modules.get(CHILD)
    if container is None:
        container = Slots()
        transaction.item(module._modules, CHILD, container)
    transaction.item(container._modules, name, binding.slot)


def _go(transaction: Transaction, module: nn.Module, names: tuple[str, ...]) -> None:
    """Collect the writes by which adapters leave a module that keeps others."""
    transaction.without(module.__dict__, BINDINGS, names)
    container = module._modules.get(CHILD)
    if container is None:
        return
    if all(name in names for name in container._modules):
        transaction.without(module.__dict__, "_modules", (CHILD,))
    else:
        transaction.without(container.__dict__, "_modules", names)


def _wiring(transaction: Transaction, change: Change, path: str, bindings: Mapping[str, Binding]) -> None:
    """Collect what a module consults, if it has to consult anything else than before."""
    module = change.modules[path]
    old, new = change.before.modules.get(path), change.after.modules[path]
    view, training = change.seen(change.after, new)
    if old is not None and (view, training) == change.seen(change.before, old):
        return
    known = change.caches.get(path)
    if known is None and old is not None:
        known = module.__dict__[WIRING].cache
    transaction.item(module.__dict__, WIRING, wire(module, bindings, view, training=training, known=known))


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
        for path in after.adapters[name].modules:
            module = change.modules[path]
            known: Mapping[str, Binding] = module.__dict__.get(BINDINGS, {})
            binding = known[name] if name in known else change.added[path]
            for key in keys_of(binding):
                transaction.accept_gradients(binding.slot._parameters, key, accepts)  # type: ignore[union-attr]


def may_accept_otherwise(before: Facts, after: Facts, follows: GradFollows) -> dict[str, None]:
    """The adapters whose parameters may accept gradients otherwise than before."""
    names = {name: None for name, adapter in after.adapters.items() if before.adapters.get(name) is not adapter}
    if follows == "activation" and (before.active != after.active or before.enabled is not after.enabled):
        names |= dict.fromkeys(name for name in before.active + after.active if name in after.adapters)
    return names


def keys_of(binding: Binding) -> Iterator[str]:
    """The names of those parameters of one adapter on one module that can accept gradients at all."""
    if binding.slot is not None:
        for key, parameter in binding.slot._parameters.items():
            if parameter is not None and (parameter.is_floating_point() or parameter.is_complex()):
                yield key


def parameters_of(binding: Binding) -> Iterator[torch.Tensor]:
    """The parameters of one adapter on one module that can accept gradients at all."""
    for key in keys_of(binding):
        yield binding.slot._parameters[key]  # type: ignore[union-attr,misc]


def _base(transaction: Transaction, model: nn.Module, change: Change) -> None:
    """Freeze the base parameters when the first adapter comes; give them back their own `requires_grad` after the last one went."""
    coming = bool(change.after.adapters)
    names = set((change.after if coming else change.before).base_trainable)
    for name, parameter in model.named_parameters():
        if name in names:
            transaction.accept_gradients((parameter,), 0, not coming)


def rewire_all(transaction: Transaction, model: nn.Module, facts: Facts, modules: Mapping[str, nn.Module], follows: GradFollows) -> None:
    """Collect the whole projection again, whatever torch looks like now; merged parts are computed anew."""
    for path, record in facts.modules.items():
        module = modules[path]
        view, training = _seen(facts, record)
        transaction.item(module.__dict__, WIRING, wire(module, module.__dict__[BINDINGS], view, training=training))
    adapters: set[int] = set()
    for name, adapter in facts.adapters.items():
        for path in adapter.modules:
            for parameter in parameters_of(modules[path].__dict__[BINDINGS][name]):
                adapters.add(id(parameter))
                transaction.accept_gradients((parameter,), 0, requires_grad(facts, name, follows))
    for parameter in model.parameters():
        if id(parameter) not in adapters and facts.adapters:
            transaction.accept_gradients((parameter,), 0, False)
