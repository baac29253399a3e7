"""Faults of add_adapter."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from ..toy import Config, Toy


class NewModulesActivate(Toy):
    """The first adapter of a module activates itself there, also when it is not the model's first."""

    def place(self, name: str, config: Config) -> None:
        before = self.layers()
        super().place(name, config)
        for path, layer in self.layers().items():
            if path not in before:
                layer.active = [name]


class EveryAdapterActivates(Toy):
    """An added adapter takes over."""

    def is_first(self) -> bool:
        return True


class FirstEverActivates(Toy):
    """Only the first adapter ever activates itself, not the first one now present."""

    ever = False

    def is_first(self) -> bool:
        first, self.ever = not self.ever, True
        return first


class FirstInactiveWhileDisabled(Toy):
    """A first adapter that comes while adapters are disabled stays inactive."""

    def is_first(self) -> bool:
        return self.enabled and super().is_first()


class FirstOfNoneActive(Toy):
    """An adapter activates itself when none is active, and not only when there is none."""

    def is_first(self) -> bool:
        return not self.active


class FailedAddLeavesWeights(Toy):
    """What is wrong with a config shows only when its modules are reached, one after the other."""

    def check_new(self, name: str, config: Config) -> None:
        super().check_new(name, Config())


class FailedAddLeavesName(Toy):
    """The name is taken before the config is looked at."""

    def add_adapter(self, name: str, config: Config, /, on_overlap: str = "error") -> None:
        self.check_new(name, Config())
        self.configs[name], self.policies[name], self.trainable[name] = config, on_overlap, True
        try:
            self.check_new("another", config)
        finally:
            if "nothing" not in config.lora:
                del self.configs[name]
        super().add_adapter(name, config, on_overlap)


class RefusedAddDrawsNumbers(Toy):
    """Weights are drawn before the checks."""

    def check_new(self, name: str, config: Config) -> None:
        torch.randn(3)
        super().check_new(name, config)


class NameCheckedTooLate(Toy):
    """That a name holds a dot is found out by torch, when the module has been wrapped."""

    def check_new(self, name: str, config: Config) -> None:
        super().check_new("fresh" if not name or "." in name else name, config)


class TakenNameOverwrites(Toy):
    """A second adapter of a name takes the place of the first."""

    def check_new(self, name: str, config: Config) -> None:
        super().check_new("fresh" if name in self.configs else name, config)


class RowWrapsAround(Toy):
    """A row that is out of range is another one."""

    def add_adapter(self, name: str, config: Config, /, on_overlap: str = "error") -> None:
        super().add_adapter(name, attrs.evolve(config, rows=tuple(row % 6 for row in config.rows)), on_overlap)


class MissingModuleIgnored(Toy):
    """A module that is not there is left out."""

    def add_adapter(self, name: str, config: Config, /, on_overlap: str = "error") -> None:
        super().add_adapter(name, attrs.evolve(config, lora=tuple(path for path in config.lora if path != "nothing")), on_overlap)


class InferenceModeIgnored(Toy):
    """An adapter that should start frozen starts trainable."""

    def add_adapter(self, name: str, config: Config, /, on_overlap: str = "error") -> None:
        super().add_adapter(name, attrs.evolve(config, frozen=False), on_overlap)


class AddThawsOthers(Toy):
    """Adding an adapter makes all of them trainable."""

    def place(self, name: str, config: Config) -> None:
        super().place(name, config)
        self.trainable = dict.fromkeys(self.trainable, True)


class AddUnmerges(Toy):
    """Adding an adapter unmerges the others."""

    def place(self, name: str, config: Config) -> None:
        super().place(name, config)
        self.unmerge_adapter()


class AddEnables(Toy):
    """Adding an adapter enables adapters."""

    def place(self, name: str, config: Config) -> None:
        super().place(name, config)
        self.disabled = False


class NewLayersAreEnabled(Toy):
    """A module that is wrapped while adapters are disabled applies them."""

    def add_adapter(self, name: str, config: Any, /, on_overlap: str = "error") -> None:
        before = self.layers()
        super().add_adapter(name, config, on_overlap)
        for path, layer in self.layers().items():
            if path not in before:
                layer.disabled = False


class BogusPolicyAccepted(Toy):
    """A policy that there is not counts as none."""

    def add_adapter(self, name: str, config: Any, /, on_overlap: str = "error") -> None:
        super().add_adapter(name, config, on_overlap if on_overlap in ("sum", "override") else "error")
