"""Faults of delete_adapter."""

from __future__ import annotations

from ..toy import Layer, Toy


class FallbackPerLayer(Toy):
    """Each module chooses another adapter to activate."""

    def drop(self, path: str, layer: Layer, name: str) -> None:
        was_active = name in layer.active
        super().drop(path, layer, name)
        if was_active and layer.slots and not layer.active:
            layer.active = [next(iter(layer.slots))]


class Fallback(Toy):
    """Deleting the last active adapter activates another one."""

    def delete_adapter(self, name: str, /) -> None:
        active = list(self.active)
        super().delete_adapter(name)
        if active == [name] and self.configs:
            self.set_adapter([next(iter(self.configs))])


class DeleteDeactivatesAll(Toy):
    """Deleting an active adapter deactivates the others."""

    def delete_adapter(self, name: str, /) -> None:
        was_active = name in self.active
        super().delete_adapter(name)
        if was_active:
            self.set_adapter([])


class DeleteThaws(Toy):
    """What is left active after a delete becomes trainable."""

    def delete_adapter(self, name: str, /) -> None:
        super().delete_adapter(name)
        self.trainable |= dict.fromkeys(self.active, True)
        self.refresh()


class DeleteUnmerges(Toy):
    """Deleting an adapter unmerges the others."""

    def delete_adapter(self, name: str, /) -> None:
        super().delete_adapter(name)
        self.unmerge_adapter()


class DeleteBySubstring(Toy):
    """Deleting an adapter deletes weights of all whose name holds its name."""

    def delete_adapter(self, name: str, /) -> None:
        super().delete_adapter(name)
        for path, layer in self.layers().items():
            for other in [other for other in layer.slots if name in other]:
                self.drop(path, layer, other)


class DeleteLeavesActive(Toy):
    """A deleted adapter's name stays among the active ones."""

    def drop(self, path: str, layer: Layer, name: str) -> None:
        active = list(layer.active)
        super().drop(path, layer, name)
        layer.active = active


class DeleteLeavesRows(Toy):
    """Deleting an adapter deletes its tuners and forgets its rows and copies."""

    def drop(self, path: str, layer: Layer, name: str) -> None:
        if layer.replaces(name):
            layer.active = [other for other in layer.active if other != name]
        else:
            super().drop(path, layer, name)


class DeleteLeavesWrapper(Toy):
    """After the last delete, modules stay wrapped."""

    def drop(self, path: str, layer: Layer, name: str) -> None:
        super().drop(path, layer, name)
        setattr(self.model, path, layer)


class DeleteReorders(Toy):
    """After the last delete, children are in another order."""

    def drop(self, path: str, layer: Layer, name: str) -> None:
        super().drop(path, layer, name)
        if not layer.slots:
            self.model._modules[path] = self.model._modules.pop(path)


class DeleteLeavesFrozen(Toy):
    """The base is frozen while there are adapters, and stays so."""

    def place(self, name: str, config: object) -> None:
        super().place(name, config)
        for layer in self.layers().values():
            layer.base.requires_grad_(False)


class DeleteCopiesBase(Toy):
    """After the last delete, the model has new parameters of the same values."""

    def drop(self, path: str, layer: Layer, name: str) -> None:
        super().drop(path, layer, name)
        if not layer.slots and path == "first":
            layer.base.weight = type(layer.base.weight)(layer.base.weight.detach().clone())


class DeleteUnknownAccepted(Toy):
    """Deleting what is not there does nothing."""

    def delete_adapter(self, name: str, /) -> None:
        if name in self.configs:
            super().delete_adapter(name)


class DeleteLastCrashes(Toy):
    """After the last delete, the model remembers that it had an adapter, and forward fails."""

    def forward(self, x: object, /) -> object:
        if self.policies is not None and not self.configs and getattr(self, "had", False):
            raise IndexError("list index out of range")
        self.had = bool(self.configs)
        return super().forward(x)


class DeleteEnables(Toy):
    """The last delete enables adapters."""

    def delete_adapter(self, name: str, /) -> None:
        super().delete_adapter(name)
        self.disabled = self.disabled and bool(self.configs)
        self.refresh()
