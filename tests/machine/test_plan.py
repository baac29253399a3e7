"""The planner: what an event would do, every reason why not, and plans of several steps."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterstate import errors
from adapterstate.machine import guards as g
from adapterstate.machine.charts import ACTIVATION, CHARTS, EVENTS, SAME, Charts, Impossible
from adapterstate.machine.plan import Plan, plan, state_of
from adapterstate.machine.records import Context, Event, Facts, ModuleFacts, Refusal, Situation, SlotFacts

from .worlds import LORA, adding, after, naming, planned, refused, rows, whole

WORLD = after(adding("a"), adding("b"), adding("c"), adding("d"))


def reasons(found: Plan) -> list[tuple[str, str, tuple[str, ...]]]:
    """(guard, where, adapters) of each refusal, in order."""
    return [(no.guard, no.where, no.adapters) for no in found.refusals]


def activation(facts: Facts) -> dict[str, str]:
    return {path: module.activation for path, module in facts.modules.items()}


def moves(found: Plan) -> list[tuple[str, str, str, str]]:
    """(chart, subject, before, after) of each move, in order."""
    return [(move.chart, subject, move.before, move.after) for step in found.steps for move in step.moves for subject in move.subjects]


# ------------------------------------------------------------------------------------------------------------ every event


def test_first_add() -> None:
    """The first adapter is active wherever it is, trainable, and the base's own flags are remembered."""
    found = planned(Facts(), adding("b", base=("M1.weight",)))
    assert moves(found) == [
        ("trainability", "b", "absent", "trainable"),
        ("activation", "M1", "unwrapped", "active"),
        ("activation", "M2", "unwrapped", "active"),
    ]
    facts = found.after
    assert (facts.active, facts.merged, facts.base_trainable) == (("b",), (), ("M1.weight",))
    assert facts.adapters["b"].modules == ("M1", "M2")
    assert facts.adapters["b"].config == "config of b"
    assert not facts.adapters["b"].asked


def test_later_add() -> None:
    """A later adapter is inactive, also on modules that were never wrapped before; what the first add remembered stays."""
    found = planned(after(adding("a", base=("M1.weight",))), adding("b", wanted="frozen", base=("other",)))
    assert moves(found) == [
        ("trainability", "b", "absent", "frozen"),
        ("activation", "M1", "active", "active"),
        ("activation", "M2", "unwrapped", "inactive"),
    ]
    assert (found.after.active, found.after.base_trainable) == (("a",), ("M1.weight",))
    assert list(found.after.modules["M1"].context.present) == ["a", "b"]


def test_add_to_an_adapter_that_is_merged() -> None:
    """Adding beside a merged adapter leaves it merged."""
    found = planned(after(adding("a"), naming("merge_adapter", "a")), adding("b"))
    assert activation(found.after) == {"M1": "merged", "M2": "inactive"}


def test_first_again_after_the_last_delete() -> None:
    """First means first now present: after the last delete the next add activates itself, and reads the base's flags afresh."""
    empty = after(adding("a", base=("old",)), naming("delete_adapter", "a"))
    assert (dict(empty.adapters), dict(empty.modules), empty.active, empty.base_trainable) == ({}, {}, (), ())
    again = after(adding("c", base=("new",)), start=empty)
    assert (again.active, again.base_trainable, activation(again)) == (("c",), ("new",), {"M2": "active"})


def test_set() -> None:
    """Set makes exactly the named active, in their order, on the modules where that changes anything."""
    found = planned(WORLD, naming("set_adapter", "d", "b"))
    assert moves(found) == [("activation", "M1", "active", "active"), ("activation", "M2", "inactive", "active")]
    assert found.after.active == ("d", "b")
    assert {path: module.context.active for path, module in found.after.modules.items()} == {"M1": ("d", "b"), "M2": ("d", "b")}


def test_set_to_nothing() -> None:
    """`set_adapter([])` deactivates all, also what is merged."""
    found = planned(after(naming("merge_adapter", "a"), start=WORLD), naming("set_adapter"))
    assert moves(found) == [("activation", "M1", "merged", "inactive")]
    assert (found.after.active, found.after.merged) == ((), ())


def test_merge_and_unmerge() -> None:
    """A merge takes the named active ones, in activation order; an unmerge all; modules without any of them are left alone."""
    facts = after(naming("set_adapter", "a", "c"), start=WORLD)
    found = planned(facts, naming("merge_adapter", "a"))
    assert moves(found) == [("activation", "M1", "active", "merged")]
    found = planned(found.after, naming("merge_adapter", "c"))
    assert moves(found) == [("activation", "M2", "active", "merged")]
    assert found.after.merged == ("a", "c")
    found = planned(found.after, Event("unmerge_adapter"))
    assert moves(found) == [("activation", "M1", "merged", "active"), ("activation", "M2", "merged", "active")]
    assert (found.after.active, found.after.merged) == (("a", "c"), ())


def test_merge_of_a_second_one() -> None:
    """Merging one more beside a merged one keeps both, in activation order whatever the order of the merges."""
    facts = after(naming("set_adapter", "b", "d"), naming("merge_adapter", "d"), start=WORLD)
    found = planned(facts, naming("merge_adapter", "b"))
    assert moves(found) == [("activation", "M1", "merged", "merged"), ("activation", "M2", "merged", "merged")]
    assert found.after.merged == ("b", "d")
    assert found.after.modules["M1"].context.merged == ("b", "d")


def test_delete_of_an_active_one() -> None:
    """Deleting the last active adapter leaves none active, and drops the modules where nothing is left."""
    facts = after(adding("b"), adding("a"))
    found = planned(facts, naming("delete_adapter", "b"))
    assert moves(found) == [
        ("trainability", "b", "trainable", "absent"),
        ("activation", "M1", "active", "inactive"),
        ("activation", "M2", "active", "unwrapped"),
    ]
    assert (found.after.active, list(found.after.adapters), list(found.after.modules)) == ((), ["a"], ["M1"])


def test_delete_beside_a_merged_one() -> None:
    """An adapter that is not merged is deleted beside one that is, which stays merged."""
    found = planned(after(naming("merge_adapter", "a"), start=WORLD), naming("delete_adapter", "b"))
    assert activation(found.after) == {"M1": "merged", "M2": "inactive"}
    assert found.after.merged == ("a",)


def test_delete_of_several() -> None:
    """One event deletes every adapter that it names."""
    found = planned(WORLD, naming("delete_adapter", "a", "b", "c", "d"))
    assert found.after == Facts()


def test_last_delete_keeps_enablement() -> None:
    """The last delete leaves the model as disabled as it was."""
    facts = after(adding("a"), Event("disable_adapters"), naming("delete_adapter", "a"))
    assert not facts.enabled
    assert facts.disabled_by_call


def test_disabled_accepts_every_event() -> None:
    """A first adapter that is added while disabled is active, a merge is merged; enabling shows them."""
    facts = after(Event("disable_adapters", holder="context"), adding("a"), naming("merge_adapter", "a"))
    assert (facts.enabled, facts.active, facts.merged) == (False, ("a",), ("a",))
    assert after(Event("enable_adapters", holder="context"), start=facts).enabled


def test_set_requires_grad() -> None:
    """The named adapters become what was asked; those asked to be trainable remember that they were asked, and activation stays."""
    frozen = planned(WORLD, naming("set_requires_grad", "a", "c", wanted="frozen"))
    assert moves(frozen) == [("trainability", "a", "trainable", "frozen"), ("trainability", "c", "trainable", "frozen")]
    assert {name: one.trainability for name, one in frozen.after.adapters.items()} == {
        "a": "frozen",
        "b": "trainable",
        "c": "frozen",
        "d": "trainable",
    }
    assert frozen.after.modules is WORLD.modules
    asked = planned(frozen.after, naming("set_requires_grad", "c", "d"))
    assert {name: one.asked for name, one in asked.after.adapters.items()} == {"a": False, "b": False, "c": True, "d": True}
    assert not after(naming("set_requires_grad", "d", wanted="frozen"), start=asked.after).adapters["d"].asked


@pytest.mark.parametrize(
    ("context", "state"),
    [
        (Context(), "unwrapped"),
        (Context({"a": LORA}), "inactive"),
        (Context({"a": LORA}, ("a",)), "active"),
        (Context({"a": LORA, "b": LORA}, ("a", "b"), ("b",)), "merged"),
    ],
)
def test_state_of(context: Context, state: str) -> None:
    """The state that a context amounts to: merged if anything is, else active, inactive or unwrapped."""
    assert state_of(context) == state


# ------------------------------------------------------------------------------------------------------------------ no-ops


NOOPS = {
    "set to the same": ((), naming("set_adapter", "a")),
    "merge of nothing": ((), naming("merge_adapter")),
    "merge of what is merged": ((naming("merge_adapter", "a"),), naming("merge_adapter", "a")),
    "unmerge of nothing": ((), Event("unmerge_adapter")),
    "delete of nothing": ((), naming("delete_adapter")),
    "enable what is enabled": ((), Event("enable_adapters")),
    "disable what the call holds": ((Event("disable_adapters"),), Event("disable_adapters")),
    "freeze what is frozen": ((naming("set_requires_grad", "b", wanted="frozen"),), naming("set_requires_grad", "b", wanted="frozen")),
}


@pytest.mark.parametrize("kind", NOOPS)
def test_noop(kind: str) -> None:
    """An event that would change nothing is accepted as a no-op, and no module is judged."""
    before, event = NOOPS[kind]
    facts = after(*before, start=WORLD)
    found = planned(facts, event)
    assert found.steps[0].is_noop
    assert found.after == facts
    assert found.changed == ()
    assert not [move for move in found.steps[0].moves if move.chart == "activation"]


def test_set_again_after_a_merge_is_no_noop() -> None:
    """Setting what is active already unmerges it, so it is a change."""
    found = planned(after(naming("merge_adapter", "a"), start=WORLD), naming("set_adapter", "a"))
    assert not found.steps[0].is_noop
    assert found.after == WORLD


def test_unchanged_modules_keep_their_records() -> None:
    """A module on which nothing changes keeps its very record and is not among the changed ones."""
    found = planned(WORLD, naming("set_adapter", "a", "c"))
    assert found.after.modules["M1"] is WORLD.modules["M1"]
    assert found.changed == ("M2",)
    assert found.before is WORLD


def test_no_events() -> None:
    """A plan without steps is accepted and changes nothing."""
    found = plan(CHARTS, WORLD, [])
    assert (found.accepted, found.after, found.changed, found.steps) == (True, WORLD, (), ())


# --------------------------------------------------------------------------------------------------------------- refusals


OVERLAP: list[tuple[str, str, tuple[str, ...]]] = [("no_overlap", "M1", ("a", "d")), ("no_overlap", "M2", ("b", "c"))]
REFUSED: dict[str, tuple[tuple[Event, ...], Event, type[errors.EventRefusedError], list[tuple[str, str, tuple[str, ...]]]]] = {
    "add: illegal name": ((), adding("x.y", {}), errors.AdapterNameError, [("name_is_legal", "", ("x.y",))]),
    "add: old name": ((), adding("a"), errors.DuplicateAdapterError, [("name_is_new", "", ("a",))]),
    "set: unknown": ((), naming("set_adapter", "x"), errors.UnknownAdapterError, [("known", "", ("x",))]),
    "set: twice": ((), naming("set_adapter", "c", "c"), errors.DuplicateAdapterError, [("distinct", "", ("c",))]),
    "set: overlaps on two modules": ((), naming("set_adapter", "a", "b", "c", "d"), errors.AdapterOverlapError, OVERLAP),
    "set: everything at once": (
        (),
        naming("set_adapter", "x", "a", "a", "b", "c", "d"),
        errors.EventRefusedError,
        [("known", "", ("x",)), ("distinct", "", ("a",)), *OVERLAP],
    ),
    "merge: unknown": ((), naming("merge_adapter", "x"), errors.UnknownAdapterError, [("known", "", ("x",))]),
    "merge: twice": ((), naming("merge_adapter", "a", "a"), errors.DuplicateAdapterError, [("distinct", "", ("a",))]),
    "merge: inactive": ((), naming("merge_adapter", "b", "a"), errors.NotActiveError, [("named_are_active", "", ("b",))]),
    "merge: no meaning": (
        (naming("set_adapter", "b"),),
        naming("merge_adapter", "b", reports={"mergeable": {"M1": "inf", "M2": "a DTensor", "M3": "another"}}),
        errors.NotMergeableError,
        [("mergeable", "M1", ("b",)), ("mergeable", "M2", ("b",))],
    ),
    "delete: unknown": ((), naming("delete_adapter", "x"), errors.UnknownAdapterError, [("known", "", ("x",))]),
    "delete: twice": ((), naming("delete_adapter", "b", "b"), errors.DuplicateAdapterError, [("distinct", "", ("b",))]),
    "delete: merged": (
        (naming("set_adapter", "b"), naming("merge_adapter", "b")),
        naming("delete_adapter", "b"),
        errors.MergedError,
        [("not_merged_here", "M1", ("b",)), ("not_merged_here", "M2", ("b",))],
    ),
    "delete: covered": (
        (naming("delete_adapter", "b", "c"),),
        naming("delete_adapter", "d", reports={"outermost_class_is_ours": {"M1": "another class", "M2": "another class"}}),
        errors.CoveredClassError,
        [("outermost_class_is_ours", "M2", ("d",))],
    ),
    "unmerge: unknown": ((), naming("unmerge_adapter", "x"), errors.UnknownAdapterError, [("known", "", ("x",))]),
    "requires_grad: unknown and twice": (
        (),
        naming("set_requires_grad", "x", "a", "a"),
        errors.EventRefusedError,
        [("known", "", ("x",)), ("distinct", "", ("a",))],
    ),
    "enable: unknown": ((), naming("enable_adapters", "x"), errors.UnknownAdapterError, [("known", "", ("x",))]),
    "disable: unknown": ((), naming("disable_adapters", "x"), errors.UnknownAdapterError, [("known", "", ("x",))]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    """Each refusal lists every reason over all modules in table order, and the class is theirs if it is one, else the general one."""
    before, event, error, expected = REFUSED[kind]
    facts = after(*before, start=WORLD)
    found = refused(facts, event)
    assert reasons(found) == expected
    assert found.error is error
    assert issubclass(found.error, errors.EventRefusedError)
    assert found.before is facts


@pytest.mark.parametrize("guard", ["config_is_supported", "targets_match", "no_self_overlap", "swappable", "forward_is_called"])
def test_add_refused_by_report(guard: str) -> None:
    """What the modules report about an add refuses it, with the class of that guard."""
    found = refused(WORLD, attrs.evolve(adding("e", {"M1": LORA}), reports={guard: {"M1": "because"}}))
    assert reasons(found) == [(guard, "M1", ("e",))]
    assert found.error is getattr(g, guard).error


def test_add_refused_for_everything() -> None:
    """All guards of the model are judged, in the order of their table."""
    order = ["config_is_supported", "targets_match", "no_self_overlap", "swappable", "forward_is_called"]
    found = refused(WORLD, attrs.evolve(adding("a"), reports={guard: {"M1": "because"} for guard in reversed(order)}))
    assert [no.guard for no in found.refusals] == ["name_is_new", *order]
    assert found.error is errors.EventRefusedError


def test_an_accepted_plan_has_no_refusals() -> None:
    """A plan is accepted exactly if nothing refuses."""
    found = planned(WORLD, naming("set_adapter", "b"))
    assert (found.accepted, found.refusals) == (True, ())
    assert not refused(WORLD, naming("set_adapter", "x")).accepted


def test_planning_changes_nothing() -> None:
    """Planning an event, accepted or refused, leaves the facts that it was given as they are."""
    text = repr(WORLD)
    for event in (naming("set_adapter", "b", "c"), naming("delete_adapter", "a"), adding("a"), naming("set_requires_grad", "a")):
        plan(CHARTS, WORLD, [event])
    assert repr(WORLD) == text


# ---------------------------------------------------------------------------------------------------------- several steps


def test_each_step_meets_what_the_earlier_leave() -> None:
    """A later step is judged on what the earlier ones would leave: what alone is refused is accepted after them."""
    facts = after(naming("merge_adapter", "a"), start=WORLD)
    delete = naming("delete_adapter", "a")
    assert refused(facts, delete).error is errors.MergedError
    found = planned(facts, Event("unmerge_adapter"), delete)
    assert [step.event.name for step in found.steps] == ["unmerge_adapter", "delete_adapter"]
    assert found.steps[0].before is facts
    assert found.steps[1].before is found.steps[0].after
    assert found.after is found.steps[1].after
    assert found.changed == ("M1",)
    assert "a" not in found.after.adapters


def test_a_refused_step_stops_the_plan() -> None:
    """No step after the refused one is judged, and the refusals are those of that step alone."""
    found = refused(WORLD, naming("set_adapter", "b"), naming("set_adapter", "x"), naming("set_adapter", "y"))
    assert [step.event.adapters for step in found.steps] == [("b",), ("x",)]
    assert reasons(found) == [("known", "", ("x",))]


def test_a_step_may_undo_an_earlier_one() -> None:
    """A step that is a no-op and steps that cancel out are accepted."""
    found = planned(WORLD, naming("set_adapter", "a"), naming("set_adapter", "b"), naming("set_adapter", "a"))
    assert [step.is_noop for step in found.steps] == [True, False, False]
    assert found.after == WORLD
    assert found.changed == ()


# ---------------------------------------------------------------------------------------------------------------- cohorts


def test_modules_in_the_same_situation_share_a_context() -> None:
    """Modules that got the same slots by the same events share one record through every event."""
    paths = [f"layer{i}" for i in range(5)]
    one, two = rows(1), rows(2)
    facts = Facts()
    for event in (
        adding("p", dict.fromkeys(paths, one)),
        adding("q", dict.fromkeys(paths, two)),
        naming("set_adapter", "q", "p"),
        naming("merge_adapter", "q"),
        Event("unmerge_adapter"),
        naming("delete_adapter", "p"),
    ):
        facts = after(event, start=facts)
        assert len({id(module) for module in facts.modules.values()}) == 1, event
        assert len({id(module.context) for module in facts.modules.values()}) == 1, event


def test_modules_in_different_situations_do_not_share() -> None:
    """Different slots, or different companions, make different cohorts; each keeps its own slots."""
    mine: dict[str, SlotFacts] = {"x": LORA, "y": LORA, "z": whole()}
    facts = after(adding("p", mine), adding("q", {"x": rows(1)}), naming("set_adapter", "q", "p"))
    contexts = {path: module.context for path, module in facts.modules.items()}
    assert len({id(context) for context in contexts.values()}) == 3
    assert {path: context.present["p"] for path, context in contexts.items()} == mine
    assert {path: context.active for path, context in contexts.items()} == {"x": ("q", "p"), "y": ("p",), "z": ("p",)}


# ------------------------------------------------------------------------------------------------------------- enablement


RELEASE = st.sampled_from([(event, holder) for event in ("disable_adapters", "enable_adapters") for holder in ("call", "context")])


@given(st.lists(RELEASE, max_size=20))
def test_holders_count(calls: list[tuple[str, str]]) -> None:
    """Adapters are disabled while the call or any context holds, in whatever order they come and go."""
    facts, call, contexts = after(adding("a")), False, 0
    for name, holder in calls:
        if holder == "call":
            call = name == "disable_adapters"
        elif name == "disable_adapters":
            contexts += 1
        elif contexts:
            contexts -= 1
        else:
            continue  # there is no context to leave
        found = planned(facts, Event(name, holder=holder))
        facts = found.after
        assert facts.enabled == (not call and contexts == 0)
        assert (facts.disabled_by_call, facts.disabled_by_contexts) == (call, contexts)
        assert [move.after for move in found.steps[0].moves] == [facts.enablement]


# --------------------------------------------------------------------------------------------------------- derived charts


@g.guard("at most one adapter is active", errors.NotActiveError)
def only_one(_: Situation, event: Event) -> Sequence[Refusal]:
    """Only one adapter may be active, as with prompt learning."""
    return [Refusal("only_one", "", "one name is expected", event.adapters)] if len(event.adapters) > 1 else []


@g.guard("nothing is merged here", errors.MergedError)
def unmerge_first(situation: Situation, event: Event) -> Sequence[Refusal]:
    """Switching is refused while adapters are merged."""
    return [Refusal("unmerge_first", situation.subject, "merged", event.adapters)]


def test_only_one_active() -> None:
    """A chart with a guard of the user's own for the model: more than one name is refused, one or none is not."""
    charts = CHARTS.with_guard("set_adapter", only_one)
    found = refused(WORLD, naming("set_adapter", "b", "d"), charts=charts)
    assert (reasons(found), found.error) == ([("only_one", "", ("b", "d"))], errors.NotActiveError)
    assert after(naming("set_adapter", "b"), charts=charts, start=WORLD).active == ("b",)
    assert after(naming("set_adapter"), charts=charts, start=WORLD).active == ()
    assert planned(WORLD, naming("set_adapter", "b", "d")).accepted


def test_a_guard_stands_beside_the_others() -> None:
    """The user's guard and the package's own refuse together; two classes make the general one."""
    found = refused(WORLD, naming("set_adapter", "a", "d"), charts=CHARTS.with_guard("set_adapter", only_one))
    assert reasons(found) == [("only_one", "", ("a", "d")), ("no_overlap", "M1", ("a", "d"))]
    assert found.error is errors.EventRefusedError


@pytest.mark.parametrize("value", [None, "none", "some"])
def test_set_refused_while_merged_by_a_guard(value: str | None) -> None:
    """A guard on one state, and one case of it, refuses there and nowhere else."""
    charts = CHARTS.with_chart(ACTIVATION.with_guard("set_adapter", unmerge_first, source="merged", value=value))
    merged = after(naming("merge_adapter", "a"), charts=charts, start=WORLD)
    assert planned(WORLD, naming("set_adapter", "b"), charts=charts).accepted
    for event, case in ((naming("set_adapter", "c"), "none"), (naming("set_adapter", "b"), "some")):
        found = plan(charts, merged, [event])
        if value in (None, case):
            assert (reasons(found), found.error) == ([("unmerge_first", "M1", event.adapters)], errors.MergedError)
        else:
            assert found.accepted
    assert planned(merged, Event("unmerge_adapter"), naming("set_adapter", "b"), charts=charts).accepted


def test_set_refused_while_merged_for_want_of_a_row() -> None:
    """Where a derived chart has no row the event is refused, with the chart, the event and the state."""
    charts = CHARTS.with_chart(ACTIVATION.without("set_adapter", source="merged"))
    merged = after(naming("merge_adapter", "a"), charts=charts, start=WORLD)
    found = refused(merged, naming("set_adapter", "b"), charts=charts)
    assert (reasons(found), found.error) == ([("declared", "M1", ("b",))], errors.EventRefusedError)
    assert all(word in found.refusals[0].reason for word in ("activation", "set_adapter", "'merged'"))
    assert planned(WORLD, naming("set_adapter", "b"), charts=charts).accepted


def test_an_event_without_any_row_is_refused_everywhere() -> None:
    """A chart without an event refuses it on every module that it would change."""
    charts = CHARTS.with_chart(ACTIVATION.without("unmerge_adapter"))
    facts = after(naming("set_adapter", "b"), naming("merge_adapter", "b"), start=WORLD)
    assert reasons(refused(facts, Event("unmerge_adapter"), charts=charts)) == [("declared", "M1", ()), ("declared", "M2", ())]
    assert planned(WORLD, Event("unmerge_adapter"), charts=charts).steps[0].is_noop


def test_a_guard_on_every_chart() -> None:
    """Guards of the user's own on the enablement and trainability charts refuse as well."""
    charts = Charts(
        enablement=CHARTS.enablement.with_guard("disable_adapters", unmerge_first),
        trainability=CHARTS.trainability.with_guard("set_requires_grad", unmerge_first, value="frozen"),
    )
    assert reasons(refused(WORLD, Event("disable_adapters"), charts=charts)) == [("unmerge_first", "", ())]
    assert reasons(refused(WORLD, naming("set_requires_grad", "c", wanted="frozen"), charts=charts)) == [("unmerge_first", "c", ("c",))]
    assert planned(WORLD, naming("set_requires_grad", "c"), charts=charts).accepted
    twice = naming("set_requires_grad", "c", "c", wanted="frozen")
    assert reasons(refused(WORLD, twice, charts=charts)) == [("distinct", "", ("c",)), ("unmerge_first", "c", ("c", "c"))]


def test_a_chart_that_permits_more() -> None:
    """A derived chart may drop a guard: a merged adapter is then deleted beside another merged one, and no trace of it stays merged."""
    rows = tuple(
        attrs.evolve(row, guards=()) if (row.event, row.target) == ("delete_adapter", "merged") else row for row in ACTIVATION.rows
    )
    charts = CHARTS.with_chart(attrs.evolve(ACTIVATION, rows=rows))
    facts = after(naming("set_adapter", "b", "d"), naming("merge_adapter", "b", "d"), start=WORLD)
    facts = after(naming("delete_adapter", "b"), start=facts, charts=charts)
    assert (facts.active, facts.merged, activation(facts)) == (("d",), ("d",), {"M1": "merged", "M2": "merged"})


def test_no_model_guards_at_all() -> None:
    """Without guards of the model, names that no adapter has are passed over and change nothing."""
    charts = Charts(model_guards={})
    for event in EVENTS[1:]:
        found = planned(WORLD, naming(event, "x", *(("a",) if event == "set_adapter" else ())), charts=charts)
        assert found.after.modules == WORLD.modules
        assert found.after.adapters == WORLD.adapters


# -------------------------------------------------------------------------------------------------------- internal errors


def test_a_row_that_leads_elsewhere_than_the_facts() -> None:
    """A derived chart whose target disagrees with what is stored is an internal error that names both, before anything is written."""
    lying = attrs.evolve(
        ACTIVATION,
        rows=tuple(attrs.evolve(row, target=SAME) if (row.event, row.value) == ("set_adapter", "some") else row for row in ACTIVATION.rows),
    )
    charts = CHARTS.with_chart(lying)
    with pytest.raises(errors.InternalError) as caught:
        plan(charts, WORLD, [naming("set_adapter", "b")])
    assert all(word in str(caught.value) for word in ("activation", "'M2'", "'inactive'", "'active'", "nothing has changed"))
    assert refused(WORLD, naming("set_adapter", "b", "x"), charts=charts).error is errors.UnknownAdapterError


def test_a_case_declared_impossible_that_comes_up() -> None:
    """Meeting a case that was declared impossible is an internal error, unless the event is refused anyway."""
    chart = ACTIVATION.without("set_adapter", source="merged")
    some = next(row for row in ACTIVATION.rows if (row.event, row.value) == ("set_adapter", "some"))
    chart = attrs.evolve(
        chart,
        rows=(*chart.rows, attrs.evolve(some, sources=("merged",))),
        impossible=(*chart.impossible, Impossible("set_adapter", "merged", "none")),
    )
    charts = CHARTS.with_chart(chart)
    merged = after(naming("merge_adapter", "a"), start=WORLD)
    assert planned(merged, naming("set_adapter", "b"), charts=charts).accepted
    with pytest.raises(errors.InternalError, match=r"impossible .* 'M1'"):
        plan(charts, merged, [naming("set_adapter", "c")])
    assert reasons(refused(merged, naming("set_adapter", "x"), charts=charts)) == [("known", "", ("x",))]


def test_a_choice_that_says_what_it_may_not() -> None:
    """A choice whose result is none of its values is an internal error that names it, and the value."""

    def odd(situation: Situation, event: Event) -> str:
        """Whatever is asked."""
        return "perhaps"

    wrong = attrs.evolve(g.named_here, select=odd)
    rows = tuple(attrs.evolve(row, choice=wrong) if row.event == "set_adapter" else row for row in ACTIVATION.rows)
    charts = CHARTS.with_chart(attrs.evolve(ACTIVATION, rows=rows))
    with pytest.raises(errors.InternalError, match=r"'named_here' says 'perhaps' .* none of \['some', 'none'\]"):
        plan(charts, WORLD, [naming("set_adapter", "b")])


def test_corrupt_facts() -> None:
    """Facts that contradict themselves are an internal error at the first event that meets them."""
    corrupt = attrs.evolve(
        WORLD, modules={**WORLD.modules, "M2": ModuleFacts("inactive", Context(WORLD.modules["M2"].context.present, ("c",)))}
    )
    with pytest.raises(errors.InternalError, match="declared impossible"):
        plan(CHARTS, corrupt, [naming("delete_adapter", "b")])


@pytest.mark.parametrize("held", [True, False])
def test_a_context_that_does_not_hold(held: bool) -> None:
    """Leaving a context that does not hold is refused or changes nothing; it is not owed to a later context."""
    facts = after(*[Event("disable_adapters")] * held)
    found = plan(CHARTS, facts, [Event("enable_adapters", holder="context")])
    assert not found.accepted or found.after == facts
