"""The three tables, the checks of a chart when it is made, and derivation."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from adapterstate import errors
from adapterstate.errors import ArgumentError, ChartError
from adapterstate.machine import guards as g
from adapterstate.machine.charts import (
    ACTIVATION,
    CHARTS,
    ENABLEMENT,
    EVENTS,
    MODEL_GUARDS,
    SAME,
    TRAINABILITY,
    Chart,
    Charts,
    Impossible,
    Row,
)
from adapterstate.machine.guards import Choice, Guard
from adapterstate.machine.records import Context, Event, Facts, Refusal, Situation

from .worlds import LORA

# ----------------------------------------------------------------------------------------------- the tables, typed by hand

ALL_WRAPPED = ("inactive", "active", "merged")

# event, from, case, to, guards
ACTIVATION_TABLE = [
    ("add_adapter", ("unwrapped",), "first: yes", "active", ()),
    ("add_adapter", ("unwrapped",), "first: no", "inactive", ()),
    ("add_adapter", ALL_WRAPPED, "", "same", ()),
    ("set_adapter", ALL_WRAPPED, "named_here: some", "active", ("no_overlap", "sum_has_meaning")),
    ("set_adapter", ALL_WRAPPED, "named_here: none", "inactive", ()),
    ("merge_adapter", ("active", "merged"), "named_here: some", "merged", ("mergeable",)),
    ("merge_adapter", ALL_WRAPPED, "named_here: none", "same", ()),
    ("unmerge_adapter", ("merged",), "", "active", ()),
    ("unmerge_adapter", ("inactive", "active"), "", "same", ()),
    ("delete_adapter", ("merged",), "", "merged", ("not_merged_here",)),
    ("delete_adapter", ("active",), "left_here: active", "active", ()),
    ("delete_adapter", ("active", "inactive"), "left_here: inactive", "inactive", ()),
    ("delete_adapter", ("active", "inactive"), "left_here: nothing", "unwrapped", ()),
]
ENABLEMENT_TABLE = [
    ("disable_adapters", ("enabled", "disabled"), "", "disabled", ()),
    ("enable_adapters", ("enabled", "disabled"), "still_held: no", "enabled", ()),
    ("enable_adapters", ("disabled",), "still_held: yes", "disabled", ()),
]
TRAINABILITY_TABLE = [
    ("add_adapter", ("absent",), "wanted: trainable", "trainable", ()),
    ("add_adapter", ("absent",), "wanted: frozen", "frozen", ()),
    ("set_requires_grad", ("trainable", "frozen"), "wanted: trainable", "trainable", ()),
    ("set_requires_grad", ("trainable", "frozen"), "wanted: frozen", "frozen", ()),
    ("delete_adapter", ("trainable", "frozen"), "", "absent", ()),
]


@pytest.mark.parametrize(
    ("chart", "table"),
    [(ACTIVATION, ACTIVATION_TABLE), (ENABLEMENT, ENABLEMENT_TABLE), (TRAINABILITY, TRAINABILITY_TABLE)],
    ids=lambda value: value.name if isinstance(value, Chart) else "",
)
def test_table(chart: Chart, table: list[tuple[str, tuple[str, ...], str, str, tuple[str, ...]]]) -> None:
    """Each chart's rows are those of the design, in its order."""
    rows = [
        (row.event, row.sources, row.case, "same" if row.target == SAME else row.target, tuple(guard.name for guard in row.guards))
        for row in chart.rows
    ]
    assert rows == table


def test_choices_have_the_values_of_the_design() -> None:
    """Each choice is closed over the results that the design lists."""
    assert {choice.name: choice.values for choice in (g.first, g.named_here, g.left_here, g.still_held, g.wanted)} == {
        "first": ("yes", "no"),
        "named_here": ("some", "none"),
        "left_here": ("active", "inactive", "nothing"),
        "still_held": ("yes", "no"),
        "wanted": ("trainable", "frozen"),
    }


def test_declared_impossible() -> None:
    """Only three cases are declared impossible: two that the design names, and a hold that remains while enabled."""
    assert {(i.event, i.source, i.value) for chart in CHARTS for i in chart.impossible} == {
        ("merge_adapter", "inactive", "some"),
        ("delete_adapter", "inactive", "active"),
        ("enable_adapters", "enabled", "yes"),
    }


def test_model_guards_table() -> None:
    """The model's guards are those of the design, in its order; every event but an add demands that its names are known and distinct."""
    names = {event: [guard.name for guard in guards] for event, guards in MODEL_GUARDS.items()}
    assert names.pop("add_adapter") == [
        "name_is_legal",
        "name_is_new",
        "config_is_supported",
        "targets_match",
        "no_self_overlap",
        "swappable",
        "forward_is_called",
    ]
    assert {event: guards[:2] for event, guards in names.items()} == {
        event: ["known", "distinct"] for event in EVENTS if event != "add_adapter"
    }
    assert "named_are_active" in names["merge_adapter"]
    assert "outermost_class_is_ours" in names["delete_adapter"]


def test_initial_and_final_states() -> None:
    """A module starts and ends unwrapped, an adapter absent; a model starts enabled and has no end."""
    assert [(chart.name, chart.subject, chart.initial, chart.final) for chart in CHARTS] == [
        ("activation", "wrapped module", "unwrapped", ("unwrapped",)),
        ("enablement", "model", "enabled", ()),
        ("trainability", "adapter", "absent", ("absent",)),
    ]


def test_events_are_in_the_order_of_the_table() -> None:
    """`events` lists each event of the rows once; together the charts know every event and no other."""
    assert ACTIVATION.events == ("add_adapter", "set_adapter", "merge_adapter", "unmerge_adapter", "delete_adapter")
    assert {event for chart in CHARTS for event in chart.events} == set(EVENTS)


def test_select_returns_the_row_of_the_case() -> None:
    """The choice's result selects the row; a state without a row, and a case declared impossible, select none."""
    here = Situation(Facts(), "M", Context({"a": LORA}, ("a",)))
    some = ACTIVATION.select("active", here, Event("set_adapter", ("a",)))
    none = ACTIVATION.select("active", here, Event("set_adapter", ()))
    assert some is not None
    assert some.target == "active"
    assert none is not None
    assert none.target == "inactive"
    assert ACTIVATION.select("unwrapped", here, Event("set_adapter", ("a",))) is None
    assert ACTIVATION.select("inactive", here, Event("merge_adapter", ("a",))) is None


def test_row_leads_to() -> None:
    """A row whose target is SAME keeps the state, any other leads to its target."""
    assert Row("e", ("s", "t"), None, None, SAME).leads_to("t") == "t"
    assert Row("e", ("s", "t"), None, None, "s").leads_to("t") == "s"


# ----------------------------------------------------------------------------------------------- checks at definition time


def fork(_: Situation, __: Event) -> str:
    """Left or right."""
    return "left"


FORK = Choice("fork", ("left", "right"), "where to?", fork)
TURN = Choice("turn", ("left", "right"), "which turn?", fork)
MUTE = Choice("mute", ("left", "right"), "?", lambda _, __: "left")


def row(event: str, sources: str, target: str, choice: Choice | None = None, value: str | None = None, *guards: Guard) -> Row:
    return Row(event, tuple(sources), choice, value, target, guards)


GO, BACK = row("go", "p", "q"), row("back", "q", "p")


def make(*rows: Row, states: str = "pq", final: str = "", impossible: tuple[Impossible, ...] = ()) -> Chart:
    return Chart("toy", "thing", tuple(states), "p", tuple(final), rows, impossible)


def offenders(*rows: Row, states: str = "pq", final: str = "", impossible: tuple[Impossible, ...] = ()) -> tuple[str, ...]:
    with pytest.raises(ChartError) as caught:
        make(*rows, states=states, final=final, impossible=impossible)
    assert caught.value.chart == "toy"
    return caught.value.offenders


def test_a_good_chart_is_accepted() -> None:
    """Cells without a case, or with each value of one choice once, are well formed."""
    chart = make(GO, BACK, row("pick", "pq", "p", FORK, "left"), row("pick", "pq", "q", FORK, "right"))
    assert chart.events == ("go", "back", "pick")


BROKEN: dict[str, tuple[tuple[Row, ...], dict[str, object], tuple[str, ...]]] = {
    "state listed twice": ((GO, BACK), {"states": "pqq"}, ("listed twice", "'q'")),
    "unknown target": ((GO, BACK, row("fly", "p", "x")), {}, ("'x'", "not listed")),
    "unknown source": ((GO, BACK, row("fly", "x", "p")), {}, ("'x'", "not listed")),
    "unknown final": ((GO, BACK), {"final": "x"}, ("'x'", "not listed")),
    "unreachable state": ((GO, BACK), {"states": "pqr"}, ("'r'", "cannot be reached", "'p'")),
    "row without sources": ((GO, BACK, row("fly", "", "p")), {}, ("'fly'", "no state")),
    "mixed choices": (
        (GO, BACK, row("e", "p", "q", FORK, "left"), row("e", "p", "q", TURN, "right")),
        {},
        ("'e' from 'p'", "mix", "fork", "turn"),
    ),
    "a case beside none": ((GO, BACK, row("go", "p", "q", FORK, "left")), {}, ("'go' from 'p'", "mix", "None", "fork")),
    "two rows without a case": ((GO, BACK, row("go", "p", "p")), {}, ("'go' from 'p'", "2 rows without a case")),
    "missing value": ((GO, BACK, row("e", "p", "q", FORK, "left")), {}, ("'e' from 'p'", "no row", "fork: right")),
    "repeated value": (
        (GO, BACK, row("e", "p", "q", FORK, "left"), row("e", "p", "p", FORK, "left"), row("e", "p", "q", FORK, "right")),
        {},
        ("'e' from 'p'", "fork: left", "2 times"),
    ),
    "a row for a case declared impossible": (
        (GO, BACK, row("e", "p", "q", FORK, "left"), row("e", "p", "q", FORK, "right")),
        {"impossible": (Impossible("e", "p", "right"),)},
        ("'e' from 'p'", "fork: right", "2 times"),
    ),
    "foreign value": (
        (GO, BACK, row("e", "p", "q", FORK, "left"), row("e", "p", "q", FORK, "right"), row("e", "p", "q", FORK, "up")),
        {},
        ("'e' from 'p'", "'up'", "no result of fork", "left", "right"),
    ),
    "foreign value declared impossible": (
        (GO, BACK, row("e", "p", "q", FORK, "left"), row("e", "p", "q", FORK, "right")),
        {"impossible": (Impossible("e", "p", "up"),)},
        ("'e' from 'p'", "'up'", "no result of fork"),
    ),
    "impossible without a choice": (
        (GO, BACK),
        {"impossible": (Impossible("go", "p", "left"),)},
        ("'go' from 'p'", "'left'", "impossible", "no choice"),
    ),
    "impossible without a row": (
        (GO, BACK),
        {"impossible": (Impossible("go", "q", "left"),)},
        ("'go' from 'q'", "'left'", "impossible", "no choice"),
    ),
    "choice without label": (
        (GO, BACK, row("e", "p", "q", attrs.evolve(FORK, label=""), "left"), row("e", "p", "q", attrs.evolve(FORK, label=""), "right")),
        {},
        ("'fork'", "label"),
    ),
    "choice without docstring": (
        (GO, BACK, row("e", "p", "q", MUTE, "left"), row("e", "p", "q", MUTE, "right")),
        {},
        ("'mute'", "docstring"),
    ),
    "guard without label": ((GO, row("back", "q", "p", None, None, attrs.evolve(g.mergeable, label=""))), {}, ("'mergeable'", "label")),
    "guard without docstring": (
        (GO, row("back", "q", "p", None, None, Guard("mute", "?", errors.EventRefusedError, lambda _, __: ()))),
        {},
        ("'mute'", "docstring"),
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_offender(kind: str) -> None:
    """Each way of being ill formed is found when the chart is made, and said once with what it is about."""
    table, more, words = BROKEN[kind]
    found = offenders(*table, **more)  # type: ignore[arg-type]
    assert len(found) == 1, found
    assert [word for word in words if word not in found[0]] == []


def test_all_offenders_are_collected() -> None:
    """One error lists everything that is wrong with a chart, and its text shows every line."""
    mute = Guard("mute", "", errors.EventRefusedError, lambda _, __: ())
    with pytest.raises(ChartError) as caught:
        make(
            row("go", "p", "x", None, None, mute),
            row("go", "p", "p"),
            row("fly", "", "p"),
            row("e", "p", "p", FORK, "left"),
            row("e", "p", "p", FORK, "up"),
            row("f", "p", "p", FORK, "left"),
            row("f", "p", "p", TURN, "right"),
            states="pqrr",
            impossible=(Impossible("go", "q", "left"),),
        )
    wanted = (
        ("listed twice",),
        ("'x'", "not listed"),
        ("'q'", "cannot be reached"),
        ("'r'", "cannot be reached"),
        ("'fly'", "no state"),
        ("'go' from 'p'", "2 rows without a case"),
        ("'go' from 'q'", "impossible"),
        ("'e' from 'p'", "no row", "fork: right"),
        ("'e' from 'p'", "'up'"),
        ("'f' from 'p'", "mix"),
        ("'mute'", "label"),
        ("'mute'", "docstring"),
    )
    found = caught.value.offenders
    for words in wanted:
        assert len([line for line in found if all(word in line for word in words)]) == 1, (words, found)
    assert len(found) == len(wanted)
    assert all(line in str(caught.value) for line in found)


def test_a_chart_error_is_a_value_error() -> None:
    """What is wrong with a chart is a `ValueError` too."""
    with pytest.raises(ValueError, match="'toy' is not well formed"):
        make(GO, states="pqr")
    assert issubclass(ChartError, errors.AdapterStateError)


# -------------------------------------------------------------------------------------------------------------- derivation


@g.guard("never", errors.MergedError)
def never(_: Situation, event: Event) -> list[Refusal]:
    """Refuse always."""
    return [Refusal("never", "", "never", event.adapters)]


def guards_of(chart: Chart) -> dict[tuple[str, str, str | None], list[str]]:
    """(event, state, value) -> the names of the guards that are demanded there."""
    return {(row.event, state, row.value): [guard.name for guard in row.guards] for row in chart.rows for state in row.sources}


def targets_of(chart: Chart) -> dict[tuple[str, str, str | None], str]:
    """(event, state, value) -> the state after it."""
    return {(row.event, state, row.value): row.leads_to(state) for row in chart.rows for state in row.sources}


@pytest.mark.parametrize("value", [None, "some", "none"])
@pytest.mark.parametrize("source", [None, "inactive", "active", "merged"])
def test_with_guard(source: str | None, value: str | None) -> None:
    """The guard is demanded, after the others, in the cells that were named and in no other; where rows lead stays as it was."""
    before = guards_of(ACTIVATION)
    derived = ACTIVATION.with_guard("set_adapter", never, source=source, value=value)
    expected = {
        cell: [*names, "never"] if cell[0] == "set_adapter" and source in (None, cell[1]) and value in (None, cell[2]) else names
        for cell, names in before.items()
    }
    assert guards_of(derived) == expected
    assert targets_of(derived) == targets_of(ACTIVATION)
    assert guards_of(ACTIVATION) == before


def test_with_guard_keeps_a_row_of_one_state_whole() -> None:
    """A row that has only the named state is not split."""
    derived = ACTIVATION.with_guard("unmerge_adapter", never, source="merged")
    assert len(derived.rows) == len(ACTIVATION.rows)


@pytest.mark.parametrize(
    ("event", "where", "words"),
    [
        ("fly", {}, "no row for 'fly'"),
        ("unmerge_adapter", {"source": "unwrapped"}, "no row for 'unmerge_adapter' from 'unwrapped'"),
        ("set_adapter", {"value": "many"}, "no row for 'set_adapter' with the case 'many'"),
        ("merge_adapter", {"source": "inactive", "value": "some"}, "no row for 'merge_adapter' from 'inactive' with the case 'some'"),
    ],
)
def test_with_guard_where_there_is_no_row(event: str, where: dict[str, str], words: str) -> None:
    """A guard that would stand nowhere is an error that says what was looked for."""
    with pytest.raises(ChartError) as caught:
        ACTIVATION.with_guard(event, never, **where)
    assert len(caught.value.offenders) == 1
    assert words in caught.value.offenders[0]


def test_without_a_source() -> None:
    """The event has no row from that state any more; all other cells stay, and so does the chart that it was derived from."""
    before = targets_of(ACTIVATION)
    derived = ACTIVATION.without("set_adapter", source="merged")
    assert targets_of(derived) == {cell: to for cell, to in before.items() if cell[:2] != ("set_adapter", "merged")}
    assert targets_of(ACTIVATION) == before


def test_without_an_event() -> None:
    """The event has no row at all any more, and what was declared impossible for it goes along."""
    derived = ACTIVATION.without("delete_adapter")
    assert "delete_adapter" not in derived.events
    assert [(i.event, i.source) for i in derived.impossible] == [("merge_adapter", "inactive")]


def test_without_keeps_what_is_impossible_elsewhere() -> None:
    """What is declared impossible goes only with the rows of its own state."""
    assert ACTIVATION.without("merge_adapter", source="merged").impossible == ACTIVATION.impossible
    gone = ACTIVATION.without("merge_adapter", source="inactive").impossible
    assert [(i.event, i.source) for i in gone] == [("delete_adapter", "inactive")]


@pytest.mark.parametrize(
    ("event", "source", "words"),
    [("fly", None, "no row for 'fly'"), ("set_adapter", "unwrapped", "no row for 'set_adapter' from 'unwrapped'")],
)
def test_without_what_is_not_there(event: str, source: str | None, words: str) -> None:
    """Taking away a row that does not exist is an error that says what was looked for."""
    with pytest.raises(ChartError, match=words):
        ACTIVATION.without(event, source=source)


def test_derived_charts_get_the_same_checks() -> None:
    """A derived chart that is not well formed is refused: an unreachable state, a guard without a docstring."""
    with pytest.raises(ChartError, match="'merged' cannot be reached"):
        ACTIVATION.without("merge_adapter")
    with pytest.raises(ChartError, match="'mute' has no docstring"):
        ACTIVATION.with_guard("set_adapter", Guard("mute", "quiet", errors.EventRefusedError, lambda _, __: ()))


def test_charts_are_immutable() -> None:
    """Charts and rows cannot be assigned to."""
    for value in (ACTIVATION, ACTIVATION.rows[0], CHARTS):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.name = "other"  # type: ignore[union-attr, misc]


@pytest.mark.parametrize("chart", [ACTIVATION.with_guard("set_adapter", never), ENABLEMENT, TRAINABILITY])
def test_with_chart(chart: Chart) -> None:
    """A chart stands in place of the one of its name; the others, and the charts derived from, stay."""
    derived = CHARTS.with_chart(chart)
    assert [own for own in derived if own.name == chart.name] == [chart]
    assert [own for own in derived if own.name != chart.name] == [own for own in CHARTS if own.name != chart.name]
    assert CHARTS.activation is ACTIVATION


def test_with_chart_of_another_name() -> None:
    """A chart of a name that there is none of is an error that lists the names."""
    with pytest.raises(ChartError, match=r"activation.*enablement.*trainability") as caught:
        CHARTS.with_chart(make(GO, BACK))
    assert caught.value.chart == "toy"


def test_model_guard() -> None:
    """A guard of the model is demanded after the others of its event, and of no other event."""
    derived = CHARTS.with_guard("set_adapter", never)
    assert derived.model_guards["set_adapter"] == (*MODEL_GUARDS["set_adapter"], never)
    assert {event: guards for event, guards in derived.model_guards.items() if event != "set_adapter"} == {
        event: guards for event, guards in MODEL_GUARDS.items() if event != "set_adapter"
    }
    assert CHARTS.model_guards == MODEL_GUARDS


def test_model_guard_for_an_event_without_any() -> None:
    """Charts whose table of model guards leaves an event out can still be given one."""
    assert Charts(model_guards={}).with_guard("set_adapter", never).model_guards == {"set_adapter": (never,)}


def test_model_guards_are_checked() -> None:
    """An unknown event and a guard without label or docstring are found, in one error."""
    mute = Guard("mute", "", errors.EventRefusedError, lambda _, __: ())
    with pytest.raises(ChartError) as caught:
        CHARTS.with_guard("fly", mute)
    found = caught.value.offenders
    assert len(found) == 3
    assert [
        word
        for word, line in zip(("'fly' is no event", "'mute' has no label", "'mute' has no docstring"), found, strict=True)
        if word not in line
    ] == []


@pytest.mark.parametrize(
    "derive",
    [
        lambda: CHARTS.with_guard("set_adapter", 3),  # type: ignore[arg-type]
        lambda: CHARTS.activation.with_guard("set_adapter", 3),  # type: ignore[arg-type]
        lambda: CHARTS.with_chart(3),  # type: ignore[arg-type]
    ],
)
def test_only_guards_and_charts_are_taken(derive: Callable[[], object]) -> None:
    """What is no guard or chart is refused where it is given, by its type."""
    with pytest.raises(ArgumentError, match=r"was given an int; a (Guard|Chart) is expected"):
        derive()


def test_charts_together_have_no_name() -> None:
    """An error of the charts together names no single chart."""
    with pytest.raises(ChartError, match=r"^the charts are not well formed:") as caught:
        Charts(model_guards={"fly": ()})
    assert caught.value.chart == ""
