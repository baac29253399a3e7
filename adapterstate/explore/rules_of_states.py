"""Rules that every reachable state keeps. They read neither charts, guards nor planner."""

from __future__ import annotations

import itertools

from adapterstate.explore.asked import Broken, overlapping
from adapterstate.explore.worlds import World
from adapterstate.machine.records import Facts


def same_everywhere(world: World, facts: Facts) -> Broken:
    """Rule 3: on every wrapped module, active = the model's active adapters that are present there, in the same order; merged likewise."""
    wrapped = {path for name in facts.adapters for path in world.places(name)}
    if wrapped != set(facts.modules):
        yield f"wrapped modules {sorted(wrapped)}", f"{sorted(facts.modules)}"
    for path, module in facts.modules.items():
        here = [name for name in facts.adapters if path in world.places(name)]
        for what, model, found in (
            ("present", here, module.context.present),
            ("active", facts.active, module.context.active),
            ("merged", facts.merged, module.context.merged),
        ):
            wanted = [name for name in model if name in here]
            if list(found) != wanted:
                yield f"{path}: {what} {wanted}", f"{list(found)}"


def all_doors(world: World, facts: Facts) -> Broken:
    """Rule 4: tuner and auxiliary slots move by the same event, so all slots of an adapter, of whatever kind, are in the same condition."""
    for name in facts.adapters:
        conditions: dict[str, list[str]] = {}
        for path, slot in world.places(name).items():
            context = facts.modules[path].context if path in facts.modules else None
            if context is None or name not in context.present:
                condition = "absent"
            else:
                condition = "merged" if name in context.merged else "active" if name in context.active else "inactive"
            conditions.setdefault(condition, []).append(f"{path} ({', '.join(slot.kinds)})")
        if len(conditions) > 1 or "absent" in conditions:
            yield f"every slot of {name!r} in one condition", "; ".join(f"{what}: {', '.join(at)}" for what, at in conditions.items())


def no_overlap(world: World, facts: Facts) -> Broken:
    """Rule 5: two adapters whose footprints overlap are not active together unless a policy combines them."""
    for one, two in itertools.combinations(facts.active, 2):
        for path, weights in overlapping(world, one, two).items():
            policies = [facts.on_overlap or facts.adapters[name].on_overlap for name in (one, two)]
            if policies not in (["sum", "sum"], ["override", "override"]):
                yield (
                    f"{one!r} and {two!r} not active together: on {path} both replace rows of {', '.join(weights)}",
                    f"both are active, by the policies {policies}",
                )


def combining(world: World, facts: Facts) -> Broken:
    """Combining: policies and weights in force are those of the activation, on every module, and of active adapters only."""
    strangers = [name for name, weight in facts.weights.items() if name not in facts.active or weight == 1]
    if strangers:
        yield "weights other than 1, of active adapters", f"weights of {strangers} with {list(facts.active)} active"
    if facts.on_overlap and not facts.active:
        yield "no named policy while nothing is active", f"{facts.on_overlap!r}"
    for path, module in facts.modules.items():
        weights = {name: facts.weights[name] for name in module.context.active if name in facts.weights}
        if dict(module.context.weights) != weights:
            yield f"{path}: weights {weights}", f"{dict(module.context.weights)}"
        replacing = [name for name in module.context.active if world.places(name)[path].replaces]
        policies = {name: facts.on_overlap or facts.adapters[name].on_overlap for name in replacing}
        policies = {name: policy for name, policy in policies.items() if policy != "error"}
        if dict(module.context.policies) != policies:
            yield f"{path}: policies in force {policies}", f"{dict(module.context.policies)}"


def zero_adapters(_: World, facts: Facts) -> Broken:
    """Rule 11, of states: a model with no adapter has nothing active, merged, weighted, combined or wrapped."""
    if not facts.adapters:
        left = facts.active, facts.merged, dict(facts.weights), facts.on_overlap, sorted(facts.modules), facts.base_trainable
        if any(left):
            yield "nothing is left when there is no adapter", f"active, merged, weights, policy, modules, base: {left}"


def as_stored(_: World, facts: Facts) -> Broken:
    """The charts: their states are those that the stored facts amount to, and merged adapters are active."""
    unknown = [name for name in facts.active if name not in facts.adapters]
    if unknown or len(set(facts.active)) < len(facts.active):
        yield f"active adapters are present, each once; present: {sorted(facts.adapters)}", f"active {list(facts.active)}"
    if list(facts.merged) != [name for name in facts.active if name in facts.merged]:
        yield f"merged adapters are active ones, in that order: {list(facts.active)}", f"merged {list(facts.merged)}"
    held = facts.disabled_by_call or facts.disabled_by_contexts > 0
    if facts.enablement != ("disabled" if held else "enabled"):
        yield f"{'disabled' if held else 'enabled'}: call {facts.disabled_by_call}, contexts {facts.disabled_by_contexts}", facts.enablement
    for path, module in facts.modules.items():
        context = module.context
        state = "merged" if context.merged else "active" if context.active else "inactive"
        if module.activation != state:
            yield f"{path}: {state}, with active {list(context.active)} and merged {list(context.merged)}", module.activation
