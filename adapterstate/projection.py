"""The projection: what torch must look like in a given state. Pure, and the only source of what torch sees.

What a module computes with is its *normal form*: the base weights with the rows of all active replacing slots put in, in activation
order, plus the deltas of all active tuners; nothing of it while adapters are disabled. Merging decides only which part of it is kept
precomputed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs

from adapterstate.machine.records import Context, Facts

GradFollows = Literal["trainability", "activation"]


@attrs.frozen
class Share:
    """How one active adapter takes part in what one module computes with.

    Attributes:
        name: of the adapter.
        weight: what its delta, or the difference of its rows to the base's, is multiplied with.
        sums: whether that difference is added to those of other adapters on the same rows; otherwise the later one wins.
    """

    name: str
    weight: float = 1.0
    sums: bool = False


Shares = tuple[Share, ...]


@attrs.frozen
class View:
    """How one wrapped module reads its weights and what it evaluates in forward.

    Attributes:
        replacing: adapters whose rows each read puts in place of the base's, in order; empty when the cache or the base is read.
        live: adapters whose tuners run in forward, in order.
        cached: adapters whose part is kept precomputed, in order; empty for no cache.
        reads_cache: whether reads return the cache. While adapters are disabled it is kept and not read.
    """

    replacing: Shares = ()
    live: Shares = ()
    cached: Shares = ()
    reads_cache: bool = False


BASE = View()
"""A module that computes as the base does."""


def shares_of(context: Context, names: Iterable[str]) -> Shares:
    """Return how those of `names` that are active in this context take part, in activation order."""
    wanted = set(names)
    return tuple(
        Share(name, context.weights.get(name, 1.0), context.policies.get(name) == "sum") for name in context.active if name in wanted
    )


def view_of(context: Context, *, enabled: bool) -> View:
    """Return how a module in this context computes."""
    present, active, merged = context.present, context.active, context.merged
    if not active:
        return BASE
    live = shares_of(context, (name for name in active if name not in merged))
    if merged and not any(present[share.name].replaces for share in live):
        # everything live is a tuner: what is merged can be read from one tensor
        cached = shares_of(context, merged)
        return View((), live, cached, True) if enabled else View(cached=cached)
    if not enabled:
        return BASE
    replacing = shares_of(context, (name for name in active if present[name].replaces))
    return View(replacing, shares_of(context, (name for name in active if present[name].tunes)))


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
