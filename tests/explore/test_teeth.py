"""Things broken on purpose: the exploration finds each, names the rule and shows a shortest path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest

from adapterstate.errors import EventRefusedError, InternalError
from adapterstate.explore import Counterexample, Trial, World, both, explore, rows, tuner, whole
from adapterstate.explore import walk as walking
from adapterstate.machine import plan as planner
from adapterstate.machine.charts import CHARTS, Charts, Impossible
from adapterstate.machine.guards import Guard, no_overlap
from adapterstate.machine.records import AdapterFacts, Event, Facts, ModuleFacts, Refusal, Situation

SMALL = World(
    "small",
    {
        "a": {"attention": tuner(), "head": whole()},
        "b": {"attention": tuner(), "head": rows(1)},
        "c": {"head": both(tuner(), rows(2))},
    },
)
"""On `head` a overlaps with b and c, which are disjoint."""

Effect = Callable[[Facts, Event], Facts]


def found(world: World = SMALL, charts: Charts = CHARTS, deviations: Sequence[str] = ()) -> Counterexample:
    """The counterexample of an exploration that has one."""
    exploration = explore(world, charts=charts, deviations=deviations)
    assert not exploration.holds
    broken = exploration.counterexample
    assert broken is not None
    with pytest.raises(AssertionError, match=f"^{broken.rule} is broken"):
        exploration.check()
    return broken


def calls(broken: Counterexample) -> list[str]:
    """The path, as printed."""
    return [line.removeprefix("trial.") for line in broken.script().splitlines()[1:]]


def without(name: str, event: str) -> Charts:
    """The charts without one guard."""
    table = tuple(
        attrs.evolve(row, guards=tuple(guard for guard in row.guards if row.event != event or guard.name != name))
        for row in CHARTS.activation.rows
    )
    guards = {which: tuple(g for g in guards if which != event or g.name != name) for which, guards in CHARTS.model_guards.items()}
    return attrs.evolve(CHARTS, activation=attrs.evolve(CHARTS.activation, rows=table), model_guards=guards)


@pytest.fixture
def effect(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Facts, Facts, Event], Facts]], None]:
    """Break what an event does: a function of the facts before, the right facts after and the event gives the wrong ones."""

    def broken(event: str, fault: Callable[[Facts, Facts, Event], Facts]) -> None:
        right: Effect = planner._EFFECTS[event]
        wrong = {**planner._EFFECTS, event: lambda facts, given: fault(facts, right(facts, given), given)}
        monkeypatch.setattr(planner, "_EFFECTS", wrong)

    return broken


def everywhere(facts: Facts, **changes: Callable[[str, ModuleFacts], Any]) -> Mapping[str, ModuleFacts]:
    """The modules with changed contexts, and the chart state that belongs to those."""
    modules = {}
    for path, module in facts.modules.items():
        context = attrs.evolve(module.context, **{field: change(path, module) for field, change in changes.items()})
        modules[path] = ModuleFacts(planner.state_of(context), context)
    return modules


# ---------------------------------------------------------------------------------------------------------- guards that are missing


@pytest.mark.parametrize(
    ("guard", "event", "rule", "last"),
    [
        ("no_overlap", "set_adapter", "no_overlap", "set_adapter(['a', 'b'])"),
        ("known", "set_adapter", "bad_input_is_an_error", "set_adapter(['a'])"),
        ("known", "delete_adapter", "bad_input_is_an_error", "delete_adapter(['a'])"),
        ("name_is_new", "add_adapter", "bad_input_is_an_error", "add_adapter('a', on_overlap='error')"),
        ("name_is_legal", "add_adapter", "bad_input_is_an_error", "add_adapter('', on_overlap='error')"),
        ("named_are_active", "merge_adapter", "reasons", "merge_adapter(['b'])"),
        ("not_merged_here", "delete_adapter", "as_declared", "delete_adapter(['a'])"),
    ],
)
def test_a_guard_that_is_missing(guard: str, event: str, rule: str, last: str) -> None:
    """Without any one guard a rule breaks, or what was declared impossible comes up."""
    broken = found(attrs.evolve(SMALL, bad_input=True), without(guard, event))
    assert (broken.rule, calls(broken)[-1]) == (rule, last)


def test_a_name_given_twice() -> None:
    """Without `distinct` a name that is given twice is accepted."""
    broken = found(attrs.evolve(SMALL, bad_input=True), without("distinct", "set_adapter"))
    assert broken.rule == "bad_input_is_an_error"
    assert calls(broken) == ["add_adapter('a', on_overlap='error')", "set_adapter(['a', 'a'])"]


def test_no_overlap_is_dropped() -> None:
    """The shortest way to two copies of one weight: two adds and one set; what is said names both and where."""
    broken = found(charts=without("no_overlap", "set_adapter"))
    assert calls(broken) == [
        "add_adapter('a', on_overlap='error')",
        "add_adapter('b', on_overlap='error')",
        "set_adapter(['a', 'b'])",
    ]
    assert "head" in broken.expected
    assert "['error', 'error']" in broken.observed


def neighbours_only(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Each two neighbours in the order given do not overlap."""
    pairs = zip(event.adapters, event.adapters[1:], strict=False)
    return [no for pair in pairs for no in no_overlap.judge(situation, attrs.evolve(event, adapters=pair))]


def test_only_neighbours_are_compared() -> None:
    """A guard that compares each adapter with the next one only lets through an overlap with one between."""
    wrong = Guard("no_overlap", "neighbours do not overlap", EventRefusedError, neighbours_only)
    table = tuple(
        attrs.evolve(row, guards=tuple(wrong if guard is no_overlap else guard for guard in row.guards)) for row in CHARTS.activation.rows
    )
    world = World("apart", {"a": {"head": rows(0)}, "b": {"head": rows(1)}, "c": {"head": rows(0)}})
    broken = found(world, CHARTS.with_chart(attrs.evolve(CHARTS.activation, rows=table)))
    assert broken.rule == "no_overlap"
    assert calls(broken)[-1] == "set_adapter(['a', 'b', 'c'])"


def any_two(situation: Situation, event: Event) -> Sequence[Refusal]:
    """At most one of the adapters named replaces something here."""
    here = [name for name in event.adapters if name in situation.context.present and situation.context.present[name].replaces]
    return [Refusal("no_overlap", situation.subject, "two replace something here", tuple(here))] if len(here) > 1 else []


def test_disjoint_rows_are_refused() -> None:
    """A guard that refuses adapters with disjoint rows is stricter than the design: rows are what counts, not the weight."""
    strict = Guard("no_overlap", "one replaces", EventRefusedError, any_two)
    broken = found(charts=CHARTS.with_chart(CHARTS.activation.with_guard("set_adapter", strict, value="some")))
    assert broken.rule == "reasons"
    assert calls(broken)[-1] == "set_adapter(['b', 'c'])"
    assert broken.expected == "refusals none"


def test_a_case_that_is_not_impossible() -> None:
    """A case that was declared impossible and comes up is a counterexample and not a crash."""
    table = tuple(
        attrs.evolve(row, sources=("active",)) if (row.event, row.value) == ("delete_adapter", "nothing") else row
        for row in CHARTS.activation.rows
    )
    declared = (*CHARTS.activation.impossible, Impossible("delete_adapter", "inactive", "nothing"))
    broken = found(charts=CHARTS.with_chart(attrs.evolve(CHARTS.activation, rows=table, impossible=declared)))
    assert broken.rule == "as_declared"
    assert "declared impossible" in broken.observed
    assert calls(broken) == ["add_adapter('a', on_overlap='error')", "set_adapter([])", "delete_adapter(['a'])"]


def test_an_error_of_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name is refused by the class for unknown names, and not by the root of all refusals."""
    right = planner.plan

    def vague(charts: Charts, facts: Facts, events: Sequence[Event]) -> planner.Plan:
        return attrs.evolve(right(charts, facts, events), error=EventRefusedError)

    monkeypatch.setattr(walking, "plan", vague)
    broken = found(attrs.evolve(SMALL, bad_input=True))
    assert broken.rule == "bad_input_is_an_error"
    assert broken.observed == "EventRefusedError"


# ----------------------------------------------------------------------------------------------------------- effects that are wrong


def test_a_later_add_activates(effect: Callable[..., None]) -> None:
    """The second adapter activates itself: pull request 2758's fault."""
    effect("add_adapter", lambda before, after, event: attrs.evolve(after, active=(*before.active, *event.adapters)))
    broken = found()
    assert broken.rule == "first_adapter_only"
    assert calls(broken) == ["add_adapter('a', on_overlap='error')", "add_adapter('b', on_overlap='error')"]
    assert (broken.expected, broken.observed) == ("active ['a'] after adding to 1 adapter(s)", "active ['a', 'b']")


def test_only_new_modules_activate(effect: Callable[..., None]) -> None:
    """A later adapter is active on a module that was never wrapped before, and nowhere else: the chart leads elsewhere."""

    def fault(before: Facts, after: Facts, event: Event) -> Facts:
        new = set(after.modules) - set(before.modules)
        return attrs.evolve(after, modules=everywhere(after, active=lambda p, m: event.adapters if p in new else m.context.active))

    effect("add_adapter", fault)
    broken = found(World("new module", {"a": {"attention": tuner()}, "b": {"head": rows(1)}}))
    assert broken.rule == "as_declared"
    assert isinstance(broken.raised, InternalError)
    assert len(broken.path) == 2


def test_set_keeps_merges(effect: Callable[..., None]) -> None:
    """What was merged stays so in the model's record after the next set."""
    effect("set_adapter", lambda before, after, _: attrs.evolve(after, merged=tuple(n for n in after.active if n in before.merged)))
    broken = found()
    assert broken.rule == "path_independent"
    assert calls(broken) == ["add_adapter('a', on_overlap='error')", "merge_adapter(['a'])", "set_adapter(['a'])"]


def test_set_keeps_the_named_policy(effect: Callable[..., None]) -> None:
    """A policy that an earlier activation named outlives it."""

    def fault(before: Facts, after: Facts, event: Event) -> Facts:
        return attrs.evolve(after, on_overlap=event.on_overlap or before.on_overlap) if event.adapters else after

    effect("set_adapter", fault)
    broken = found(attrs.evolve(SMALL, named=(None, "sum")))
    assert broken.rule == "path_independent"
    assert calls(broken)[-2:] == ["set_adapter(['a'], on_overlap='sum')", "set_adapter(['a'])"]


def test_delete_falls_back(effect: Callable[..., None]) -> None:
    """After the last active adapter is deleted another one becomes active, as in PEFT."""

    def fault(_: Facts, after: Facts, __: Event) -> Facts:
        return attrs.evolve(after, active=after.active or tuple(after.adapters)[:1])

    effect("delete_adapter", fault)
    broken = found()
    assert broken.rule == "first_adapter_only"
    assert calls(broken)[-1] == "delete_adapter(['a'])"
    assert len(broken.path) == 3


def test_delete_falls_back_on_modules_too(effect: Callable[..., None]) -> None:
    """The same, consistently: then the chart's row leads elsewhere than the facts, and the planner refuses to commit it."""

    def fault(before: Facts, after: Facts, _: Event) -> Facts:
        left = tuple(after.adapters)[:1]
        if not before.active or after.active or not left:
            return after
        modules = everywhere(after, active=lambda _, m: tuple(n for n in left if n in m.context.present))
        return attrs.evolve(after, active=left, modules=modules)

    effect("delete_adapter", fault)
    assert found().rule == "as_declared"


def test_delete_unfreezes(effect: Callable[..., None]) -> None:
    """Deleting another adapter makes a frozen one trainable, as in PEFT."""

    def fault(_: Facts, after: Facts, __: Event) -> Facts:
        return attrs.evolve(after, adapters={n: attrs.evolve(a, trainability="trainable") for n, a in after.adapters.items()})

    effect("delete_adapter", fault)
    broken = found(attrs.evolve(SMALL, trainability=True))
    assert broken.rule == "independent_axes"
    assert "inference_mode=True" in broken.script()


def test_delete_keeps_the_weight(effect: Callable[..., None]) -> None:
    """The weight of a deleted adapter stays in the record."""
    effect("delete_adapter", lambda before, after, _: attrs.evolve(after, weights=before.weights))
    broken = found(attrs.evolve(SMALL, weights=(0.5,)))
    assert broken.rule in ("combining", "zero_adapters")
    assert calls(broken)[-2:] == ["set_adapter(['a'], weights=[0.5])", "delete_adapter(['a'])"]


def test_the_last_delete_keeps_the_base_frozen(effect: Callable[..., None]) -> None:
    """What the base parameters were is still stored when no adapter is there."""
    effect("delete_adapter", lambda before, after, _: attrs.evolve(after, base_trainable=before.base_trainable))
    broken = found()
    assert (broken.rule, len(broken.path)) == ("base_remembered", 2)


def test_what_was_asked_for_is_forgotten(effect: Callable[..., None]) -> None:
    """`set_requires_grad(name, True)` changes the flag and not that it was asked for."""

    def fault(before: Facts, after: Facts, _: Event) -> Facts:
        return attrs.evolve(after, adapters={n: attrs.evolve(a, asked=before.adapters[n].asked) for n, a in after.adapters.items()})

    effect("set_requires_grad", fault)
    broken = found(attrs.evolve(SMALL, trainability=True))
    assert broken.rule == "independent_axes"
    assert calls(broken)[-1] == "set_requires_grad(['a'], True)"


def test_merging_silences(effect: Callable[..., None]) -> None:
    """Merging one of two active adapters deactivates the other, as in PEFT."""

    def fault(_: Facts, after: Facts, __: Event) -> Facts:
        return attrs.evolve(after, active=after.merged, modules=everywhere(after, active=lambda _, m: m.context.merged))

    effect("merge_adapter", fault)
    broken = found(World("tuners", {"a": {"attention": tuner()}, "b": {"attention": tuner()}}))
    assert broken.rule == "partial_merge"
    assert calls(broken)[-2:] == ["set_adapter(['a', 'b'])", "merge_adapter(['a'])"]


def test_set_enables(effect: Callable[..., None]) -> None:
    """Switching turns adapters on again."""
    effect("set_adapter", lambda _, after, __: attrs.evolve(after, enablement="enabled", disabled_by_call=False))
    broken = found(attrs.evolve(SMALL, enablement=True))
    assert broken.rule == "independent_axes"
    assert calls(broken) == ["disable_adapters()", "set_adapter([])"]


def test_enabling_leaves_contexts(effect: Callable[..., None]) -> None:
    """`enable_adapters()` also ends contexts that still hold."""
    effect("enable_adapters", lambda _, after, __: attrs.evolve(after, enablement="enabled", disabled_by_contexts=0))
    broken = found(attrs.evolve(SMALL, enablement=True, contexts=1))
    assert broken.rule in ("independent_axes", "as_declared")
    assert calls(broken) == ["disable_adapters(holder='context')", "enable_adapters()"]


def test_auxiliary_slots_are_left_behind(effect: Callable[..., None]) -> None:
    """`set_adapter` moves tuners and not copies: pull request 2758's fault."""

    def fault(before: Facts, after: Facts, _: Event) -> Facts:
        def left(path: str, module: ModuleFacts) -> tuple[str, ...]:
            old = before.modules[path].context
            return tuple(n for n in old.present if n in (module.context.active if old.present[n].tunes else old.active))

        return attrs.evolve(after, modules=everywhere(after, active=left))

    effect("set_adapter", fault)
    world = World("doors", {"a": {"attention": tuner(), "head": whole()}, "b": {"attention": tuner(), "head": tuner()}})
    assert found(world).rule in ("same_everywhere", "all_doors", "as_declared")
    broken = found(world, deviations=("same_everywhere", "as_declared"))
    assert broken.rule == "all_doors"
    assert "head (modules_to_save)" in broken.observed


def test_carried_policies_change(effect: Callable[..., None]) -> None:
    """A policy named on the event becomes the one that adapters carry."""

    def fault(_: Facts, after: Facts, event: Event) -> Facts:
        def named(adapter: AdapterFacts) -> AdapterFacts:
            return attrs.evolve(adapter, on_overlap=event.on_overlap or adapter.on_overlap)

        return attrs.evolve(after, adapters={name: named(adapter) for name, adapter in after.adapters.items()})

    effect("set_adapter", fault)
    assert found(attrs.evolve(SMALL, named=(None, "override"))).rule == "carried"


def test_module_weights_are_lost(effect: Callable[..., None]) -> None:
    """The model's record has the weight and the modules have not."""
    effect("set_adapter", lambda _, after, __: attrs.evolve(after, modules=everywhere(after, weights=lambda _, m: {})))
    assert found(attrs.evolve(SMALL, weights=(0.5,))).rule == "combining"


# ---------------------------------------------------------------------------------------------------------- guards that do too much


def test_a_guard_that_writes() -> None:
    """A guard that leaves something in the facts is found, although the event that it refuses is not committed."""

    def counts(situation: Situation, event: Event) -> Sequence[Refusal]:
        """No merge of `a`."""
        if event.adapters != ("a",):
            return []
        situation.facts.weights["asked"] = 2.0  # type: ignore[index]
        return [Refusal("counts", "", "never")]

    broken = found(charts=CHARTS.with_guard("merge_adapter", Guard("counts", "counts", EventRefusedError, counts)))
    assert broken.rule == "atomic"
    assert calls(broken) == ["add_adapter('a', on_overlap='error')", "merge_adapter(['a'])"]
    assert "'asked': 2.0" in broken.observed


def test_a_guard_that_depends_on_the_order_of_presence() -> None:
    """The reduction by presence order says when it does not fit."""

    def oldest(situation: Situation, event: Event) -> Sequence[Refusal]:
        """The oldest adapter is among the active."""
        lacks = event.adapters and next(iter(situation.facts.adapters), None) not in event.adapters
        return [Refusal("oldest", "", "without the oldest", event.adapters)] if lacks else []

    charts = CHARTS.with_guard("set_adapter", Guard("oldest", "the oldest is active", EventRefusedError, oldest))
    assert found(charts=charts).rule == "presence_order"
    assert found(attrs.evolve(SMALL, every_order=True), charts).rule == "presence_order"
    assert explore(attrs.evolve(SMALL, every_order=True), charts=charts, deviations=["presence_order", "path_independent"]).holds


def test_a_guard_that_refuses_the_first_add() -> None:
    """A model without adapters accepts an add."""

    def never(_: Situation, event: Event) -> Sequence[Refusal]:
        """Nothing is added."""
        return [Refusal("never", "", "never", event.adapters)]

    broken = found(charts=CHARTS.with_guard("add_adapter", Guard("never", "never", EventRefusedError, never)))
    assert (broken.rule, len(broken.path)) == ("accepts_an_add", 1)


def test_a_guard_that_judges_the_order() -> None:
    """`[a, b]` and `[b, a]` are both accepted, or both refused."""

    def sorted_names(_: Situation, event: Event) -> Sequence[Refusal]:
        """Names are given in order."""
        return [] if list(event.adapters) == sorted(event.adapters) else [Refusal("sorted_names", "", "not sorted", event.adapters)]

    charts = CHARTS.with_guard("set_adapter", Guard("sorted_names", "sorted", EventRefusedError, sorted_names))
    broken = found(World("tuners", {"a": {"x": tuner()}, "b": {"x": tuner()}}), charts)
    assert (broken.rule, calls(broken)[-1]) == ("path_independent", "set_adapter(['b', 'a'])")


def test_a_guard_that_raises() -> None:
    """An exception of a derived guard is a counterexample and not a crash."""

    def crashes(_: Situation, event: Event) -> Sequence[Refusal]:
        """Never, with the second name as the reason."""
        return [Refusal("crashes", "", event.adapters[1])]

    charts = CHARTS.with_guard("merge_adapter", Guard("crashes", "crashes", EventRefusedError, crashes))
    broken = found(charts=charts)
    assert broken.rule == "as_declared"
    assert isinstance(broken.raised, IndexError)
    assert "IndexError" in broken.observed


# ------------------------------------------------------------------------------------------------------------------- the printed path


def test_the_path_runs_as_printed() -> None:
    """The calls of a counterexample, run, meet what it says."""
    charts = without("not_merged_here", "delete_adapter")
    broken = found(charts=charts)
    with pytest.raises(InternalError) as error:
        exec(broken.script(), {"Trial": Trial, "world": broken.world, "charts": charts})  # its own output is what is tested
    assert str(error.value) in broken.observed
