"""Faults of set_adapter and use_adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..toy import Layer, Toy


class ModuleByModule(Toy):
    """Each module checks and switches before the next one does."""

    def check_overlap(self, names: list[str], policy: str | None) -> None:
        for layer in self.layers().values():
            here = [name for name in names if name in layer.slots]
            self.check_layer(layer, here, policy)
            layer.active = here


class NamesCheckedOnTheWay(Toy):
    """The known names before an unknown one are active already when it is refused."""

    def check_names(self, names: list[str]) -> None:
        for at, name in enumerate(names):
            if name not in self.configs and at:
                self.switch(names[:at], [1.0] * at, None)
        super().check_names(names)


class SubstringNames(Toy):
    """An adapter is active when its name is part of one that was given."""

    def order(self, layer: Layer, names: list[str]) -> list[str]:
        return names + [other for other in layer.slots if other not in names and any(other in name for name in self.active)]


class PrefixNames(Toy):
    """A name that begins as an adapter's does is accepted for it."""

    def check_names(self, names: list[str]) -> None:
        names[:] = [next((have for have in self.configs if name and have.startswith(name)), name) for name in names]
        super().check_names(names)


class UnknownNameAccepted(Toy):
    """Names that no adapter has are left out, so that a slip switches everything off."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        given = [names] if isinstance(names, str) else list(names)
        known = [name for name in given if name in self.configs]
        super().set_adapter(known, weights if known == given else None, on_overlap)


class DuplicatesAccepted(Toy):
    """A name given twice counts once."""

    def check_names(self, names: list[str]) -> None:
        super().check_names(list(dict.fromkeys(names)))

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        once = dict(zip(names, weights, strict=True))
        super().switch(list(once), list(once.values()), policy)


class CallersListKept(Toy):
    """The list that was given is the list that is used."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        super().set_adapter(names, weights, on_overlap)
        for layer in self.layers().values():
            if layer.active == names:
                layer.active = names


class CallersListSorted(Toy):
    """The list that was given is put in order."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        super().set_adapter(names, weights, on_overlap)
        if isinstance(names, list):
            names.sort()


class StringIsLetters(Toy):
    """A name that is given as a string is taken apart."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        super().set_adapter(list(names), weights, on_overlap)


class OrderLost(Toy):
    """Active adapters are in the order of their names."""

    def order(self, layer: Layer, names: list[str]) -> list[str]:
        return sorted(names)


class OrderOfAdding(Toy):
    """Modules with copies or rows keep the order in which adapters were added."""

    def order(self, layer: Layer, names: list[str]) -> list[str]:
        return [name for name in layer.slots if name in names] if any(layer.replaces(name) for name in names) else names


class AuxiliaryLeftBehind(Toy):
    """A name given as a string moves only the tuners."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        before = {path: list(layer.active) for path, layer in self.layers().items()}
        super().set_adapter(names, weights, on_overlap)
        for path, layer in self.layers().items():
            if isinstance(names, str) and any(layer.replaces(name) for name in layer.slots):
                layer.active = before[path]


class AbsentKeepsActive(Toy):
    """A module on which none of the named adapters is present keeps what it had active."""

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        before = {path: list(layer.active) for path, layer in self.layers().items()}
        super().switch(names, weights, policy)
        for path, layer in self.layers().items():
            layer.active = layer.active or before[path]


class SwitchEnables(Toy):
    """set_adapter enables adapters."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        super().set_adapter(names, weights, on_overlap)
        self.enable_adapters()


class SwitchKeepsMerges(Toy):
    """What was merged and is still active stays merged."""

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        merged = {path: list(layer.merged) for path, layer in self.layers().items()}
        super().switch(names, weights, policy)
        self.refresh()
        for path, layer in self.layers().items():
            layer.merge(merged[path])


class SwitchThaws(Toy):
    """Active adapters become trainable."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        super().set_adapter(names, weights, on_overlap)
        self.trainable |= dict.fromkeys(self.active, True)
        self.refresh()


class NoNamesIgnored(Toy):
    """set_adapter([]) does nothing."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        if names:
            super().set_adapter(names, weights, on_overlap)


class SameSetIsNothing(Toy):
    """Activating what is active already does nothing, whatever the order, the weights and the policy."""

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        if set(names) != set(self.active):
            super().switch(names, weights, policy)


class SwitchAfterRefusal(Toy):
    """The record of the model is written before the modules are asked."""

    def check_overlap(self, names: list[str], policy: str | None) -> None:
        self.policy = policy
        self.refresh()
        super().check_overlap(names, policy)


class UseForgetsWeights(Toy):
    """Leaving use_adapter brings back names, and not their weights."""

    @contextlib.contextmanager
    def use_adapter(self, names: list[str], /, weights: Any = None, on_overlap: str | None = None) -> Iterator[None]:
        with super().use_adapter(names, weights, on_overlap):
            yield
        self.weights = dict.fromkeys(self.weights, 1.0)
        self.refresh()


class UseForgetsMerges(Toy):
    """Leaving use_adapter brings back what was active, and not what was merged."""

    @contextlib.contextmanager
    def use_adapter(self, names: list[str], /, weights: Any = None, on_overlap: str | None = None) -> Iterator[None]:
        with super().use_adapter(names, weights, on_overlap):
            yield
        self.unmerge_adapter()


class UseBringsBackDeleted(Toy):
    """Leaving use_adapter fails when an adapter has gone in between."""

    @contextlib.contextmanager
    def use_adapter(self, names: list[str], /, weights: Any = None, on_overlap: str | None = None) -> Iterator[None]:
        before = list(self.active)
        with super().use_adapter(names, weights, on_overlap):
            yield
        self.check_names(before)
