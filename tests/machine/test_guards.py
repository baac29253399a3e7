"""Each choice and each guard by itself: when it says what, and how a refusal reads."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from adapterstate import errors
from adapterstate.machine import guards as g
from adapterstate.machine.charts import CHARTS
from adapterstate.machine.guards import Choice, Guard
from adapterstate.machine.plan import DECLARED
from adapterstate.machine.records import AdapterFacts, Context, Event, Facts, Footprint, Policy, Refusal, Situation, SlotFacts

from .worlds import LORA, PLACES, adding, after, naming, refused, rows, whole

NOTHING = Situation(Facts())
AB = after(adding("a"), adding("b"))


def at(context: Context, **policies: Policy) -> Situation:
    """A module with this context, in a model whose adapters carry these policies."""
    adapters = {name: AdapterFacts("trainable", ("lm_head",), None, on_overlap=policies.get(name, "error")) for name in context.present}
    return Situation(Facts(adapters), "lm_head", context)


def judged(guard: Guard, situation: Situation, event: Event) -> list[Refusal]:
    """The refusals of a guard, each of which carries its name."""
    found = list(guard.judge(situation, event))
    assert {refusal.guard for refusal in found} <= {guard.name}
    return found


# ---------------------------------------------------------------------------------------------------------------- choices


def test_first() -> None:
    """An adapter is the first if the model has none now, also after the last one was deleted."""
    assert g.first.select(NOTHING, adding("a")) == "yes"
    assert g.first.select(Situation(AB), adding("c")) == "no"
    assert g.first.select(Situation(after(naming("delete_adapter", "a", "b"), start=AB)), adding("a")) == "yes"


@pytest.mark.parametrize(("names", "value"), [(("a",), "some"), (("z", "b"), "some"), (("z",), "none"), ((), "none")])
def test_named_here(names: tuple[str, ...], value: str) -> None:
    """A named adapter is present here, active or not, or none of those named is."""
    assert g.named_here.select(at(Context({"a": LORA, "b": LORA}, ("a",))), naming("set_adapter", *names)) == value


@pytest.mark.parametrize(
    ("present", "active", "gone", "value"),
    [
        ("ab", "ab", "a", "active"),
        ("ab", "a", "b", "active"),
        ("ab", "a", "a", "inactive"),
        ("ab", "", "a", "inactive"),
        ("a", "a", "a", "nothing"),
        ("ab", "ab", "ba", "nothing"),
    ],
)
def test_left_here(present: str, active: str, gone: str, value: str) -> None:
    """What stays here without the named ones: an active adapter, only inactive ones, or nothing."""
    assert g.left_here.select(at(Context(dict.fromkeys(present, LORA), tuple(active))), naming("delete_adapter", *gone)) == value


@pytest.mark.parametrize(
    ("call", "contexts", "holder", "value"),
    [
        (False, 0, "call", "no"),
        (True, 0, "call", "no"),
        (True, 1, "call", "yes"),
        (True, 1, "context", "yes"),
        (False, 1, "context", "no"),
        (False, 2, "context", "yes"),
        (False, 1, "call", "yes"),
    ],
)
def test_still_held(call: bool, contexts: int, holder: str, value: str) -> None:
    """After the call or one context lets go, the other holders still hold."""
    facts = Facts(enablement="disabled", disabled_by_call=call, disabled_by_contexts=contexts)
    assert g.still_held.select(Situation(facts), Event("enable_adapters", holder=holder)) == value


@pytest.mark.parametrize("value", ["trainable", "frozen"])
def test_wanted(value: str) -> None:
    """What the event asks for is its case."""
    assert g.wanted.select(NOTHING, Event("set_requires_grad", ("a",), wanted=value)) == value


CHOICES = (g.first, g.named_here, g.left_here, g.still_held, g.wanted)
GUARDS = (
    *dict.fromkeys(guard for guards in CHARTS.model_guards.values() for guard in guards),
    g.no_overlap,
    g.sum_has_meaning,
    g.mergeable,
    g.not_merged_here,
    DECLARED,
)


@pytest.mark.parametrize("part", [*CHOICES, *GUARDS], ids=lambda part: part.name)
def test_label_and_docstring(part: Choice | Guard) -> None:
    """Each choice and guard has a label for diagrams, and a docstring that is a sentence."""
    assert part.label
    assert part.doc.endswith(".")
    assert part.doc == part.doc.strip()


def test_a_function_without_docstring_has_an_empty_one() -> None:
    """A choice or guard that explains nothing has an empty docstring, which the charts refuse."""
    assert Choice("mute", ("x",), "?", lambda _, __: "x").doc == ""
    assert Guard("mute", "?", errors.EventRefusedError, lambda _, __: ()).doc == ""


def test_decorators() -> None:
    """A decorated function becomes a choice or guard of its own name; a guard refuses with the general class unless told otherwise."""

    @g.choice("left or right?", "left", "right")
    def fork(_: Situation, __: Event) -> str:
        """Go left."""
        return "left"

    @g.guard("never")
    def never(_: Situation, __: Event) -> tuple[Refusal, ...]:
        """Never."""
        return ()

    assert (fork.name, fork.values, fork.label, fork.doc) == ("fork", ("left", "right"), "left or right?", "Go left.")
    assert (never.name, never.label, never.doc, never.error) == ("never", "never", "Never.", errors.EventRefusedError)


def test_each_guard_has_the_class_of_its_mistake() -> None:
    """One error class per mistake."""
    assert {guard.name: guard.error for guard in GUARDS} == {
        "name_is_legal": errors.AdapterNameError,
        "name_is_new": errors.DuplicateAdapterError,
        "config_is_supported": errors.ConfigError,
        "targets_match": errors.TargetError,
        "no_self_overlap": errors.SelfOverlapError,
        "swappable": errors.NotSwappableError,
        "forward_is_called": errors.ForwardNotCalledError,
        "known": errors.UnknownAdapterError,
        "distinct": errors.DuplicateAdapterError,
        "weights_match": errors.AdapterWeightsError,
        "named_are_active": errors.NotActiveError,
        "outermost_class_is_ours": errors.CoveredClassError,
        "no_overlap": errors.AdapterOverlapError,
        "sum_has_meaning": errors.NotSummableError,
        "mergeable": errors.NotMergeableError,
        "not_merged_here": errors.MergedError,
        "declared": errors.EventRefusedError,
    }


# ----------------------------------------------------------------------------------------------------- guards of the model


@pytest.mark.parametrize("name", ["a", "base_layer", "weight", "two words", "ä", "a-b/c", " "])
def test_name_is_legal_accepts(name: str) -> None:
    """Any non-empty string without a dot is a name; none is reserved."""
    assert judged(g.name_is_legal, NOTHING, adding(name, {})) == []


@pytest.mark.parametrize("name", ["", ".", "a.b"])
def test_name_is_legal_refuses(name: str) -> None:
    """An empty name, or one with a dot, is refused with what was given and what is expected."""
    (no,) = judged(g.name_is_legal, NOTHING, adding(name, {}))
    assert (no.where, no.adapters) == ("", (name,))
    assert repr(name) in no.reason
    assert "non-empty string without a dot" in no.reason


def test_name_is_new() -> None:
    """An adapter of a name that is there already is refused; names are compared whole."""
    (no,) = judged(g.name_is_new, Situation(AB), adding("a"))
    assert (no.where, no.adapters) == ("", ("a",))
    assert "'a'" in no.reason
    assert "already" in no.reason
    assert judged(g.name_is_new, Situation(AB), adding("aa", {})) == []


def test_known() -> None:
    """Each unknown name is refused once, with the names that there are; names are compared whole."""
    nos = judged(g.known, Situation(AB), naming("set_adapter", "y", "a", "ab", "y"))
    assert [no.adapters for no in nos] == [("y",), ("ab",)]
    assert "'y'" in nos[0].reason
    assert "['a', 'b']" in nos[0].reason
    assert judged(g.known, Situation(AB), naming("set_adapter", "b", "a")) == []


def test_distinct() -> None:
    """Each name that is given more than once is refused once, with how often it was given."""
    nos = judged(g.distinct, Situation(AB), naming("set_adapter", "a", "b", "a", "c", "c", "a"))
    assert [no.adapters for no in nos] == [("a",), ("c",)]
    assert "'a' is named 3 times" in nos[0].reason
    assert judged(g.distinct, Situation(AB), naming("set_adapter", "a", "b")) == []


def test_named_are_active() -> None:
    """An adapter that is there but inactive is refused; one that is not there is the business of `known`."""
    (no,) = judged(g.named_are_active, Situation(AB), naming("merge_adapter", "a", "b", "z"))
    assert no.adapters == ("b",)
    assert "'b' is not active" in no.reason
    assert "['a']" in no.reason


@pytest.mark.parametrize(
    "guard", [g.no_self_overlap, g.config_is_supported, g.targets_match, g.swappable, g.forward_is_called], ids=lambda guard: guard.name
)
def test_reported(guard: Guard) -> None:
    """What the modules report for a guard becomes its refusals, place by place; no report means yes."""
    assert judged(guard, NOTHING, adding("a")) == []
    event = Event("add_adapter", ("a",), reports={guard.name: {"": "r is 0", "lm_head": "no"}, "another": {"": "not this"}})
    assert [(no.where, no.reason, no.adapters) for no in judged(guard, NOTHING, event)] == [
        ("", "r is 0", ("a",)),
        ("lm_head", "no", ("a",)),
    ]


def test_outermost_class_is_ours() -> None:
    """A class on top refuses the delete only on modules that would lose their last adapter."""
    reports = {"outermost_class_is_ours": {"M1": "FSDPLinear is on top", "M2": "FSDPEmbedding is on top", "M9": "is not wrapped"}}
    facts = Situation(AB)
    assert judged(g.outermost_class_is_ours, facts, naming("delete_adapter", "a", reports=reports)) == []
    (no,) = judged(g.outermost_class_is_ours, facts, naming("delete_adapter", "b", reports=reports))
    assert (no.where, no.reason, no.adapters) == ("M2", "FSDPEmbedding is on top", ("b",))
    both = judged(g.outermost_class_is_ours, facts, naming("delete_adapter", "a", "b", reports=reports))
    assert [no.where for no in both] == ["M1", "M2"]
    assert judged(g.outermost_class_is_ours, facts, naming("delete_adapter", "a", "b")) == []


# ---------------------------------------------------------------------------------------------- guards of wrapped modules


def test_no_overlap_text() -> None:
    """A refusal names the module, what is there, the two adapters, the rows and the weight."""
    here = Context({"a": whole((32000, 2048)), "b": whole((32000, 2048))})
    (no,) = judged(g.no_overlap, at(here), naming("set_adapter", "a", "b"))
    assert str(no) == "lm_head (modules_to_save): 'a' and 'b' both replace rows 0-31999 of weight (32000, 2048)  [no_overlap]"
    assert no.adapters == ("a", "b")


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (whole(), whole(), "rows 0-7"),
        (whole(), rows(3), "row 3"),
        (rows(1, 2, 5), rows(2, 5, 6), "rows 2, 5"),
        (rows(1), rows(2), ""),
        (rows(1), rows(1, weight="bias"), ""),
        (LORA, whole(), ""),
        (LORA, LORA, ""),
    ],
)
def test_no_overlap(one: SlotFacts, other: SlotFacts, shared: str) -> None:
    """Two slots overlap where both replace the same row of the same weight; tuners replace nothing."""
    for first, second in ((one, other), (other, one)):
        found = judged(g.no_overlap, at(Context({"a": first, "b": second})), naming("set_adapter", "a", "b"))
        assert bool(found) == bool(shared)
        assert all(f"both replace {shared} of weight (8, 4)" in no.reason for no in found)


def test_no_overlap_judges_named_pairs_only() -> None:
    """Only adapters that are named and present are judged, each pair and each weight once, a repeated name not with itself."""
    both = SlotFacts(("modules_to_save",), tunes=False, replaces={"weight": Footprint(None, (8, 4)), "bias": Footprint(None, (8,))})
    here = at(Context({"a": both, "b": both, "c": whole()}, ("c",)))
    assert judged(g.no_overlap, here, naming("set_adapter", "a", "a", "z")) == []
    assert len(judged(g.no_overlap, here, naming("set_adapter", "b", "a"))) == 2
    pairs = [no.adapters for no in judged(g.no_overlap, here, naming("set_adapter", "c", "a", "b"))]
    assert pairs == [("c", "a"), ("c", "b"), ("a", "b"), ("a", "b")]


def test_no_overlap_says_what_both_are() -> None:
    """The kinds of both adapters are listed, each once."""
    (no,) = judged(g.no_overlap, at(Context({"a": whole(), "b": rows(1)})), naming("set_adapter", "a", "b"))
    assert no.kinds == ("modules_to_save", "trainable_token_indices")


@pytest.mark.parametrize(
    ("carried", "named", "allowed"),
    [
        (("error", "error"), None, False),
        (("sum", "sum"), None, True),
        (("override", "override"), None, True),
        (("sum", "override"), None, False),
        (("sum", "error"), None, False),
        (("error", "error"), "sum", True),
        (("sum", "override"), "override", True),
        (("sum", "sum"), "error", False),
    ],
)
def test_no_overlap_unless_a_policy(carried: tuple[Policy, Policy], named: Policy | None, allowed: bool) -> None:
    """Two that overlap are combined if both carry the same policy, or the event names one, and that is not "error"."""
    here = at(Context({"a": whole(), "b": rows(1)}), a=carried[0], b=carried[1])
    found = judged(g.no_overlap, here, Event("set_adapter", ("a", "b"), on_overlap=named))
    assert (not found) == allowed
    if not allowed and named is None and carried[0] != carried[1]:
        assert f"by the policies {carried[0]!r} and {carried[1]!r}" in found[0].reason


def test_policies_agree_for_each_pair_that_overlaps() -> None:
    """Of three adapters, only the pairs that overlap must agree."""
    slots = {"a": rows(1), "b": rows(1, 2), "c": rows(2)}
    event = naming("set_adapter", "a", "b", "c")
    (no,) = judged(g.no_overlap, at(Context(slots), a="sum", b="sum", c="override"), event)
    assert no.adapters == ("b", "c")
    apart = {"a": rows(1), "b": rows(1), "c": rows(2), "d": rows(2)}
    here = at(Context(apart), a="sum", b="sum", c="override", d="override")
    assert judged(g.no_overlap, here, naming("set_adapter", *"abcd")) == []


def test_sum_has_meaning() -> None:
    """What can only stand as it is is neither summed nor weighted; overriding it, or a weight of 1, is no arithmetic."""
    fixed = SlotFacts(("modules_to_save",), tunes=False, replaces={"mean": Footprint(None, (4,), "a buffer")})
    here = at(Context({"a": fixed, "b": fixed, "c": LORA}))
    both = ("a", "b")
    (no,) = judged(g.sum_has_meaning, here, Event("set_adapter", both, on_overlap="sum"))
    assert no.adapters == both
    assert no.reason == "the copies of mean (4,) in 'a' and 'b' cannot be summed: it is a buffer"
    assert judged(g.sum_has_meaning, here, Event("set_adapter", both, on_overlap="override")) == []
    assert judged(g.sum_has_meaning, here, Event("set_adapter", ("a", "c"), weights=(1.0, 0.5), on_overlap="sum")) == []
    (no,) = judged(g.sum_has_meaning, here, Event("set_adapter", ("c", "a"), weights=(1.0, 0.5)))
    assert (no.adapters, no.reason) == (("a",), "the copy of mean (4,) in 'a' cannot have the weight 0.5: it is a buffer")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_match(bad: float) -> None:
    """As many as names, and finite; zero and negative ones are numbers like others."""
    assert judged(g.weights_match, NOTHING, Event("set_adapter", ("a", "b"))) == []
    assert judged(g.weights_match, NOTHING, Event("set_adapter", ("a", "b"), weights=(0.0, -2.5))) == []
    (no,) = judged(g.weights_match, NOTHING, Event("set_adapter", ("a", "b"), weights=(1.0, bad)))
    assert no.adapters == ("b",)
    for weights in ((), (1.0,), (1.0, 1.0, 1.0)):
        (no,) = judged(g.weights_match, NOTHING, Event("set_adapter", ("a", "b"), weights=weights))
        assert f"{len(weights)} weights" in no.reason
        assert "2 adapters" in no.reason


def test_mergeable() -> None:
    """What the module reports refuses the merge there, for the named adapters that are present; elsewhere it does not."""
    event = naming("merge_adapter", "a", "z", reports={"mergeable": {"lm_head": "weight is a DTensor", "other": "no"}})
    (no,) = judged(g.mergeable, at(Context({"a": LORA, "b": LORA}, ("a", "b"))), event)
    assert (no.where, no.reason, no.adapters) == ("lm_head", "weight is a DTensor", ("a",))
    assert judged(g.mergeable, Situation(Facts(), "third"), event) == []
    assert judged(g.mergeable, at(Context()), naming("merge_adapter", "a")) == []


def test_not_merged_here() -> None:
    """Each named adapter that is merged here refuses its delete; one beside it does not."""
    here = at(Context({"a": LORA, "b": whole(), "c": LORA}, ("a", "b"), ("a", "b")))
    nos = judged(g.not_merged_here, here, naming("delete_adapter", "b", "c"))
    assert [(no.where, no.adapters, no.kinds) for no in nos] == [("lm_head", ("b",), ("modules_to_save",))]
    assert "'b' is merged" in nos[0].reason
    assert judged(g.not_merged_here, here, naming("delete_adapter", "c")) == []


def test_declared_itself_never_refuses() -> None:
    """The guard that stands for the chart in a refusal has nothing to judge."""
    assert list(DECLARED.judge(NOTHING, Event("set_adapter"))) == []


# --------------------------------------------------------------------------------------------------------- the whole error


def test_error_text() -> None:
    """The error says what was refused, on how many modules, that nothing has changed, each reason, and what to do."""
    facts = after(adding("b"), adding("c"), adding("a"))
    found = refused(facts, naming("set_adapter", "b", "c"))
    error = found.error(found.steps[-1].event, found.refusals, len(facts.modules))
    assert str(error).splitlines() == [
        "set_adapter(['b', 'c']) refused on 1 of 2 modules; nothing has changed.",
        "  M2 (trainable_token_indices): 'b' and 'c' both replace row 1 of weight (8, 4)  [no_overlap]",
        '  Activate one of them, or say how to combine them: on_overlap="sum" or on_overlap="override" on set_adapter or add_adapter.',
    ]
    assert isinstance(error, ValueError)
    assert isinstance(error, errors.AdapterOverlapError)


def test_error_survives_pickling() -> None:
    """The error of a refusal is pickled with its data and its text."""
    found = refused(after(adding("a")), naming("set_adapter", "x"))
    error = found.error(found.steps[-1].event, found.refusals, 1)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.event, again.refusals) == (type(error), str(error), error.event, error.refusals)


def test_the_world_is_what_it_says() -> None:
    """The small world of the other tests overlaps where it claims to, and nowhere else."""
    for path, one, two in (("M1", "a", "b"), ("M1", "a", "d"), ("M1", "b", "d"), ("M2", "b", "c"), ("M2", "b", "d"), ("M2", "c", "d")):
        here = Context({name: PLACES[name][path] for name in (one, two)})
        overlap = (path, one + two) in (("M1", "ad"), ("M2", "bc"))
        assert bool(judged(g.no_overlap, at(here), naming("set_adapter", one, two))) == overlap


def local_judge(_: Situation, __: Event) -> tuple[()]:
    """Never refuses."""
    return ()


@pytest.mark.parametrize("part", [g.first, g.no_overlap, g.guard("anything goes")(local_judge)], ids=lambda part: part.name)
def test_choices_and_guards_are_pickled(part: Choice | Guard) -> None:
    """Those that stand under their own name come back as the same object, others as an equal one."""
    again = pickle.loads(pickle.dumps(part))
    assert again == part
    assert (again is part) == (part in (g.first, g.no_overlap))


@pytest.mark.parametrize(("error", "said"), [(ValueError, "ValueError"), (None, "None"), (errors.AttachError, "AttachError")])
def test_the_error_of_a_guard_is_a_refusal(error: Any, said: str) -> None:
    """What a guard raises derives from `EventRefusedError`, which is checked where the guard is declared."""
    with pytest.raises(errors.ArgumentError, match=f"the guard 'local_judge' was given the error {said}; a subclass of EventRefusedError"):
        g.guard("never", error)(local_judge)
