"""The rules hold in the worlds that are walked; the report says what was done, and wrong arguments are refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import attrs
import pytest

from adapterstate.errors import ArgumentError, EventRefusedError
from adapterstate.explore import RULES, SIMULATOR, STANDARD, Exploration, World, explore, rows, tuner, whole
from adapterstate.explore import rules_of_states as written
from adapterstate.explore.asked import overlapping
from adapterstate.explore.rules import words
from adapterstate.explore.walk import key, walk
from adapterstate.machine.charts import ACTIVATION, CHARTS
from adapterstate.machine.guards import Guard
from adapterstate.machine.records import Event, Facts, Refusal, Situation

PAIR = World("pair", {"a": {"x": tuner(), "y": whole()}, "b": {"x": tuner(), "y": rows(0)}})
TUNERS = World("tuners", {"a": {"x": tuner()}, "b": {"x": tuner()}})


def test_every_rule_holds(quick: Exploration) -> None:
    """In every state and on every transition of the quick worlds."""
    assert quick.counterexample is None, str(quick.counterexample)
    quick.check()
    assert quick.unused_deviations == ()


def test_the_four_adapters_of_the_standard_walk() -> None:
    """One of the big walks: with a policy that combines, every selection of four adapters in every order is reached, merged in every way.

    For each set of present adapters the states are the ordered selections of it, each with every subset merged: 633 for four adapters, 79
    for three, 13 for two, 3 for one, 1 for none.
    """
    found = explore(STANDARD[1])
    assert found.holds, str(found.counterexample)
    assert found.states == 633 + 4 * 79 + 6 * 13 + 4 * 3 + 1
    assert found.depth == 8


def test_counts_by_hand() -> None:
    """Two tuners on one module, not merging: 1 state without, 2 for each alone, 5 for both; each with every event counted.

    Events: none present 2 adds + set of nothing; one present 2 adds, 1 delete, 2 sets; both 2 adds, 2 deletes, 5 sets. The two adds of an
    adapter that is there are the only refusals: one with one present, two with both.
    """
    found = explore(attrs.evolve(TUNERS, merging=False))
    assert (found.states, found.transitions, found.depth) == (1 + 2 * 2 + 5, 3 + 4 * 5 + 5 * 9, 3)
    assert found.coverage.refusals == {"name_is_new": 4 * 1 + 5 * 2}
    assert found.walks[0].accepted == found.transitions - found.coverage.refusals["name_is_new"]


def test_one_presence_order_stands_for_all() -> None:
    """The states of a world that keeps every order, without that order, are those of the world that keeps one; so is what they lead to."""
    one, every = (World(PAIR.name, PAIR.adapters, carried=("error", "sum"), enablement=True, every_order=which) for which in (False, True))

    def leads(world: World) -> set[tuple[object, ...]]:
        menu = {"add_adapter", "set_adapter", "unmerge_adapter", "enable_adapters", "disable_adapters"}
        return {
            (key(t.source.facts, ordered=False), str(t.event), t.target and key(t.target.facts, ordered=False))
            for t in walk(world, CHARTS)
            if t.event.name in menu or len(t.event.adapters) == 1
        }

    assert leads(one) == leads(every)
    assert explore(every).states > explore(one).states


def test_the_path_to_a_state_is_a_shortest_one() -> None:
    """Breadth first: no transition leads to a state that is more than one event deeper."""
    for transition in walk(PAIR, CHARTS):
        if transition.target is not None:
            assert transition.target.depth <= transition.source.depth + 1
            assert len(transition.target.path) == transition.target.depth


def test_it_is_the_same_each_time() -> None:
    """Two runs count the same."""
    one, two = explore(SIMULATOR), explore(SIMULATOR)
    assert (one.states, one.transitions, one.coverage.taken) == (two.states, two.transitions, two.coverage.taken)


@pytest.mark.parametrize("world", STANDARD, ids=lambda world: world.name)
def test_overlaps_are_what_they_look_like(world: World) -> None:
    """Overlaps do not depend on which adapter is named first."""
    for one, two in permutations(world.adapters, 2):
        assert overlapping(world, one, two) == overlapping(world, two, one)


def test_a_whole_copy_overlaps_with_rows_and_disjoint_rows_do_not() -> None:
    """By the rows that are replaced, of one weight on one module."""
    world = World("overlaps", {"a": {"x": whole()}, "b": {"x": rows(3)}, "c": {"x": rows(4)}, "d": {"x": rows(3, weight="bias")}})
    assert overlapping(world, "a", "b") == {"x": ("weight",)}
    assert overlapping(world, "b", "c") == overlapping(world, "a", "d") == {}


# ------------------------------------------------------------------------------------------------------------------ derived charts


def one_at_a_time(_: Situation, event: Event) -> Sequence[Refusal]:
    """No more than one adapter is ever active."""
    return [Refusal("one_at_a_time", "", "one is expected", event.adapters)] if len(event.adapters) > 1 else []


ONE = Guard("one_at_a_time", "one adapter is active", EventRefusedError, one_at_a_time)


def test_a_derived_chart() -> None:
    """A chart that refuses more keeps every rule; its guard is counted with the others."""
    for charts in (CHARTS.with_guard("set_adapter", ONE), CHARTS.with_chart(ACTIVATION.with_guard("set_adapter", ONE, value="some"))):
        found = explore(PAIR, charts=charts)
        assert found.holds, str(found.counterexample)
        assert found.coverage.refusals["one_at_a_time"] > 0
        assert all(len(walk.source.facts.active) < 2 for walk in walk_of(PAIR, charts))


def walk_of(world: World, charts: object) -> list[object]:
    return list(walk(world, charts))  # type: ignore[arg-type]


def test_a_deviation() -> None:
    """A rule that a chart breaks on purpose is allowed by name, is counted, and is an error when it does not break."""
    charts = CHARTS.with_chart(ACTIVATION.without("set_adapter", source="merged"))
    broken = explore(PAIR, charts=charts).counterexample
    assert broken is None  # refusing while merged breaks no rule, so it needs no deviation
    found = explore(PAIR, charts=charts, deviations=["path_independent"])
    assert found.unused_deviations == ("path_independent",)
    with pytest.raises(AssertionError, match="never broke"):
        found.check()


def not_twice(situation: Situation, event: Event) -> Sequence[Refusal]:
    """What is active is not set again."""
    same = event.adapters == situation.facts.active and not situation.facts.merged
    return [Refusal("not_twice", "", "is active already", event.adapters)] if same else []


def test_a_deviation_that_is_needed() -> None:
    """A chart that refuses to set what is active already breaks "twice is once"; with the deviation the rest still holds."""
    charts = CHARTS.with_guard("set_adapter", Guard("not_twice", "not active already", EventRefusedError, not_twice))
    broken = explore(TUNERS, charts=charts).counterexample
    assert broken is not None
    assert broken.rule == "path_independent"
    found = explore(TUNERS, charts=charts, deviations=["path_independent"])
    found.check()
    assert found.walks[0].deviated["path_independent"] > 0
    assert "path_independent: broken" in str(found)


# ---------------------------------------------------------------------------------------------------------- arguments and reports


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: World("w", {}), "no adapter"),
        (lambda: World("w", {"a": {}}), "'a' has no module"),
        (lambda: World("w", {"a.b": {"x": tuner()}}), "'a.b' is no legal name"),
        (lambda: World("w", {"a": {"x": tuner()}}, carried=("average",)), "'average' is no policy"),  # type: ignore[arg-type]
        (lambda: World("w", {"a": {"x": tuner()}}, carried=()), "nothing is carried"),
        (lambda: World("w", {"a": {"m": 3}}), "what adapter 'a' is on 'm' is 3; tuner"),  # type: ignore[dict-item]
        (lambda: rows(40, shape=(3, 8)), r"rows was given \[40\]; rows of a weight of shape \(3, 8\)"),
        (lambda: rows(0, -1, 3, shape=(3, 8)), r"rows was given \[-1, 3\]"),
        (lambda: rows(0, shape=()), r"rows was given \[0\]"),
        (lambda: explore(PAIR, charts=3), "an int as charts; Charts are expected"),  # type: ignore[arg-type]
        (lambda: explore(3), "explore was given 3; a World or several"),  # type: ignore[call-overload]
        (lambda: explore([PAIR, "x"]), "'x'.*a World or several"),  # type: ignore[list-item]
        (lambda: explore([]), "at least one"),
        (lambda: explore([PAIR, PAIR]), "a name of its own"),
        (lambda: explore(PAIR, deviations=["rule 3"]), "'rule 3'"),
        (lambda: explore([PAIR, TUNERS]).graph(), "one of"),
        (lambda: explore(PAIR).graph("other"), "'other'"),
    ],
)
def test_wrong_arguments(make: object, said: str) -> None:
    """What means nothing is a typed error that shows what was given."""
    with pytest.raises(ArgumentError, match=said):
        make()  # type: ignore[operator]


def test_the_report_names_everything(quick: Exploration) -> None:
    """Worlds, counts, rows, refusals, every reduction with the worlds that it is about, and the outcome."""
    text = str(quick)
    for walked in quick.walks:
        assert walked.world.name in text
        for reduction in walked.world.reductions:
            assert reduction in text
            assert walked.world.name in quick.reductions[reduction]
    for name in (*quick.coverage.guards, f"{quick.transitions:,}", "presence order", "Every rule holds."):
        assert name in text


def test_progress_is_told() -> None:
    """Now and then: the world, states finished, states known."""
    told: list[tuple[str, int, int]] = []
    explore(SIMULATOR, progress=lambda *said: told.append(said))
    assert told[0][:2] == ("simulator", 0)
    assert all(finished < known for _, finished, known in told)


@pytest.mark.parametrize("rule", RULES)
def test_rules_have_words(rule: str) -> None:
    """Each rule is said in one sentence, which begins with its number or with what it is about."""
    assert words(rule).endswith((".", "is:"))
    assert words(rule).startswith(("Rule ", "The charts: ", "Combining: ", "Leaving no trace: ", "Refusing: ", "The reduction"))


def test_rules_see_a_broken_state() -> None:
    """Asked alone, a rule of states yields what it expects and what it saw."""
    facts = Facts(active=("ghost",))
    assert list(written.as_stored(PAIR, facts)) == [("active adapters are present, each once; present: []", "active ['ghost']")]
    assert len(list(written.zero_adapters(PAIR, facts))) == 1
