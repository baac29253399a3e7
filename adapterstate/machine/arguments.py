"""Arguments of events, as values of the library's own. What has the wrong type, or is none of the values there are, is refused here."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, get_args

from adapterstate.errors import ArgumentError
from adapterstate.machine.records import Policy


def names_of(event: str, names: object) -> tuple[str, ...]:
    """Return the names as a tuple, whatever sequence was given.

    Raises:
        ArgumentError: it is neither a name nor a sequence of names. Nothing has changed.
    """
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"{event} was given {names!r}; a name or a list of names is expected; nothing has changed")
    return tuple(names)


def weights_of(event: str, weights: object) -> tuple[float, ...] | None:
    """Return the weights as floats. Whether they are as many as the names, and finite, is a guard's to say.

    Raises:
        ArgumentError: they are no numbers in an order. Nothing has changed.
    """
    if weights is None:
        return None
    if isinstance(weights, str | Set | Mapping) or not isinstance(weights, Iterable):
        raise ArgumentError(
            f"{event} was given the weights {weights!r}; a list of numbers, one for each name in order, is expected; nothing has changed"
        )
    given = tuple(weights)
    if not all(isinstance(weight, numbers.Real) and not isinstance(weight, bool) for weight in given):
        raise ArgumentError(f"{event} was given the weights {list(given)!r}; real numbers are expected; nothing has changed")
    return tuple(_float(weight) for weight in given)


def _float(number: Any) -> float:
    """`number` as a float; one too large for it is infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def refuse_strange_policy(event: str, policy: object, *, carried: bool = False) -> None:
    """Refuse a policy that there is not.

    Args:
        event: what it was given to.
        policy: what was given.
        carried: whether None may be given, for the policies that the adapters carry.

    Raises:
        ArgumentError: there is no such policy. Nothing has changed.
    """
    if carried and policy is None:
        return
    known = get_args(Policy)
    if not isinstance(policy, str) or policy not in known:
        allowed = (*known, None) if carried else known
        raise ArgumentError(f"{event} was given on_overlap={policy!r}; one of {allowed} is expected; nothing has changed")


def refuse_no_flag(event: str, name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        ArgumentError: it is something else. Nothing has changed.
    """
    if not isinstance(value, bool):
        raise ArgumentError(f"{event} was given {name}={value!r}; True or False is expected; nothing has changed")
