"""The commit: everything an event writes, written ahead, so that all of it is done or none.

This is the only file that writes to modules and parameters, their `requires_grad` included. A `Transaction` first collects every write
with the value that it replaces; only `commit` carries them out. Undoing puts the old values back whether or not the write had been
reached, so it can be repeated, and is when it is interrupted itself. The commit point is the append to the journal: before it an event
can be undone, after it the event is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

MISSING: Any = object()
"""Stands for a key that is not there."""

_ATTEMPTS = 100
"""How often undoing is begun again after an interrupt before the interrupt wins."""


class _Write:
    """Something that is done, and can be undone whether or not it had been reached."""

    __slots__ = ()

    def do(self) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        raise NotImplementedError


class _Writes(_Write):
    """Writes of one kind, one after the other.

    Attributes:
        all: of each write where it goes, under which key, what was there, and what shall be there.
    """

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: list[tuple[Any, Any, Any, Any]] = []

    def do(self) -> None:
        put = self.put
        for holder, key, _, new in self.all:
            put(holder, key, new)

    def undo(self) -> None:
        put = self.put
        for holder, key, old, _ in reversed(self.all):
            put(holder, key, old)

    @staticmethod
    def put(holder: Any, key: Any, value: Any) -> None:
        raise NotImplementedError


class _Items(_Writes):
    """Keys of mappings."""

    __slots__ = ()

    @staticmethod
    def put(holder: Any, key: Any, value: Any) -> None:
        if value is MISSING:
            holder.pop(key, None)
        else:
            holder[key] = value


class _Attributes(_Writes):
    """Attributes."""

    __slots__ = ()

    @staticmethod
    def put(holder: Any, key: Any, value: Any) -> None:
        setattr(holder, key, value)


class _Flags(_Writes):
    """`requires_grad` of whatever parameter a container holds under a key when it is written."""

    __slots__ = ()

    @staticmethod
    def put(holder: Any, key: Any, value: Any) -> None:
        holder[key].requires_grad = value


class _Classes(_Writes):
    """The classes of modules, past any ``__setattr__`` of their own."""

    __slots__ = ()

    @staticmethod
    def put(holder: Any, key: Any, value: Any) -> None:
        object.__setattr__(holder, "__class__", value)


class Batch(_Write):
    """Writes to keys and flags that were done before, to be done again as one. Lists are written anew: their readers may change them.

    Attributes:
        items: of each key its mapping, the key, what was there, and what shall be there.
        lists: the same for lists.
        accepting: containers and keys of parameters that shall accept gradients, and did not.
        refusing: those of the others whose flag changes.
    """

    __slots__ = ("accepting", "items", "lists", "refusing")

    def __init__(self, items: Sequence[tuple[Any, Any, Any, Any]], flags: Sequence[tuple[Any, Any, Any, Any]]) -> None:
        self.items = tuple(write for write in items if type(write[3]) is not list)
        self.lists = tuple((holder, key, old, tuple(new)) for holder, key, old, new in items if type(new) is list)
        self.accepting = tuple((holder, key) for holder, key, _, accepts in flags if accepts)
        self.refusing = tuple((holder, key) for holder, key, _, accepts in flags if not accepts)

    def do(self) -> None:
        for holder, key, _, new in self.items:
            holder[key] = new
        for holder, key, _, names in self.lists:
            holder[key] = list(names)
        self._flag(accepting=True)

    def undo(self) -> None:
        for holder, key, old, _ in (*self.items, *self.lists):
            holder[key] = old
        self._flag(accepting=False)

    def _flag(self, accepting: bool) -> None:
        """Write every flag: a loop for each value is the shortest."""
        for holder, key in self.accepting:
            holder[key].requires_grad = accepting
        refusing = not accepting
        for holder, key in self.refusing:
            holder[key].requires_grad = refusing


class _Whole(_Write):
    """Everything about a model but values of base parameters, where another library writes it: it is done already, and can be undone.

    What is kept: each module's class, its ``__dict__`` and the containers in it; of each parameter its `requires_grad` and the tensor
    behind it; the attributes of `beside`; and, where `values` are given, what those parameters hold.
    """

    __slots__ = ("beside", "kept", "parameters", "values")

    def __init__(self, model: nn.Module, beside: Iterable[Any], values: Iterable[torch.Tensor]) -> None:
        self.kept = [(m, type(m), {key: (value, _shallow(value)) for key, value in m.__dict__.items()}) for m in model.modules()]
        self.beside = [(thing, {key: (value, _shallow(value)) for key, value in vars(thing).items()}) for thing in beside]
        self.parameters = [(parameter, parameter.requires_grad, parameter.data) for parameter in model.parameters()]
        self.values = [(tensor, tensor.detach().clone()) for tensor in values]

    def do(self) -> None:
        """Nothing: it has been done."""

    def undo(self) -> None:
        for module, kind, attributes in self.kept:
            if type(module) is not kind:
                object.__setattr__(module, "__class__", kind)
            _put_back(module.__dict__, attributes)
        for thing, attributes in self.beside:
            _put_back(vars(thing), attributes)
        for parameter, accepts, data in self.parameters:
            if parameter.dtype != data.dtype or parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            if parameter.requires_grad is not accepts:
                parameter.requires_grad = accepts
        with torch.no_grad():
            for tensor, value in self.values:
                tensor.copy_(value)


def _shallow(value: Any) -> Any:
    """A copy of a container that can be filled again from it; None for anything else."""
    return value.copy() if isinstance(value, dict | list | set) else None


def _put_back(mapping: dict[str, Any], attributes: Mapping[str, tuple[Any, Any]]) -> None:
    """Make a ``__dict__`` what it was: the same objects, containers with what they held."""
    for value, kept in attributes.values():
        if isinstance(value, list):
            value[:] = kept
        elif isinstance(value, dict | set):
            value.clear()
            value.update(kept)
    if list(mapping) != list(attributes) or any(mapping[key] is not value for key, (value, _) in attributes.items()):
        mapping.clear()
        mapping.update({key: value for key, (value, _) in attributes.items()})


class Transaction:
    """One event on its way: collects writes, then does all of them or none.

    Use it as a context. Leaving it by an exception before `commit` has completed puts everything back, torch's generators included.

    Args:
        journal: where the commit point is.
        draws: whether the event may draw random numbers, so that the generators must be kept.
    """

    def __init__(self, journal: deque[Any], *, draws: bool = False) -> None:
        self._journal = journal
        self._writes: list[_Write] = []
        self._entry: Any = MISSING
        self._generators = _generators() if draws else None

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and not self.is_complete:
            self._undo()

    @property
    def is_complete(self) -> bool:
        """Whether the commit point has been passed."""
        return self._entry is not MISSING and bool(self._journal) and self._journal[-1] is self._entry

    # ------------------------------------------------------------------------------------------------------------- collecting

    def item(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """Set a key that is there, or add one at the end."""
        self.items(((mapping, key, value),))

    def items(self, writes: Iterable[tuple[dict[Any, Any], Any, Any]]) -> None:
        """Set many keys, each as `item` does: of each write the mapping, the key and the value."""
        self._into(_Items).extend([(mapping, key, mapping.get(key, MISSING), value) for mapping, key, value in writes])

    def without(self, holders: Iterable[dict[str, Any]], key: str, gone: tuple[str, ...]) -> None:
        """Exchange the mapping under `key` of each holder for one without the keys `gone`; undoing brings it back in its old order."""
        self.items([(own, key, {name: value for name, value in own[key].items() if name not in gone}) for own in holders])

    def pop(self, mappings: Iterable[dict[str, Any]], last: str) -> None:
        """Take away the last key of each mapping, which comes back in its place when that is undone."""
        self._into(_Items).extend([(mapping, last, mapping[last], MISSING) for mapping in mappings])

    def drop(self, mapping: dict[Any, Any], key: Any) -> None:
        """Take a key away whose place in the order does not matter."""
        if key in mapping:
            self._into(_Items).append((mapping, key, mapping[key], MISSING))

    def attribute(self, holder: Any, name: str, value: Any) -> None:
        """Set an attribute."""
        self._into(_Attributes).append((holder, name, getattr(holder, name), value))

    def change_class(self, module: nn.Module, cls: type[nn.Module]) -> None:
        """Exchange the class of a module."""
        self._into(_Classes).append((module, None, type(module), cls))

    def accept_gradients(self, parameters: Mapping[Any, Any] | Sequence[Any], key: Any, accepts: bool) -> None:
        """Set `requires_grad` of the parameter ``parameters[key]`` where it differs. The container is kept, not the parameter."""
        if parameters[key].requires_grad is not accepts:
            self._into(_Flags).append((parameters, key, not accepts, accepts))

    def _into(self, kind: type[_Writes]) -> list[tuple[Any, Any, Any, Any]]:
        """Where the next write of a kind goes: to those that it follows, if they are of that kind."""
        writes = self._writes
        if not writes or type(writes[-1]) is not kind:
            writes.append(kind())
        return writes[-1].all  # type: ignore[attr-defined,no-any-return]

    def batch(self) -> Batch | None:
        """Return what was collected as one write that can be done again; None where some of it cannot be."""
        items = [write for writes in self._writes if type(writes) is _Items for write in writes.all]
        flags = [write for writes in self._writes if type(writes) is _Flags for write in writes.all]
        if not all(type(writes) in (_Items, _Flags) for writes in self._writes):
            return None
        return None if any(old is MISSING or new is MISSING for _, _, old, new in items) else Batch(items, flags)

    def again(self, batch: Batch) -> None:
        """Do what was done before."""
        self._writes.append(batch)

    def foreign(self, model: nn.Module, *, beside: Iterable[Any] = (), values: Iterable[torch.Tensor] = ()) -> None:
        """Announce that another library is about to write to `model`: what it writes is undone with the rest.

        Args:
            model: all of it.
            beside: objects whose attributes may be written too, such as configs.
            values: tensors whose values may be written.
        """
        self._writes.append(_Whole(model, beside, values))

    def value(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Give a parameter or buffer other values; its identity stays."""
        self._into(_Attributes).append((tensor, "data", tensor.data, value))

    # -------------------------------------------------------------------------------------------------------------- committing

    def commit(self, entry: Any) -> None:
        """Do every write, in the order in which they were collected; then append `entry` to the journal, which completes the event."""
        self._entry = entry
        for write in self._writes:
            write.do()
        self._journal.append(entry)

    def _undo(self) -> None:
        """Put every old value back, the last write first; begin again when interrupted."""
        for attempt in range(_ATTEMPTS):
            try:
                for write in reversed(self._writes):
                    write.undo()
                if self._generators is not None:
                    _restore(self._generators)
                return
            except BaseException:
                if attempt == _ATTEMPTS - 1:
                    raise


# -------------------------------------------------------------------------------------------------------------- generators

_States = tuple[torch.Tensor, list[torch.Tensor]]


def _generators() -> _States:
    """The states of torch's global generators. CUDA's are read only where CUDA has been used: reading them would start it."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), cuda


def _restore(states: _States) -> None:
    """Put torch's global generators back."""
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
