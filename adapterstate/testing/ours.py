"""The shipped system: this package's own `AdapterState` on a small plain torch model. A system over another library sits beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from adapterstate.attaching import attach
from adapterstate.config import LoraConfig
from adapterstate.modules.slots import Slot as SlotModule
from adapterstate.state import AdapterState
from adapterstate.testing.system import (
    AdapterSystem,
    Fingerprint,
    ModuleView,
    Observation,
    Options,
    Part,
    Recipe,
    Slot,
    Tensors,
    fingerprint_of,
    grads_of,
)


class SmallModel(nn.Module):
    """An embedding tied to its head, a norm, two linear layers and a block of two more. ``(2, 4)`` tokens give ``(2, 4, 8)`` logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.norm = nn.LayerNorm(4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of every token."""
        hidden = self.embed(tokens)
        hidden = hidden + self.second(self.norm(self.first(hidden)))
        logits: torch.Tensor = self.head(hidden + self.block(hidden))
        return logits


def lora(*paths: str) -> tuple[Part, ...]:
    """Parts of a tuner on the weights of these modules."""
    return tuple(Part(path, "tuner") for path in paths)


def copies(path: str, *weights: str) -> tuple[Part, ...]:
    """Parts of a copy of a module with these weights."""
    return tuple(Part(path, "copy", weight) for weight in weights)


def tokens(*rows: int) -> tuple[Part, ...]:
    """Parts of token rows, which act at both ends of the tie."""
    return tuple(Part(path, "tokens", "weight", rows) for path in ("embed", "head"))


RECIPES: Mapping[str, Recipe] = {
    "lora": Recipe(LoraConfig(r=2, target_modules=["first", "second"]), lora("first", "second")),
    "lora on one": Recipe(LoraConfig(r=1, target_modules=["second"]), lora("second")),
    "frozen": Recipe(LoraConfig(r=2, target_modules=["first", "block.2"], inference_mode=True), lora("first", "block.2"), trainable=False),
    "rows": Recipe(LoraConfig(r=1, target_modules=["first"], trainable_token_indices={"embed": [2, 1]}), (*lora("first"), *tokens(2, 1))),
    "other rows": Recipe(LoraConfig(trainable_token_indices={"embed": [3, 4]}), tokens(3, 4)),
    "rows again": Recipe(LoraConfig(trainable_token_indices={"embed": [4, 1]}), tokens(4, 1)),
    "block": Recipe(
        LoraConfig(r=2, target_modules=["first"], modules_to_save=["block"]),
        (*lora("first"), *copies("block.0", "weight", "bias"), *copies("block.2", "weight", "bias")),
    ),
    "norm and block": Recipe(
        LoraConfig(modules_to_save=["norm", "block.2"]), (*copies("norm", "weight", "bias"), *copies("block.2", "weight", "bias"))
    ),
    "head": Recipe(LoraConfig(modules_to_save=["head"]), copies("head", "weight")),
    "tied head": Recipe(
        LoraConfig(r=1, target_modules=["block.0"], modules_to_save=["head"], ensure_weight_tying=True),
        (*lora("block.0"), *copies("head", "weight"), *copies("embed", "weight")),
    ),
    "embedding": Recipe(LoraConfig(r=2, target_modules=["embed"]), lora("embed")),
    "no target": Recipe(LoraConfig(target_modules=["nothing"]), refused="its targets match nothing"),
    "no rank": Recipe(LoraConfig(r=0, target_modules=["first"]), refused="its rank is not positive"),
    "no row": Recipe(
        LoraConfig(target_modules=["first"], trainable_token_indices={"embed": [1, 8]}), refused="a token index is out of range"
    ),
    "wrong dropout": Recipe(LoraConfig(target_modules=["first"], lora_dropout=1.0), refused="its dropout is not below 1"),
    "twice": Recipe(
        LoraConfig(trainable_token_indices={"embed": [1]}, modules_to_save=["embed"]), refused="it replaces a row of one weight twice"
    ),
    "empty": Recipe(LoraConfig(), refused="it has no target"),
}
"""What may be added to `SmallModel`: tuners, copies and rows, which meet and do not; and what must be refused."""


class StateSystem(AdapterSystem):
    """`AdapterState` on a `SmallModel`.

    Args:
        grad_follows: as for `adapterstate.attach`.
    """

    recipes = RECIPES
    x = torch.arange(8).reshape(2, 4)

    def __init__(self, grad_follows: Any = "trainability") -> None:
        self.options = Options(grad_follows=grad_follows)
        self.model = SmallModel().eval()
        self.plain = copy.deepcopy(self.model)
        self.plain.head.weight = nn.Parameter(self.plain.head.weight.detach().clone())  # both ends of the tie, each with its own weight
        self.state: AdapterState = attach(self.model, grad_follows=grad_follows)

    def add_adapter(self, name: str, config: Any, /, **options: Any) -> None:
        self.state.add_adapter(name, config, **options)

    def set_adapter(self, names: list[str], /, **options: Any) -> None:
        self.state.set_adapter(names, **options)

    def delete_adapter(self, name: str, /) -> None:
        self.state.delete_adapter(name)

    def merge_adapter(self, names: list[str], /) -> None:
        self.state.merge_adapter(names)

    def unmerge_adapter(self) -> None:
        self.state.unmerge_adapter()

    def enable_adapters(self) -> None:
        self.state.enable_adapters()

    def disable_adapters(self) -> None:
        self.state.disable_adapters()

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        self.state.set_requires_grad(names, requires_grad)

    def disable_adapter(self) -> AbstractContextManager[object]:
        return self.state.disable_adapter()

    def use_adapter(self, names: list[str], /, **options: Any) -> AbstractContextManager[object]:
        return self.state.use_adapter(names, **options)

    def observe(self) -> Observation:
        contexts = {path: facts.context for path, facts in self.state.facts.modules.items()}
        views = {path: ModuleView(tuple(here.present), here.active, here.merged) for path, here in contexts.items()}
        grads = {name: grads_of(parameters.values()) for name, parameters in self._parameters().items()}
        return Observation(views, self.state.enabled, grads)

    def forward(self, x: Any, /) -> torch.Tensor:
        output: torch.Tensor = self.model(x)
        return output

    def perturb(self, name: str, seed: int, /) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self._parameters()[name].values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu"))

    def fingerprint(self) -> Fingerprint:
        return fingerprint_of(self.model)

    def tensors(self) -> Tensors:
        modules = dict(self.model.named_modules(remove_duplicate=False))
        paths = dict.fromkeys(part.path for recipe in self.recipes.values() for part in recipe.parts)
        base = {path: {name: _own(modules[path], name) for name in dict(modules[path].named_parameters(recurse=False))} for path in paths}
        own = self._parameters()
        slots = {
            path: {name: list(self._slots(path, name, own[name])) for name in facts.context.present}
            for path, facts in self.state.facts.modules.items()
        }
        return Tensors(base, slots)

    def dense_forward(self, weights: Mapping[str, Mapping[str, torch.Tensor]], x: Any, /) -> torch.Tensor:
        return dense_output(self.plain, weights, x)

    def _parameters(self) -> dict[str, dict[tuple[str, str], nn.Parameter]]:
        """Adapter -> path of a module and name there -> its parameter. Read off the modules."""
        found: dict[str, dict[tuple[str, str], nn.Parameter]] = {name: {} for name in self.state.adapters}
        for whole, module in self.model.named_modules():
            path, _, name = whole.rpartition(".adapters.")
            if name and isinstance(module, SlotModule):
                found.setdefault(name, {}).update({(path, key): value for key, value in module.named_parameters()})
        return found

    def _slots(self, path: str, name: str, own: Mapping[tuple[str, str], nn.Parameter]) -> Iterator[Slot]:
        """What an adapter stores at one module, or at the other end of its tie."""
        recipe = self._recipe_of(name)
        ends = {"embed": ("embed", "head"), "head": ("head", "embed")}.get(path, (path,))
        for part in recipe.parts:
            if part.path != path:
                continue
            if part.kind == "tuner":
                a, b = (own[at] for at in own if at[0] == path and at[1].startswith("lora_"))
                yield Slot("tuner", (b @ a).T if path == "embed" else b @ a, scale=recipe.config.lora_alpha / recipe.config.r)
            else:
                key = part.weight if part.kind == "copy" else "trainable_tokens"
                yield Slot(part.kind, next(own[end, key] for end in ends if (end, key) in own), part.weight, part.rows)

    def _recipe_of(self, name: str) -> Recipe:
        config = self.state.facts.adapters[name].config
        return next(recipe for recipe in self.recipes.values() if recipe.config is config)


def dense_output(plain: nn.Module, weights: Mapping[str, Mapping[str, torch.Tensor]], x: Any) -> torch.Tensor:
    """Return the output of a plain model with these weights: module path -> name -> value."""
    given = {f"{path}.{name}": value for path, here in weights.items() for name, value in here.items()}
    output: torch.Tensor = torch.func.functional_call(plain, given, (x,))
    return output


def _own(module: nn.Module, name: str) -> torch.Tensor:
    """A base parameter as it is stored, whatever a read of it would return."""
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter
