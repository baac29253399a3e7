"""What PEFT has put into a model: its layers, wrappers and prompt encoders, each seen as one wrapped module. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn

from adapterstate.machine.records import Context, Facts, Footprint, SlotFacts
from adapterstate.modules.copies import ModulesToSave
from adapterstate.modules.tokens import NAME, TrainableTokens
from adapterstate.modules.wiring import Binding, Part
from adapterstate.proposal import why_fixed

ADDITIVE = frozenset(
    (
        "LORA",
        "ADALORA",
        "LOHA",
        "LOKR",
        "VERA",
        "FOURIERFT",
        "RANDLORA",
        "C3A",
        "VBLORA",
        "WAVEFT",
        "SHIRA",
        "GRALORA",
        "TINYLORA",
        "UNILORA",
    )
)
"""PEFT's methods whose contribution to an output is a sum over adapters, so that each may be merged or weighted by itself."""


def tuner_of(model: nn.Module) -> BaseTuner | None:
    """Return PEFT's tuner in `model`: what holds the configs and injects layers. None for prompt learning."""
    if isinstance(model, BaseTuner):
        return model
    base = model._modules.get("base_model")
    return base if isinstance(base, BaseTuner) else None


def carries_peft(model: nn.Module) -> bool:
    """Whether PEFT has put anything into `model`, or wraps it."""
    if tuner_of(model) is not None or isinstance(model._modules.get("prompt_encoder"), nn.ModuleDict):
        return True
    return any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in model.modules())


def configs_of(model: nn.Module) -> dict[str, Any]:
    """Return PEFT's own mapping of adapter name to config, which it shares between its objects."""
    found: dict[str, Any] = model.peft_config  # type: ignore[assignment]
    return found


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
    """

    path: str
    module: Any

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that have weights here."""
        return tuple(sorted(self.module._get_available_adapters()))

    def slot(self, name: str, kind: str) -> SlotFacts:
        """What adapter `name`, of a config of this kind, is here."""
        return SlotFacts((kind,), tunes=True)

    def parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters of adapter `name` here that may train."""
        module = self.module
        frozen = getattr(module, "frozen_peft_weight_names", {}).get(name, ())
        for attribute in module.adapter_layer_names:
            container = _resolve(module, attribute)
            if attribute not in frozen and hasattr(container, "keys") and name in container:
                yield from _parameters_in(container[name])

    def active(self) -> tuple[str, ...]:
        """The adapters that PEFT's flags call active here."""
        active = self.module.active_adapters
        return (active,) if isinstance(active, str) else tuple(active)

    def merged(self) -> tuple[str, ...]:
        """The adapters that PEFT's flags call merged here."""
        return tuple(self.module.merged_adapters)

    def delete(self, name: str) -> None:
        """Let PEFT drop the weights of adapter `name` here."""
        self.module.delete_adapter(name)

    def innermost(self) -> nn.Module:
        """The base module below all of PEFT's."""
        found: nn.Module = self.module.get_base_layer()
        return found

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """PEFT's own fields as they have to be: object, name, value. A tuner layer names every active adapter, also those not here."""
        yield self.module, "_active_adapter", list(facts.active)
        yield self.module, "_disable_adapters", not facts.enabled
        yield self.module, "merged_adapters", list(context.merged)


class CopyHost(Host):
    """A `ModulesToSaveWrapper`: whole copies of one module."""

    def slot(self, name: str, kind: str) -> SlotFacts:
        """What is replaced, by name of the parameter or buffer inside the wrapped module."""
        replaces = {
            f"{path}.{key}" if path else key: Footprint(None, tuple(tensor.shape), why_fixed(leaf, key))
            for path, leaf in leaves(self.module.original_module)
            for key, tensor in own_tensors(leaf).items()
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
            own = tuple(own_tensors(leaf))
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

    def parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The rows of adapter `name`."""
        if name in self.layer.trainable_tokens_delta:
            yield from _parameters_in(self.layer.trainable_tokens_delta[name])

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


class PromptHost(Host):
    """The prompts of a prompt-learning `PeftModel`, which runs with one of them at a time."""

    @property
    def present(self) -> tuple[str, ...]:
        """The adapters that have a prompt."""
        return tuple(self.module.prompt_encoder)

    def parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters of the prompt encoder of adapter `name`."""
        yield from _parameters_in(self.module.prompt_encoder[name])

    def delete(self, name: str) -> None:
        """Drop the prompt of adapter `name`."""
        del self.module.prompt_encoder[name]
        self.module.prompt_tokens.pop(name, None)

    def active(self) -> tuple[str, ...]:
        """The prompt in use."""
        active = self.module.active_adapter
        return (active,) if isinstance(active, str) else tuple(active)

    def merged(self) -> tuple[str, ...]:
        """A prompt is never merged."""
        return ()

    def fields(self, facts: Facts, context: Context) -> Iterator[tuple[Any, str, Any]]:
        """Nothing beside what the model itself keeps."""
        return iter(())


def hosts_of(model: nn.Module) -> dict[str, Host]:
    """Return everything that PEFT has put into `model`, by path."""
    found: dict[str, Host] = {}
    inside: set[int] = set()
    if isinstance(model._modules.get("prompt_encoder"), nn.ModuleDict):
        found["prompt_encoder"] = PromptHost("prompt_encoder", model)
    for path, module in model.named_modules():
        if isinstance(module, TrainableTokensWrapper):
            inside.add(id(module.token_adapter))
            found[path] = TokenHost(path, module)
        elif isinstance(module, ModulesToSaveWrapper):
            found[path] = CopyHost(path, module)
        elif isinstance(module, TrainableTokensLayer):
            if id(module) not in inside:
                found[path] = TokenHost(path, module)
        elif isinstance(module, BaseTunerLayer):
            found[path] = Host(path, module)
    return found


def hand_on_training(tuner: Any, gone: str, configs: Mapping[str, Any]) -> None:
    """Let AdaLoRA's rank allocation go on with another adapter, after the one that it was made for is gone."""
    if getattr(tuner, "trainable_adapter_name", None) != gone or not configs:
        return
    name = next((other for other, config in configs.items() if not config.inference_mode), next(iter(configs)))
    tuner.trainable_adapter_name = name
    tuner.rankallocator = type(tuner.rankallocator)(tuner.model, configs[name], name)


def kind_of(config: Any) -> str:
    """What a config's method is called in tables and refusals."""
    return str(getattr(config.peft_type, "value", config.peft_type)).lower()


def method_of(config: Any) -> str:
    """The name of a config's method as PEFT writes it."""
    return kind_of(config).upper()


def why_not_additive(config: Any) -> str:
    """Say why what an adapter of this config does is not a sum over adapters; empty when it is."""
    method = method_of(config)
    if method not in ADDITIVE:
        return f"{method} does not add to the output"
    for variant in ("use_dora", "use_qalora"):
        if getattr(config, variant, False):
            return f"{variant} makes what it does depend on the other weights"
    return ""


def leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module at or below `module` that owns parameters or buffers, by path."""
    for path, leaf in module.named_modules():
        if own_tensors(leaf):
            yield path, leaf


def own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that a module holds itself."""
    return {key: tensor for key, tensor in (*module._parameters.items(), *module._buffers.items()) if tensor is not None}


def auxiliary(host: Host) -> bool:
    """Whether a host replaces weights."""
    return isinstance(host, CopyHost | TokenHost)


def _resolve(module: Any, attribute: str) -> Any:
    for part in attribute.split("."):
        module = getattr(module, part)
    return module


def _parameters_in(layer: Any) -> Iterator[nn.Parameter]:
    """The parameters of what PEFT keeps for one adapter: a module, or the parameter itself."""
    for parameter in layer.parameters() if isinstance(layer, nn.Module) else [layer]:
        if isinstance(parameter, nn.Parameter) and (parameter.is_floating_point() or parameter.is_complex()):
            yield parameter
