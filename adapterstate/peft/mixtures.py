"""X-LoRA: LoRAs that PEFT loads when it makes the model, and mixes by what a classifier says of each token. All of it is one adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import attrs
from peft.tuners import XLoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.tuners.xlora.layer import XLoraLayer

from adapterstate.machine.records import Context, Facts
from adapterstate.peft.apart import ApartHost
from adapterstate.peft.hosts import Host, Place, places_in
from adapterstate.peft.tuners import configs_of

LAYERS_ASK = hasattr(XLoraLayer, "adapters_disabled")
"""Whether layers ask if the mixture is off. Before PEFT 0.21 they apply the LoRAs at full strength then."""
_COMPUTING: ContextVar[Any] = ContextVar("computing", default=None)
"""The mixture that is computing."""


@attrs.frozen(eq=False)
class MixtureHost(ApartHost):
    """A mixture with its classifier and the layers of its LoRAs, which switch as one.

    Attributes:
        layers: PEFT's layers that hold the LoRAs.
    """

    what = "a mixture of LoRAs"
    layers: tuple[Any, ...] = ()

    @property
    def parts(self) -> tuple[Any, ...]:
        """The layers."""
        return self.layers

    @property
    def config(self) -> Any:
        """The config of the mixture."""
        return self.module.xlora_config

    @property
    def present(self) -> tuple[str, ...]:
        """The name that the mixture has as an adapter."""
        return tuple(configs_of(self.module))

    @property
    def loras(self) -> list[str]:
        """What PEFT calls the LoRAs: their numbers, whatever their names in the config."""
        return [str(number) for number in range(len(self.config.adapters))]

    def places(self, name: str) -> Iterator[Place]:
        """Where the parameters of the classifier are held; those of the LoRAs too, where the config says that they train."""
        yield from places_in({name: self.module.internal_xlora_classifier}, name)
        if self.config.use_trainable_adapters:
            for layer in self.layers:
                yield from (place for lora in self.loras for place in Host("", layer).places(lora))

    def said_disabled(self) -> Iterator[bool]:
        """Whether the mixture is off."""
        yield self.module.disabled

    def said_active(self) -> Iterator[tuple[str, ...]]:
        """The mixture, on each layer where all of its LoRAs are active, in their order."""
        for layer in self.layers:
            yield self.present if layer.active_adapters == self.loras else tuple(layer.active_adapters)

    def merged(self) -> tuple[str, ...]:
        """The LoRAs that PEFT has merged, on any layer."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.merged_adapters))

    def unmerge(self) -> None:
        """Let PEFT take out what it has merged."""
        for layer in self.layers:
            if layer.merged_adapters:
                layer.unmerge()

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """PEFT's own fields of the mixture and of its layers."""
        off = not (facts.enabled and context.active)
        yield self.module, "disabled", off
        for layer in self.layers:
            yield layer, "_active_adapter", [] if off and not LAYERS_ASK else self.loras
            yield layer, "_disable_adapters", False
            yield layer, "merged_adapters", []

    def beyond_peft(self, context: Context, *, enabled: bool) -> bool:
        """PEFT can only disable a mixture, and before 0.21 that did not do it."""
        return not context.active or not (enabled or LAYERS_ASK)


def mixture_host(path: str, mixture: XLoraModel) -> MixtureHost:
    """Return the host of all that belongs to a mixture."""
    layers = [module for module in mixture.modules() if isinstance(module, BaseTunerLayer)]
    return MixtureHost(path, mixture, layers=tuple(layers))


@contextlib.contextmanager
def computing(link: Any) -> Iterator[None]:
    """While a mixture computes: PEFT switches its LoRAs off and on again then, which changes nothing that its layers look at."""
    token = _COMPUTING.set(link)
    try:
        yield
    finally:
        _COMPUTING.reset(token)


def is_computing(link: Any) -> bool:
    """Whether the mixture of this link is computing, in this thread."""
    return link is not None and _COMPUTING.get() is link
