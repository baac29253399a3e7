"""The standard worlds: what `python -m adapterstate explore` walks."""

from __future__ import annotations

import attrs

from adapterstate.explore.worlds import Report, World, both, rows, tuner, whole

FOUR = {
    "t1": {"attention": tuner(), "head": whole()},
    "t2": {"attention": tuner(), "embedding": both(tuner(), rows(0, 1))},
    "t3": {"attention": tuner("a_kind_of_ones_own"), "embedding": rows(1, 2), "head": rows(5)},
    "t4": {"embedding": rows(3), "head": whole()},
}
"""Four adapters on three modules of different kinds.

`attention` is only tuned; on `embedding` rows are trained, by one adapter beside a tuner; on `head` two adapters have copies and one has
a row.
On `embedding` t2 and t3 share row 1, and t4 is disjoint from both; on `head` t1, t3 and t4 overlap in pairs.
"""

THREE = {name: FOUR[name] for name in ("t1", "t2", "t3")}
TWO = {"t2": FOUR["t2"], "t3": FOUR["t3"]}
COUNTERS = {
    "t1": {"norm": both(whole(), whole(weight="running_mean", fixed="updated by training"))},
    "t2": {"norm": whole(weight="running_mean", fixed="updated by training")},
}
"""Two adapters that replace a buffer which training updates."""

NAMES = {"task": {"attention": tuner(), "head": whole()}, "task2": {"attention": tuner(), "embedding": rows(1, 2)}}
"""The name of one adapter is the beginning of the other's."""

REPORTS = tuple(
    Report(event, guard, where)
    for event, guard, where in (
        ("add_adapter", "config_is_supported", ""),
        ("add_adapter", "targets_match", ""),
        ("add_adapter", "no_self_overlap", "embedding"),
        ("add_adapter", "swappable", "attention"),
        ("add_adapter", "forward_is_called", "attention"),
        ("merge_adapter", "mergeable", "attention"),
        ("merge_adapter", "mergeable", "embedding"),
        ("delete_adapter", "outermost_class_is_ours", "attention"),
        ("delete_adapter", "outermost_class_is_ours", "embedding"),
        ("delete_adapter", "outermost_class_is_ours", "head"),
    )
)
"""One report for each guard that reads them, on a module of each kind where it depends on the module."""

STANDARD = (
    *(World(f"four adapters, {policy}", FOUR, carried=(policy,)) for policy in ("error", "sum", "override")),
    World("mixed policies", THREE, carried=("error", "sum", "override"), merging=False),
    World("named policies and weights", TWO, carried=("error", "sum"), named=(None, "error", "sum", "override"), weights=(0.5,)),
    World("values that are not summed", COUNTERS, carried=("sum", "override"), named=(None, "override"), weights=(0.5,)),
    World("enablement", TWO, enablement=True, contexts=2),
    World("trainability", THREE, trainability=True),
    World("all axes, every order", TWO, enablement=True, contexts=1, trainability=True, every_order=True),
    World("activation, every order", THREE, carried=("override",), every_order=True),
    World("bad input", NAMES, trainability=True, bad_input=True),
    World("reports", TWO, carried=("override",), reports=REPORTS),
)
"""What is walked unless told otherwise."""


def _quick(world: World) -> World:
    """The world with one adapter fewer, and with one carried policy where weights vary."""
    fewer = THREE if world.adapters is FOUR else TWO if world.trainability and world.adapters is THREE else world.adapters
    carried = world.carried[:1] if world.weights else world.carried
    return attrs.evolve(world, name=world.name.replace("four", "three"), adapters=fewer, carried=carried)


QUICK = tuple(_quick(world) for world in STANDARD if world.name != "activation, every order")
"""A few seconds: the standard worlds with fewer adapters, and without the one that keeps every order of three."""

SIMULATOR = World(
    "simulator",
    {"poet": {"q_proj": tuner(), "lm_head": whole()}, "chemist": {"q_proj": tuner(), "lm_head": rows(6, 7)}},
    named=(None, "override"),
    enablement=True,
    trainability=True,
)
"""Two modules and two adapters with every chart in play: small enough to walk through by hand."""
