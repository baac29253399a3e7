"""Which rows of the charts were taken, and which refusals came up: fed with plans, whoever made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from adapterstate.explore.tables import table
from adapterstate.machine.charts import CHARTS, Charts, Row
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Event, Facts, Situation

RowName = tuple[str, int]
"""Name of a chart, and which of its rows."""


class ChartCoverage:
    """Counts the rows and refusals of every plan that it is given.

    A row is *taken* when a subject moves by it. It is *selected* where the chart picks it on a wrapped module that the event leaves as
    it is: an event is offered only where it changes something, so a row such as "merging an adapter that is not here" is never taken.

    Args:
        charts: those that the plans are made by.
    """

    ROW_TITLES = ("chart", "row", "taken", "")
    REFUSAL_TITLES = ("refusal", "times", "")

    def __init__(self, charts: Charts = CHARTS) -> None:
        self.charts = charts
        self.taken: Counter[RowName] = Counter()
        self.selected: Counter[RowName] = Counter()
        self.refusals: Counter[str] = Counter()
        self._places = {id(row): (chart.name, number) for chart in charts for number, row in enumerate(chart.rows)}

    @property
    def rows(self) -> dict[RowName, Row]:
        """Every row there is."""
        return {(chart.name, number): row for chart in self.charts for number, row in enumerate(chart.rows)}

    @property
    def guards(self) -> tuple[str, ...]:
        """The names of every guard that could refuse, each once."""
        model = [guard for guards in self.charts.model_guards.values() for guard in guards]
        own = [guard for chart in self.charts for row in chart.rows for guard in row.guards]
        return tuple(dict.fromkeys(guard.name for guard in (*model, *own)))

    @property
    def missing_rows(self) -> tuple[RowName, ...]:
        """Rows that were neither taken nor selected."""
        return tuple(name for name in self.rows if not self.taken[name] and not self.selected[name])

    @property
    def never_taken(self) -> tuple[RowName, ...]:
        """Rows that were selected, but only where nothing changed."""
        return tuple(name for name in self.rows if self.selected[name] and not self.taken[name])

    @property
    def missing_refusals(self) -> tuple[str, ...]:
        """Names of guards that refused nothing."""
        return tuple(name for name in self.guards if not self.refusals[name])

    def add(self, found: Plan) -> None:
        """Count one plan: rows of accepted steps, refusals of a refused one."""
        accepted = found.steps if found.accepted else found.steps[:-1]
        for step in accepted:
            offered: set[tuple[str, str]] = set()
            for move in step.moves:
                offered.update((move.chart, subject) for subject in move.subjects)
                self.taken[self._name(move.chart, move.row)] += len(move.subjects)
            for row in self._left_alone(step.before, step.event, offered):
                self.selected[self._name(self.charts.activation.name, row)] += 1
        for refusal in found.refusals:
            self.refusals[refusal.guard] += 1

    def plan(self, charts: Charts, facts: Facts, events: Sequence[Event]) -> Plan:
        """Plan, and count: stands in for `adapterstate.machine.plan.plan` where a test run is to be recorded."""
        found = plan(charts, facts, events)
        self.add(found)
        return found

    def update(self, other: ChartCoverage) -> None:
        """Count what another one has counted."""
        self.taken.update(other.taken)
        self.selected.update(other.selected)
        self.refusals.update(other.refusals)

    def row_text(self, name: RowName) -> str:
        """A row in words."""
        row = self.rows[name]
        case = f" [{row.case}]" if row.case else ""
        return f"{row.event} from {', '.join(row.sources)}{case} to {'same' if row.target == '=' else row.target}"

    @property
    def row_lines(self) -> list[tuple[str, ...]]:
        """A line for each row of the charts, under `ROW_TITLES`."""
        return [
            (name[0], self.row_text(name), f"{self.taken[name]:,}", "" if self.taken[name] else _instead(self.selected[name]))
            for name in self.rows
        ]

    @property
    def refusal_lines(self) -> list[tuple[str, ...]]:
        """A line for each guard, and for each other reason that came up, under `REFUSAL_TITLES`."""
        lines: list[tuple[str, ...]] = [
            (name, f"{self.refusals[name]:,}", "" if self.refusals[name] else "MISSING") for name in self.guards
        ]
        return lines + [(name, f"{self.refusals[name]:,}", "") for name in sorted(set(self.refusals) - set(self.guards))]

    def __str__(self) -> str:
        return table(self.ROW_TITLES, self.row_lines) + "\n\n" + table(self.REFUSAL_TITLES, self.refusal_lines)

    def _name(self, chart: str, row: Row) -> RowName:
        """Which row it is. Rows are told by identity, which is quick; a copy of the charts is looked up by value."""
        name = self._places.get(id(row))
        if name is None:
            name = next(name for name, own in self.rows.items() if name[0] == chart and own == row)
        return name

    def _left_alone(self, facts: Facts, event: Event, offered: set[tuple[str, str]]) -> Iterator[Row]:
        """The rows that the activation chart selects where the event is not offered."""
        chart = self.charts.activation
        if event.name == "add_adapter":  # it concerns no module but those where the adapter goes
            return
        for path, module in facts.modules.items():
            concerned = event.name != "delete_adapter" or any(name in module.context.present for name in event.adapters)
            if concerned and (chart.name, path) not in offered:
                row = chart.select(module.activation, Situation(facts, path, module.context), event)
                if row is not None:
                    yield row


def _instead(selected: int) -> str:
    """What to say of a row that was never taken."""
    return f"selected {selected:,} times, never moved" if selected else "MISSING"
