"""`Trial` takes what `AdapterState` takes, where there is no model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapterstate import AdapterNameError, ArgumentError, UnknownAdapterError
from adapterstate.explore import Trial, World, tuner

WORLD = World("w", {"poet": {"q": tuner()}, "chemist": {"q": tuner()}})


@pytest.fixture
def trial() -> Trial:
    """Both adapters are there, and the first is active."""
    made = Trial(WORLD)
    made.add_adapter("poet")
    made.add_adapter("chemist")
    return made


def test_a_name_is_one_name(trial: Trial) -> None:
    """A string is the name of one adapter, as everywhere."""
    trial.set_adapter("chemist")
    assert trial.facts.active == ("chemist",)
    trial.merge_adapter("chemist")
    assert trial.facts.merged == ("chemist",)
    trial.set_requires_grad("poet", False)
    assert trial.facts.adapters["poet"].trainability == "frozen"
    trial.delete_adapter("poet")
    assert tuple(trial.facts.adapters) == ("chemist",)


def test_arguments_may_be_left_out_and_given_by_position(trial: Trial) -> None:
    """Weights and policy come after the names; merging means all that are active; thawing needs no flag."""
    trial.set_adapter(["poet", "chemist"], [1, 0.5], "sum")
    assert (dict(trial.facts.weights), trial.facts.on_overlap) == ({"chemist": 0.5}, "sum")
    trial.merge_adapter()
    assert trial.facts.merged == ("poet", "chemist")
    trial.set_requires_grad("poet", False)
    trial.set_requires_grad("poet")
    assert trial.facts.adapters["poet"].trainability == "trainable"


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.add_adapter("zz"),
        lambda t: t.add_adapter(3),
        lambda t: t.add_adapter("poet", inference_mode="x"),
        lambda t: t.add_adapter("poet", on_overlap="mean"),
        lambda t: t.set_adapter(3),
        lambda t: t.set_adapter("poet", {1.0}),
        lambda t: t.set_adapter("poet", on_overlap="mean"),
        lambda t: t.delete_adapter({"poet"}),
        lambda t: t.merge_adapter(3),
        lambda t: t.set_requires_grad("poet", "x"),
    ],
)
def test_bad_arguments(trial: Trial, call: Callable[[Trial], object]) -> None:
    """An adapter that the world does not have cannot be added; wrong types are refused; the facts are what they were."""
    before = trial.facts
    with pytest.raises(ArgumentError, match="nothing has changed"):
        call(trial)
    assert trial.facts is before


def test_names_are_for_the_guards_where_they_judge_them(trial: Trial) -> None:
    """A name that no adapter may have, or that none has, is refused as in a model."""
    with pytest.raises(AdapterNameError):
        trial.add_adapter("a.b")
    with pytest.raises(UnknownAdapterError):
        trial.set_adapter("zz")


def test_what_it_is_made_of() -> None:
    """A world and charts are expected."""
    with pytest.raises(ArgumentError, match="a World is expected"):
        Trial({"poet": {"q": tuner()}})  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="Charts are expected"):
        Trial(WORLD, 3)  # type: ignore[arg-type]
