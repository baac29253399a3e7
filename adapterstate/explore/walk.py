"""The walk: every state of a world that events can reach, breadth first, and every event in each.

It is one generator. What checks, counts, draws or replays consumes its transitions; none of them walks by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from adapterstate.explore.menu import Menu
from adapterstate.explore.worlds import World
from adapterstate.machine.charts import Charts
from adapterstate.machine.plan import Plan, plan
from adapterstate.machine.records import Context, Event, Facts, ModuleFacts

Key = tuple[object, ...]


@attrs.define(eq=False)
class Node:
    """A state that was reached, and the first way to it, which is a shortest one.

    Attributes:
        number: in the order of discovery, from 0.
        facts: the state.
        depth: how many events lead to it.
        parent: the state before the last of these events; None for the first.
        event: the last of these events.
    """

    number: int
    facts: Facts
    depth: int = 0
    parent: Node | None = None
    event: Event | None = None

    @property
    def path(self) -> tuple[Event, ...]:
        """The events that lead here from a model without adapters."""
        events: list[Event] = []
        node = self
        while node.parent is not None and node.event is not None:
            events.append(node.event)
            node = node.parent
        return tuple(reversed(events))


@attrs.define(eq=False)
class Transition:
    """One event, tried in one state.

    Attributes:
        source: the state.
        event: the event.
        plan: what the planner said; None when it raised.
        raised: what it raised: `InternalError`, or an exception of a guard or choice.
        target: the state after it; None when it was refused.
        new: whether that state was never reached before.
    """

    source: Node
    event: Event
    plan: Plan | None
    raised: Exception | None = None
    target: Node | None = None
    new: bool = False

    @property
    def path(self) -> tuple[Event, ...]:
        """The events up to and including this one."""
        return (*self.source.path, self.event)


def walk(world: World, charts: Charts, queue: list[Node] | None = None) -> Iterator[Transition]:
    """Try every event of the world in every reachable state, breadth first, so that the first way to a state is a shortest one.

    Args:
        world: the model and the events.
        charts: what may happen.
        queue: an empty list, to be filled with every state reached; for who wants to see how far the walk is.
    """
    menu = Menu(world)
    nodes = queue if queue is not None else []
    nodes.append(Node(0, Facts()))
    seen = {key(nodes[0].facts, ordered=world.every_order): nodes[0]}
    for node in nodes:  # it grows while it is walked
        for event in menu.events(node.facts):
            try:
                found = plan(charts, node.facts, (event,))
            except Exception as raised:  # whatever a derived chart raises is a finding, not the end of the walk
                yield Transition(node, event, None, raised)
                continue
            if not found.accepted:
                yield Transition(node, event, found)
                continue
            place = key(found.after, ordered=world.every_order)
            target = seen.get(place)
            new = target is None
            if target is None:
                target = seen[place] = Node(len(nodes), found.after, node.depth + 1, node, event)
                nodes.append(target)
            yield Transition(node, event, found, target=target, new=new)


def key(facts: Facts, *, ordered: bool) -> Key:
    """All that is stored, as a value that can be in a set; with or without the order in which the present adapters came."""
    return (
        tuple(
            (name, one.trainability, one.asked, one.on_overlap, one.modules)
            for name, one in (facts.adapters.items() if ordered else sorted(facts.adapters.items(), key=_name))
        ),
        facts.active,
        facts.merged,
        tuple(sorted(facts.weights.items())),
        facts.on_overlap,
        facts.enablement,
        facts.disabled_by_call,
        facts.disabled_by_contexts,
        facts.base_trainable,
        tuple((path, one.activation, *_context_key(one.context, ordered)) for path, one in sorted(facts.modules.items(), key=_name)),
    )


def _name(item: tuple[str, object]) -> str:
    """What items of a mapping are sorted by."""
    return item[0]


def _context_key(context: Context, ordered: bool) -> Key:
    """What one module holds beside its chart state, as part of a key."""
    present = tuple(context.present) if ordered else tuple(sorted(context.present))
    return present, context.active, context.merged, tuple(sorted(context.weights.items())), tuple(sorted(context.policies.items()))


def turned(facts: Facts) -> Facts:
    """The same state with the order of presence reversed."""
    contexts = {id(one.context): one.context for one in facts.modules.values()}
    reversed_ones = {
        number: attrs.evolve(context, present=dict(reversed(list(context.present.items())))) for number, context in contexts.items()
    }
    modules = {path: ModuleFacts(one.activation, reversed_ones[id(one.context)]) for path, one in facts.modules.items()}
    return attrs.evolve(facts, adapters=dict(reversed(list(facts.adapters.items()))), modules=modules)
