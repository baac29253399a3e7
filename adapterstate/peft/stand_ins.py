"""What computes in place of a PEFT layer while its state is one that its own forward cannot express.

PEFT's layers compute themselves wherever they can: then there is no stand-in. They cannot keep some adapters live on top of merged ones,
give an adapter a weight, combine copies of one module, or be disabled while merged without unmerging. A stand-in is built beside the layer,
of the same parameters. Nothing of the layer, its base or its adapters is written for it, and merging never touches the base weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from adapterstate.machine.records import Context
from adapterstate.modules.wiring import normal_form, stamped, wire
from adapterstate.modules.wrapping import BINDINGS, WIRING, generated_class
from adapterstate.peft.hosts import AttentionHost, CopyHost, Host, TokenHost, leaves
from adapterstate.projection import Shares, View, view_of
from adapterstate.targets.tree import tensors_of

PLAIN = "_adapterstate_plain"
"""Attribute of a class with doors: the class of PEFT that it stands for."""


def plain_class(module: nn.Module) -> type[nn.Module]:
    """PEFT's class of `module`, with doors or without."""
    found: type[nn.Module] = getattr(type(module), PLAIN, type(module))
    return found


@attrs.frozen(eq=False)
class StandIn:
    """What computes in place of a layer.

    Attributes:
        module: of which reads are answered.
        view: the projection that it was made for.
        whole: whether `module` is called with its hooks; a layer's twin is not, since the layer's own hooks have run.
        merged: the base with the merged adapters in it, to be kept while they stay merged.
        stamp: of what `merged` was computed from.
    """

    module: nn.Module
    view: View
    whole: bool
    merged: nn.Module | None = None
    stamp: Stamp = ()

    def is_stale(self, host: Host) -> bool:
        """Whether a tensor, or a scale, that `merged` was computed from has changed since."""
        return self.merged is not None and self.stamp != stamp_of(host, self.view.cached)

    def __call__(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        """Compute, in the mode of `layer`."""
        if self.module.training is not layer.training:
            self.module.train(layer.training) if self.whole else self.module.__dict__.update(training=layer.training)
        return self.module(*args, **kwargs) if self.whole else self.module.forward(*args, **kwargs)


def needs_stand_in(host: Host, context: Context, *, enabled: bool) -> bool:
    """Whether something else than PEFT's own forward is to compute; PEFT's attention would write into the base."""
    return isinstance(host, AttentionHost) or beyond_peft(host, context, enabled=enabled)


def beyond_peft(host: Host, context: Context, *, enabled: bool) -> bool:
    """Whether PEFT's own forward cannot compute what a host is to compute."""
    if context.merged:
        return True
    view = view_of(context, enabled=enabled)
    if any(share.weight != 1 for share in view.live + view.replacing):
        return True
    if len(view.replacing) < 2:
        return False
    rows = [row for share in view.replacing for row in host.rows(share.name)] if isinstance(host, TokenHost) else []
    return not rows or len(set(rows)) < len(rows)  # PEFT computes several adapters where their rows are all different


def stand_in(
    host: Host, context: Context, *, enabled: bool, known: StandIn | None = None, merged: nn.Module | None = None
) -> StandIn | None:
    """Return what computes in place of `host`; None where PEFT's own forward does it right.

    Args:
        host: a layer or wrapper of PEFT.
        context: its state.
        enabled: whether adapters are applied.
        known: the one before, whose merged base may be kept.
        merged: of a tuner layer, the base with the merged adapters in it, where that has been computed already.
    """
    if not needs_stand_in(host, context, enabled=enabled):
        return None
    view = view_of(context, enabled=enabled)
    kept = known if known is not None and view.cached and known.view.cached == view.cached else None
    if isinstance(host, CopyHost | TokenHost):
        found = _auxiliary(host, view, None if kept is None else kept.merged)
    else:
        merged = (kept and kept.merged) or merged or (merged_base(host, view.cached) if view.cached else None)
        base = merged if view.reads_cache else None
        twin = Afresh(host, base, view.live) if isinstance(host, AttentionHost) else _layer(host, base, view.live)
        found = StandIn(twin, view, whole=False, merged=merged)
    if found.merged is None:
        return found
    return attrs.evolve(found, stamp=kept.stamp if kept is not None and kept.merged is found.merged else stamp_of(host, view.cached))


Stamp = tuple[Any, ...]
"""Identity and version of tensors, and scales."""


def stamp_of(host: Host, shares: Shares) -> Stamp:
    """Return the stamp of what the merged part of these adapters is computed from: the base and them, not the other adapters."""
    merged = [share.name for share in shares]
    others = {id(parameter) for name in host.present if name not in merged for parameter in host.parameters(name)}
    own = [parameter for name in merged for parameter in host.parameters(name)]
    tensors = [parameter for parameter in (*host.innermost().parameters(), *own) if id(parameter) not in others]
    scales = [scaling[name] for part in host.parts for name in merged if name in (scaling := _scales_of(part))]
    return stamped(tensors), tuple(map(float, scales))


def _scales_of(part: Any) -> Mapping[str, Any]:
    """The scale of each adapter on one of PEFT's layers, if it keeps any."""
    scaling = getattr(part, "scaling", None)
    return scaling if isinstance(scaling, Mapping) else {}


def why_not_weighted(host: Host, name: str) -> str:
    """Say why an adapter cannot have a weight here; empty when it can."""
    if isinstance(host, CopyHost | TokenHost):
        return ""
    return "" if any(name in _scales_of(part) for part in host.parts) else f"{type(host.module).__name__} keeps no scale to be weighted"


# ------------------------------------------------------------------------------------------------------------- tuner layers


def _layer(host: Host, base: nn.Module | None, live: Shares) -> Any:
    """A twin of a tuner layer, with those in it, that computes with these adapters on this base."""
    twin = base
    for part in reversed(host.stack):
        twin = _twin(part, twin)
    _switch(attrs.evolve(host, module=twin), live)
    return twin


class Afresh(nn.Module):
    """A twin that is made for each call, on a base of its own, of a layer whose forward writes into its base."""

    host: Host
    base: nn.Module | None
    live: Shares

    def __init__(self, host: Host, base: nn.Module | None, live: Shares) -> None:
        super().__init__()
        self.__dict__.update(host=host, base=base, live=live)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute as the twin does."""
        copies: dict[int, nn.Module] = {}
        base = _structure(self.host.module.base_layer if self.base is None else self.base, copies)
        for copied in copies.values():
            copied.__dict__.update(_parameters=dict(copied._parameters), training=self.training)
        return _layer(self.host, base, self.live).forward(*args, **kwargs)


HELD_FORWARD = "_old_forward"
"""Key in the ``__dict__`` of a module that accelerate has hooked: the forward that its hooks run."""


@attrs.frozen(eq=False)
class Forward:
    """The forward of a layer's class, whichever that is when it is called."""

    layer: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute."""
        return type(self.layer).forward(self.layer, *args, **kwargs)


def own_forward(layer: nn.Module) -> str:
    """Return the key under which a layer itself holds the forward that its class had once; empty where it holds none."""
    key = next((key for key in (HELD_FORWARD, "forward") if key in layer.__dict__), "")
    return key if getattr(layer.__dict__.get(key), "__self__", None) is layer else ""


def why_not_reached(layer: nn.Module) -> str:
    """Say why nothing could compute in place of a layer; empty when it could."""
    held = layer.__dict__.get(HELD_FORWARD, layer.__dict__.get("forward"))
    if held is None or own_forward(layer) or (isinstance(held, Forward) and held.layer is layer):
        return ""
    return "its forward was replaced on the layer itself, so that nothing can compute in its place"


def _without_hooks(module: nn.Module) -> dict[str, Any]:
    """What a module holds, without what others have put around its forward: on a twin, that would run the module itself."""
    return {key: value for key, value in module.__dict__.items() if key not in ("forward", HELD_FORWARD, "_hf_hook")}


SWITCHED = ("merged_adapters", "_active_adapter", "_disable_adapters", "scaling")
"""What a twin has of its own."""


def _switch(host: Host, live: Shares) -> None:
    """Let twins of the parts of a layer compute with these adapters."""
    for part in host.parts:
        own = part.__dict__
        own["merged_adapters"] = []
        own["_active_adapter"] = [share.name for share in live]
        own["_disable_adapters"] = not live
        weights = {share.name: share.weight for share in live if share.weight != 1}
        scales = _scales_of(part)
        if not weights.keys().isdisjoint(scales):
            own["scaling"] = (
                Scales(scales.layer, weights)
                if isinstance(scales, Scales)
                else {name: scale * weights.get(name, 1) for name, scale in scales.items()}
            )


class Scales(Mapping[str, Any]):
    """The scales that a layer has now, whatever has set them, times the weights."""

    __slots__ = ("layer", "weights")

    def __init__(self, layer: Any, weights: Mapping[str, float]) -> None:
        self.layer = layer
        self.weights = weights

    def __getitem__(self, name: str) -> Any:
        scale = self.layer.scaling[name]
        return scale * self.weights[name] if name in self.weights else scale

    def __iter__(self) -> Iterator[str]:
        return iter(self.layer.scaling)

    def __len__(self) -> int:
        return len(self.layer.scaling)


def _twin(layer: nn.Module, base: nn.Module | None = None) -> Any:
    """Another object of PEFT's class with the same parameters, and another base layer if one is given."""
    twin = object.__new__(plain_class(layer))
    own = twin.__dict__
    own.update(_without_hooks(layer))
    if _scales_of(layer):
        own["scaling"] = Scales(layer, {})
    own["_modules"] = dict(layer._modules)
    if base is not None:
        own["_modules"]["base_layer"] = base
    return twin


def merged_base(host: Host, shares: Shares, *, safe: bool = False) -> nn.Module:
    """Return a copy of the innermost base layer into which PEFT has merged these adapters.

    Sums are made in at least float32 and rounded once. PEFT's own `merge` runs on a copy of the layer, which owns everything that PEFT may
    write to: the base's values, and the containers in which the layer keeps its adapters.

    Args:
        host: a tuner layer.
        shares: which of its adapters, and their weights.
        safe: whether PEFT is to raise where a value would not be finite.
    """
    with torch.inference_mode(False), torch.no_grad():
        copies: dict[int, nn.Module] = {}
        scratch: Any = _structure(host.module, copies)
        for twin in copies.values():
            twin.__dict__.update({key: value.copy() for key, value in twin.__dict__.items() if isinstance(value, dict | list | set)})
        layers = [copies[id(layer)] for layer in reversed(host.stack)]
        found: Any = layers[0].base_layer
        dtypes = [(twin, *_widened(twin, name)) for twin in found.modules() for name in twin._parameters]
        _switch(attrs.evolve(host, module=scratch), shares)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for layer in layers:
                layer._modules["base_layer"] = found
                layer.merge(safe_merge=safe, adapter_names=[share.name for share in shares])  # type: ignore[operator]
                found = layer.base_layer
        made: set[int] = set()
        for twin, name, dtype in dtypes:
            value = getattr(twin, name)
            if value is not None:
                twin.__dict__.pop(name, None)  # PEFT may leave a tensor in place of the parameter
                twin._parameters[name] = rounded = nn.Parameter(value.detach().to(dtype), requires_grad=False)
                made.add(id(rounded))
        for twin in found.modules():  # a method may put a module of its own in place of the base
            for name, value in twin._parameters.items():
                if value is not None and id(value) not in made:
                    twin._parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=False)
        merged: nn.Module = found
    return merged


def _widened(module: nn.Module, name: str) -> tuple[str, torch.dtype | None]:
    """Give a module a copy of one of its parameters, wide enough to add to; return the name, and the type that it had."""
    parameter = module._parameters[name]
    if parameter is None:
        return name, None
    wide = torch.promote_types(parameter.dtype, torch.float32) if parameter.is_floating_point() else parameter.dtype
    module._parameters[name] = nn.Parameter(parameter.detach().to(wide, copy=True), requires_grad=False)
    return name, parameter.dtype


# ------------------------------------------------------------------------------------------------------------ copies and rows


def _auxiliary(host: CopyHost | TokenHost, view: View, merged: nn.Module | None) -> StandIn:
    """What computes in place of a wrapper of copies or rows; `merged` is the base with what is merged, if that is known."""
    if view.reads_cache:
        merged = merged or _combined(host, View(cached=view.cached, reads_cache=True))
        return StandIn(merged, view, whole=True, merged=merged)
    if not view.replacing:
        # PEFT's token layer unmerges when it is called disabled, so that it is never called so
        return StandIn(host.base(), view, whole=True, merged=merged)
    return StandIn(_combined(host, view), view, whole=True)


def _combined(host: CopyHost | TokenHost, view: View) -> nn.Module:
    """A twin of the wrapped module whose weights are read as `view` says; nested modules keep their structure."""
    base = host.base()
    copies: dict[int, nn.Module] = {}
    twin = _structure(base, copies)
    names = [share.name for share in view.replacing + view.cached]
    bindings = host.bindings(names)
    for path, leaf in leaves(base):
        other = copies[id(leaf)]
        other.__dict__[BINDINGS] = bindings[path]
        other.__dict__[WIRING] = wire(leaf, bindings[path], view, training=False)
        object.__setattr__(other, "__class__", generated_class(leaf))
    return twin


def combined_values(host: CopyHost | TokenHost, shares: Shares) -> dict[nn.Module, Mapping[str, torch.Tensor]]:
    """Return what the base would hold with these copies or rows in it: module -> name of its tensor -> value."""
    bindings = host.bindings([share.name for share in shares])
    return {leaf: normal_form(leaf, bindings[path], shares) for path, leaf in leaves(host.base()) if path in bindings}


def changed_values(original: nn.Module, merged: nn.Module) -> dict[nn.Module, Mapping[str, torch.Tensor]]:
    """Return the parameters of `merged` that differ from those of `original`: module of the original -> name -> value."""
    originals = dict(leaves(original))
    return {
        originals[path]: {
            name: value.detach()
            for name, value in tensors_of(leaf).items()
            if isinstance(value, nn.Parameter) and not _same(value, tensors_of(originals[path])[name])
        }
        for path, leaf in leaves(merged)
        if path in originals
    }


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.shape == two.shape and bool(torch.equal(one, two))


def _structure(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """Copy the modules at and below `module`; parameters and buffers are the same objects, in the same dicts."""
    if id(module) not in copies:
        twin = object.__new__(plain_class(module))
        twin.__dict__.update(_without_hooks(module))
        copies[id(module)] = twin
        twin.__dict__["_modules"] = {name: None if child is None else _structure(child, copies) for name, child in module._modules.items()}
    return copies[id(module)]
