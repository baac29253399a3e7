"""Generated subclasses: how a module that stays where it is computes with its adapters.

The class of a wrapped module is exchanged for a subclass of it, one per (class, names of parameters and buffers). Its forward runs the
live tuners after the module's own; its properties hand out what the module computes with in place of its own tensors. All that either
consults is one `Wiring` in the module's ``__dict__``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from adapterstate.modules.reads import Replaced
from adapterstate.modules.slots import CHILD, Slots
from adapterstate.modules.wiring import Binding, Wiring, stamp_of

WIRING = "_adapterstate_wiring"
"""Key in a wrapped module's ``__dict__``: its `Wiring`."""
BINDINGS = "_adapterstate_bindings"
"""Key in a wrapped module's ``__dict__``: its `Binding` by adapter name, in the order in which the adapters were added."""


class Wrapped(nn.Module):
    """What every generated class adds to the class it was generated from."""

    _adapterstate_base: ClassVar[type[nn.Module]]
    _adapterstate_names: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute as the module does with the weights that are in force, then add what the live tuners have to add."""
        wiring: Wiring = self.__dict__[WIRING]
        output = super().forward(*args, **kwargs) if wiring.rows is None else wiring.rows(self, *args, **kwargs)
        for live in wiring.live:
            output = live(self, output, *args, **kwargs)
        return output

    def __setattr__(self, name: str, value: Any) -> None:
        parameters, buffers = self._adapterstate_names
        if name in parameters and isinstance(value, nn.Parameter) and _is_an_adapters(self, value):
            raise TypeError(
                f"assigning an adapter's own parameter to the base name {name!r} of {type(self).__name__}: it would be lost with "
                "the adapter, and nothing has changed. Reads return adapters' weights while they are active: tie weights inside "
                "disable_adapter()."
            )
        if name in buffers and isinstance(value, torch.Tensor) and (home := _home_of_buffer(self, name)) is not None:
            home._buffers[name] = value  # the module updates its own buffer, and it is the copy that it computes with
            return
        super().__setattr__(name, value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        cache = self.__dict__[WIRING].cache
        fresh = cache is not None and cache.stamp == stamp_of(self, self.__dict__[BINDINGS], cache.shares)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if cache is not None:
            for read in cache.reads.values():
                read.tensor = fn(read.tensor)
            if fresh:
                cache.stamp = stamp_of(self, self.__dict__[BINDINGS], cache.shares)
        refresh(self)
        return self

    def _replicate_for_data_parallel(self) -> Any:
        raise NotImplementedError("a model with adapters cannot be replicated by nn.DataParallel; use DistributedDataParallel")

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        plain = tuple(self._adapterstate_base if arg is type(self) else arg for arg in args)
        return (_remake, (make, plain, self._adapterstate_base, self._adapterstate_names), *rest)


def _remake(
    make: Callable[..., nn.Module], args: tuple[Any, ...], base: type[nn.Module], names: tuple[tuple[str, ...], tuple[str, ...]]
) -> Any:
    """Make the empty copy of a wrapped module: as its own class would, and then of the generated one."""
    module = make(*args)
    object.__setattr__(module, "__class__", _generate(base, names))  # type: ignore[arg-type]  # classes are hashable
    return module


def generated_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that wraps modules like this one; the same one for all with the same class and tensor names."""
    return _generate(type(module), (tuple(module._parameters), tuple(module._buffers)))  # type: ignore[arg-type]  # classes are hashable


@functools.lru_cache(maxsize=4096)
def _generate(base: type[nn.Module], names: tuple[tuple[str, ...], tuple[str, ...]]) -> type[nn.Module]:
    """Generate the subclass of `base` with one property per parameter and buffer."""
    parameters, buffers = names
    body: dict[str, Any] = {"_adapterstate_base": base, "_adapterstate_names": names, "__doc__": base.__doc__, "__module__": __name__}
    body |= {name: _property("_parameters", name) for name in parameters}
    body |= {name: _property("_buffers", name) for name in buffers}
    return type(f"Adapted{base.__name__}", (Wrapped, base), body)


def _property(registry: str, name: str) -> property:
    """A property that reads the base tensor `name`, or what stands in its place."""

    def read(self: nn.Module) -> Any:
        own = self.__dict__
        try:
            base = own[registry][name]
        except KeyError:
            raise AttributeError(name) from None  # nn.Module.__getattr__ takes over and says the rest
        reads = own[WIRING].reads
        if not reads or name not in reads:
            return base
        if type(base) is not nn.Parameter and type(base).__name__ == "DTensor":  # fully_shard finds its parameters by reading
            return base
        return reads[name](base)

    return property(read)


_moves = 0


def moves() -> int:
    """How often the tensors of a wrapped module have been moved, in all: what was worked out before may not fit since."""
    return _moves


def refresh(module: nn.Module) -> None:
    """Decide again what depends on dtype or device, after `module` may have changed them."""
    global _moves
    _moves += 1
    bindings: dict[str, Binding] = module.__dict__[BINDINGS]
    for binding in bindings.values():
        for part in binding.parts:
            if part.live is not None:
                part.live.refresh(module, part.tensors)
    wiring: Wiring = module.__dict__[WIRING]
    running = (part for share in wiring.view.live for part in bindings[share.name].tuners)
    for part, live in zip(running, wiring.live, strict=False):
        live.refresh(module, part.tensors)  # one with a weight is not the part's own
    for name, read in wiring.reads.items():
        base = module._parameters.get(name)
        base = module._buffers.get(name) if base is None else base  # type: ignore[assignment]
        if isinstance(read, Replaced) and base is not None:
            read.refresh(base.device)
            if wiring.rows is not None:
                wiring.rows.refresh()


def _parts(module: nn.Module) -> Iterator[Any]:
    """Every part of every adapter on a wrapped module."""
    for binding in module.__dict__[BINDINGS].values():
        yield from binding.parts


def _is_an_adapters(module: nn.Module, value: nn.Parameter) -> bool:
    """Whether `value` is a parameter of one of the adapters on this module, wherever it is registered."""
    return any(value is tensor for part in _parts(module) for tensor in part.tensors.values())


def _home_of_buffer(module: nn.Module, name: str) -> nn.Module | None:
    """The slot whose copy of the buffer `name` is in force, if any."""
    read = module.__dict__[WIRING].reads.get(name)
    if not isinstance(read, Replaced):
        return None
    in_force = read.terms[-1].part  # buffers are not summed: the last one is what the module computes with
    bindings: dict[str, Binding] = module.__dict__[BINDINGS]
    return next((b.slot for b in bindings.values() if b.slot is not None and in_force in b.parts and name in b.slot._buffers), None)


def is_wrapped(module: nn.Module) -> bool:
    """Whether a generated class is among the module's classes."""
    return isinstance(module, Wrapped)


def why_not_swappable(module: nn.Module) -> str | None:
    """Say why the class of `module` cannot be exchanged; None when it can. Tried on an empty stand-in, never on the module."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a script module, whose class cannot be exchanged; add adapters before scripting"
    if CHILD in module.__dict__ or CHILD in module._modules or CHILD in module._parameters or CHILD in module._buffers:
        return f"it has a child or attribute {CHILD!r} of its own"
    try:
        stand_in = object.__new__(type(module))
        stand_in.__dict__.update(
            {key: type(value)(value) if isinstance(value, dict) else value for key, value in module.__dict__.items() if key != "forward"}
        )
        if type(module).__setattr__ is not nn.Module.__setattr__:
            setattr(stand_in, CHILD, Slots())
        object.__setattr__(stand_in, "__class__", generated_class(module))
    except MemoryError:
        raise
    except Exception as error:  # whatever a foreign class objects with is the reason
        return f"{type(module).__name__} refuses: {type(error).__name__}: {error}"
    return None


def why_not_called(module: nn.Module) -> str | None:
    """Say why a generated class's forward would not run on `module`; None when it would.

    A hook that came later and keeps the generated forward as ``_old_forward``, as accelerate's do, calls it.
    """
    own = module.__dict__
    if "forward" in own and getattr(own.get("_old_forward"), "__func__", None) is not Wrapped.forward:
        return "its forward was replaced on the instance itself, so no class's forward runs; add adapters before other libraries hook it"
    return None


def why_covered(module: nn.Module) -> str | None:
    """Say which class sits on top of the generated one; None when none does."""
    outermost = type(module)
    if "_adapterstate_base" in outermost.__dict__:
        return None
    return (
        f"{outermost.__name__} was put on top of the wrapped class, and taking ours out would break it. "
        "Take it off first (remove_parametrizations, or unshard and rebuild the model)"
    )
