"""The projection: what torch must look like in a given state. Pure, and the only source of what torch sees.

What a module computes with is its *normal form*: the base weights with the rows of all active replacing slots put in, in activation
order, plus the deltas of all active tuners; nothing of it while adapters are disabled. Merging decides only which part of it is kept
precomputed.
"""

from __future__ import annotations

from typing import Literal

import attrs

from adapterstate.machine.records import Context, Facts

GradFollows = Literal["trainability", "activation"]


@attrs.frozen
class View:
    """How one wrapped module reads its weights and what it evaluates in forward.

    Attributes:
        replacing: adapters whose rows each read puts in place of the base's, in order; empty when the cache or the base is read.
        live: adapters whose tuners run in forward, in order.
        cached: adapters whose part is kept precomputed, in order; empty for no cache.
        reads_cache: whether reads return the cache. While adapters are disabled it is kept and not read.
    """

    replacing: tuple[str, ...] = ()
    live: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    reads_cache: bool = False


BASE = View()
"""A module that computes as the base does."""


def view_of(context: Context, *, enabled: bool) -> View:
    """Return how a module in this context computes."""
    present, active, merged = context.present, context.active, context.merged
    if not active:
        return BASE
    unmerged = tuple(name for name in active if name not in merged)
    if merged and not any(present[name].replaces for name in unmerged):
        # everything live is a tuner: what is merged can be read from one tensor
        return View((), unmerged, merged, True) if enabled else View(cached=merged)
    if not enabled:
        return BASE
    replacing = tuple(name for name in active if present[name].replaces)
    return View(replacing, tuple(name for name in active if present[name].tunes))


def requires_grad(facts: Facts, name: str, follows: GradFollows) -> bool:
    """Return whether the parameters of adapter `name` accept gradients.

    Args:
        facts: the stored state.
        name: an adapter of the model.
        follows: ``"trainability"``: whenever the adapter is trainable, whatever is active. ``"activation"``: when it is trainable,
            active and enabled, or trainable and named by ``set_requires_grad(name, True)``.
    """
    adapter = facts.adapters[name]
    if adapter.trainability != "trainable":
        return False
    return follows == "trainability" or adapter.asked or (name in facts.active and facts.enabled)
