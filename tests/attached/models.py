"""Small models that PEFT has put adapters into, and everything about them that an event may change."""

from __future__ import annotations

from collections import deque
from typing import Any

import peft
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from adapterstate import AdapterState, attach

X = torch.tensor([[1, 2, 3], [4, 5, 0]])
KASA: list[dict[str, Any]] = [{"kasa_config": peft.KasaConfig()}] if hasattr(peft, "KasaConfig") else []
"""What makes a LoRA one that takes a part of the base weight, in releases of PEFT that have it."""


class Full(deque[Any]):
    """A journal to which nothing can be appended, so that every event fails at its commit point."""

    def append(self, entry: Any) -> None:
        """Fail."""
        raise MemoryError("no")


class Net(nn.Module):
    """An embedding, three layers and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, 8)
        self.lin0 = nn.Linear(8, 8)
        self.lin1 = nn.Linear(8, 8)
        self.lin2 = nn.Linear(8, 8)
        self.head1 = nn.Linear(8, 8)
        self.head2 = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head2(self.head1(self.lin2(self.lin1(self.lin0(self.emb(x))))))
        return found


def lora(**options: Any) -> LoraConfig:
    """A LoRA whose delta is not zero."""
    return LoraConfig(**{"r": 2, "lora_alpha": 4, "init_lora_weights": False, "target_modules": ["lin0", "lin1"], **options})


CONFIGS: dict[str, dict[str, Any]] = {
    "e": {"modules_to_save": ["head1"], "trainable_token_indices": {"emb": [1, 2]}},
    "b": {"target_modules": ["lin1", "lin2"], "modules_to_save": ["head1", "head2"], "trainable_token_indices": {"emb": [3]}},
    "c": {"trainable_token_indices": {"emb": [2, 5]}},
    "d": {"target_modules": ["lin2"]},
}


def peft_model(names: str = "eb", seed: int = 0, **more: Any) -> Any:
    """A PEFT model with these adapters, each of which changes the output; the first is active. It is not attached."""
    torch.manual_seed(seed)
    model = get_peft_model(Net(), lora(**CONFIGS[names[0]], **more), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora(**CONFIGS[name], **more))
    shake(model)
    return model.eval()


def shake(model: nn.Module) -> None:
    """Give copies and token rows values of their own."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "modules_to_save." in key or "trainable_tokens_delta." in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def attached(names: str = "eb", **options: Any) -> tuple[Any, AdapterState]:
    """The same, attached since its first adapter; older releases of PEFT break rules when they add a second one by themselves."""
    torch.manual_seed(0)
    model = get_peft_model(Net(), lora(**CONFIGS[names[0]]), adapter_name=names[0])
    state = attach(model, **options)
    for name in names[1:]:
        model.add_adapter(name, lora(**CONFIGS[name]))
    shake(model)
    state._journal.clear()
    return model.eval(), state


def healthy_model(names: str = "eb") -> Any:
    """A model that is not attached, with flags that break no rule whatever the release of PEFT."""
    model, state = attached(names)
    state.detach()
    return model


def flags(model: nn.Module) -> dict[str, Any]:
    """PEFT's fields and torch's flags of every part."""
    found: dict[str, Any] = {"active": getattr(model, "active_adapter", None), "configs": list(model.peft_config)}  # type: ignore[arg-type]
    for name, module in model.named_modules():
        for key in ("_active_adapter", "_disable_adapters", "merged_adapters", "_adapters"):
            if "_active_adapter" in module.__dict__ and hasattr(module, key):
                value = getattr(module, key)
                found[f"{name}.{key}"] = list(value) if isinstance(value, list | set) else value
        found[f"{name} class"] = type(module)
        found[f"{name} children"] = list(module._modules)
    for name, parameter in model.named_parameters():
        found[f"{name} parameter"] = (id(parameter), parameter.requires_grad, parameter.dtype)
    return found


def look(model: nn.Module, state: AdapterState) -> dict[str, Any]:
    """Everything that a refused or failed event must leave as it is."""
    return {
        **flags(model),
        "facts": state.facts,
        "values": {key: value.clone() for key, value in model.state_dict().items()},
        "output": model(X).detach(),
        "random": torch.get_rng_state(),
        "journal": len(state.journal),
    }


def same(one: Any, two: Any) -> bool:
    """Whether two looks are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    return bool(one == two)


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Where two looks differ."""
    return [key for key in {**one, **two} if key not in one or key not in two or not same(one[key], two[key])]
