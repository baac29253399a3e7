"""The extension point: what a kind of adapter has to say about itself.

A *config* decides where an adapter goes (`place`); a *method* says how it computes on one wrapped module. There are two shapes of method. A
`Tuner` adds to a module's output; an `Auxiliary` replaces rows of base parameters or buffers. The built-in kinds are written through
these protocols and nothing else: states, switching, merging, freezing, copying and undoing come from the charts, without a line here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard, runtime_checkable

import attrs
import torch
from torch import nn


@runtime_checkable
class Tuner(Protocol):
    """A method that adds to a module's output. Immutable; holds no tensors and no module.

    A method whose `delta` adds to other parameters than ``"weight"`` names them in an attribute ``adds_to``, a tuple of names, so that a
    merge is refused where the module does not store one of them.

    Attributes:
        kind: the name shown in tables and refusals, such as ``"lora"``.
    """

    @property
    def kind(self) -> str: ...

    def tensors(self, module: nn.Module, *, autocast: bool) -> Mapping[str, torch.Tensor]:
        """Make this adapter's tensors for `module`: a `Parameter` becomes a parameter of the slot, any other tensor a buffer.

        Called before anything is written, outside inference mode. It may draw from torch's global generators, which are put back
        when the event fails, and may raise. Tensors are to be made on the device of the module's weight.

        Args:
            module: the module that is about to be wrapped, read only.
            autocast: whether half-precision base weights get float32 adapter parameters.
        """
        ...

    def live(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Live:
        """Make the callable that adds this adapter's part in forward.

        Args:
            module: the wrapped module, to be asked for what is fixed about it (its class, stride, dtype); it must not be kept.
            tensors: the slot's tensors by name. It must be kept as it is and looked up at each call, never copied out of, so that
                `Parameter` objects may be exchanged later.
        """
        ...

    def delta(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Compute what this adapter amounts to when added to base parameters: name -> dense tensor of the base's shape.

        Computed in at least float32. Used to merge; the result is rounded once, by the caller.
        """
        ...


class Live(Protocol):
    """What a tuner leaves in the tuple that forward walks. Small, with ``__slots__``: one per slot."""

    def __call__(self, module: Any, output: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return `output` with this adapter's part added; `args` and `kwargs` are those of the module's forward."""
        ...

    def weighted(self, weight: float) -> Live:
        """Return one that adds `weight` times as much, with the same tensors."""
        ...

    def refresh(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
        """Decide again what depends on the module's dtype or device, after one of them may have changed."""
        ...


@runtime_checkable
class Auxiliary(Protocol):
    """A method that replaces rows of base parameters or buffers. Immutable; holds no tensors and no module."""

    @property
    def kind(self) -> str: ...

    def tensors(self, module: nn.Module, *, autocast: bool) -> Mapping[str, torch.Tensor]:
        """As `Tuner.tensors`. `base_tensor` reads what the module holds without any adapter."""
        ...

    def replaces(self) -> Mapping[str, tuple[int, ...] | None]:
        """Name of a base parameter or buffer -> the rows of dimension 0 that are replaced, or None for all of them."""
        ...

    def replacement(self, name: str, base: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what stands in place of rows of `base`: all of its shape, or one row for each that `replaces` lists, in that order."""
        ...


Method = Tuner | Auxiliary


def is_tuner(method: Method) -> TypeGuard[Tuner]:
    """Whether a method adds to a module's output."""
    return _has(type(method), Tuner)


def is_auxiliary(method: Method) -> TypeGuard[Auxiliary]:
    """Whether a method replaces rows of base tensors."""
    return _has(type(method), Auxiliary)


@functools.lru_cache(maxsize=4096)
def _has(cls: type, protocol: Any) -> bool:
    """Whether a class has what a protocol asks for. Python works this out anew, slowly, each time that it is asked."""
    return all(hasattr(cls, name) for name in _MEMBERS[protocol])


_MEMBERS = {
    Tuner: ("kind", "tensors", "live", "delta"),
    Auxiliary: ("kind", "tensors", "replaces", "replacement"),
}


@attrs.frozen(eq=False)
class Site:
    """One place where a config puts one method.

    Attributes:
        path: any path of the module, used in messages.
        module: the module itself.
        method: how the adapter computes there.
        shares: name of a tensor that `method` uses but does not make -> the module whose slot of this adapter holds it, and its name
            there. This is how one parameter acts at several ends of a tie and is still registered once.
    """

    path: str
    module: nn.Module
    method: Method
    shares: Mapping[str, tuple[nn.Module, str]] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Placement:
    """Where an adapter would go, and everything that is wrong with that. Nothing has been made or written.

    Attributes:
        sites: where it goes.
        target_problems: path (``""`` for the model) -> why the targets are refused there. Raised as `TargetError`.
        uncalled: path -> why a tuner there would never run. Raised as `ForwardNotCalledError`.
        warnings: texts to warn with when the adapter is added.
    """

    sites: tuple[Site, ...] = ()
    target_problems: Mapping[str, str] = attrs.field(factory=dict)
    uncalled: Mapping[str, str] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = ()


@runtime_checkable
class AdapterConfig(Protocol):
    """What `add_adapter` takes. `LoraConfig` is one; any frozen value with these three will do."""

    @property
    def inference_mode(self) -> bool:
        """Whether the adapter starts frozen."""
        ...

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the config's own values, whatever the model. Raised as `ConfigError`."""
        ...

    def place(self, model: nn.Module) -> Placement:
        """Decide where the adapter goes in `model`, without writing anything. Called only when `problems()` is empty."""
        ...


def base_tensor(module: nn.Module, name: str) -> torch.Tensor:
    """Return what `module` holds under `name` without any adapter: its own parameter or buffer."""
    found: torch.Tensor | None = module._parameters.get(name)
    if found is None:
        found = module._buffers.get(name)
    if found is None:
        raise KeyError(name)
    return found
