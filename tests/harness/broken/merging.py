"""Faults of merge_adapter and unmerge_adapter."""

from __future__ import annotations

import torch

from ..toy import Layer, Toy


class PartialMergeSilences(Toy):
    """Where something is merged, what is not is not computed."""

    class layer_class(Layer):
        def effective(self) -> dict[str, torch.Tensor]:
            return self.cache if self.cache is not None else super().effective()


class CacheBelowCopies(Toy):
    """The merged part is used also where a copy that is not merged should take its place."""

    class layer_class(Layer):
        def effective(self) -> dict[str, torch.Tensor]:
            live = [name for name in self.active if name not in self.merged]
            return self.add_deltas(dict(self.cache), live) if self.cache is not None else super().effective()


class MergeAll(Toy):
    """merge_adapter merges all that are active, whichever were named."""

    def merge_adapter(self, names: list[str], /) -> None:
        super().merge_adapter(names)
        super().merge_adapter(list(self.active))


class SecondMergeForgets(Toy):
    """What a second merge does not name is unmerged."""

    class layer_class(Layer):
        def merge(self, names: list[str]) -> None:
            self.merged = []
            super().merge(names)


class MergedInOrderOfMerging(Toy):
    """The merged part is computed in the order of the merge, not of the activation."""

    class layer_class(Layer):
        def merge(self, names: list[str]) -> None:
            order = [*self.merged, *(name for name in names if name not in self.merged)]
            super().merge(names)
            self.cache = {key: value.detach() for key, value in self.compute(order).items()} if order else None


class MergeIsForward(Toy):
    """Merged adapters are added once more in forward."""

    class layer_class(Layer):
        def effective(self) -> dict[str, torch.Tensor]:
            return self.add_deltas(super().effective(), self.merged)


class MergeIgnoresWeights(Toy):
    """What is merged has the weight 1."""

    class layer_class(Layer):
        def merge(self, names: list[str]) -> None:
            kept, self.weights = self.weights, {}
            super().merge(names)
            self.weights = kept


class MergeRounds(Toy):
    """What is merged has the precision of bfloat16."""

    class layer_class(Layer):
        def merge(self, names: list[str]) -> None:
            super().merge(names)
            if self.cache:
                self.cache = {key: value.bfloat16().float() for key, value in self.cache.items()}


class MergeWritesBase(Toy):
    """A merge adds to the base weight, and unmerging subtracts: what comes back is not quite the base."""

    class layer_class(Layer):
        def merge(self, names: list[str]) -> None:
            for name in names:
                if name not in self.merged and self.delta(name) is not None and not self.replaces(name):
                    self.base.weight.data += self.share(name) * self.delta(name)
            self.merged = [name for name in self.active if name in (*self.merged, *names)]

        def unmerge(self) -> None:
            for name in self.merged:
                if self.delta(name) is not None and not self.replaces(name):
                    self.base.weight.data -= self.share(name) * self.delta(name)
            self.merged = []

        def compute(self, names: list[str]) -> dict[str, torch.Tensor]:
            return super().compute([name for name in names if name not in self.merged or self.replaces(name)])


class DisabledMergedIsMerged(Toy):
    """While adapters are disabled, merged ones are not."""

    class layer_class(Layer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.disabled and self.cache is not None:
                return torch.func.functional_call(self.base, dict(self.cache), (x,))
            return super().forward(x)


class DisablingUnmerges(Toy):
    """disable_adapters unmerges."""

    def disable_adapters(self) -> None:
        self.unmerge_adapter()
        super().disable_adapters()


class InactiveMergeAccepted(Toy):
    """An adapter that is not active is merged without a word."""

    def merge_adapter(self, names: list[str], /) -> None:
        self.check_names(names)
        super().merge_adapter([name for name in names if name in self.active])


class MergeActivates(Toy):
    """An adapter that is not active becomes so when it is merged."""

    def merge_adapter(self, names: list[str], /) -> None:
        self.check_names(names)
        for layer in self.layers().values():
            layer.active = layer.active + [name for name in names if name in layer.slots and name not in layer.active]
        self.active = self.active + [name for name in names if name not in self.active]
        super().merge_adapter(names)


class MergeByModule(Toy):
    """The names before an unknown one are merged already when it is refused."""

    def merge_adapter(self, names: list[str], /) -> None:
        for name in names:
            super().merge_adapter([name])


class UnmergeKeepsOutput(Toy):
    """Unmerging clears the list and not the cache."""

    class layer_class(Layer):
        def unmerge(self) -> None:
            self.merged = []

        def effective(self) -> dict[str, torch.Tensor]:
            return self.cache if self.cache is not None else super().effective()


class UnmergeDeactivates(Toy):
    """What was merged is inactive afterwards."""

    def unmerge_adapter(self) -> None:
        merged = {name for layer in self.layers().values() for name in layer.merged}
        super().unmerge_adapter()
        for layer in self.layers().values():
            layer.active = [name for name in layer.active if name not in merged]


class DeleteOfMergedAccepted(Toy):
    """A merged adapter is unmerged and deleted."""

    def delete_adapter(self, name: str, /) -> None:
        self.check_names([name])
        self.unmerge_adapter()
        super().delete_adapter(name)
