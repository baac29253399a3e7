"""Arguments become values of the library's own, or an `ArgumentError` that says what was given and what is expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from adapterstate.errors import ArgumentError
from adapterstate.machine.arguments import names_of, refuse_no_flag, refuse_strange_policy, weights_of


@pytest.mark.parametrize(("given", "names"), [("poet", ("poet",)), (["a", "b"], ("a", "b")), ((), ()), ([], ())])
def test_names(given: Any, names: tuple[str, ...]) -> None:
    """One name is one name, however many letters it has, and a list is as many as it holds."""
    assert names_of("set_adapter", given) == names


@pytest.mark.parametrize(
    ("given", "weights"),
    [(None, None), ([1, 0.5], (1.0, 0.5)), ((Fraction(1, 4),), (0.25,)), ([10**400], (math.inf,)), ((w for w in (1, 2)), (1.0, 2.0))],
)
def test_weights(given: Any, weights: tuple[float, ...] | None) -> None:
    """Real numbers become floats, in order; whether they are finite is a guard's to say."""
    assert weights_of("set_adapter", given) == weights


@pytest.mark.parametrize("policy", ["error", "sum", "override"])
def test_policies(policy: str) -> None:
    """There are three, and None where the carried ones may stand."""
    refuse_strange_policy("add_adapter", policy)
    refuse_strange_policy("set_adapter", None, carried=True)


@pytest.mark.parametrize("flag", [True, False])
def test_flags(flag: bool) -> None:
    """There are two."""
    refuse_no_flag("merge_adapter", "safe_merge", flag)


@pytest.mark.parametrize(
    ("refuse", "words"),
    [
        (lambda: names_of("set_adapter", 3), "set_adapter was given 3; a name or a list"),
        (lambda: names_of("set_adapter", {"a"}), "was given {'a'}"),
        (lambda: names_of("set_adapter", ["a", 3]), r"was given \['a', 3\]"),
        (lambda: weights_of("set_adapter", {1.0, 2.0}), r"was given the weights {1.0, 2.0}; a list of numbers, one for each name"),
        (lambda: weights_of("set_adapter", {"a": 1, "b": 2}), r"was given the weights {'a': 1, 'b': 2}; a list"),
        (lambda: weights_of("set_adapter", "12"), "was given the weights '12'"),
        (lambda: weights_of("set_adapter", 0.5), "was given the weights 0.5"),
        (lambda: weights_of("set_adapter", [1, True]), "real numbers are expected"),
        (lambda: refuse_strange_policy("add_adapter", "mean"), r"on_overlap='mean'; one of \('error', 'sum', 'override'\)"),
        (lambda: refuse_strange_policy("add_adapter", None), "on_overlap=None"),
        (lambda: refuse_strange_policy("set_adapter", ["sum"], carried=True), r"one of \('error', 'sum', 'override', None\)"),
        (lambda: refuse_no_flag("merge_adapter", "safe_merge", "x"), "merge_adapter was given safe_merge='x'; True or False"),
        (lambda: refuse_no_flag("merge_adapter", "safe_merge", 1), "safe_merge=1"),
    ],
)
def test_what_is_refused(refuse: Callable[[], object], words: str) -> None:
    """What has no order, or is of another type, is refused as it was given, and nothing has changed."""
    with pytest.raises(ArgumentError, match=f"{words}.*nothing has changed"):
        refuse()
