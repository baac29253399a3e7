"""PEFT's objects above the layers: tuners, the models around them, and what they keep for each adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from peft import PeftMixedModel, PeftModel
from peft.tuners import AdaptionPromptModel, XLoraConfig, XLoraModel
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from adapterstate.errors import AttachError

KEYED = (dict, nn.ModuleDict, nn.ParameterDict, BufferDict)
"""The kinds of containers in which PEFT keeps something for each adapter under its name."""
_NOT_THEIRS = frozenset(("model", "base_layer", *vars(nn.Module())))


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


def mixture_of(model: nn.Module) -> XLoraModel | None:
    """Return what mixes LoRAs in `model`, which has a tuner of its own below it; None for other methods."""
    found = tuner_of(model)
    return found if isinstance(found, XLoraModel) else None


def carries_peft(model: nn.Module) -> bool:
    """Whether PEFT has put anything into `model`, or wraps it."""
    if isinstance(model, PeftModel | PeftMixedModel | AdaptionPromptModel) or tuner_of(model) is not None:
        return True
    return any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in model.modules())


def configs_of(model: nn.Module) -> dict[str, Any]:
    """Return PEFT's own mapping of adapter name to config, which it shares between its objects.

    The LoRAs of a mixture, which PEFT lists there too, are parts of its one adapter: of that, what is returned is a copy without them.
    """
    found: dict[str, Any] | None = getattr(model, "peft_config", None)
    if found is None:
        inside = next((path for path, module in model.named_modules() if path and isinstance(module, PeftModel | PeftMixedModel)), "")
        recipe = f" Its part {inside!r} is a PeftModel: give that." if inside else ""
        raise AttachError(f"{type(model).__name__} has PEFT's layers in it, but no peft_config of its own; nothing has changed.{recipe}")
    return found if mixture_of(model) is None else {name: config for name, config in found.items() if isinstance(config, XLoraConfig)}


def hand_on_training(tuner: Any, gone: str, configs: Mapping[str, Any]) -> None:
    """Let AdaLoRA's rank allocation go on with another adapter, after the one that it was made for is gone."""
    if getattr(tuner, "trainable_adapter_name", None) != gone or not configs:
        return
    name = next((other for other, config in configs.items() if not config.inference_mode), next(iter(configs)))
    tuner.trainable_adapter_name = name
    tuner.rankallocator = type(tuner.rankallocator)(tuner.model, configs[name], name)


def forget(part: nn.Module | None, gone: str, spare: Collection[int] = ()) -> None:
    """Drop what a tuner or a layer still keeps under the name of a deleted adapter; not from the containers whose ids are given."""
    kept = {**vars(part), **part._modules} if part is not None else {}
    for key, container in kept.items():
        if isinstance(container, KEYED) and key not in _NOT_THEIRS and id(container) not in spare and gone in container:
            del container[gone]
