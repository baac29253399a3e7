"""`AdapterConformance`: the rules as deterministic scenarios, one test each, for a class collected by pytest."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar

from adapterstate.testing.machine import NAMES
from adapterstate.testing.reference import do_overlap
from adapterstate.testing.system import AdapterSystem
from adapterstate.testing.trial import Trial, alone
from adapterstate.testing.wrong import wrong_calls

Maker = Callable[[], AdapterSystem]


class AdapterConformance:
    """Derive from it, in a class that pytest collects, and give it a fixture ``make_system`` that returns a maker of fresh systems.

    Every step of every scenario is compared with the reference, as in `AdapterStateMachine`. A scenario that needs what the system does not
    support is skipped; one that meets a known deviation is an expected failure.

    Attributes:
        deviations: findings that are tolerated.
    """

    deviations: ClassVar[Collection[str]] = ()

    @contextlib.contextmanager
    def trial(self, make_system: Maker, *needed: str) -> Iterator[Trial]:
        """A trial of a fresh system that supports what is needed."""
        import pytest

        with alone():
            trial = Trial(make_system(), deviations=self.deviations)
            missing = [feature for feature in needed if feature in trial.lacking]
            if missing:
                pytest.skip(f"the system does not support {', '.join(missing)}")
            yield trial
        if trial.over:
            pytest.xfail(f"known deviation: {', '.join(trial.report.tolerated)}")

    def recipes(self, make_system: Maker) -> list[str]:
        """Names of the recipes that must be accepted."""
        return [name for name, recipe in make_system().recipes.items() if not recipe.refused]

    def pairs(self, make_system: Maker, *, overlapping: bool | None = None) -> list[tuple[str, str]]:
        """Pairs of such recipes, by whether they replace a common row if that is said; at most sixteen, evenly spread."""
        known = make_system().recipes
        found = [
            (one, two)
            for one, two in itertools.combinations_with_replacement(self.recipes(make_system), 2)
            if overlapping is None or do_overlap(known[one], known[two]) == overlapping
        ]
        return found[:: -(-len(found) // 16) or 1]

    def filled(self, trial: Trial, recipes: Collection[str], on_overlap: str = "error") -> list[str]:
        """Add an adapter of each recipe, and return their names."""
        names = [name for name, _ in zip(NAMES, recipes, strict=False)]
        for name, recipe in zip(names, recipes, strict=False):
            trial.add_adapter(name, recipe, *([] if on_overlap == "error" else [on_overlap]))
        return names

    def activations(self, trial: Trial, names: list[str]) -> list[list[str]]:
        """Every activation of these adapters that the system supports: each choice of them in each order."""
        most = len(names) if "several" not in trial.lacking else 1
        least = 0 if "none" not in trial.lacking else 1
        return [list(order) for size in range(least, most + 1) for order in itertools.permutations(names, size)]

    # ------------------------------------------------------------------------------------------------------------ scenarios

    def test_first_adapter_only(self, make_system: Maker) -> None:
        """The first adapter now present activates itself, and no other does; nothing takes the place of one that is deleted."""
        for pair in self.pairs(make_system):
            with self.trial(make_system) as trial:
                one, two = self.filled(trial, pair)
                trial.delete_adapter(one)
                trial.delete_adapter(two)
                trial.add_adapter(two, pair[0])

    def test_same_everywhere(self, make_system: Maker) -> None:
        """Every activation is the same on all modules, and gives the output that belongs to it."""
        for pair in self.pairs(make_system, overlapping=False):
            with self.trial(make_system) as trial:
                for names in self.activations(trial, self.filled(trial, pair)):
                    trial.set_adapter(names)

    def test_no_overlap(self, make_system: Maker) -> None:
        """Adapters that replace the same rows are not active together, and a refusal changes nothing."""
        for pair in self.pairs(make_system, overlapping=True):
            with self.trial(make_system, "several") as trial:
                one, two = self.filled(trial, pair)
                trial.set_adapter([two])
                trial.set_adapter([one, two])

    def test_policies(self, make_system: Maker) -> None:
        """Policies that adapters carry, or an event names, combine them as specified, until the next activation."""
        for (one, two), policy in itertools.product(self.pairs(make_system, overlapping=True), ("sum", "override")):
            with self.trial(make_system, "several", "on_overlap") as trial:
                trial.add_adapter("a", one, policy)
                trial.add_adapter("ab", two, policy)
                trial.add_adapter("b", two)
                trial.set_adapter(["a", "ab"])
                trial.set_adapter(["ab", "a"])
                trial.set_adapter(["a", "b"])
                trial.set_adapter(["b", "ab", "a"], on_overlap=policy)
                trial.delete_adapter("b")
                trial.set_adapter(["a", "ab"], on_overlap="error")

    def test_weights(self, make_system: Maker) -> None:
        """Weights enter the output as specified, and are forgotten by the next activation."""
        for recipe in self.recipes(make_system):
            with self.trial(make_system, "weights") as trial:
                trial.add_adapter("a", recipe)
                for weight in (0.5, -1.0, 0.0):
                    trial.set_adapter(["a"], weights=[weight])
                trial.set_adapter(["a"])

    def test_independent_axes(self, make_system: Maker) -> None:
        """Switching, enabling and deleting leave a frozen adapter frozen; freezing leaves active what is active."""
        for pair in self.pairs(make_system, overlapping=False):
            with self.trial(make_system, "set_requires_grad") as trial:
                one, two = self.filled(trial, pair)
                trial.set_requires_grad([one], False)
                trial.set_adapter([two])
                trial.set_adapter([one])
                if "disable_adapters" not in trial.lacking:
                    trial.disable_adapters()
                    trial.set_adapter([two])
                    trial.set_adapter([one])
                    trial.enable_adapters()
                trial.delete_adapter(two)
                trial.set_requires_grad([one], True)

    def test_path_independent(self, make_system: Maker) -> None:
        """What is active after set_adapter depends on its arguments alone, whatever was merged or active before."""
        for pair in self.pairs(make_system, overlapping=False):
            with self.trial(make_system) as trial:
                orders = self.activations(trial, self.filled(trial, pair))
                for before, after in itertools.product(orders[-3:], orders[-3:]):
                    trial.set_adapter(before, scribble=True)
                    if "merge_adapter" not in trial.lacking:
                        trial.merge_adapter(before, scribble=True)
                    trial.set_adapter(after)
                    trial.set_adapter(after)

    def test_disabled_is_base(self, make_system: Maker) -> None:
        """Disabled output is the base's bit for bit, merged or not, and events while disabled show afterwards."""
        for pair in self.pairs(make_system, overlapping=False):
            with self.trial(make_system, "disable_adapters") as trial:
                trial.disable_adapters()
                one, two = self.filled(trial, pair)
                trial.enable_adapters()
                trial.disable_adapters()
                trial.set_adapter([two])
                if "merge_adapter" not in trial.lacking:
                    trial.merge_adapter([two])
                trial.enable_adapters()
                trial.disable_adapters()
                trial.set_adapter([one])
                trial.enable_adapters()

    def test_contexts_count(self, make_system: Maker) -> None:
        """Adapters are disabled while any context holds, in whichever order contexts are left, and while disable_adapters() does."""
        for first in (0, 1):
            with self.trial(make_system, "disable_adapter") as trial:
                trial.add_adapter("a", self.recipes(make_system)[0])
                trial.enter_disable()
                trial.enter_disable()
                if "disable_adapters" not in trial.lacking:
                    trial.disable_adapters()
                    trial.enable_adapters()
                trial.leave(first)
                trial.leave()

    def test_use_adapter(self, make_system: Maker) -> None:
        """Leaving use_adapter restores what was active and merged, as far as it is still there."""
        for pair in self.pairs(make_system, overlapping=False):
            with self.trial(make_system, "use_adapter") as trial:
                one, two = self.filled(trial, pair)
                if "merge_adapter" not in trial.lacking:
                    trial.merge_adapter([one])
                trial.enter_use([two])
                trial.enter_use([one])
                trial.leave()
                trial.leave()
                trial.set_adapter([two])
                trial.enter_use([one])
                trial.delete_adapter(two)
                trial.leave()

    def test_merge_is_exact(self, make_system: Maker) -> None:
        """Merged output equals unmerged, and unmerging gives back what was there bit for bit, after several cycles too."""
        for recipe in self.recipes(make_system):
            with self.trial(make_system, "merge_adapter") as trial:
                trial.add_adapter("a", recipe)
                for _ in range(3):
                    trial.merge_adapter(["a"])
                    trial.delete_adapter("a")
                    trial.unmerge_adapter()

    def test_partial_merge(self, make_system: Maker) -> None:
        """Whichever of the active adapters are merged, in whichever order, the others stay in force."""
        for pair in self.pairs(make_system, overlapping=False):
            with self.trial(make_system, "merge_adapter", "partial_merge", "several") as trial:
                names = self.filled(trial, pair)
                for order in itertools.permutations(names):
                    trial.set_adapter(names)
                    for name in order:
                        trial.merge_adapter([name])
                    trial.unmerge_adapter()

    def test_leave_no_trace(self, make_system: Maker) -> None:
        """After the last delete, everything is as it was before the first add; and a model without adapters accepts an add."""
        for pair in self.pairs(make_system):
            with self.trial(make_system) as trial:
                self.filled(trial, pair)
                trial.finish()

    def test_bad_input_is_an_error(self, make_system: Maker) -> None:
        """Whatever is wrong with the arguments of an event, it is refused and changes nothing."""
        for count in range(4):
            with self.trial(make_system) as trial:
                names = self.filled(trial, self.recipes(make_system)[:count])
                if count == 2 and "merge_adapter" not in trial.lacking:
                    trial.merge_adapter(names[:1])
                for calls in wrong_calls(trial, "c", NAMES).values():
                    for call in _some(calls):
                        call()


def _some(calls: list[Any]) -> list[Any]:
    """At most eight of them, evenly spread."""
    return calls[:: -(-len(calls) // 8)]
