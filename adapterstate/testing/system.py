"""What the harness needs of an implementation of adapters: `AdapterSystem`, and two optional protocols that show more."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import attrs
import torch
from torch import nn

Kind = Literal["tuner", "copy", "tokens"]
Grads = Literal["all", "none", "some"]

EVENTS = (
    "add_adapter",
    "set_adapter",
    "delete_adapter",
    "merge_adapter",
    "unmerge_adapter",
    "enable_adapters",
    "disable_adapters",
    "set_requires_grad",
    "disable_adapter",
    "use_adapter",
)
"""Events and contexts. A system may lack all but the first three: it has no such method, or names it in `unsupported`."""

FEATURES = {
    "weights": "set_adapter and use_adapter take weights=",
    "on_overlap": "add_adapter, set_adapter and use_adapter take on_overlap=",
    "strings": "set_adapter takes one name as a string",
    "several": "several adapters may be active together",
    "none": "set_adapter([]) deactivates all",
    "partial_merge": "merge_adapter(names) merges some of the active adapters; without it, all are merged",
    "duplicates": "a name that is given twice is refused",
    "odd_names": "any non-empty name without a dot is accepted",
    "flags": "set_requires_grad refuses what is not a bool",
    "no_trace": "the last delete takes away all that the first add brought",
}
"""What else a system may name in `unsupported`."""


def _parts(given: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(given)


def _names(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(given)


@attrs.frozen
class Options:
    """Choices that a system may make differently without breaking a rule.

    Attributes:
        grad_follows: ``"trainability"``: a trainable adapter's parameters require grad, whatever is active. ``"activation"``: only while it
            is active and enabled, or after `set_requires_grad(name, True)` named it.
        fallback: what deleting the last active adapter activates: ``"none"``, or the ``"first"`` of those that are left.
        merge_activates: whether merging inactive adapters activates them first, behind those that are active; what is merged stays so.
        tolerance: how much outputs that need not be equal bit for bit may differ, absolutely and relative to their largest value.
    """

    grad_follows: Literal["trainability", "activation"] = "trainability"
    fallback: Literal["none", "first"] = "none"
    merge_activates: bool = False
    tolerance: float = 1e-4


@attrs.frozen
class Part:
    """What one adapter is on one module.

    Attributes:
        path: of the module, as `observe` calls it.
        kind: ``"tuner"`` adds to the output; ``"copy"`` and ``"tokens"`` replace values of the base.
        weight: name of the weight there.
        rows: the rows that are replaced; None for all. Means nothing for a tuner.
        fixed: the values cannot be weighted or summed, as running statistics cannot.
    """

    path: str
    kind: Kind
    weight: str = "weight"
    rows: tuple[int, ...] | None = None
    fixed: bool = False


@attrs.frozen
class Recipe:
    """An adapter that the harness may add, and where it goes.

    Weights that several modules share are declared at each module where they are replaced.

    Attributes:
        config: what `add_adapter` gets, made by the system's author; the harness does not look into it.
        parts: where it goes, said independently of the system.
        trainable: whether it starts trainable.
        refused: why adding it must be refused; empty when it must not.
    """

    config: Any
    parts: tuple[Part, ...] = attrs.field(default=(), converter=_parts)
    trainable: bool = True
    refused: str = ""


@attrs.frozen
class ModuleView:
    """The adapters on one module: those with weights there, the active ones in activation order, and the merged ones."""

    present: tuple[str, ...] = attrs.field(converter=_names)
    active: tuple[str, ...] = attrs.field(default=(), converter=_names)
    merged: tuple[str, ...] = attrs.field(default=(), converter=_names)


@attrs.frozen
class Observation:
    """What can be seen of a system.

    Attributes:
        modules: path -> view, for every module on which an adapter has weights. Read it off the layers, not off a record kept beside them.
        enabled: whether adapters are applied.
        grads: adapter -> which of its parameters require grad: ``"all"``, ``"none"`` or ``"some"``.
    """

    modules: Mapping[str, ModuleView]
    enabled: bool
    grads: Mapping[str, Grads]


@runtime_checkable
class AdapterSystem(Protocol):
    """An implementation of adapters on one model, made to be tried.

    Derive from it, or do not: only the methods count. An event refuses by raising any `Exception`. Events that are named in `unsupported`,
    or that are not there, are not called; nor are options such as ``weights=``.

    Attributes:
        recipes: name -> an adapter that may be added. Good ones overlap here and there; bad ones say why they are `refused`.
        x: an input of the model, all of whose parts matter: for token rows, all tokens.
        unsupported: names of `EVENTS` and `FEATURES` that the system lacks.
        options: choices that break no rule.
    """

    recipes: Mapping[str, Recipe]
    x: Any
    unsupported: Collection[str] = ()
    options: Options = Options()

    def add_adapter(self, name: str, config: Any, /) -> object:
        """Add an adapter; gets ``on_overlap=``, one of ``"error"``, ``"sum"``, ``"override"``, unless unsupported."""

    def set_adapter(self, names: list[str], /) -> object:
        """Activate exactly these, in order; gets ``weights=`` and ``on_overlap=`` unless unsupported."""

    def delete_adapter(self, name: str, /) -> object:
        """Delete one."""

    def merge_adapter(self, names: list[str], /) -> object:
        """Merge these, which are active."""

    def unmerge_adapter(self) -> object:
        """Unmerge all."""

    def enable_adapters(self) -> object:
        """Release `disable_adapters`."""

    def disable_adapters(self) -> object:
        """Apply no adapter until `enable_adapters`."""

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> object:
        """Make these trainable or frozen."""

    def disable_adapter(self) -> contextlib.AbstractContextManager[object]:
        """Return a context in which no adapter is applied."""
        raise NotImplementedError

    def use_adapter(self, names: list[str], /) -> contextlib.AbstractContextManager[object]:
        """Return a context in which exactly these are active; gets options as `set_adapter` does."""
        raise NotImplementedError

    def observe(self) -> Observation:
        """Return what can be seen now."""
        raise NotImplementedError

    def forward(self, x: Any, /) -> torch.Tensor:
        """Return the output of the model in evaluation mode."""
        raise NotImplementedError

    def perturb(self, name: str, seed: int, /) -> object:
        """Give all weights of an adapter values that change the output, the same for the same seed."""


@attrs.frozen(eq=False)
class Slot:
    """The values of one adapter at one weight.

    Attributes:
        kind: as in `Part`.
        values: for a tuner, its delta as a dense tensor shaped as the weight; otherwise what stands in place of the base's values.
        weight: name of the weight.
        rows: which rows `values` are, in order; None for all.
        scale: what a tuner's values are multiplied with, beside the weight of the activation.
    """

    kind: Kind
    values: torch.Tensor
    weight: str = "weight"
    rows: tuple[int, ...] | None = None
    scale: float = 1.0


@attrs.frozen(eq=False)
class Tensors:
    """Values to compute from.

    Attributes:
        base: module path -> name of the weight -> the base's value, for every module that a recipe names.
        slots: module path -> adapter -> its slots there.
    """

    base: Mapping[str, Mapping[str, torch.Tensor]]
    slots: Mapping[str, Mapping[str, Iterable[Slot]]]


@runtime_checkable
class ShowsTensors(Protocol):
    """A system whose output can be computed from dense weights, and is then compared with that."""

    def tensors(self) -> Tensors:
        """Return the values now."""

    def dense_forward(self, weights: Mapping[str, Mapping[str, torch.Tensor]], x: Any, /) -> torch.Tensor:
        """Return the output of a plain model without adapters that has these weights: module path -> name -> value."""


@attrs.frozen(eq=False)
class Fingerprint:
    """What an event that was refused, and a whole life of adapters, must leave alone. Made by `fingerprint_of`.

    Attributes:
        facts: whatever can be compared with ``==``, by a name to call it by.
        tensors: name -> parameter or buffer; kept, since their identity counts.
        values: name -> a copy of the value.
    """

    facts: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, torch.Tensor]


@runtime_checkable
class ShowsFingerprint(Protocol):
    """A system that shows types, keys, identities and values."""

    def fingerprint(self) -> Fingerprint:
        """Return what there is now; ``fingerprint_of(model)`` is usually all that is needed."""


def fingerprint_of(model: nn.Module) -> Fingerprint:
    """Return types of modules, keys in order, `requires_grad`, hooks, and every parameter and buffer of `model`."""
    modules = dict(model.named_modules(remove_duplicate=False))
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    facts = {
        "types": {path: type(module) for path, module in modules.items()},
        "keys": list(model.state_dict()),
        "requires_grad": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "hooks": {path: _hooks(module) for path, module in modules.items()},
        "attributes": sorted(model.__dict__),
        "training": {path: module.training for path, module in modules.items()},
    }
    return Fingerprint(facts, tensors, {name: tensor.detach().clone() for name, tensor in tensors.items()})


def _hooks(module: nn.Module) -> dict[str, int]:
    """How many hooks of each kind a module has, where it has any."""
    return {name: len(value) for name, value in vars(module).items() if name.endswith("_hooks") and value}


def grads_of(parameters: Iterable[nn.Parameter]) -> Grads:
    """Say which of an adapter's parameters require grad, for `Observation.grads`."""
    flags = {parameter.requires_grad for parameter in parameters}
    if len(flags) == 2:
        return "some"
    return "all" if True in flags else "none"


def lacks(system: AdapterSystem) -> frozenset[str]:
    """Return the events and features that a system does not have.

    Raises:
        ValueError: `unsupported` names what there is not, or an event that no system may lack.
    """
    named = frozenset(getattr(system, "unsupported", ()))
    wrong = sorted(named - {*EVENTS[3:], *FEATURES})
    if wrong:
        raise ValueError(f"unsupported names {wrong}; it may name {sorted({*EVENTS[3:], *FEATURES})}")
    methods = {name: getattr(system, name, None) for name in EVENTS}
    missing = {name for name, method in methods.items() if getattr(method, "__func__", method) in (None, getattr(AdapterSystem, name))}
    if missing & set(EVENTS[:3]):
        raise ValueError(f"{type(system).__name__} has no {sorted(missing & set(EVENTS[:3]))}, which every system must have")
    lacking = named | missing
    if {"merge_adapter", "unmerge_adapter"} & lacking:
        lacking |= {"merge_adapter", "unmerge_adapter"}
    if {"enable_adapters", "disable_adapters"} & lacking:
        lacking |= {"enable_adapters", "disable_adapters"}
    return lacking
