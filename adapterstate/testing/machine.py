"""The hypothesis machine: it draws events, valid and not, and lets a `Trial` check what they do."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import hypothesis
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from adapterstate.testing.reference import POLICIES, No, do_overlap
from adapterstate.testing.report import Report
from adapterstate.testing.rules import Broken, refuse_unknown
from adapterstate.testing.shorten import shortened
from adapterstate.testing.system import AdapterSystem, Recipe
from adapterstate.testing.trial import Trial, alone
from adapterstate.testing.wrong import wrong_calls

NAMES = ("a", "ab", "b")
"""Few, so that events meet the same adapters often; and parts of each other, so that names must be compared whole."""

ODD_NAMES = ("weight", "lora_A", "0", "a b", "adapters", "ba")
"""Names that are legal, and that an implementation may trip over."""

DEFAULT_SETTINGS = hypothesis.settings(
    max_examples=200,
    stateful_step_count=20,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate, hypothesis.Phase.shrink],
    suppress_health_check=list(hypothesis.HealthCheck),
)
"""What `check_adapter_system` uses unless it is given others."""

ROUND = 10
"""How many sequences one run of hypothesis makes: after ten it would spend five of six on copying parts of earlier ones about."""

WEIGHTS = (0.5, 2.0, -1.0, 1.0, 0.0)


class AdapterStateMachine(RuleBasedStateMachine):
    """Tries a system with sequences of events. Derive from it to add rules of your own; each has the trial at hand.

    Attributes:
        make_system: returns a fresh system; set it in a subclass, as a `staticmethod`.
        deviations: findings that are tolerated.
        output_rate: how often the output is checked.
        names: legal names that adapters get.
        report: what all trials of this class did.
        trial: the one that is under way.
    """

    make_system: ClassVar[Callable[[], AdapterSystem]]
    deviations: ClassVar[Collection[str]] = ()
    output_rate: ClassVar[float] = 1.0
    names: ClassVar[Sequence[str]] = NAMES
    report: ClassVar[Report] = Report()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_silent_overrides(cls)

    def __init__(self) -> None:
        super().__init__()
        self._random = torch.get_rng_state()
        torch.manual_seed(0)
        system = type(self).make_system()
        self.trial = Trial(system, deviations=self.deviations, output_rate=self.output_rate, report=self.report)
        self._good = [name for name, recipe in system.recipes.items() if not recipe.refused]
        self._bad = [name for name, recipe in system.recipes.items() if recipe.refused]
        self._meeting = _meeting(system.recipes, self._good)
        self._policies: Sequence[str] = POLICIES[:1]
        self._finishes = False

    # ---------------------------------------------------------------------------------------------------------------- rules

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Begin with some adapters, often two that replace values of one weight: most of what can go wrong needs two."""
        policies: list[Sequence[str]] = [["error"], ["error"], ["sum"], ["override"], POLICIES]
        self._policies = data.draw(st.sampled_from(policies if self._has("on_overlap") else policies[:1]))
        self._finishes = data.draw(st.sampled_from([False, True]))
        count = data.draw(st.sampled_from([0, 1, 2, 2, 3, 3, 3, 3]))
        meet = bool(self._meeting) and data.draw(st.integers(0, 3)) > 0
        pairs: list[tuple[str, str]] = data.draw(st.sampled_from(self._meeting)) if meet else []
        chosen: list[str] = list(data.draw(st.sampled_from(pairs))) if pairs else []
        recipes = self.trial.system.recipes
        apart = [name for name in self._good if not any(do_overlap(recipes[name], recipes[other]) for other in chosen)]
        with_third: bool = data.draw(st.booleans())
        if chosen and apart and with_third:
            chosen.append(data.draw(st.sampled_from(apart)))
        for at, name in enumerate(self.names[:count]):
            self._add(data, name, chosen[at] if at < len(chosen) else None)

    @precondition(lambda self: self._free())
    @rule(data=st.data())
    def add_adapter(self, data: st.DataObject) -> None:
        """Add an adapter."""
        odd = self._free(ODD_NAMES) if self._has("odd_names") and data.draw(st.integers(0, 4)) == 4 else []
        self._add(data, data.draw(st.sampled_from(odd or self._free())))

    @rule(data=st.data())
    def set_adapter(self, data: st.DataObject) -> None:
        """Activate some adapters."""
        names = self._drawn_names(data)
        options = self._drawn_options(data, names)
        if len(names) == 1 and self._has("strings") and data.draw(st.booleans()):
            self.trial.set_adapter(names[0], **options)
        else:
            self.trial.set_adapter(names, scribble=data.draw(st.booleans()), **options)

    @precondition(lambda self: self._has("several") and len(self._present()) > 1)
    @rule(data=st.data())
    def combine(self, data: st.DataObject) -> None:
        """Activate all adapters, or all but one, in some order, with a policy if they need one; then often merge some, or delete one."""
        names = list(data.draw(st.permutations(self._present())))
        names = names[: max(2, len(names) - data.draw(st.sampled_from([0, 1, 0])))]
        options = self._drawn_options(data, names)
        if self._has("on_overlap") and isinstance(self.trial.reference.after("set_adapter", names, **options), No):
            options["on_overlap"] = data.draw(st.sampled_from(["sum", "override"]))
        self.trial.set_adapter(names, **options)
        then = data.draw(st.sampled_from(["nothing", "merge", "delete"]))
        if then == "merge" and self._has("merge_adapter") and self.trial.reference.activation.names:
            self._merge(data)
        elif then == "delete":
            reference, present = self.trial.reference, self._present()
            active = reference.activation.names
            beside = [name for name in present if any(name not in pair for *pair, _ in reference.overlaps(active))]  # leaves an overlap
            self.trial.delete_adapter(data.draw(st.sampled_from(beside or present)))

    @precondition(lambda self: self._has("several") and any(True for _ in self.trial.reference.overlaps(self._present())))
    @rule(data=st.data())
    def overlap(self, data: st.DataObject) -> None:
        """Try to activate adapters that no policy combines, several times: as nothing may change, that costs little."""
        reference, present = self.trial.reference, self._present()
        orders = [list(order) for size in range(2, len(present) + 1) for order in itertools.permutations(present, size)][-24:]
        refused = [order for order in orders if isinstance(reference.after("set_adapter", order), No)]
        for _ in range(data.draw(st.integers(1, 3)) if refused else 0):
            self.trial.set_adapter(data.draw(st.sampled_from(refused)))

    @precondition(lambda self: self._present())
    @rule(data=st.data())
    def delete_adapter(self, data: st.DataObject) -> None:
        """Delete an adapter."""
        self.trial.delete_adapter(data.draw(st.sampled_from(self._present())))

    @precondition(lambda self: self._has("merge_adapter") and self.trial.reference.activation.names)
    @rule(data=st.data())
    def merge_adapter(self, data: st.DataObject) -> None:
        """Merge some active adapters, and sometimes others after them."""
        self._merge(data)

    def _merge(self, data: st.DataObject) -> None:
        active = list(self.trial.reference.activation.names)
        cut = len(active)
        if self._has("partial_merge"):
            active = list(data.draw(st.permutations(active)))
            cut = data.draw(st.integers(1, len(active)))
        self.trial.merge_adapter(active[:cut], scribble=data.draw(st.booleans()))
        if cut < len(active) and data.draw(st.booleans()):
            self.trial.merge_adapter(active[cut:])

    @rule(data=st.data())
    def wrong_arguments(self, data: st.DataObject) -> None:
        """Try some events with arguments that must be refused. As nothing may change, several in a row cost little."""
        for _ in range(data.draw(st.integers(1, 4))):
            calls = wrong_calls(self.trial, (self._free() or ["c"])[0], self.names)
            data.draw(st.sampled_from(calls[data.draw(st.sampled_from(sorted(calls)))]))()

    @precondition(lambda self: self._has("merge_adapter") and self.trial.reference.merged)
    @rule(data=st.data())
    def unmerge_adapter(self, data: st.DataObject) -> None:
        """Unmerge; sometimes twice, which is the same as once."""
        for _ in range(data.draw(st.sampled_from([1, 1, 2]))):
            self.trial.unmerge_adapter()

    @precondition(lambda self: self._has("enable_adapters") and not self.trial.reference.enabled)
    @rule(data=st.data())
    def enable_adapters(self, data: st.DataObject) -> None:
        """Enable."""
        self.trial.enable_adapters()

    @precondition(lambda self: self._has("disable_adapters") and not self.trial.reference.disabled)
    @rule(data=st.data())
    def disable_adapters(self, data: st.DataObject) -> None:
        """Disable; sometimes twice, which is the same as once."""
        for _ in range(data.draw(st.sampled_from([1, 1, 1, 2]))):
            self.trial.disable_adapters()

    @precondition(lambda self: self._has("set_requires_grad") and self._present())
    @rule(data=st.data(), flag=st.booleans())
    def set_requires_grad(self, data: st.DataObject, flag: bool) -> None:
        """Freeze or thaw some adapters."""
        self.trial.set_requires_grad(self._drawn_names(data), flag, scribble=data.draw(st.booleans()))

    @precondition(lambda self: self._has("disable_adapter") and len(self.trial.contexts) < 3)
    @rule(data=st.data())
    def enter_disable(self, data: st.DataObject) -> None:
        """Enter a context in which adapters are disabled."""
        self.trial.enter_disable()

    @precondition(lambda self: self._has("use_adapter") and len(self.trial.contexts) < 3 and self._present())
    @rule(data=st.data())
    def enter_use(self, data: st.DataObject) -> None:
        """Enter a context in which some adapters are active."""
        names = self._drawn_names(data)
        self.trial.enter_use(names, scribble=data.draw(st.booleans()), **self._drawn_options(data, names))

    @precondition(lambda self: self.trial.contexts)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Leave a context; those that disable in any order."""
        contexts = self.trial.contexts
        able = [n for n, context in enumerate(contexts) if context.kind == "disable" or all(c.kind == "disable" for c in contexts[n + 1 :])]
        self.trial.leave(data.draw(st.sampled_from(able)))

    @precondition(lambda self: self._perturbable())
    @rule(data=st.data())
    def perturb(self, data: st.DataObject) -> None:
        """Change the weights of an adapter that is not merged."""
        self.trial.perturb(data.draw(st.sampled_from(self._perturbable())))

    def teardown(self) -> None:
        """Often delete all adapters, and look for what is left."""
        try:
            if self._finishes and not self.trial.broken:
                self.trial.finish()
        finally:
            torch.set_rng_state(self._random)

    # -------------------------------------------------------------------------------------------------------------- drawing

    def _has(self, feature: str) -> bool:
        return self.trial.has(feature)

    def _present(self) -> list[str]:
        return list(self.trial.reference.adapters)

    def _free(self, names: Sequence[str] = ()) -> list[str]:
        """Names that may be given. What an open context does with a later adapter of a name that it will restore, no rule says."""
        taken = {name for context in self.trial.contexts if context.kind == "use" for name in context.before.adapters}
        return [name for name in names or self.names if name not in taken and name not in self.trial.reference.adapters]

    def _perturbable(self) -> list[str]:
        return [name for name in self._present() if name not in self.trial.reference.merged]

    def _add(self, data: st.DataObject, name: str, recipe: str | None = None) -> None:
        self.trial.add_adapter(name, recipe or data.draw(st.sampled_from(self._good)), data.draw(st.sampled_from(self._policies)))

    def _drawn_names(self, data: st.DataObject) -> list[str]:
        """Some of the adapters that are there, in any order."""
        present = self._present()
        least = 0 if self._has("none") or not present else 1
        most = len(present) if self._has("several") else min(1, len(present))
        size = data.draw(st.integers(least, most))
        return list(data.draw(st.permutations(present)))[:size] if present else []

    def _drawn_options(self, data: st.DataObject, names: Sequence[str]) -> dict[str, Any]:
        """Weights and a policy, sometimes."""
        options: dict[str, Any] = {}
        if self._has("weights") and names and data.draw(st.booleans()):
            options["weights"] = [data.draw(st.sampled_from(WEIGHTS)) for _ in names]
        if self._has("on_overlap"):
            policy = data.draw(st.sampled_from([None, "sum", "override", None, "error", None]))
            options |= {"on_overlap": policy} if policy else {}
        return options


def _meeting(recipes: Mapping[str, Recipe], good: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Pairs of recipes that replace values of one weight at one module: those with common rows, those without, and the first again."""
    pairs: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for one, two in itertools.product(good, good):
        replaced = [{(part.path, part.weight) for part in recipes[name].parts if part.kind != "tuner"} for name in (one, two)]
        if replaced[0] & replaced[1]:
            pairs[do_overlap(recipes[one], recipes[two])].append((one, two))
    return [found for found in (pairs[True], pairs[False], pairs[True]) if found]


def _refuse_silent_overrides(cls: type[AdapterStateMachine]) -> None:
    """Refuse a class that overrides a rule with a plain method: hypothesis would drop the rule without a word."""
    markers = ("hypothesis_stateful_rule", "hypothesis_stateful_initialize_rule", "hypothesis_stateful_invariant")
    lost = [
        name
        for name, value in vars(cls).items()
        if not any(hasattr(value, marker) for marker in markers)
        and any(hasattr(getattr(base, name, None), marker) for base in cls.__mro__[1:] for marker in markers)
    ]
    if lost:
        raise TypeError(
            f"{cls.__name__} overrides {', '.join(lost)} without @rule, so it would never be run. Decorate it as the original is "
            "(hypothesis.stateful.rule, initialize or invariant, with the same arguments), or choose another name."
        )


def check_adapter_system(
    make_system: Callable[[], AdapterSystem],
    *,
    settings: hypothesis.settings | None = None,
    deviations: Collection[str] = (),
    seed: int | None = None,
    output_rate: float = 1.0,
    machine: type[AdapterStateMachine] = AdapterStateMachine,
) -> Report:
    """Try a system with sequences of events, and compare what it does with what the rules say.

    Args:
        make_system: returns a fresh system, which must not share anything with earlier ones.
        settings: hypothesis's; `DEFAULT_SETTINGS` by default.
        deviations: findings that are known and tolerated: a rule's name, or a longer form as failures print it in brackets, such as
            ``"first_adapter_only/delete_adapter"``. After one is met, a sequence ends, since nobody knows what must follow.
        seed: makes a run repeatable.
        output_rate: how often the output is checked, between 0 and 1.
        machine: a subclass of `AdapterStateMachine`, with rules of one's own.

    Returns:
        What was done, what could not be checked, and which deviations were met.

    Raises:
        AssertionError: a rule is broken. The text holds the shortest sequence of events that was found, as code.
        ValueError: `deviations`, or the system's `unsupported`, names what there is not.
    """
    refuse_unknown(deviations)
    report = Report()
    members = {
        "make_system": staticmethod(make_system),
        "deviations": tuple(deviations),
        "output_rate": output_rate,
        "report": report,
        "__module__": machine.__module__,
    }
    tried: Any = type(machine.__name__, (machine,), members)
    given = settings or DEFAULT_SETTINGS
    first = seed if seed is not None else 0 if given.derandomize else random.getrandbits(32)
    try:
        with alone():
            for number in range(-(-given.max_examples // ROUND)):
                size = min(ROUND, given.max_examples - number * ROUND)
                here = hypothesis.settings(given, max_examples=size, derandomize=False)
                run_state_machine_as_test(hypothesis.seed(f"{first}/{number}")(tried), settings=here)
    except Broken as broken:
        if hypothesis.Phase.shrink in given.phases:
            broken = shortened(broken, make_system, deviations, output_rate)
        vars(broken).pop("__notes__", None)  # hypothesis's own account of the same events, in terms of this class
        raise broken from broken.__cause__
    report.unseen = tuple(name for name in deviations if not any(f"{met}/".startswith(f"{name}/") for met in report.tolerated))
    return report
