"""Every kind of call that must be refused in the state that a trial is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from adapterstate.testing.trial import Trial

Call = Callable[[], None]
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))


def wrong_calls(trial: Trial, free: str, pool: Sequence[str]) -> dict[str, list[Call]]:
    """Return what is wrong -> calls that are wrong in that way, each made by calling it. Only what the system supports is listed.

    Args:
        trial: is asked for its state, and gets the calls.
        free: a name that may be given to an adapter.
        pool: names that adapters get; those that are not there are unknown.
    """
    reference, has = trial.reference, trial.has
    present, active = list(reference.adapters), list(reference.activation.names)
    good = [name for name, recipe in trial.system.recipes.items() if not recipe.refused]
    bad = [name for name, recipe in trial.system.recipes.items() if recipe.refused]
    unknown = _unknown(present, pool)
    calls: dict[str, list[Call]] = {
        "a name for add_adapter": [partial(trial.add_adapter, name, recipe) for name in (*present, "", "a.b") for recipe in good],
        "a recipe": [partial(trial.add_adapter, free, recipe) for recipe in bad],
        "a name for delete_adapter": [partial(trial.delete_adapter, name) for name in unknown],
    }
    events: dict[str, tuple[Callable[..., None], list[str]]] = {"set_adapter": (trial.set_adapter, present)}
    if has("use_adapter"):
        events["use_adapter"] = (trial.enter_use, present)
    if has("merge_adapter") and has("partial_merge"):
        events["merge_adapter"] = (trial.merge_adapter, active)
    if has("set_requires_grad"):
        for flag in (False, True):
            events[f"set_requires_grad({flag})"] = (_with_flag(trial, flag), present)
    for event, (call, names) in events.items():
        calls[f"an unknown name for {event}"] = [partial(call, given) for name in unknown for given in _beside(names, name)]
        if has("duplicates"):
            calls[f"a name given twice to {event}"] = [partial(call, [*names, name]) for name in names]
    if has("merge_adapter") and has("partial_merge"):
        inactive = [name for name in present if name not in active]
        given = [names for name in inactive for names in _beside(active, name)]
        calls["an inactive name for merge_adapter"] = [partial(trial.merge_adapter, names) for names in given]
    if has("merge_adapter"):
        calls["a merged name for delete_adapter"] = [partial(trial.delete_adapter, name) for name in sorted(reference.merged)]
    if has("weights"):
        wrong = [[*[1.0] * len(present), 1.0], *([bad_weight] * len(present) for bad_weight in NOT_FINITE), [1.0] * (len(present) - 1)]
        calls["weights"] = [partial(trial.set_adapter, present, weights=weights) for weights in wrong if present]
    if has("on_overlap"):
        calls["a policy"] = [
            partial(trial.set_adapter, present[:1], on_overlap="bogus"),
            *(partial(trial.add_adapter, free, recipe, "bogus") for recipe in good),
        ]
    if has("set_requires_grad") and has("flags"):
        calls["a flag"] = [partial(trial.set_requires_grad, present[:1], "yes")] if present else []
    return {what: those for what, those in calls.items() if those}


def _unknown(present: Sequence[str], pool: Sequence[str]) -> list[str]:
    """Names that no adapter has: parts of names that are there, longer ones, and quite other ones."""
    near = [*(name[:end] for name in present for end in range(1, len(name))), *(name + "b" for name in present)]
    return [name for name in dict.fromkeys([*near, *pool, "nobody", ""]) if name not in present]


def _beside(names: Sequence[str], name: str) -> list[list[str]]:
    """A name alone, after others and before them."""
    return [[name], *([[*names, name], [name, *names]] if names else [])]


def _with_flag(trial: Trial, flag: bool) -> Callable[[Sequence[str]], None]:
    return lambda names: trial.set_requires_grad(names, flag)
