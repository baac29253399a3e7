"""A small correct implementation with flags on every layer, written to be broken: each method is one thing that can go wrong."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from adapterstate.testing import (
    AdapterSystem,
    Fingerprint,
    ModuleView,
    Observation,
    Part,
    Recipe,
    Slot,
    Tensors,
    fingerprint_of,
    grads_of,
)


@attrs.frozen
class Config:
    lora: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    frozen: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.lora, *self.copies, *(("embed", "head") if self.rows else ()))))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.third = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        return self.head(hidden + self.third(self.second(self.first(hidden)).tanh()))


class Layer(nn.Module):
    """Stands in the place of a module; what is active, merged and disabled is written on it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.slots = nn.ModuleDict()
        self.active: list[str] = []
        self.merged: list[str] = []
        self.weights: dict[str, float] = {}
        self.policies: dict[str, str] = {}
        self.policy: str | None = None
        self.cache: dict[str, torch.Tensor] | None = None
        self.disabled = False

    def replaces(self, name: str) -> dict[str, tuple[int, ...]]:
        """Name of a weight -> its rows that the adapter replaces here."""
        slot, base = self.slots[name], dict(self.base.named_parameters(recurse=False))
        if "rows" in slot.extra:
            return {"weight": slot.extra["rows"]}
        return {key: tuple(range(len(base[key]))) for key in ("weight", "bias") if key in slot.values}

    def share(self, name: str) -> float:
        return self.weights.get(name, 1.0)

    def sums(self, name: str) -> bool:
        return (self.policy or self.policies[name]) == "sum"

    def delta(self, name: str) -> torch.Tensor | None:
        values = self.slots[name].values
        return values["B"] @ values["A"] if "B" in values else None

    def compute(self, names: list[str]) -> dict[str, torch.Tensor]:
        base = dict(self.base.named_parameters(recurse=False))
        result = {key: value.clone() for key, value in base.items()}
        for name in names:
            for key, rows in self.replaces(name).items():
                where = list(rows)
                difference = self.share(name) * (self.slots[name].values[key] - base[key][where])
                result[key][where] = (result if self.sums(name) else base)[key][where] + difference
        return self.add_deltas(result, names)

    def add_deltas(self, result: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
        for name in names:
            delta = self.delta(name)
            if delta is not None:
                result["weight"] = result["weight"] + self.share(name) * delta
        return result

    def effective(self) -> dict[str, torch.Tensor]:
        live = [name for name in self.active if name not in self.merged]
        if self.cache is not None and not any(self.replaces(name) for name in live):
            return self.add_deltas(dict(self.cache), live)
        return self.compute(self.active)

    def merge(self, names: list[str]) -> None:
        self.merged = [name for name in self.active if name in (*self.merged, *names)]
        self.cache = {key: value.detach() for key, value in self.compute(self.merged).items()} if self.merged else None

    def unmerge(self) -> None:
        self.merged, self.cache = [], None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.disabled or not self.active:
            return self.base(x)
        return torch.func.functional_call(self.base, self.effective(), (x,))


class Values(nn.Module):
    """What one adapter stores on one layer."""

    def __init__(self, values: dict[str, nn.Parameter], **extra: Any) -> None:
        super().__init__()
        self.values = nn.ParameterDict(values)
        self.extra = extra


def lora(*paths: str) -> list[Part]:
    return [Part(path, "tuner") for path in paths]


def copies(path: str) -> list[Part]:
    return [Part(path, "copy", key) for key in (("weight",) if path == "head" else ("weight", "bias"))]


def rows(*which: int) -> list[Part]:
    return [Part(path, "tokens", rows=which) for path in ("embed", "head")]


class Toy(AdapterSystem):
    recipes: Mapping[str, Recipe] = {
        "lora": Recipe(Config(lora=("first", "second")), lora("first", "second")),
        "lora on third": Recipe(Config(lora=("third",)), lora("third")),
        "frozen": Recipe(Config(lora=("first",), frozen=True), lora("first"), trainable=False),
        "rows": Recipe(Config(lora=("first",), rows=(1, 2)), [*lora("first"), *rows(1, 2)]),
        "other rows": Recipe(Config(rows=(3, 4)), rows(3, 4)),
        "rows again": Recipe(Config(rows=(4, 1)), rows(4, 1)),
        "copy": Recipe(Config(lora=("first",), copies=("second",)), [*lora("first"), *copies("second")]),
        "other copy": Recipe(Config(copies=("second", "third")), [*copies("second"), *copies("third")]),
        "head": Recipe(Config(copies=("head",)), copies("head")),
        "no module": Recipe(Config(lora=("first", "nothing")), refused="it names a module that is not there"),
        "no row": Recipe(Config(lora=("first",), rows=(6,)), refused="it names a row that is not there"),
    }
    x = torch.arange(6).reshape(2, 3)
    layer_class = Layer

    def __init__(self) -> None:
        self.model = Model().eval()
        self.plain = copy.deepcopy(self.model)
        self.plain.head.weight = nn.Parameter(self.plain.head.weight.detach().clone())
        self.configs: dict[str, Config] = {}
        self.policies: dict[str, str] = {}
        self.trainable: dict[str, bool] = {}
        self.active: list[str] = []
        self.weights: dict[str, float] = {}
        self.policy: str | None = None
        self.disabled = False
        self.contexts = 0

    # ---- looking

    def layers(self) -> dict[str, Layer]:
        return {path: child for path, child in self.model.named_children() if isinstance(child, Layer)}

    def parameters(self, name: str) -> list[nn.Parameter]:
        found = [p for layer in self.layers().values() if name in layer.slots for p in layer.slots[name].parameters()]
        return list({id(p): p for p in found}.values())

    def observe(self) -> Observation:
        layers = self.layers()
        views = {path: ModuleView(tuple(layer.slots), layer.active, layer.merged) for path, layer in layers.items()}
        enabled = not any(layer.disabled for layer in layers.values()) if layers else self.enabled
        return Observation(views, enabled, {name: grads_of(self.parameters(name)) for name in self.configs})

    def forward(self, x: Any, /) -> torch.Tensor:
        return self.model(x)

    def perturb(self, name: str, seed: int, /) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu"))

    def fingerprint(self) -> Fingerprint:
        return fingerprint_of(self.model)

    def tensors(self) -> Tensors:
        base = {path: dict(module.named_parameters()) for path, module in self.plain.named_children()}
        slots = {
            path: {name: list(self._slots(layer, name)) for name in layer.slots if name in self.configs}
            for path, layer in self.layers().items()
        }
        return Tensors(base, slots)

    def _slots(self, layer: Layer, name: str) -> Iterator[Slot]:
        values = layer.slots[name].values
        if "B" in values:
            yield Slot("tuner", values["B"] @ values["A"])
        if "rows" in layer.slots[name].extra:
            yield Slot("tokens", values["weight"], rows=layer.slots[name].extra["rows"])
        elif "weight" in values:
            yield from (Slot("copy", values[key], key) for key in ("weight", "bias") if key in values)

    def dense_forward(self, weights: Any, x: Any, /) -> torch.Tensor:
        given = {f"{path}.{key}": value for path, here in weights.items() for key, value in here.items()}
        return torch.func.functional_call(self.plain, given, (x,))

    # ---- deciding

    def refuse(self, wrong: object, why: str) -> None:
        if wrong:
            raise ValueError(why)

    def check_new(self, name: str, config: Config) -> None:
        self.refuse(not name or "." in name, "no name")
        self.refuse(name in self.configs, "taken")
        modules = dict(self.plain.named_children())
        self.refuse(any(path not in modules for path in config.paths), "no such module")
        self.refuse(any(row not in range(6) for row in config.rows), "no such row")

    def check_names(self, names: list[str]) -> None:
        self.refuse([name for name in names if name not in self.configs], "unknown")
        self.refuse(len(set(names)) < len(names), "duplicate")

    def check_policy(self, policy: str | None) -> None:
        self.refuse(policy not in (None, "error", "sum", "override"), "no policy")

    def check_weights(self, names: list[str], weights: list[float] | None) -> None:
        self.refuse(weights is not None and len(weights) != len(names), "not as many")
        self.refuse(not all(math.isfinite(weight) for weight in weights or ()), "not finite")

    def check_overlap(self, names: list[str], policy: str | None) -> None:
        for layer in self.layers().values():
            self.check_layer(layer, [name for name in names if name in layer.slots], policy)

    def check_layer(self, layer: Layer, here: list[str], policy: str | None) -> None:
        for one, two in itertools.combinations(here, 2):
            if self.meet(layer, one, two):
                self.refuse(not self.agree(policy or self.policies[one], policy or self.policies[two]), "overlap")

    def agree(self, one: str, two: str) -> bool:
        return one == two != "error"

    def meet(self, layer: Layer, one: str, two: str) -> bool:
        mine, other = layer.replaces(one), layer.replaces(two)
        return any(set(mine[key]) & set(other[key]) for key in mine if key in other)

    # ---- doing

    @property
    def enabled(self) -> bool:
        return not self.disabled and not self.contexts

    def make(self, path: str, config: Config, made: dict[str, nn.Parameter]) -> Values:
        base = dict(dict(self.plain.named_children())[path].named_parameters())
        values: dict[str, nn.Parameter] = {}
        if path in config.lora:
            shape = base["weight"].shape
            values |= {"A": nn.Parameter(torch.randn(1, shape[1])), "B": nn.Parameter(torch.zeros(shape[0], 1))}
        if path in config.copies:
            values |= {key: nn.Parameter(value.detach().clone()) for key, value in base.items()}
        if config.rows and path in ("embed", "head"):
            values["weight"] = made.setdefault("rows", nn.Parameter(base["weight"].detach()[list(config.rows)].clone()))
            return Values(values, rows=config.rows)
        return Values(values)

    def add_adapter(self, name: str, config: Config, /, on_overlap: str = "error") -> None:
        self.check_policy(on_overlap)
        self.check_new(name, config)
        self.place(name, config)
        first = self.is_first()
        self.configs[name], self.policies[name], self.trainable[name] = config, on_overlap, not config.frozen
        if first:
            self.switch([name], [1.0], None)
        self.refresh()

    def is_first(self) -> bool:
        return not self.configs

    def place(self, name: str, config: Config) -> None:
        made: dict[str, nn.Parameter] = {}
        for path in config.paths:
            child = getattr(self.model, path)
            if not isinstance(child, Layer):
                child = self.layer_class(child).eval()
                setattr(self.model, path, child)
            child.slots[name] = self.make(path, config, made).eval()

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        given = [names] if isinstance(names, str) else list(names)
        self.check_names(given)
        self.check_policy(on_overlap)
        self.check_weights(given, weights)
        self.check_overlap(given, on_overlap)
        self.switch(given, list(weights or [1.0] * len(given)), on_overlap)
        self.refresh()

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        self.active, self.weights, self.policy = names, dict(zip(names, weights, strict=True)), policy
        for layer in self.layers().values():
            layer.unmerge()
            layer.active = self.order(layer, [name for name in names if name in layer.slots])

    def order(self, layer: Layer, names: list[str]) -> list[str]:
        return names

    def delete_adapter(self, name: str, /) -> None:
        self.check_names([name])
        self.refuse(any(name in layer.merged for layer in self.layers().values()), "merged")
        for facts in (self.configs, self.policies, self.trainable, self.weights):
            facts.pop(name, None)
        self.active = [other for other in self.active if other != name]
        for path, layer in self.layers().items():
            if name in layer.slots:
                self.drop(path, layer, name)
        self.refresh()

    def drop(self, path: str, layer: Layer, name: str) -> None:
        del layer.slots[name]
        layer.active = [other for other in layer.active if other != name]
        if not layer.slots:
            setattr(self.model, path, layer.base)

    def merge_adapter(self, names: list[str], /) -> None:
        self.check_names(names)
        self.refuse([name for name in names if name not in self.active], "inactive")
        for layer in self.layers().values():
            layer.merge([name for name in names if name in layer.slots])

    def unmerge_adapter(self) -> None:
        for layer in self.layers().values():
            layer.unmerge()

    def enable_adapters(self) -> None:
        self.disabled = False
        self.refresh()

    def disable_adapters(self) -> None:
        self.disabled = True
        self.refresh()

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        self.check_names(names)
        self.refuse(not isinstance(requires_grad, bool), "no flag")
        self.trainable |= dict.fromkeys(names, requires_grad)
        self.refresh()

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.contexts += 1
        self.refresh()
        yield
        self.contexts -= 1
        self.refresh()

    @contextlib.contextmanager
    def use_adapter(self, names: list[str], /, weights: Any = None, on_overlap: str | None = None) -> Iterator[None]:
        before = self.active, self.weights, self.policy
        merged = {name for layer in self.layers().values() for name in layer.merged}
        self.set_adapter(names, weights, on_overlap)
        yield
        active = [name for name in before[0] if name in self.configs]
        self.switch(active, [before[1][name] for name in active], before[2])
        self.refresh()
        if merged & set(self.configs):
            self.merge_adapter([name for name in active if name in merged])

    def refresh(self) -> None:
        """Write the flags that follow from the rest to every layer."""
        for layer in self.layers().values():
            layer.weights, layer.policy, layer.policies, layer.disabled = self.weights, self.policy, self.policies, not self.enabled
        for name, flag in self.trainable.items():
            for parameter in self.parameters(name):
                parameter.requires_grad_(flag)
