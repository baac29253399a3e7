"""The journal as data for a time line: of each event what it says, the rows taken, what it changed, and what is the case after it."""

from __future__ import annotations

import attrs

from adapterstate.explore.calls import public_call
from adapterstate.inspector.book import Book, Data
from adapterstate.inspector.history import History
from adapterstate.machine.charts import Charts
from adapterstate.machine.plan import Plan
from adapterstate.records import JournalEntry


def told(history: History, charts: Charts, book: Book) -> Data:
    """Write down a history."""
    start = history.start
    entries = [_entry(entry, book) for entry in history.entries]
    before = book.facts(history.before)
    made: dict[int, Data] = {}  # a loop that switches to and fro has the same plans again and again
    for said, plan in zip(entries[start:], history.plans, strict=True):
        if id(plan) not in made:
            made[id(plan)] = {"view": book.facts(plan.after), "moves": _moves(plan, charts, book)}
        said |= made[id(plan)]
    if start:
        entries[start - 1]["view"] = before
    return {"notice": history.notice, "before": before if start == 0 else None, "entries": entries}


def _entry(entry: JournalEntry, book: Book) -> Data:
    """What the journal itself says."""
    return {
        "number": entry.number,
        "name": entry.name,
        "events": [public_call(attrs.evolve(event, reports={})) for event in entry.events],
        "noop": entry.is_noop,
        "changed": book.group(entry.changed) if entry.changed else None,
        "view": None,
        "moves": None,
    }


def _moves(plan: Plan, charts: Charts, book: Book) -> list[Data]:
    """The rows taken: what took the same row between the same states is said together."""
    numbers = {id(row): (at, number) for at, chart in enumerate(charts) for number, row in enumerate(chart.rows)}
    found: list[Data] = []
    for step in plan.steps:
        subjects: dict[tuple[int, int, str, str], list[str]] = {}
        for move in step.moves:
            subjects.setdefault((*numbers[id(move.row)], move.before, move.after), []).extend(move.subjects)
        for (chart, row, before, after), here in subjects.items():
            modules = tuple(charts)[chart] is charts.activation
            found.append(
                {"chart": chart, "row": row, "before": before, "after": after}
                | ({"modules": book.group(here)} if modules else {"subjects": [subject or "the model" for subject in here]})
            )
    return found
