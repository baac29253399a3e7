"""Faults of enabling and disabling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..toy import Layer, Toy


class ContextsNotCounted(Toy):
    """Leaving the inner one of two contexts enables adapters."""

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.contexts = 1
        self.refresh()
        yield
        self.contexts = 0
        self.refresh()


class ContextBringsBack(Toy):
    """Leaving a context brings back what was when it was entered: contexts must be left in order."""

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        before, self.contexts = self.contexts, 1
        self.refresh()
        yield
        self.contexts = before
        self.refresh()


class EnableEndsContexts(Toy):
    """enable_adapters() enables adapters inside a context."""

    def enable_adapters(self) -> None:
        self.contexts = 0
        super().enable_adapters()

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self.contexts += 1
        self.refresh()
        yield
        self.contexts = max(0, self.contexts - 1)
        self.refresh()


class ContextReleasesCall(Toy):
    """Leaving a context enables adapters although disable_adapters() was called."""

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        with super().disable_adapter():
            yield
        self.enable_adapters()


class DisableCounts(Toy):
    """disable_adapters() twice needs enable_adapters() twice."""

    times = 0

    def disable_adapters(self) -> None:
        self.times += 1
        super().disable_adapters()

    def enable_adapters(self) -> None:
        self.times = max(0, self.times - 1)
        if not self.times:
            super().enable_adapters()


class EnablingThaws(Toy):
    """Enabled adapters that are active become trainable."""

    def enable_adapters(self) -> None:
        self.trainable |= dict.fromkeys(self.active, True)
        super().enable_adapters()


class LeavingContextThaws(Toy):
    """Leaving a context makes the active adapters trainable."""

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        with super().disable_adapter():
            yield
        self.trainable |= dict.fromkeys(self.active, True)
        self.refresh()


class DisablingFreezes(Toy):
    """Disabling makes all adapters frozen, for good."""

    def disable_adapters(self) -> None:
        self.trainable = dict.fromkeys(self.trainable, False)
        super().disable_adapters()


class DisableDeactivates(Toy):
    """Disabling deactivates all adapters."""

    def disable_adapters(self) -> None:
        super().disable_adapters()
        for layer in self.layers().values():
            layer.active = []


class CopiesStayWhenDisabled(Toy):
    """Disabling turns off the tuners, and leaves copies and rows."""

    class layer_class(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.disabled and any(self.replaces(name) for name in self.active):
                return torch.func.functional_call(self.base, self.compute(self.active), (x,))
            return super().forward(x)


class DisabledIsNearlyBase(Toy):
    """Disabled output is the base's up to rounding: deltas of zero are computed with."""

    class layer_class(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.disabled and self.active:
                weights = {key: value * (1 + 1e-6) for key, value in self.base.named_parameters(recurse=False)}
                return torch.func.functional_call(self.base, weights, (x,))
            return super().forward(x)


class SwitchWhileDisabledLost(Toy):
    """What is switched while adapters are disabled is not what is enabled."""

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        if self.enabled or len(self.configs) < 2:
            super().switch(names, weights, policy)


class EventsRefusedWhileDisabled(Toy):
    """Nothing is merged while adapters are disabled."""

    def merge_adapter(self, names: list[str], /) -> None:
        self.refuse(not self.enabled, "adapters are disabled")
        super().merge_adapter(names)
