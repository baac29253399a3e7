"""Declarations that look right row by row and are wrong together."""

from __future__ import annotations

import attrs
import pytest

from adapterstate.errors import ChartError, EventRefusedError
from adapterstate.machine.charts import ACTIVATION, CHARTS, ENABLEMENT, TRAINABILITY, Impossible, Row
from adapterstate.machine.guards import Choice, Guard, wanted


def offenders(make: object) -> str:
    """The offenders that making something raises."""
    with pytest.raises(ChartError) as error:
        make()  # type: ignore[operator]
    return "\n".join(error.value.offenders)


def test_two_choices_of_one_name_do_not_mix() -> None:
    """Two choices that share a name but not a function cannot cover one cell together."""
    twin = Choice("wanted", ("trainable", "frozen"), "again?", lambda situation, event: "frozen")
    rows = [attrs.evolve(row, choice=twin) if row.value == "frozen" and row.choice == wanted else row for row in TRAINABILITY.rows]
    assert "different choices of one name" in offenders(lambda: attrs.evolve(TRAINABILITY, rows=tuple(rows)))


def test_a_state_listed_twice_in_a_row() -> None:
    """A row lists each of its states once."""
    rows = (*ENABLEMENT.rows[1:], Row("disable_adapters", ("enabled", "enabled", "disabled"), None, None, "disabled"))
    assert "lists a state twice" in offenders(lambda: attrs.evolve(ENABLEMENT, rows=rows))


def test_a_value_without_a_choice() -> None:
    """A row without a choice has no case."""
    rows = (Row("disable_adapters", ("enabled", "disabled"), None, "yes", "disabled"), *ENABLEMENT.rows[1:])
    assert "of no choice" in offenders(lambda: attrs.evolve(ENABLEMENT, rows=rows))


@pytest.mark.parametrize("stray", [Impossible("delete_adapter", "enabled", "x"), Impossible("enable_adapters", "nowhere", "yes")])
def test_a_stray_declaration(stray: Impossible) -> None:
    """What is declared impossible belongs to an event and a state of the chart."""
    assert "no such event or state" in offenders(lambda: attrs.evolve(ENABLEMENT, impossible=(*ENABLEMENT.impossible, stray)))


def test_a_namesake_hides_no_undocumented_guard() -> None:
    """A guard without a docstring is found also beside a documented one of its name."""

    def no_overlap(situation: object, event: object) -> tuple[()]:
        return ()

    bare = Guard("no_overlap", "nothing", EventRefusedError, no_overlap)
    assert "no docstring" in offenders(lambda: ACTIVATION.with_guard("unmerge_adapter", bare, source="merged"))
    assert "no docstring" in offenders(lambda: CHARTS.with_guard("set_adapter", bare))


def test_a_chart_in_the_wrong_place() -> None:
    """Each chart of a bundle stands under its own name."""
    assert "stands in the place of 'activation'" in offenders(lambda: attrs.evolve(CHARTS, activation=ENABLEMENT))


def test_an_event_that_does_not_exist() -> None:
    """The charts of a model have rows for the events there are."""
    typo = attrs.evolve(ENABLEMENT, rows=(*ENABLEMENT.rows, Row("disable_adaptors", ("enabled",), None, None, "disabled")))
    assert "'disable_adaptors', which is no event" in offenders(lambda: attrs.evolve(CHARTS, enablement=typo))
