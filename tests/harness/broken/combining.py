"""Faults of combining adapters: overlaps, policies and weights."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from ..toy import Layer, Toy


class DisjointRowsRefused(Toy):
    """Two adapters that replace rows of one weight may not be active together, whichever rows."""

    def meet(self, layer: Layer, one: str, two: str) -> bool:
        return bool(set(layer.replaces(one)) & set(layer.replaces(two)))


class OverlapAccepted(Toy):
    """Nobody looks whether adapters replace the same rows."""

    def meet(self, layer: Layer, one: str, two: str) -> bool:
        return False


class CopiesOverRowsAccepted(Toy):
    """Copies are compared with copies, and rows with rows."""

    def meet(self, layer: Layer, one: str, two: str) -> bool:
        kinds = {"rows" in layer.slots[name].extra for name in (one, two)}
        return len(kinds) == 1 and super().meet(layer, one, two)


class EqualRowsOnly(Toy):
    """Rows overlap only when they are all the same."""

    def meet(self, layer: Layer, one: str, two: str) -> bool:
        return layer.replaces(one) == layer.replaces(two)


class OtherEndForgotten(Toy):
    """Overlaps are looked for at the embedding, and not at the head that is tied to it."""

    def meet(self, layer: Layer, one: str, two: str) -> bool:
        head = "weight" in layer.base._parameters and len(layer.base.weight) == 6 and isinstance(layer.base, torch.nn.Linear)
        return not head and super().meet(layer, one, two)


class NeighboursOnly(Toy):
    """Each adapter is compared with the next one only."""

    def check_overlap(self, names: list[str], policy: str | None) -> None:
        for pair in itertools.pairwise(names):
            super().check_overlap(list(pair), policy)


class AnyPolicyWillDo(Toy):
    """Two adapters combine when each carries a policy, be it another."""

    def agree(self, one: str, two: str) -> bool:
        return "error" not in (one, two)


class OnePolicyWillDo(Toy):
    """Two adapters combine when one of them carries a policy."""

    def agree(self, one: str, two: str) -> bool:
        return one != "error" or two != "error"


class CarriedPolicyIgnored(Toy):
    """Only a policy on the event counts."""

    def check_layer(self, layer: Layer, here: list[str], policy: str | None) -> None:
        super().check_layer(layer, here, policy or "error")


class EventPolicySurvives(Toy):
    """A policy that an event named holds for the next event too."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        super().set_adapter(names, weights, on_overlap or self.policy)


class EventPolicyForgotten(Toy):
    """Deleting any adapter forgets the policy that the event named."""

    def delete_adapter(self, name: str, /) -> None:
        super().delete_adapter(name)
        self.policy = None
        self.refresh()


class SumIsOverride(Toy):
    """The later one wins also where values should be summed."""

    class layer_class(Layer):
        def sums(self, name: str) -> bool:
            return False


class OverrideIsSum(Toy):
    """Differences are summed also where the later one should win."""

    class layer_class(Layer):
        def sums(self, name: str) -> bool:
            return True


class OverrideReversed(Toy):
    """The earlier one wins."""

    class layer_class(Layer):
        def compute(self, names: list[str]) -> dict[str, torch.Tensor]:
            return super().compute(names[::-1])


class CopiesIgnoreWeights(Toy):
    """Weights count for tuners only."""

    class layer_class(Layer):
        def compute(self, names: list[str]) -> dict[str, torch.Tensor]:
            kept, self.weights = self.weights, {}
            result = super().compute(names)
            self.weights = kept
            for name in names:
                delta = self.delta(name)
                if delta is not None:
                    result["weight"] = result["weight"] + (self.share(name) - 1) * delta
            return result


class TunersIgnoreWeights(Toy):
    """Weights count for copies and rows only."""

    class layer_class(Layer):
        def add_deltas(self, result: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
            kept, self.weights = self.weights, {}
            result = super().add_deltas(result, names)
            self.weights = kept
            return result


class WeightsSurvive(Toy):
    """Weights hold until others are given."""

    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        given = [names] if isinstance(names, str) else list(names)
        super().set_adapter(given, weights or [self.weights.get(name, 1.0) for name in given], on_overlap)


class WeightsByPlace(Toy):
    """On each module, the first adapter there gets the first weight."""

    def refresh(self) -> None:
        super().refresh()
        for layer in self.layers().values():
            layer.weights = dict(zip(layer.active, self.weights.values(), strict=False))


class NegativeWeightsCut(Toy):
    """Weights below zero count as zero."""

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        super().switch(names, [max(0.0, weight) for weight in weights], policy)


class ZeroIsNoWeight(Toy):
    """A weight of zero counts as none given."""

    class layer_class(Layer):
        def share(self, name: str) -> float:
            return self.weights.get(name) or 1.0


class NotFiniteAccepted(Toy):
    """Weights that are no number are accepted."""

    def check_weights(self, names: list[str], weights: list[float] | None) -> None:
        super().check_weights(names, weights and [0.0] * len(weights))


class TooManyWeightsAccepted(Toy):
    """Weights that no name belongs to are left out."""

    def check_weights(self, names: list[str], weights: list[float] | None) -> None:
        super().check_weights(names, weights and weights[: len(names)])

    def switch(self, names: list[str], weights: list[float], policy: str | None) -> None:
        super().switch(names, weights[: len(names)], policy)


class TiedRowsCountTwice(Toy):
    """Rows enter the tied head a second time."""

    class layer_class(Layer):
        def share(self, name: str) -> float:
            tied = "rows" in self.slots[name].extra and isinstance(self.base, torch.nn.Linear)
            return super().share(name) * (2 if tied else 1)


class HeadKeepsBaseRows(Toy):
    """Rows are trained at the embedding, and the tied head does not see them."""

    class layer_class(Layer):
        def compute(self, names: list[str]) -> dict[str, torch.Tensor]:
            if isinstance(self.base, torch.nn.Linear):
                names = [name for name in names if "rows" not in self.slots[name].extra]
            return super().compute(names)


class SumStartsFromActive(Toy):
    """A sum counts the original once for each adapter."""

    class layer_class(Layer):
        def compute(self, names: list[str]) -> dict[str, torch.Tensor]:
            result = super().compute(names)
            summing = [name for name in names if self.sums(name) and "weight" in self.replaces(name)]
            for name in summing[1:]:
                where = list(self.replaces(name)["weight"])
                result["weight"][where] = result["weight"][where] + self.base.weight[where]
            return result
