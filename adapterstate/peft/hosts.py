"""PEFT's layers and wrappers, each seen as one wrapped module. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from torch import nn

from adapterstate.machine.records import Context, Facts, Footprint, SlotFacts
from adapterstate.modules.copies import ModulesToSave
from adapterstate.modules.tokens import NAME, TrainableTokens
from adapterstate.modules.wiring import Binding, Part
from adapterstate.peft.methods import IN_TURN, MERGES_DORA_APART, UNLISTED, method_of
from adapterstate.peft.tuners import KEYED, forget
from adapterstate.proposal import why_fixed
from adapterstate.targets.tree import tensors_of

Place = tuple[dict[str, Any], str]
"""A mapping that holds a parameter, and its key there."""


class TokenRows(Mapping[str, torch.Tensor]):
    """The rows that one adapter trains, under the name that the method of this package gives them."""

    __slots__ = ("adapter", "layer")

    def __init__(self, layer: TrainableTokensLayer, adapter: str) -> None:
        self.layer = layer
        self.adapter = adapter

    def __getitem__(self, name: str) -> torch.Tensor:
        if name != NAME:
            raise KeyError(name)
        found: torch.Tensor = self.layer.trainable_tokens_delta[self.adapter]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter((NAME,))

    def __len__(self) -> int:
        return 1


@attrs.frozen(eq=False)
class Host:
    """One PEFT layer or wrapper, as a wrapped module of the charts.

    Attributes:
        path: its name in the model.
        module: PEFT's object.
        shared: the ids of containers that layers share with each other, which say nothing about one of them.
    """

    path: str
    module: Any
    shared: frozenset[int] = frozenset()

    @property
    def parts(self) -> tuple[Any, ...]:
        """PEFT's objects that this is made of, which switch together."""
        return (self.module,)

    @property
    def stack(self) -> tuple[Any, ...]:
        """The layers that compute one on the result of the other, the outermost first."""
        return (self.module,)

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that have weights here."""
        return self.present_on(self.module)

    def present_on(self, part: Any) -> tuple[str, ...]:
        """The adapters that have weights on one of the parts."""
        names = (*part.adapter_layer_names, *part.other_param_names)
        own = [container for name in names if id(container := resolved(part, name)) not in self.shared]
        return tuple(sorted({key for container in own if isinstance(container, KEYED) for key in container}))

    def slot(self, name: str, kind: str) -> SlotFacts:
        """What adapter `name`, of a config of this kind, is here."""
        return SlotFacts((kind,), tunes=True)

    def parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters of adapter `name` here that may train."""
        return (held[key] for held, key in self.places(name))

    def places(self, name: str) -> Iterator[Place]:
        """Where the parameters of adapter `name` are held here: the parameters themselves may be exchanged."""
        for part in self.parts:
            frozen = getattr(part, "frozen_peft_weight_names", {}).get(name, ())
            listed = part.adapter_layer_names
            for attribute in (*listed, *(name for name in UNLISTED if name not in listed and hasattr(part, name))):
                container = resolved(part, attribute)
                if attribute not in frozen and hasattr(container, "keys") and name in container:
                    yield from places_in(container, name)

    def active(self) -> tuple[str, ...]:
        """The adapters that PEFT's flags call active here."""
        active = self.module.active_adapters
        return (active,) if isinstance(active, str) else tuple(active)

    def said_disabled(self) -> Iterator[bool]:
        """Whether the flags of each part call adapters disabled."""
        return (part._disable_adapters for part in self.parts)

    def swaps(self, context: Context, *, enabled: bool) -> Iterator[tuple[dict[str, Any], str, Any]]:
        """What is held where in this state, beside PEFT's fields: mapping, key, value."""
        return iter(())

    def said_active(self) -> Iterator[tuple[str, ...]]:
        """What the flags of each layer here call active, of those that are here."""
        for layer in self.stack:
            yield tuple(name for name in attrs.evolve(self, module=layer).active() if name in self.present)

    def merged(self) -> tuple[str, ...]:
        """The adapters that PEFT's flags call merged here."""
        return tuple(self.module.merged_adapters)

    def unmerge(self) -> None:
        """Let PEFT take out of the base weight what it has merged."""
        self.module.unmerge()

    def delete(self, name: str) -> None:
        """Let PEFT drop the weights of adapter `name` here."""
        for part in self.parts:
            part.delete_adapter(name)
            forget(part, name, spare=self.shared)

    def innermost(self) -> nn.Module:
        """The base module below all of PEFT's."""
        found: nn.Module = self.module.get_base_layer()
        return found

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """PEFT's own fields as they have to be: object, name, value. A tuner layer names every active adapter, also those not here."""
        for part in self.parts:
            yield part, "_active_adapter", list(facts.active)
            yield part, "_disable_adapters", not facts.enabled
            yield part, "merged_adapters", list(context.merged)


class AttentionHost(Host):
    """LoRA on `nn.MultiheadAttention`, which has a LoRA on the output projection inside it.

    PEFT's forward merges both into the base, runs it, and unmerges them, in place.
    """

    @property
    def parts(self) -> tuple[Any, ...]:
        """The layer, and the one on its output projection."""
        return (self.module, self.module._modules["base_layer"].out_proj)


class StackHost(Host):
    """A layer in a layer, of methods that PEFT mixes: one wrapped module, which stays so when another method's layer is put around it."""

    @property
    def parts(self) -> tuple[Any, ...]:
        """The layers, the outermost first."""
        return self.stack

    @property
    def stack(self) -> tuple[Any, ...]:
        """The layers, the outermost first."""
        return tuple(stack_of(self.module))

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that have weights on any of the layers."""
        return tuple(sorted({name for part in self.parts for name in self.present_on(part)}))

    def merged(self) -> tuple[str, ...]:
        """The adapters that any of the layers has merged."""
        return tuple(name for part in self.parts for name in part.merged_adapters)

    def unmerge(self) -> None:
        """All that is merged is in the same weight; what came last goes first."""
        for part in self.parts:
            if part.merged_adapters:
                part.unmerge()

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """PEFT's own fields of each layer, which has merged those that it holds."""
        for part in self.parts:
            here = self.present_on(part)
            yield part, "_active_adapter", list(facts.active)
            yield part, "_disable_adapters", not facts.enabled
            yield part, "merged_adapters", [name for name in context.merged if name in here]


class CopyHost(Host):
    """A `ModulesToSaveWrapper`: whole copies of one module."""

    def slot(self, name: str, kind: str) -> SlotFacts:
        """What is replaced, by name of the parameter or buffer inside the wrapped module."""
        replaces = {
            f"{path}.{key}" if path else key: Footprint(None, tuple(tensor.shape), why_fixed(leaf, key))
            for path, leaf in leaves(self.module.original_module)
            for key, tensor in tensors_of(leaf).items()
        }
        return SlotFacts(("modules_to_save",), tunes=False, replaces=replaces)

    def delete(self, name: str) -> None:
        """Drop the copy of adapter `name`."""
        del self.module.modules_to_save[name]
        self.module._adapters.discard(name)

    def innermost(self) -> nn.Module:
        """The module that the copies stand in for."""
        return self.base()

    def active(self) -> tuple[str, ...]:
        """What is active here; a name without a copy here is not."""
        return tuple(name for name in super().active() if name in self.present)

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """As PEFT keeps them: the name itself where there is one."""
        active = context.active
        yield self.module, "_active_adapter", active[0] if len(active) == 1 else list(active)
        yield self.module, "_disable_adapters", not facts.enabled
        yield self.module, "merged_adapters", list(context.merged)

    def base(self) -> nn.Module:
        """The module that the copies stand in for."""
        found: nn.Module = self.module.original_module
        return found

    def bindings(self, names: Sequence[str]) -> dict[str, dict[str, Binding]]:
        """Path inside the wrapped module -> adapter -> its copy there, in this package's terms."""
        found: dict[str, dict[str, Binding]] = {}
        for path, leaf in leaves(self.base()):
            own = tuple(tensors_of(leaf))
            for name in names:
                copy = self.module.modules_to_save[name].get_submodule(path)
                tensors = {key: tensor for key, tensor in (*copy._parameters.items(), *copy._buffers.items()) if tensor is not None}
                found.setdefault(path, {})[name] = Binding(None, [Part(ModulesToSave(own, own), tensors, leaf)])
        return found


class TokenHost(Host):
    """A `TrainableTokensWrapper`, or a `TrainableTokensLayer` by itself: trained rows of one weight."""

    @property
    def layer(self) -> TrainableTokensLayer:
        """The layer that holds the rows."""
        found: TrainableTokensLayer = self.module.token_adapter if isinstance(self.module, TrainableTokensWrapper) else self.module
        return found

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that train rows here."""
        return tuple(sorted(self.layer.trainable_tokens_delta.keys()))

    @property
    def parts(self) -> tuple[Any, ...]:
        """The wrapper, and the layer in it."""
        return (self.module,) if self.module is self.layer else (self.module, self.layer)

    def rows(self, name: str) -> tuple[int, ...]:
        """The rows that adapter `name` trains."""
        return tuple(int(row) for row in self.layer.token_indices[name])

    def slot(self, name: str, kind: str) -> SlotFacts:
        """The rows that are replaced."""
        footprint = Footprint(frozenset(self.rows(name)), tuple(self.base().weight.shape))  # type: ignore[arg-type]
        return SlotFacts(("trainable_token_indices",), tunes=False, replaces={"weight": footprint})

    def active(self) -> tuple[str, ...]:
        """What is active here; a name without rows here is not."""
        return tuple(name for name in super().active() if name in self.present)

    def merged(self) -> tuple[str, ...]:
        """The adapters whose rows PEFT has written into the weight."""
        return tuple(self.layer.merged_adapters)

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """The wrapper's fields, and those of the layer in it."""
        active = context.active
        if self.module is not self.layer:
            yield self.module, "_active_adapter", active[0] if len(active) == 1 else list(active)
            yield self.module, "_disable_adapters", not facts.enabled
        yield self.layer, "_active_adapter", list(active)
        yield self.layer, "_disable_adapters", not facts.enabled
        yield self.layer, "merged_adapters", list(context.merged)

    def unmerge(self) -> None:
        """Let PEFT put the rows of the base back."""
        self.layer.unmerge()

    def places(self, name: str) -> Iterator[Place]:
        """Where the rows of adapter `name` are held."""
        if name in self.layer.trainable_tokens_delta:
            yield from places_in(self.layer.trainable_tokens_delta, name)

    def delete(self, name: str) -> None:
        """Drop the rows of adapter `name`; ends of a tie share them, and the first one drops them for all."""
        self.layer.delete_adapter(name)
        if self.module is not self.layer:
            self.module._adapters.discard(name)

    def innermost(self) -> nn.Module:
        """The embedding, or the head that is tied to it."""
        return self.base()

    def base(self) -> nn.Module:
        """The embedding, or the head that is tied to it."""
        found: nn.Module = self.layer.get_base_layer()
        return found

    def bindings(self, names: Sequence[str]) -> dict[str, dict[str, Binding]]:
        """Its rows in this package's terms."""
        base = self.base()
        parts = {name: Part(TrainableTokens(self.rows(name), make=False), TokenRows(self.layer, name), base) for name in names}
        return {"": {name: Binding(None, [part]) for name, part in parts.items()}}


def stack_of(layer: Any) -> list[Any]:
    """A tuner layer and those in it, down to the base."""
    found: list[Any] = []
    while isinstance(layer, nn.Module) and isinstance(layer, BaseTunerLayer):
        found.append(layer)
        layer = layer._modules.get("base_layer")
    return found


def why_not_exact(host: Host, configs: Mapping[str, Any]) -> str:
    """Say why PEFT's merge of adapters with these configs gives something else than its layers compute; empty when it does not."""
    return next((reason for layer in host.stack if (reason := _why_not_exact_on(layer, host, configs))), "")


def _why_not_exact_on(layer: Any, host: Host, configs: Mapping[str, Any]) -> str:
    """Say it of one of the layers that compute one on the result of the other."""
    names = host.present_on(layer)
    here = [config for name, config in configs.items() if name in names]
    methods = [method_of(config) for config in here]
    if len(methods) > 1 and not IN_TURN.isdisjoint(methods):
        return f"PEFT runs several {methods[0]} adapters one on the result of the other, but merges them otherwise"
    if len(methods) > 1 and MERGES_DORA_APART and any(getattr(config, "use_dora", False) for config in here):
        return "this release of PEFT runs DoRA beside other adapters, but merges it on top of them"
    if "OFT" in methods and any(size > 1 for size in getattr(host.innermost(), "kernel_size", ())):
        return "PEFT rotates the patches that this convolution reads, which overlap, but merges as if they did not"
    return ""


def leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module at or below `module` that owns parameters or buffers, by path."""
    for path, leaf in module.named_modules():
        if tensors_of(leaf):
            yield path, leaf


def auxiliary(host: Host) -> bool:
    """Whether a host replaces weights."""
    return isinstance(host, CopyHost | TokenHost)


def resolved(module: Any, attribute: str) -> Any:
    """What a dotted name of PEFT leads to."""
    for part in attribute.split("."):
        module = getattr(module, part)
    return module


def places_in(container: Any, name: str) -> Iterator[Place]:
    """Where the parameters are held that PEFT keeps for one adapter: in a module, or in the container itself."""
    kept = container[name]
    owners = [(owner._parameters, list(owner._parameters)) for owner in kept.modules()] if isinstance(kept, nn.Module) else []
    for held, keys in owners or [(getattr(container, "_parameters", {}), [name])]:
        for key in keys:
            parameter = held.get(key)
            if parameter is not None and (parameter.is_floating_point() or parameter.is_complex()):
                yield held, key
