"""Faults put around this package's own implementation."""

from __future__ import annotations

from typing import Any

import torch

from adapterstate.testing.ours import StateSystem


class OurSwitchEnables(StateSystem):
    """set_adapter enables adapters."""

    def set_adapter(self, names: list[str], /, **options: Any) -> None:
        super().set_adapter(names, **options)
        self.state.enable_adapters()


class OurFallback(StateSystem):
    """Deleting the last active adapter activates the newest one."""

    def delete_adapter(self, name: str, /) -> None:
        active = self.state.active_adapters
        super().delete_adapter(name)
        if active == (name,) and self.state.adapters:
            self.state.set_adapter(self.state.adapters[-1])


class OurUnknownIgnored(StateSystem):
    """Unknown names are left out."""

    def set_adapter(self, names: Any, /, **options: Any) -> None:
        given = [names] if isinstance(names, str) else names
        super().set_adapter([name for name in given if name in self.state.adapters], **options)


class OurRefusalDraws(StateSystem):
    """A number is drawn before anything is checked."""

    def add_adapter(self, name: str, config: Any, /, **options: Any) -> None:
        torch.rand(1)
        super().add_adapter(name, config, **options)


class OurOverlapsOverride(StateSystem):
    """Overlaps are settled by override when nobody said how."""

    def set_adapter(self, names: list[str], /, **options: Any) -> None:
        try:
            super().set_adapter(names, **options)
        except ValueError as refused:
            if "no_overlap" not in str(refused):
                raise
            super().set_adapter(names, **{**options, "on_overlap": "override"})


class OurWeightsDropped(StateSystem):
    """Weights are checked and not used."""

    def set_adapter(self, names: list[str], /, **options: Any) -> None:
        super().set_adapter(names, **options)
        if "weights" in options:
            super().set_adapter(names, **{**options, "weights": None})


class OurDeleteThaws(StateSystem):
    """Deleting an adapter makes the others trainable."""

    def delete_adapter(self, name: str, /) -> None:
        super().delete_adapter(name)
        self.state.set_requires_grad(self.state.adapters, True)


class OurMergeMergesAll(StateSystem):
    """merge_adapter merges all that are active."""

    def merge_adapter(self, names: list[str], /) -> None:
        super().merge_adapter(names)
        self.state.merge_adapter()


class OurMergeStale(StateSystem):
    """What is merged is not what is trained afterwards."""

    def merge_adapter(self, names: list[str], /) -> None:
        super().merge_adapter(names)
        for name in names:
            self.perturb(name, 0)
