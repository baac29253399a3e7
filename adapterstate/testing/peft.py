"""The shipped system over a `PeftModel`, for PEFT 0.17 and newer: PEFT as it is, or attached to this package's state.

Needs PEFT and transformers: ``pip install "adapterstate[peft,testing]"``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import peft
import torch
from torch import nn

from adapterstate.attaching import attach
from adapterstate.testing.ours import copies, dense_output, lora
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

PREFIX = "base_model.model."


class SmallModel(nn.Module):
    """An embedding, two linear layers, a block and a head. ``(2, 4)`` tokens give ``(2, 4, 8)`` logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits of every token."""
        hidden = self.embed(tokens)
        hidden = hidden + self.second(self.first(hidden))
        logits: torch.Tensor = self.head(hidden + self.block(hidden))
        return logits


HEAD = copies("head", "weight", "bias")
BLOCK = copies("block", "0.weight", "0.bias", "2.weight", "2.bias")


def _config(*targets: str, **options: Any) -> Any:
    """A LoRA config of PEFT."""
    return peft.LoraConfig(**{"r": 2, "target_modules": list(targets), **options})


def recipes() -> Mapping[str, Recipe]:
    """What may be added: LoRA, copies and rows, which meet and do not; and what must be refused."""
    rows = {"trainable_token_indices": {"embed": [2, 1]}}
    return {
        "lora": Recipe(_config("first", "second"), lora("first", "second")),
        "lora on one": Recipe(_config("second", r=1), lora("second")),
        "frozen": Recipe(_config("first", inference_mode=True), lora("first"), trainable=False),
        "head": Recipe(_config("first", modules_to_save=["head"]), (*lora("first"), *HEAD)),
        "head and block": Recipe(_config("second", modules_to_save=["head", "block"]), (*lora("second"), *HEAD, *BLOCK)),
        "rows": Recipe(_config("first", **rows), (*lora("first"), Part("embed", "tokens", "weight", (2, 1)))),
        "other rows": Recipe(
            _config("second", trainable_token_indices={"embed": [3, 4]}), (*lora("second"), Part("embed", "tokens", "weight", (3, 4)))
        ),
        "rows again": Recipe(
            _config("first", trainable_token_indices={"embed": [4, 1]}), (*lora("first"), Part("embed", "tokens", "weight", (4, 1)))
        ),
        "no target": Recipe(_config("nothing"), refused="its targets match nothing"),
        "no rank": Recipe(_config("first", r=1), refused="its rank is not positive"),
        "no row": Recipe(_config("first", trainable_token_indices={"embed": [8]}), refused="a token index is out of range"),
    }


class PeftSystem(AdapterSystem):
    """A `PeftModel` on a `SmallModel`.

    PEFT makes a model with its first adapter: as it is, there is only the base before that one.

    Args:
        attached: drive it by an attached state; False for PEFT as it is.
    """

    x = torch.arange(8).reshape(2, 4)

    def __init__(self, *, attached: bool = True) -> None:
        self.recipes = recipes()
        self.attached = attached
        self.options = Options(grad_follows="activation", fallback="first", merge_activates=True)
        lacks = ("no_trace", "odd_names", "flags")
        self.unsupported = lacks if attached else (*lacks, "weights", "on_overlap", "use_adapter")
        self.base = SmallModel().double().eval()  # what rounding does is no finding
        self.plain = copy.deepcopy(self.base)
        self.model: Any = None
        self.state: Any = None
        self._off = 0  # how often adapters were disabled before there was a model to be told
        if attached:
            # PEFT makes no model without an adapter, so that there was one before the first
            self.model = peft.get_peft_model(self.base, _config("first"), adapter_name="before").eval()
            self.state = attach(self.model)
            self.state.delete_adapter("before")

    # ----------------------------------------------------------------------------------------------------------------- events

    def add_adapter(self, name: str, config: Any, /, **options: Any) -> None:
        own = _spoilt(config) if config is self.recipes["no rank"].config else copy.deepcopy(config)  # PEFT writes into configs
        with _quiet():
            if self.attached:
                self.state.add_adapter(name, own, **options)
            elif self.model is not None:
                self.model.add_adapter(name, own)
            elif not name or "." in name:
                raise ValueError(f"{name!r} is no name")
            else:  # on a copy: what a failure leaves in a base without a model is nothing that an event could undo
                self.model = peft.get_peft_model(copy.deepcopy(self.base), own, adapter_name=name)
                if self._off:
                    self.model.base_model.disable_adapter_layers()
        self.model.eval()

    def set_adapter(self, names: list[str], /, **options: Any) -> None:
        with _quiet():
            if self.attached:
                self.state.set_adapter(names, **options)
            else:
                self._made(names).base_model.set_adapter(names)

    def delete_adapter(self, name: str, /) -> None:
        with _quiet():
            self._made(name).delete_adapter(name)

    def merge_adapter(self, names: list[str], /) -> None:
        with _quiet():
            self._made(names).base_model.merge_adapter(list(names))

    def unmerge_adapter(self) -> None:
        with _quiet():
            if self.model is not None:
                self.model.base_model.unmerge_adapter()

    def enable_adapters(self) -> None:
        with _quiet():
            if self.model is None:
                self._off = 0
            else:
                self.model.base_model.enable_adapter_layers()

    def disable_adapters(self) -> None:
        with _quiet():
            if self.model is None:
                self._off = 1
            else:
                self.model.base_model.disable_adapter_layers()

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        with _quiet():
            self._made(names).set_requires_grad(names, requires_grad)

    def disable_adapter(self) -> AbstractContextManager[object]:
        if self.model is None:
            return self._off_for_a_while()
        context: AbstractContextManager[object] = self.model.disable_adapter()
        return context

    @contextmanager
    def _off_for_a_while(self) -> Iterator[None]:
        """As PEFT's context, where there is no model yet."""
        self._off += 1
        yield
        self._off -= 1
        if self.model is not None and not self._off:
            self.model.base_model.enable_adapter_layers()

    def use_adapter(self, names: list[str], /, **options: Any) -> AbstractContextManager[object]:
        context: AbstractContextManager[object] = self.state.use_adapter(names, **options)
        return context

    def _made(self, names: Any = ()) -> Any:
        """The model; before the first adapter there is none, and no name to be known."""
        if self.model is None:
            raise ValueError(f"there is no adapter yet, {names!r} was given")
        return self.model

    # ------------------------------------------------------------------------------------------------------------------ looking

    def observe(self) -> Observation:
        configs = list(self.model.peft_config) if self.model is not None else []
        views, grads = {}, {name: [] for name in configs}  # type: dict[str, ModuleView], dict[str, list[nn.Parameter]]
        disabled = []
        for path, layer in self._layers():
            disabled.append(bool(layer._disable_adapters))
            here = _names(layer)
            for name in configs:
                grads[name] += list(_parameters(layer, name))
            known = [name for name in configs if name in here]
            active = layer.active_adapters
            active = [active] if isinstance(active, str) else list(active)
            merged = getattr(getattr(layer, "token_adapter", layer), "merged_adapters", [])
            if known:
                on = [name for name in active if name in known]
                views[path] = ModuleView(known, on, [name for name in on if name in merged])
        off = any(disabled) or (self.model is None and self._off > 0)
        return Observation(views, not off, {name: grads_of(parameters) for name, parameters in grads.items()})

    def forward(self, x: Any, /) -> torch.Tensor:
        output: torch.Tensor = (self.base if self.model is None else self.model)(x)
        return output

    def perturb(self, name: str, seed: int, /) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, layer in self._layers():
                for parameter in _parameters(layer, name):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu"))

    def fingerprint(self) -> Fingerprint:
        return fingerprint_of(self.base if self.model is None else self.model)

    def tensors(self) -> Tensors:
        paths = dict.fromkeys(part.path for recipe in self.recipes.values() for part in recipe.parts)
        base = {path: dict(self.plain.get_submodule(path).named_parameters()) for path in paths}
        slots: dict[str, dict[str, list[Slot]]] = {}
        for path, layer in self._layers():
            slots[path] = {name: list(_slots(layer, name)) for name in _names(layer)}
        return Tensors(base, slots)

    def dense_forward(self, weights: Mapping[str, Mapping[str, torch.Tensor]], x: Any, /) -> torch.Tensor:
        return dense_output(self.plain, weights, x)

    def _layers(self) -> Iterator[tuple[str, Any]]:
        """PEFT's layers and wrappers, by the path of the module that they stand for."""
        if self.model is None:
            return
        for path, module in self.model.named_modules():
            if "_active_adapter" in module.__dict__ and not path.endswith(".token_adapter"):
                yield path.removeprefix(PREFIX), module


def _names(layer: Any) -> set[str]:
    """The adapters that have weights on a layer."""
    if hasattr(layer, "token_adapter"):
        return set(layer.token_adapter.trainable_tokens_delta)
    return set(layer.modules_to_save if hasattr(layer, "modules_to_save") else layer.lora_A)


def _parameters(layer: Any, name: str) -> Iterator[nn.Parameter]:
    """The parameters of one adapter on a layer."""
    if hasattr(layer, "token_adapter"):
        containers = [layer.token_adapter.trainable_tokens_delta]
    else:
        containers = [layer.modules_to_save] if hasattr(layer, "modules_to_save") else [layer.lora_A, layer.lora_B]
    for container in containers:
        if name in container:
            yield from container[name].parameters() if isinstance(container[name], nn.Module) else [container[name]]


def _slots(layer: Any, name: str) -> Iterator[Slot]:
    """The values of one adapter on a layer."""
    if hasattr(layer, "token_adapter"):
        inner = layer.token_adapter
        yield Slot("tokens", inner.trainable_tokens_delta[name].detach(), "weight", tuple(inner.token_indices[name]))
    elif hasattr(layer, "modules_to_save"):
        for key, value in layer.modules_to_save[name].named_parameters():
            yield Slot("copy", value.detach(), key)
    else:
        yield Slot("tuner", (layer.lora_B[name].weight @ layer.lora_A[name].weight).detach(), scale=layer.scaling[name])


def _spoilt(config: Any) -> Any:
    """A config with a rank that is not positive."""
    spoilt = copy.deepcopy(config)
    spoilt.r = 0
    return spoilt


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PEFT's warnings, which a thousand events would give a thousand times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
