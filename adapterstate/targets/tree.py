"""What has to be known of a model to match and place targets: the paths of its modules, and who holds the same tensors.

A module is known by its identity and may have several paths; the first of them, in the order of `named_modules`, names it in messages.
Slots of adapters are never looked into.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import nn

from adapterstate.modules.slots import CHILD, Slots


@attrs.frozen(eq=False)
class End:
    """One place at which a tensor is held: a module, and the name there."""

    module: nn.Module
    name: str


@attrs.frozen(eq=False, slots=False)  # so that what is rarely asked for is worked out only then
class Tree:
    """The modules of one model.

    Attributes:
        root: the model itself, whose path is ``""``.
        paths: module -> its paths. Modules come in the order of `named_modules`.
    """

    root: nn.Module
    paths: Mapping[nn.Module, tuple[str, ...]]

    @functools.cached_property
    def ends(self) -> Mapping[int, tuple[End, ...]]:
        """Identity of a parameter -> the places at which it is held, in the order of the modules. More than one: the parameter is tied."""
        ends: dict[int, list[End]] = {}
        for module in self.paths:
            for name, tensor in module._parameters.items():
                if tensor is not None:
                    ends.setdefault(id(tensor), []).append(End(module, name))
        return {key: tuple(all_) for key, all_ in ends.items()}

    def path(self, module: nn.Module) -> str:
        """Return the path that names `module` in messages."""
        return self.paths[module][0]

    def elsewhere(self, tensor: torch.Tensor, module: nn.Module) -> tuple[End, ...]:
        """Return the places outside `module` at which the parameter `tensor` is held."""
        return tuple(end for end in self.ends.get(id(tensor), ()) if end.module is not module)


def survey(model: nn.Module) -> Tree:
    """Look at all modules of `model` once. Costs time proportional to the number of paths."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in _walk(model, "", ()):
        paths.setdefault(module, []).append(path)
    return Tree(model, {module: tuple(all_) for module, all_ in paths.items()})


def below(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return `module` and all modules below it, each once, slots left out."""
    return tuple(dict.fromkeys(found for _, found in _walk(module, "", ())))


def tensors_of(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """Return the parameters and buffers that `module` itself holds without any adapter, by name."""
    held = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in held.items() if tensor is not None}


def class_name(module: nn.Module) -> str:
    """Name the module's class as its author wrote it, below one that other adapters have put on top."""
    return next(cls.__name__ for cls in type(module).__mro__ if not cls.__module__.startswith("adapterstate."))


def _walk(module: nn.Module, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, nn.Module]]:
    """Yield every path and its module. A module that contains itself, which `named_modules` would follow for ever, is followed once."""
    yield path, module
    above = (*above, id(module))
    start = f"{path}." if path else ""
    for name, child in module._modules.items():
        if child is None or isinstance(child, Slots) or id(child) in above:
            continue
        inner = child._modules
        if not inner or (len(inner) == 1 and isinstance(inner.get(CHILD), Slots)):
            yield start + name, child  # most modules have no children, and a generator for each would take its time
        else:
            yield from _walk(child, start + name, above)
