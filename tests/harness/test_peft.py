"""The harness over PEFT: nothing in an attached model, with no deviation declared; something at once in PEFT as it is."""

from __future__ import annotations

import pytest
from hypothesis import settings

from adapterstate.testing import DEFAULT_SETTINGS, Broken, check_adapter_system
from adapterstate.testing.trial import Trial

pytest.importorskip("peft")


def test_an_attached_model_breaks_no_rule() -> None:
    """The system states options only."""
    from adapterstate.testing.peft import PeftSystem

    how = settings(DEFAULT_SETTINGS, max_examples=60, derandomize=True, database=None)
    report = check_adapter_system(PeftSystem, settings=how)
    assert report.examples >= 60


def test_peft_as_it_is_breaks_rules() -> None:
    """The same system without a state is found broken, with the shortest sequence as runnable code."""
    from adapterstate.testing.peft import PeftSystem

    how = settings(DEFAULT_SETTINGS, max_examples=60, derandomize=True, database=None)
    with pytest.raises(Broken, match=r"system = make_system\(\)"):
        check_adapter_system(lambda: PeftSystem(attached=False), settings=how)


def test_a_policy_named_for_no_adapters_is_forgotten_by_both() -> None:
    """After it, merges that activate let no adapters meet: the reference refuses what the state refuses, or this is a finding."""
    from adapterstate.testing.peft import PeftSystem

    trial = Trial(PeftSystem())
    for name in ("a", "ab"):
        trial.add_adapter(name, "head")
    trial.set_adapter([], on_overlap="sum")
    trial.merge_adapter(["a"])
    trial.merge_adapter(["ab"])
    assert trial.reference.merged == {"a"}
