"""The reference: what each event must do, said a second time, in plain Python and as plainly as possible.

It is written from the words of the rules (docs/rules.md, docs/combining.md) and reads neither the charts nor the planner, so that a mistake
there is not repeated here. One model-wide record says what is active, merged, trainable and disabled; what must be seen on a module follows
from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from adapterstate.testing.system import ModuleView, Observation, Options, Part, Recipe

POLICIES = ("error", "sum", "override")


@attrs.frozen
class No:
    """A refusal that must come: the rule that demands it, and why."""

    rule: str
    why: str


@attrs.frozen
class Adapter:
    """An adapter that was added: its recipe, how it combines, whether it is trainable, whether it was asked to be."""

    recipe: Recipe
    on_overlap: str = "error"
    trainable: bool = True
    asked: bool = False


@attrs.frozen
class Activation:
    """What is active, in order, with its weights and the policy that the event named for them; none where nothing is active."""

    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    on_overlap: str | None = None

    def weight(self, name: str) -> float:
        """The weight of one active adapter."""
        return self.weights[self.names.index(name)]

    def only(self, names: Mapping[str, Any]) -> Activation:
        """What is left of it when only these adapters are."""
        kept = [(name, weight) for name, weight in zip(self.names, self.weights, strict=True) if name in names]
        return Activation(tuple(name for name, _ in kept), tuple(weight for _, weight in kept), self.on_overlap if kept else None)


@attrs.frozen
class Reference:
    """What a correct system's state is. Immutable: an event gives a new one.

    Attributes:
        recipes: the system's.
        options: the system's.
        adapters: name -> adapter, in the order in which they were added.
        activation: what is active.
        merged: which of these are merged.
        disabled: `disable_adapters()` holds.
        held: how many contexts hold.
    """

    recipes: Mapping[str, Recipe] = attrs.field(repr=False)
    options: Options = attrs.field(factory=Options)
    adapters: Mapping[str, Adapter] = attrs.field(factory=dict)
    activation: Activation = Activation()
    merged: frozenset[str] = frozenset()
    disabled: bool = False
    held: int = 0

    # --------------------------------------------------------------------------------------------------------- what is seen

    @property
    def enabled(self) -> bool:
        """Whether adapters are applied."""
        return not self.disabled and self.held == 0

    def parts(self, name: str) -> tuple[Part, ...]:
        """Where an adapter goes."""
        return self.adapters[name].recipe.parts

    def policy(self, name: str, activation: Activation | None = None) -> str:
        """How an adapter combines in an activation, the present one by default."""
        return (activation or self.activation).on_overlap or self.adapters[name].on_overlap

    def expected(self) -> Observation:
        """What must be observed."""
        at = {name: {part.path for part in self.parts(name)} for name in self.adapters}
        paths = sorted({path for paths in at.values() for path in paths})
        views = {
            path: ModuleView(
                present=[name for name in self.adapters if path in at[name]],
                active=[name for name in self.activation.names if path in at[name]],
                merged=[name for name in self.activation.names if path in at[name] and name in self.merged],
            )
            for path in paths
        }
        return Observation(views, self.enabled, {name: "all" if self._accepts_grad(name) else "none" for name in self.adapters})

    def _accepts_grad(self, name: str) -> bool:
        adapter = self.adapters[name]
        follows = self.options.grad_follows == "trainability" or adapter.asked
        return adapter.trainable and (follows or (name in self.activation.names and self.enabled))

    # ------------------------------------------------------------------------------------------------------------- overlaps

    def overlaps(self, names: Sequence[str]) -> Iterator[tuple[str, str, Part]]:
        """Every two of these adapters that replace the same row of the same weight at the same module."""
        for one, two in itertools.combinations(names, 2):
            for part, other in itertools.product(self.parts(one), self.parts(two)):
                if _same_rows(part, other):
                    yield one, two, part

    def _combination(self, activation: Activation) -> No | None:
        """Why these may not be active together."""
        for one, two, part in self.overlaps(activation.names):
            policies = {self.policy(one, activation), self.policy(two, activation)}
            where = f"{one!r} and {two!r} both replace rows of {part.weight} at {part.path}"
            if len(policies) > 1 or policies == {"error"}:
                return No("no_overlap", f"{where}, by {' and '.join(sorted(policies))}")
            if part.fixed and policies == {"sum"}:
                return No("combining", f"{where}, which cannot be summed")
        for name, weight in zip(activation.names, activation.weights, strict=True):
            if weight != 1 and any(part.fixed for part in self.parts(name)):
                return No("combining", f"{name!r} replaces values that cannot be weighted")
        return None

    # --------------------------------------------------------------------------------------------------------------- events

    def after(self, event: str, *args: Any, **options: Any) -> Reference | No:
        """Return what an event makes of this, or why it must be refused."""
        result: Reference | No = getattr(self, f"_{event}")(*args, **options)
        return result

    def _unusable(self, names: Sequence[str]) -> No | None:
        for name in names:
            if name not in self.adapters:
                return No("bad_input_is_an_error", f"there is no adapter {name!r}")
            if names.count(name) > 1:
                return No("bad_input_is_an_error", f"{name!r} is given twice")
        return None

    def _add_adapter(self, name: str, recipe: str, on_overlap: str = "error") -> Reference | No:
        chosen = self.recipes[recipe]
        if not name or "." in name:
            return No("bad_input_is_an_error", f"{name!r} is no name: it is empty or holds a dot")
        if name in self.adapters:
            return No("bad_input_is_an_error", f"there is an adapter {name!r} already")
        if on_overlap not in POLICIES:
            return No("bad_input_is_an_error", f"there is no policy {on_overlap!r}")
        if chosen.refused:
            return No("bad_input_is_an_error", chosen.refused)
        first = not self.adapters
        adapters = {**self.adapters, name: Adapter(chosen, on_overlap, chosen.trainable)}
        activation = Activation((name,), (1.0,)) if first else self.activation
        return attrs.evolve(self, adapters=adapters, activation=activation)

    def _set_adapter(self, names: Sequence[str], weights: Sequence[float] | None = None, on_overlap: str | None = None) -> Reference | No:
        no = self._unusable(names)
        if no:
            return no
        if weights is not None and (len(weights) != len(names) or not all(math.isfinite(weight) for weight in weights)):
            return No("bad_input_is_an_error", "weights must be finite, and as many as the names")
        if on_overlap is not None and on_overlap not in POLICIES:
            return No("bad_input_is_an_error", f"there is no policy {on_overlap!r}")
        activation = Activation(tuple(names), tuple(weights) if weights is not None else (1.0,) * len(names), on_overlap if names else None)
        return self._combination(activation) or attrs.evolve(self, activation=activation, merged=frozenset())

    def _delete_adapter(self, name: str) -> Reference | No:
        no = self._unusable([name])
        if no:
            return no
        if name in self.merged:
            return No("merged_are_active", f"{name!r} is merged")
        adapters = {other: adapter for other, adapter in self.adapters.items() if other != name}
        activation = self.activation.only(adapters)
        if self.options.fallback == "first" and self.activation.names and not activation.names and adapters:
            activation = Activation((next(iter(adapters)),), (1.0,))
        return attrs.evolve(self, adapters=adapters, activation=activation)

    def _merge_adapter(self, names: Sequence[str]) -> Reference | No:
        no = self._unusable(names)
        if no:
            return no
        inactive = [name for name in names if name not in self.activation.names]
        if inactive and self.options.merge_activates:
            more = (1.0,) * len(inactive)
            activation = attrs.evolve(self.activation, names=(*self.activation.names, *inactive), weights=(*self.activation.weights, *more))
            return self._combination(activation) or attrs.evolve(self, activation=activation, merged=self.merged | set(names))
        if inactive:
            return No("merged_are_active", f"{inactive} are not active")
        return attrs.evolve(self, merged=self.merged | set(names))

    def _unmerge_adapter(self) -> Reference:
        return attrs.evolve(self, merged=frozenset())

    def _enable_adapters(self) -> Reference:
        return attrs.evolve(self, disabled=False)

    def _disable_adapters(self) -> Reference:
        return attrs.evolve(self, disabled=True)

    def _set_requires_grad(self, names: Sequence[str], requires_grad: object) -> Reference | No:
        no = self._unusable(names)
        if no:
            return no
        if not isinstance(requires_grad, bool):
            return No("bad_input_is_an_error", f"{requires_grad!r} is neither True nor False")
        changed = {name: attrs.evolve(self.adapters[name], trainable=requires_grad, asked=requires_grad) for name in names}
        return attrs.evolve(self, adapters={**self.adapters, **changed})

    def _enter_disable(self) -> Reference:
        return attrs.evolve(self, held=self.held + 1)

    def _leave_disable(self) -> Reference:
        return attrs.evolve(self, held=self.held - 1)

    def _enter_use(self, names: Sequence[str], weights: Sequence[float] | None = None, on_overlap: str | None = None) -> Reference | No:
        return self._set_adapter(names, weights, on_overlap)

    def _leave_use(self, before: Reference) -> Reference:
        """Restore what was active and merged when the context was entered, as far as it is still there."""
        return attrs.evolve(self, activation=before.activation.only(self.adapters), merged=before.merged & set(self.adapters))


def _same_rows(one: Part, two: Part) -> bool:
    """Whether two parts replace a common row of one weight at one module."""
    if "tuner" in (one.kind, two.kind) or (one.path, one.weight) != (two.path, two.weight):
        return False
    return one.rows is None or two.rows is None or bool(set(one.rows) & set(two.rows))


def do_overlap(one: Recipe, two: Recipe) -> bool:
    """Whether adapters of these recipes replace a common row."""
    return any(_same_rows(part, other) for part, other in itertools.product(one.parts, two.parts))
