"""Faults of set_requires_grad, and of what forward computes with."""

from __future__ import annotations

import torch

from ..toy import Layer, Toy


class FreezeDeactivates(Toy):
    """A frozen adapter is inactive."""

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        super().set_requires_grad(names, requires_grad)
        if not requires_grad:
            for layer in self.layers().values():
                layer.active = [name for name in layer.active if name not in names]


class OnlyFirstNameFrozen(Toy):
    """Of several names, the first counts."""

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        self.check_names(names)
        super().set_requires_grad(names[:1], requires_grad)


class FreezeBySubstring(Toy):
    """All adapters whose name holds one of the names are frozen."""

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        self.check_names(names)
        super().set_requires_grad([other for other in self.configs if any(name in other for name in names)], requires_grad)


class FreezeTunersOnly(Toy):
    """Copies and rows stay trainable."""

    def refresh(self) -> None:
        super().refresh()
        for layer in self.layers().values():
            for name in layer.slots:
                if name in self.configs and layer.replaces(name):
                    layer.slots[name].requires_grad_(True)


class UnknownFrozen(Toy):
    """Freezing what is not there does nothing."""

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        super().set_requires_grad([name for name in names if name in self.configs], requires_grad)


class FrozenOnTheWay(Toy):
    """The names before an unknown one are frozen already when it is refused."""

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        for name in dict.fromkeys(names):
            super().set_requires_grad([name], requires_grad)
        self.check_names(names)


class TruthIsEnough(Toy):
    """Anything counts as a flag."""

    def set_requires_grad(self, names: list[str], requires_grad: bool, /) -> None:
        super().set_requires_grad(names, bool(requires_grad))


class InactiveTunersLeak(Toy):
    """All tuners of a module are added while one is active."""

    class layer_class(Layer):
        def add_deltas(self, result: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
            return super().add_deltas(result, list(self.slots) if names else [])


class OnlyFirstTuner(Toy):
    """Of several active tuners on a module, the first is computed."""

    class layer_class(Layer):
        def add_deltas(self, result: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
            return super().add_deltas(result, [name for name in names if self.delta(name) is not None][:1])


class ForwardIsStale(Toy):
    """The state is right, and forward computes with what was active when it was first called."""

    class layer_class(Layer):
        def effective(self) -> dict[str, torch.Tensor]:
            return vars(self).setdefault("kept", super().effective())


class CopyHidesTuner(Toy):
    """Where a copy is active, tuners of other adapters are not computed."""

    class layer_class(Layer):
        def add_deltas(self, result: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
            return result if any(self.replaces(name) for name in self.active) else super().add_deltas(result, names)


class BiasOfCopyForgotten(Toy):
    """Of a copy, only the weight is computed with."""

    class layer_class(Layer):
        def compute(self, names: list[str]) -> dict[str, torch.Tensor]:
            return {"weight": super().compute(names)["weight"]}
