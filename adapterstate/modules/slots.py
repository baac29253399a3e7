"""Where an adapter's tensors live: one `Slot` per adapter and wrapped module, in the module's child `adapters`.

Both classes keep the registries that they never fill as class attributes, which takes a slot from 2,400 to some 340 bytes of Python
objects.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

CHILD = "adapters"
"""Name of the child of a wrapped module that holds its slots: part of the keys in ``state_dict``."""


def _nothing(*_: object) -> None:
    """Do nothing: a hook."""


class _Lean(nn.Module):
    """An `nn.Module` whose unused registries are shared by all instances and cannot be written to."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # nn.Module.__setstate__ would fill in a registry of its own for each one that is missing, hooks included
        self.__dict__.update(state)

    def _own(self, registry: str) -> None:
        """Give this instance a registry of its own."""
        self.__dict__.setdefault(registry, OrderedDict())

    def register_load_state_dict_post_hook(self, hook: Any) -> Any:
        """As `nn.Module` does: `fully_shard` registers one in every module that has parameters."""
        self._own("_load_state_dict_post_hooks")
        return super().register_load_state_dict_post_hook(hook)  # type: ignore[no-untyped-call]

    def register_state_dict_pre_hook(self, hook: Any) -> Any:
        """As `nn.Module` does, for `fully_shard`."""
        self._own("_state_dict_pre_hooks")
        return super().register_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]

    def _register_load_state_dict_pre_hook(self, hook: Any, with_module: bool = False) -> Any:
        self._own("_load_state_dict_pre_hooks")
        return super()._register_load_state_dict_pre_hook(hook, with_module)  # type: ignore[no-untyped-call]


for _name, _registry in nn.Module().__dict__.items():
    if _name not in ("_parameters", "_modules", "training"):
        setattr(_Lean, _name, MappingProxyType(OrderedDict()) if isinstance(_registry, dict) else _registry)
_Lean._non_persistent_buffers_set = frozenset()  # type: ignore[assignment]
_Lean.training = True


class Slot(_Lean):
    """One adapter's parameters and buffers on one wrapped module.

    It is never called. It carries a forward pre-hook that does nothing, which makes `nn.TransformerEncoderLayer` leave its fast path: that
    one reads the weights of its children without calling them, and would silently ignore a tuner.
    """

    _modules: dict[str, nn.Module | None] = MappingProxyType({})  # type: ignore[assignment]
    _forward_pre_hooks: OrderedDict[int, Any] = MappingProxyType(OrderedDict({0: _nothing}))  # type: ignore[assignment]

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        # nn.Module.__init__ would make the registries that this class shares; asking for __dict__ would make that, too
        parameters = {k: t for k, t in tensors.items() if type(t) is nn.Parameter or isinstance(t, nn.Parameter)}
        object.__setattr__(self, "_parameters", parameters)
        if len(parameters) < len(tensors):
            object.__setattr__(self, "_buffers", {k: t for k, t in tensors.items() if k not in parameters})

    def forward(self, *_: object) -> None:
        """Refuse: a slot computes nothing."""
        raise NotImplementedError("a slot holds tensors and computes nothing")


class Slots(_Lean):
    """The slots of one wrapped module by adapter name. Any name will do: it is a key of a plain dict."""

    _parameters: dict[str, nn.Parameter | None] = MappingProxyType({})  # type: ignore[assignment]

    def __init__(self) -> None:
        object.__setattr__(self, "_modules", {})


def first_paths(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module of `model` once, with its first path; adapters' slots, which may be many, are not looked through."""
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        children = [(f"{path}.{name}" if path else name, child) for name, child in module._modules.items() if child is not None]
        waiting += [(name, child) for name, child in reversed(children) if not isinstance(child, Slots)]


def slots_of(module: nn.Module) -> Mapping[str, Slot]:
    """Return the slots that `module` registers, by adapter name; empty when it has none."""
    container = module._modules.get(CHILD)
    return container._modules if isinstance(container, Slots) else {}  # type: ignore[return-value]
