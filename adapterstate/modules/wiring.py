"""What a wrapped module consults while it computes: which reads are replaced, what is cached, which tuners are live.

A `Wiring` is made anew whenever the projection of its module changes, and put in place by one write: a forward sees the old or the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from adapterstate.errors import ProtocolError
from adapterstate.modules.keeping import asked, refuse_strange_deltas, refuse_strange_live, refuse_strange_tensors
from adapterstate.modules.method import Live, Method, Site, base_tensor, is_auxiliary, is_tuner
from adapterstate.modules.notices import MergedNotice
from adapterstate.modules.reads import Cached, Replaced
from adapterstate.modules.rows import rows_forward
from adapterstate.modules.slots import Slot
from adapterstate.projection import Share, Shares, View


class SharedTensors(Mapping[str, torch.Tensor]):
    """The tensors of one part by name, where some are held by another slot of the same adapter, or are buffers."""

    __slots__ = ("homes",)

    def __init__(self, homes: Mapping[str, tuple[Slot, str]]) -> None:
        self.homes = dict(homes)

    def __getitem__(self, name: str) -> torch.Tensor:
        slot, key = self.homes[name]
        found: torch.Tensor | None = slot._parameters.get(key)
        if found is None:
            found = slot._buffers[key]
        assert found is not None
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.homes)

    def __len__(self) -> int:
        return len(self.homes)


class Part:
    """One method of one adapter on one wrapped module, with its tensors.

    Attributes:
        method: how it computes.
        tensors: by name; the slot's own dict where nothing is shared.
        live: what runs in forward, for a tuner.
    """

    __slots__ = ("live", "method", "tensors")

    def __init__(self, method: Method, tensors: Mapping[str, torch.Tensor], module: nn.Module, path: str = "") -> None:
        self.method = method
        self.tensors = tensors
        self.live: Live | None = None
        if is_tuner(method):
            self.live = method.live(module, tensors)
            refuse_strange_live(method, self.live, path)


class Binding:
    """One adapter on one wrapped module: its slot, when it registers one there, and its parts."""

    __slots__ = ("parts", "slot")

    def __init__(self, slot: Slot | None, parts: Sequence[Part]) -> None:
        self.slot = slot
        self.parts = tuple(parts)

    @property
    def tuners(self) -> tuple[Part, ...]:
        """The parts that run in forward."""
        return tuple([part for part in self.parts if part.live is not None])

    def replacing(self, name: str) -> Iterator[Part]:
        """The parts that replace rows of the base tensor `name`."""
        return (part for part in self.parts if is_auxiliary(part.method) and name in part.method.replaces())


Bindings = Mapping[str, Binding]


def bind(site_groups: Mapping[int, Sequence[Site]], *, autocast: bool) -> dict[int, Binding]:
    """Make the slots of one adapter: id of a module -> its binding there.

    Args:
        site_groups: id of a module -> the sites of the adapter on it.
        autocast: whether half-precision base weights get float32 adapter parameters.

    Raises:
        ProtocolError: a method does not keep to its protocol, or two on one module use the same name for a tensor.
    """
    slots: dict[int, Slot | None] = {}
    own: dict[int, list[Mapping[str, torch.Tensor]]] = {}
    with torch.inference_mode(False), torch.no_grad():
        for key, sites in site_groups.items():
            own[key] = made = [site.method.tensors(site.module, autocast=autocast) for site in sites]
            for site, tensors in zip(sites, made, strict=True):
                refuse_strange_tensors(site, tensors)
            together = made[0] if len(made) == 1 else {name: tensor for tensors in made for name, tensor in tensors.items()}
            if len(together) < sum(map(len, made)):
                raise ProtocolError(sites[0].path, f"two methods of one adapter use the same name for a tensor: {sorted(together)}")
            slots[key] = Slot(together) if together else None
    return {
        key: Binding(slots[key], [_part(site, tensors, slots) for site, tensors in zip(sites, own[key], strict=True)])
        for key, sites in site_groups.items()
    }


def _part(site: Site, made: Mapping[str, torch.Tensor], slots: Mapping[int, Slot | None]) -> Part:
    """Give a method its tensors: the dict of its slot if that holds them all, so that a lookup costs nothing more."""
    slot = slots[id(site.module)]
    if slot is not None and not site.shares:
        own: Mapping[str, Any] = slot._parameters
        if made.keys() <= own.keys():
            return Part(site.method, own, site.module, site.path)
    homes = {name: (slot, name) for name in made if slot is not None}
    for name, (owner, key) in site.shares.items():
        home = slots.get(id(owner))
        if home is None or (key not in home._parameters and key not in home._buffers):
            raise ProtocolError(site.path, f"{name!r} is said to be {key!r} of a module that holds no such tensor of this adapter")
        homes[name] = (home, key)
    return Part(site.method, SharedTensors(homes), site.module, site.path)


# ----------------------------------------------------------------------------------------------------------- what is merged

Stamp = tuple[tuple[int, int], ...]


class Cache:
    """The merged part of one module: base tensors by name as they are with the merged adapters in them.

    Attributes:
        shares: the merged adapters, in order.
        reads: name of a base tensor -> its precomputed value.
        stamp: identity and version of every tensor that it was computed from.
    """

    __slots__ = ("reads", "shares", "stamp")

    def __init__(self, shares: Shares, values: Mapping[str, torch.Tensor], stamp: Stamp) -> None:
        self.shares = shares
        self.reads = {name: Cached(value) for name, value in values.items()}
        self.stamp = stamp


def stamp_of(module: nn.Module, bindings: Bindings, shares: Shares) -> Stamp:
    """Return identity and version of the tensors that the merged part of these adapters is computed from."""
    sources: list[torch.Tensor | None] = [*module._parameters.values()]
    for share in shares:
        for part in bindings[share.name].parts:
            copied = module._buffers if is_auxiliary(part.method) else {}
            sources += [part.tensors[key] for key in part.tensors if key not in copied]
    return stamped(t for t in sources if t is not None)


def stamped(tensors: Iterable[torch.Tensor]) -> Stamp:
    """Return identity and version of these tensors; tensors of inference mode have no version."""
    return tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors)


def normal_form(module: nn.Module, bindings: Bindings, shares: Shares, path: str = "") -> dict[str, torch.Tensor]:
    """Compute the base tensors of `module` as they are with these adapters in them, rows and deltas alike.

    Sums are made in at least float32 and rounded once to the dtype of the base tensor. Tensors that no adapter touches are left out.

    Args:
        module: a wrapped module.
        bindings: its adapters.
        shares: adapters in activation order, all of them active.
        path: of the module, for messages.

    Returns:
        Name of a base parameter or buffer -> a new tensor of the same shape, dtype and device.
    """
    with torch.inference_mode(False), torch.no_grad():
        replaced = _replaced(module, bindings, shares)
        wide: dict[str, torch.Tensor] = {}
        for share in shares:
            for part in bindings[share.name].parts:
                if is_tuner(part.method):
                    deltas = part.method.delta(module, part.tensors)
                    refuse_strange_deltas(part.method, deltas, module, path)
                    for key, delta in deltas.items():
                        if key not in wide:
                            wide[key] = _wide(module, key, replaced.get(key))
                        wide[key].add_(delta, alpha=share.weight)
        values = {key: read(base_tensor(module, key)).detach().clone() for key, read in replaced.items() if key not in wide}
        return values | {key: value.to(base_tensor(module, key).dtype) for key, value in wide.items()}


def _wide(module: nn.Module, name: str, read: Replaced | None) -> torch.Tensor:
    """A base tensor with its replaced rows, in at least float32 and in memory of its own."""
    base = base_tensor(module, name)
    value = base.to(torch.promote_types(base.dtype, torch.float32), copy=True)
    return value if read is None else read(value).clone()


def _replaced(module: nn.Module, bindings: Bindings, shares: Shares) -> dict[str, Replaced]:
    """The reads that put in the rows of these adapters, in order."""
    parts: dict[str, list[tuple[Part, Share]]] = {}
    for share in shares:
        for part in bindings[share.name].parts:
            if is_auxiliary(part.method):
                for key in part.method.replaces():
                    parts.setdefault(key, []).append((part, share))
    return {key: Replaced(key, found, base_tensor(module, key)) for key, found in parts.items()}


# ------------------------------------------------------------------------------------------------------------------ wiring


class Wiring:
    """What one wrapped module consults while it computes.

    Attributes:
        reads: name of a base tensor -> how it is read; empty when the base is read.
        rows: computes in place of the module's own forward where only some rows are replaced; None for the module's own.
        live: tuners that run after it, in order.
        cache: the merged part, also while it is not read.
        view: the projection that all of this was made for.
    """

    __slots__ = ("cache", "live", "reads", "rows", "view")

    def __init__(self, view: View, reads: Mapping[str, Any], rows: Any, live: tuple[Live, ...], cache: Cache | None) -> None:
        self.view = view
        self.reads = reads
        self.rows = rows
        self.live = live
        self.cache = cache


def wire(
    module: nn.Module,
    bindings: Bindings,
    view: View,
    *,
    training: bool,
    known: Cache | None = None,
    notice: MergedNotice | None = None,
    path: str = "",
) -> Wiring:
    """Make what `module` consults in order to compute as `view` says.

    Args:
        module: a wrapped module, or one about to be.
        bindings: its adapters.
        view: the projection of its state.
        training: whether a merged adapter is trainable, so that a forward in training mode warns.
        known: a cache that may be kept if it holds the same adapters.
        notice: what warns then; None for nothing.
        path: of the module, for messages.
    """
    cache: Cache | None = None
    if view.cached:
        cache = known if known is not None and known.shares == view.cached else make_cache(module, bindings, view.cached, path)
    live = tuple([_weighted(part, share.weight, path) for share in view.live for part in bindings[share.name].tuners])
    if cache is not None and view.reads_cache:
        warns: tuple[Live, ...] = (notice,) if training and notice is not None else ()
        buffers = {key: read for key, read in _replaced(module, bindings, view.cached).items() if key in module._buffers}
        return Wiring(view, {**cache.reads, **buffers}, None, live + warns, cache)
    reads = _replaced(module, bindings, view.replacing) if view.replacing else _NO_READS
    return Wiring(view, reads, rows_forward(module, reads) if reads else None, live, cache)


_NO_READS: Mapping[str, Any] = {}
"""For all modules that read their base tensors."""


def _weighted(part: Part, weight: float, path: str) -> Live:
    """What a tuner runs in forward, with this weight."""
    assert part.live is not None
    if weight == 1:
        return part.live
    if not hasattr(part.live, "weighted"):
        raise ProtocolError(asked(part.method, "live()", path), "what it returned has no weighted(), which a weight needs")
    return part.live.weighted(weight)


def make_cache(module: nn.Module, bindings: Bindings, shares: Shares, path: str = "") -> Cache:
    """Compute the merged part of `module` for these adapters: of its parameters. Copies of buffers are read as they are."""
    values = {key: value for key, value in normal_form(module, bindings, shares, path).items() if key in module._parameters}
    return Cache(shares, values, stamp_of(module, bindings, shares))
