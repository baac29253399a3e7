"""What an exploration has found: counts, coverage, and the first counterexample with a shortest way to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs

from adapterstate.errors import ArgumentError
from adapterstate.explore import rules
from adapterstate.explore.calls import call
from adapterstate.explore.coverage import ChartCoverage
from adapterstate.explore.graph import Graph, graph_of, to_networkx
from adapterstate.explore.tables import table
from adapterstate.explore.worlds import World
from adapterstate.machine.charts import Charts
from adapterstate.machine.records import Event


@attrs.frozen(eq=False)
class Counterexample:
    """The first rule that broke, and a shortest way to it.

    Attributes:
        rule: its name.
        world: the model.
        path: the events; the last one breaks the rule.
        expected: what the rule demands, in words.
        observed: what was found.
        raised: the exception, when the planner or a guard raised one.
    """

    rule: str
    world: World
    path: tuple[Event, ...]
    expected: str
    observed: str
    raised: Exception | None = None

    def script(self) -> str:
        """Write the path as calls of a `Trial` of the world, which can be run; the last one shows the fault."""
        return "\n".join(["trial = Trial(world, charts)", *(f"trial.{call(event)}" for event in self.path)])

    def __str__(self) -> str:
        shown = "\n".join(f"    {line}" for line in self.script().splitlines())
        return (
            f"{self.rule} is broken in the world {self.world.name!r}, after {len(self.path)} event(s):\n"
            f"  {rules.words(self.rule)}\n{shown}\n  expected: {self.expected}\n  observed: {self.observed}"
        )


@attrs.frozen(eq=False)
class Walk:
    """What the walk of one world has found.

    Attributes:
        world: the model.
        states: how many there are.
        transitions: how many events were tried, in all states together.
        accepted: how many of those were accepted.
        depth: the most events that a shortest way to a state has.
        coverage: rows taken and refusals.
        deviated: name of a rule among the deviations -> how often it was broken.
        counterexample: the first rule that broke; None when all hold.
        seconds: how long it took.
    """

    world: World
    states: int
    transitions: int
    accepted: int
    depth: int
    coverage: ChartCoverage
    deviated: Mapping[str, int]
    counterexample: Counterexample | None
    seconds: float


@attrs.frozen(eq=False)
class Exploration:
    """What `explore` has found.

    Attributes:
        charts: what may happen.
        walks: one for each world; after a counterexample no further one.
        deviations: the rules that were allowed to break.
    """

    charts: Charts
    walks: tuple[Walk, ...]
    deviations: tuple[str, ...] = ()

    @property
    def counterexample(self) -> Counterexample | None:
        """The first rule that broke; None when all hold."""
        return self.walks[-1].counterexample

    @property
    def holds(self) -> bool:
        """Whether every rule holds everywhere, but for the deviations."""
        return self.counterexample is None

    @property
    def states(self) -> int:
        """States of all worlds together."""
        return sum(walk.states for walk in self.walks)

    @property
    def transitions(self) -> int:
        """Transitions of all worlds together."""
        return sum(walk.transitions for walk in self.walks)

    @property
    def depth(self) -> int:
        """The most events that a shortest way to a state has, in any world."""
        return max(walk.depth for walk in self.walks)

    @property
    def seconds(self) -> float:
        """How long all of it took."""
        return sum(walk.seconds for walk in self.walks)

    @property
    def coverage(self) -> ChartCoverage:
        """Rows taken and refusals, of all worlds together."""
        found = ChartCoverage(self.charts)
        for walked in self.walks:
            found.update(walked.coverage)
        return found

    @property
    def reductions(self) -> Mapping[str, tuple[str, ...]]:
        """What the walks leave out and why nothing is lost -> the worlds that it is about."""
        found: dict[str, list[str]] = {}
        for walked in self.walks:
            for reduction in walked.world.reductions:
                found.setdefault(reduction, []).append(walked.world.name)
        return {reduction: tuple(names) for reduction, names in found.items()}

    @property
    def unused_deviations(self) -> tuple[str, ...]:
        """The deviations that never broke, and so are none."""
        return tuple(rule for rule in self.deviations if not any(walk.deviated.get(rule) for walk in self.walks))

    def check(self) -> None:
        """Do nothing if every rule holds and every deviation is real.

        Raises:
            AssertionError: there is a counterexample, or a deviation that never broke.
        """
        if self.counterexample is not None:
            raise AssertionError(str(self.counterexample))
        if self.unused_deviations:
            raise AssertionError(f"these deviations never broke, so they are none: {list(self.unused_deviations)}")

    def to_dict(self) -> dict[str, object]:
        """The counts and the outcome as plain data that JSON can hold."""
        coverage, broken = self.coverage, self.counterexample
        return {
            "holds": self.holds,
            "walks": [
                {
                    "world": walk.world.name,
                    "states": walk.states,
                    "transitions": walk.transitions,
                    "accepted": walk.accepted,
                    "depth": walk.depth,
                    "seconds": round(walk.seconds, 3),
                }
                for walk in self.walks
            ],
            "rows": [
                {"chart": name[0], "row": coverage.row_text(name), "taken": coverage.taken[name], "selected": coverage.selected[name]}
                for name in coverage.rows
            ],
            "refusals": {name: coverage.refusals[name] for name in dict.fromkeys((*coverage.guards, *sorted(coverage.refusals)))},
            "reductions": {text: list(names) for text, names in self.reductions.items()},
            "deviations": {rule: sum(walk.deviated.get(rule, 0) for walk in self.walks) for rule in self.deviations},
            "counterexample": broken
            and {
                "rule": broken.rule,
                "world": broken.world.name,
                "path": [call(event) for event in broken.path],
                "expected": broken.expected,
                "observed": broken.observed,
            },
        }

    def graph(self, world: str | None = None) -> Graph:
        """The reachable graph of one world as plain data that JSON can hold; the same each time. It walks the world again.

        Args:
            world: name of the world; it may be left out when there is only one.

        Raises:
            ArgumentError: there is no such world, or there are several and none is named.
        """
        names = [walk.world.name for walk in self.walks]
        if (world is None and len(names) > 1) or (world is not None and world not in names):
            raise ArgumentError(f"graph was given {world!r} as a world; one of {names} is expected")
        chosen = self.walks[0] if world is None else self.walks[names.index(world)]
        return graph_of(chosen.world, self.charts)

    def networkx(self, world: str | None = None) -> object:
        """The same graph as a `networkx.MultiDiGraph`. Refused events are edges from a state to itself.

        Raises:
            ModuleNotFoundError: networkx is not installed.
        """
        return to_networkx(self.graph(world))

    TITLES: ClassVar = ("world", "states", "transitions", "accepted", "depth", "seconds")

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """A line for each walk and one for all, under `TITLES`."""
        lines = [
            (walk.world.name, f"{walk.states:,}", f"{walk.transitions:,}", f"{walk.accepted:,}", str(walk.depth), f"{walk.seconds:.1f}")
            for walk in self.walks
        ]
        accepted = sum(walk.accepted for walk in self.walks)
        return [*lines, ("all", f"{self.states:,}", f"{self.transitions:,}", f"{accepted:,}", str(self.depth), f"{self.seconds:.1f}")]

    @property
    def notes(self) -> list[str]:
        """The reductions, the deviations and the outcome, which the tables do not say."""
        everywhere = len(self.walks)
        said = ["Reductions:"]
        for text, names in self.reductions.items():
            said.append(f"- {text}\n  In {'all worlds' if len(names) == everywhere else '; '.join(names)}.")
        notes = ["\n".join(said)]
        if self.deviations:
            broken = {rule: sum(walk.deviated.get(rule, 0) for walk in self.walks) for rule in self.deviations}
            notes.append("Deviations:\n" + "\n".join(f"- {rule}: broken {times:,} times" for rule, times in broken.items()))
        notes.append("Every rule holds." if self.counterexample is None else str(self.counterexample))
        return notes

    def __str__(self) -> str:
        return "\n\n".join([table(self.TITLES, self.lines), str(self.coverage), *self.notes])
