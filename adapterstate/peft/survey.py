"""Finding what PEFT has put into a model: its layers, wrappers and what it keeps apart, by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from peft.tuners.lora.layer import MultiheadAttention as LoraAttention
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn

from adapterstate.peft.apart import BesideHost, PromptHost, SwapHost, never_trained
from adapterstate.peft.hosts import AttentionHost, CopyHost, Host, StackHost, TokenHost, resolved, stack_of
from adapterstate.peft.mixtures import mixture_host
from adapterstate.peft.tuners import configs_of, mixture_of, swapper_of, tuner_of


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
    mixture = mixture_of(model)
    if mixture is not None:
        path = "" if mixture is model else "base_model"
        found[path] = mixture_host(path, mixture)
        inside.update(map(id, found[path].parts))
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
            stack = stack_of(module)
            inside.update(map(id, stack))
            found[path] = (StackHost if len(stack) > 1 else Host)(path, module, shared)
    return found


def in_copies(hosts: Mapping[str, Host]) -> dict[str, str]:
    """Return where a layer stands in a module that copies replace, each with the path of that module."""
    wrappers = [path for path, host in hosts.items() if isinstance(host, CopyHost)]
    return {path: wrapper for path in hosts for wrapper in wrappers if path.startswith(f"{wrapper}.")}


def _beside(model: nn.Module, tuner: BaseTuner | None) -> Iterator[tuple[str, Host]]:
    """What a tuner keeps for each adapter that none of its layers lists as its own."""
    own = tuner._modules if tuner is not None else {}
    names = configs_of(model)
    kept = {
        key: held  # the base model may be a mapping, too
        for key, held in own.items()
        if key != "model" and isinstance(held, nn.ModuleDict) and not names.keys().isdisjoint(held)
    }
    if not kept:
        return
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    listed = {id(resolved(layer, name)) for layer in layers for name in (*layer.adapter_layer_names, *layer.other_param_names)}
    prefix = "" if tuner is model else "base_model."
    for key, held in kept.items():
        if id(held) not in listed:
            here = [name for name in names if name in held] if key == "shadow_backbone" else []
            fixed = {name: never_trained(tuner, name, held[name]) for name in here}
            yield prefix + key, BesideHost(prefix + key, held, fixed=fixed)
