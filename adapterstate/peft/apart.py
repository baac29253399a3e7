"""What PEFT keeps for each adapter apart from the layers of the base: prompts, modules that it swaps in, networks beside the layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from adapterstate.machine.records import Context, Facts
from adapterstate.peft.hosts import Host, Place, places_in

FIXED_IN_PROMPTS = {"CPTEmbedding": "embedding.weight", "CartridgeEncoder": "frozen_embedding"}
"""Prompt encoders that hold a parameter which never trains."""


class ApartHost(Host):
    """What PEFT keeps for each adapter apart from the layers of the base: it has no flags of its own, and nothing to be merged into."""

    what = ""

    @property
    def parts(self) -> tuple[Any, ...]:
        """None: what switches is the model itself."""
        return ()

    @property
    def stack(self) -> tuple[Any, ...]:
        """None."""
        return ()

    def merged(self) -> tuple[str, ...]:
        """It is never merged."""
        return ()

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """Nothing beside what the model itself keeps."""
        return iter(())

    def beyond_peft(self, context: Context, *, enabled: bool) -> bool:
        """Whether PEFT would apply it although the state says that it is not applied."""
        return False


class PromptHost(ApartHost):
    """The prompts of a prompt-learning `PeftModel`, which runs with one of them at a time."""

    what = "a prompt"

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that have a prompt."""
        return tuple(self.module.prompt_encoder)

    def places(self, name: str) -> Iterator[Place]:
        """Where the parameters of the prompt encoder of adapter `name` are held."""
        encoder = self.module.prompt_encoder[name]
        fixed = FIXED_IN_PROMPTS.get(type(encoder).__name__)
        still = dict(encoder.named_parameters()).get(fixed) if fixed else None
        yield from ((held, key) for held, key in places_in(self.module.prompt_encoder, name) if held[key] is not still)

    def delete(self, name: str) -> None:
        """Drop the prompt of adapter `name`."""
        del self.module.prompt_encoder[name]
        self.module.prompt_tokens.pop(name, None)

    def active(self) -> tuple[str, ...]:
        """The prompt in use."""
        active = self.module.active_adapter
        return (active,) if isinstance(active, str) else tuple(active)

    def said_active(self) -> Iterator[tuple[str, ...]]:
        """The prompt in use."""
        yield self.active()

    def beyond_peft(self, context: Context, *, enabled: bool) -> bool:
        """PEFT always applies a prompt, other than in its context."""
        return not (enabled and context.active)


class SwapHost(ApartHost):
    """Adaption prompts: an adapter is active where its modules stand in the places of modules of the base, which they hold."""

    what = "an adaption prompt"

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that have modules."""
        return tuple(self.module._parents)

    def attentions(self, name: str) -> list[Any]:
        """The modules of adapter `name`, wherever they are kept now."""
        cached: dict[str, list[Any]] = self.module._cached_adapters
        return cached[name] if name in cached else [held[key] for held, key in self._seats(name)]

    def _seats(self, name: str) -> list[Place]:
        """The places in the base that adapter `name` takes."""
        key = self.module.peft_config[name].target_modules
        return [(parent._modules, key) for parent in self.module._parents[name]]

    def places(self, name: str) -> Iterator[Place]:
        """Where the prompts and gates of adapter `name` are held."""
        for attention in self.attentions(name):
            yield from ((attention._parameters, key) for key in attention._parameters)

    def delete(self, name: str) -> None:
        """Let PEFT drop the modules of adapter `name`."""
        self.module.delete_adapter(name)

    def active(self) -> tuple[str, ...]:
        """The adapter in use."""
        return tuple(self.module.active_adapters)

    def said_active(self) -> Iterator[tuple[str, ...]]:
        """The adapter in use."""
        yield self.active()

    def said_disabled(self) -> Iterator[bool]:
        """Whether no adapter's modules are in place."""
        yield not self.module._enabled

    def swaps(self, context: Context, *, enabled: bool) -> Iterator[tuple[dict[str, Any], str, Any]]:
        """Every place with the module that stands there, and what the tuner itself keeps."""
        active = context.active[0] if context.active else None
        kept = {name: self.attentions(name) for name in self.present}
        for name, attentions in kept.items():
            for (held, key), attention in zip(self._seats(name), attentions, strict=True):
                if name != active or not enabled:
                    yield held, key, attention.model
        for (held, key), attention in zip(self._seats(active), kept[active], strict=True) if active is not None and enabled else ():
            yield held, key, attention
        cached = {name: attentions for name, attentions in kept.items() if name != active or not enabled}
        yield self.module.__dict__, "_cached_adapters", cached
        yield self.module.__dict__, "_active_adapter", active
        yield self.module.__dict__, "_enabled", enabled


@attrs.frozen(eq=False)
class BesideHost(ApartHost):
    """Networks that a tuner keeps for each adapter beside its layers, such as the backbone that SHADOW runs in parallel.

    Attributes:
        fixed: of each adapter, the names of the parameters that never train.
    """

    what = "a network beside the layers"
    fixed: Mapping[str, frozenset[str]] = attrs.field(factory=dict)

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that have one."""
        return tuple(self.module)

    def places(self, name: str) -> Iterator[Place]:
        """Where the parameters of the network of adapter `name` are held."""
        network: nn.Module = self.module[name]
        fixed = {id(network.get_parameter(path)) for path in self.fixed.get(name, ())}
        yield from ((held, key) for held, key in places_in(self.module, name) if id(held[key]) not in fixed)

    def delete(self, name: str) -> None:
        """Drop the network of adapter `name`."""
        del self.module[name]

    def active(self) -> tuple[str, ...]:
        """It has no flags."""
        return ()


def never_trained(tuner: Any, name: str, network: nn.Module) -> frozenset[str]:
    """The parameters that SHADOW freezes in a network that was loaded, found by letting it freeze those of an empty copy."""
    if not hasattr(tuner, "_freeze_backbone_embeddings") or tuner.peft_config[name].shadow_model == "mirror":
        return frozenset()
    empty = {id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in network.parameters()}
    scratch = copy.deepcopy(network, dict(empty))
    tuner._freeze_backbone_embeddings(scratch)
    return frozenset(path for path, parameter in scratch.named_parameters() if not parameter.requires_grad)
