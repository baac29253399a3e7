"""What PEFT has put into a model: its layers, wrappers and prompt encoders, each seen as one wrapped module. Reads only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from peft import PeftMixedModel, PeftModel
from peft.tuners import AdaptionPromptModel
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.lora.layer import MultiheadAttention as LoraAttention
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn

from adapterstate.machine.records import Context, Facts, Footprint, SlotFacts
from adapterstate.modules.copies import ModulesToSave
from adapterstate.modules.tokens import NAME, TrainableTokens
from adapterstate.modules.wiring import Binding, Part
from adapterstate.proposal import why_fixed
from adapterstate.targets.tree import tensors_of

ADDITIVE = frozenset(
    (
        "LORA",
        "ADALORA",
        "ADAMSS",
        "BEFT",
        "DELORA",
        "FOURIERFT",
        "GRALORA",
        "LILY",
        "LOHA",
        "LOKR",
        "MISS",
        "POLY",
        "PSOFT",
        "PVERA",
        "RANDLORA",
        "SHIRA",
        "SUPERTUNING",
        "TINYLORA",
        "UNILORA",
        "VBLORA",
        "VERA",
        "WAVEFT",
    )
)
"""PEFT's methods of which an adapter adds the same whatever else is active or merged: each may be merged or weighted by itself.

Found by experiment, which is a test. HiRA, GLoRA, FRoD, DEFT and PEANuT add too, but read the base weight, merged or not, to know what.
"""
NOT_ADDITIVE = (("use_dora", True), ("init_weights", "bat"), ("sample_at_inference", True))
"""Options of those methods, with the value with which it is not so."""
ALONE = frozenset(("ADAPTION_PROMPT", "LN_TUNING", "OSF", "SHADOW"))
"""Methods whose layers run with one adapter at a time; of several, PEFT raises, or computes only the first."""
IN_TURN = frozenset(("C3A", "OFT"))
"""Methods of which PEFT runs several adapters one on the result of the other, and merges them as if it did not."""
FIXED_IN_PROMPTS = {"CPTEmbedding": "embedding.weight", "CartridgeEncoder": "frozen_embedding"}
"""Prompt encoders that hold a parameter which never trains."""
NOT_DRIVEN = {
    "XLORA": "activates its experts anew in each forward, for which it switches every layer off and on again",
}
"""Methods whose activation is no fact that a state could hold, with what it is instead."""
_KEYED = (dict, nn.ModuleDict, nn.ParameterDict, BufferDict)
_OF_TORCH = frozenset(vars(nn.Module()))


def tuner_of(model: nn.Module) -> BaseTuner | None:
    """Return PEFT's tuner in `model`: what holds the configs and injects layers. None for prompt learning."""
    if isinstance(model, BaseTuner):
        return model
    base = model._modules.get("base_model")
    return base if isinstance(base, BaseTuner) else None


def swapper_of(model: nn.Module) -> Any:
    """Return what swaps adaption prompts in `model`, which is no tuner of PEFT's usual kind; None for other methods."""
    found = model if isinstance(model, AdaptionPromptModel) else model._modules.get("base_model")
    return found if isinstance(found, AdaptionPromptModel) else None


def carries_peft(model: nn.Module) -> bool:
    """Whether PEFT has put anything into `model`, or wraps it."""
    if isinstance(model, PeftModel | PeftMixedModel | AdaptionPromptModel) or tuner_of(model) is not None:
        return True
    return any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in model.modules())


def configs_of(model: nn.Module) -> dict[str, Any]:
    """Return PEFT's own mapping of adapter name to config, which it shares between its objects."""
    found: dict[str, Any] = model.peft_config  # type: ignore[assignment]
    return found


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
        own = [container for name in names if id(container := _resolve(part, name)) not in self.shared]
        return tuple(sorted({key for container in own if isinstance(container, _KEYED) for key in container}))

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
            for attribute in part.adapter_layer_names:
                container = _resolve(part, attribute)
                if attribute not in frozen and hasattr(container, "keys") and name in container:
                    yield from _places(container, name)

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
        return tuple(_stack(self.module))

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
            yield from _places(self.layer.trainable_tokens_delta, name)

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
        yield from ((held, key) for held, key in _places(self.module.prompt_encoder, name) if held[key] is not still)

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
        yield from ((held, key) for held, key in _places(self.module, name) if id(held[key]) not in fixed)

    def delete(self, name: str) -> None:
        """Drop the network of adapter `name`."""
        del self.module[name]

    def active(self) -> tuple[str, ...]:
        """It has no flags."""
        return ()


def _never_trained(tuner: Any, name: str, network: nn.Module) -> frozenset[str]:
    """The parameters that SHADOW freezes in a network that was loaded, found by letting it freeze those of an empty copy."""
    if not hasattr(tuner, "_freeze_backbone_embeddings") or tuner.peft_config[name].shadow_model == "mirror":
        return frozenset()
    empty = {id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in network.parameters()}
    scratch = copy.deepcopy(network, dict(empty))
    tuner._freeze_backbone_embeddings(scratch)
    return frozenset(path for path, parameter in scratch.named_parameters() if not parameter.requires_grad)


def hosts_of(model: nn.Module) -> dict[str, Host]:
    """Return everything that PEFT has put into `model`, by path."""
    found: dict[str, Host] = {}
    inside: set[int] = set()
    tuner = tuner_of(model)
    shared = frozenset(map(id, tuner._modules.values())) if tuner is not None else frozenset()
    if isinstance(model._modules.get("prompt_encoder"), nn.ModuleDict):
        found["prompt_encoder"] = PromptHost("prompt_encoder", model)
    found.update(_beside(model, tuner))
    swapper = swapper_of(model)
    if swapper is not None:
        path = "" if swapper is model else "base_model"
        found[path] = SwapHost(path, swapper)
    for path, module in model.named_modules():
        if isinstance(module, TrainableTokensWrapper):
            inside.add(id(module.token_adapter))
            found[path] = TokenHost(path, module)
        elif isinstance(module, ModulesToSaveWrapper):
            found[path] = CopyHost(path, module)
        elif isinstance(module, TrainableTokensLayer):
            if id(module) not in inside:
                found[path] = TokenHost(path, module)
        elif isinstance(module, LoraAttention):
            found[path] = AttentionHost(path, module)
            inside.update(map(id, found[path].parts))
        elif isinstance(module, BaseTunerLayer) and id(module) not in inside:
            stack = _stack(module)
            inside.update(map(id, stack))
            found[path] = (StackHost if len(stack) > 1 else Host)(path, module, shared)
    return found


def _beside(model: nn.Module, tuner: BaseTuner | None) -> Iterator[tuple[str, Host]]:
    """What a tuner keeps for each adapter that none of its layers lists as its own."""
    own = tuner._modules if tuner is not None else {}
    names = configs_of(model)
    kept = {key: held for key, held in own.items() if isinstance(held, nn.ModuleDict) and not names.keys().isdisjoint(held)}
    if not kept:
        return
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    listed = {id(_resolve(layer, name)) for layer in layers for name in (*layer.adapter_layer_names, *layer.other_param_names)}
    prefix = "" if tuner is model else "base_model."
    for key, held in kept.items():
        if id(held) not in listed:
            here = [name for name in names if name in held] if key == "shadow_backbone" else []
            fixed = {name: _never_trained(tuner, name, held[name]) for name in here}
            yield prefix + key, BesideHost(prefix + key, held, fixed=fixed)


def _stack(layer: Any) -> list[Any]:
    """A tuner layer and those in it, down to the base."""
    found: list[Any] = []
    while isinstance(layer, nn.Module) and isinstance(layer, BaseTunerLayer):
        found.append(layer)
        layer = layer._modules.get("base_layer")
    return found


def hand_on_training(tuner: Any, gone: str, configs: Mapping[str, Any]) -> None:
    """Let AdaLoRA's rank allocation go on with another adapter, after the one that it was made for is gone."""
    if getattr(tuner, "trainable_adapter_name", None) != gone or not configs:
        return
    name = next((other for other, config in configs.items() if not config.inference_mode), next(iter(configs)))
    tuner.trainable_adapter_name = name
    tuner.rankallocator = type(tuner.rankallocator)(tuner.model, configs[name], name)


def forget(tuner: nn.Module | None, gone: str) -> None:
    """Drop what a tuner itself, beside its layers, keeps under the name of a deleted adapter."""
    kept = {**vars(tuner), **tuner._modules} if tuner is not None else {}
    for key, container in kept.items():
        if isinstance(container, _KEYED) and key != "model" and key not in _OF_TORCH and gone in container:
            del container[gone]


def kind_of(config: Any) -> str:
    """What a config's method is called in tables and refusals."""
    return str(getattr(config.peft_type, "value", config.peft_type)).lower()


def method_of(config: Any) -> str:
    """The name of a config's method as PEFT writes it."""
    return kind_of(config).upper()


def why_not_additive(config: Any) -> str:
    """Say why what an adapter of this config adds depends on the others; empty when it does not."""
    method = method_of(config)
    if method not in ADDITIVE:
        return f"what {method} does depends on the other adapters"
    for option, value in NOT_ADDITIVE:
        if getattr(config, option, None) == value:
            return f"with {option}={value!r}, what {method} does depends on the other adapters"
    return ""


def why_not_driven(model: nn.Module) -> str:
    """Say why the method of `model` cannot be driven; empty when it can."""
    reasons = ((method, NOT_DRIVEN.get(method)) for method in map(method_of, configs_of(model).values()))
    return next((f"PEFT's {method} {reason}" for method, reason in reasons if reason), "")


def why_not_exact(host: Host, configs: Mapping[str, Any]) -> str:
    """Say why PEFT's merge of adapters with these configs gives something else than its layers compute; empty when it does not."""
    return next((reason for layer in host.stack if (reason := _why_not_exact_on(layer, host, configs))), "")


def _why_not_exact_on(layer: Any, host: Host, configs: Mapping[str, Any]) -> str:
    """Say it of one of the layers that compute one on the result of the other."""
    here = host.present_on(layer)
    methods = [method_of(config) for name, config in configs.items() if name in here]
    if len(methods) > 1 and not IN_TURN.isdisjoint(methods):
        return f"PEFT runs several {methods[0]} adapters one on the result of the other, but merges them otherwise"
    if "OFT" in methods and any(size > 1 for size in getattr(host.innermost(), "kernel_size", ())):
        return "PEFT rotates the patches that this convolution reads, which overlap, but merges as if they did not"
    return ""


def runs_alone(model: nn.Module) -> bool:
    """Whether the method of `model` runs with one adapter at a time."""
    prompts = isinstance(model._modules.get("prompt_encoder"), nn.ModuleDict)
    return prompts or any(method_of(config) in ALONE for config in configs_of(model).values())


def rewrites_base(config: Any) -> bool:
    """Whether PEFT initialises an adapter of this config by changing the base weights."""
    return isinstance(getattr(config, "init_lora_weights", None), str) or getattr(config, "kasa_config", None) is not None


def leaves(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module at or below `module` that owns parameters or buffers, by path."""
    for path, leaf in module.named_modules():
        if tensors_of(leaf):
            yield path, leaf


def auxiliary(host: Host) -> bool:
    """Whether a host replaces weights."""
    return isinstance(host, CopyHost | TokenHost)


def _resolve(module: Any, attribute: str) -> Any:
    for part in attribute.split("."):
        module = getattr(module, part)
    return module


def _places(container: Any, name: str) -> Iterator[Place]:
    """Where the parameters are held that PEFT keeps for one adapter: in a module, or in the container itself."""
    kept = container[name]
    owners = [(owner._parameters, list(owner._parameters)) for owner in kept.modules()] if isinstance(kept, nn.Module) else []
    for held, keys in owners or [(getattr(container, "_parameters", {}), [name])]:
        for key in keys:
            parameter = held.get(key)
            if parameter is not None and (parameter.is_floating_point() or parameter.is_complex()):
                yield held, key
