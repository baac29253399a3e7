"""What the harness promises to its users: clear failures, deviations, reports, and errors for what they write wrong."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis.stateful import rule

from adapterstate.testing import DEFAULT_SETTINGS, AdapterStateMachine, AdapterSystem, Broken, Trial, check_adapter_system
from adapterstate.testing.looks import output_difference
from adapterstate.testing.ours import StateSystem

from .broken.deleting import Fallback
from .broken.training import ForwardIsStale
from .toy import Toy

FEW = hypothesis.settings(DEFAULT_SETTINGS, max_examples=20)


class Crashing(Toy):
    def set_adapter(self, names: Any, /, weights: Any = None, on_overlap: str | None = None) -> None:
        super().set_adapter(names, weights, on_overlap)
        raise KeyError("weights")


def test_a_failure_is_shown_as_code() -> None:
    """The text names the rule, prints the shortest sequence as code that runs, and compares what was expected with what was seen."""
    with pytest.raises(Broken) as broken:
        check_adapter_system(Fallback, settings=FEW, seed=0)
    text = str(broken.value)
    assert text.startswith("the rule first_adapter_only is broken: ")
    assert "[first_adapter_only/delete_adapter/active]" in text
    assert not getattr(broken.value, "__notes__", [])
    lines = [line.strip() for line in text.splitlines() if line.startswith("    system")]
    assert len(lines) == 6
    scope: dict[str, Any] = {"make_system": Fallback}
    for line in lines:
        exec(line, scope)
    assert [view.active for view in scope["system"].observe().modules.values()] != [()]
    assert "expected  observed" in text


def test_an_exception_where_none_may_come() -> None:
    """What a system raises on an event that no rule refuses is a broken rule too, with the exception as its cause."""
    with pytest.raises(Broken, match=r"set_adapter/refused") as broken:
        check_adapter_system(Crashing, settings=FEW, seed=0)
    assert isinstance(broken.value.__cause__, KeyError)


def test_known_deviations_are_tolerated_and_listed() -> None:
    """A deviation ends the sequence quietly; the report counts it, and says which were not met."""
    report = check_adapter_system(
        Fallback, settings=FEW, seed=0, deviations=["first_adapter_only/delete_adapter", "merge_is_exact/unmerge_adapter"]
    )
    assert report.tolerated["first_adapter_only/delete_adapter/active"]
    assert report.unseen == ("merge_is_exact/unmerge_adapter",)
    assert "not met any more: merge_is_exact/unmerge_adapter" in str(report)
    with pytest.raises(ValueError, match="begin with no rule's name"):
        check_adapter_system(Fallback, deviations=["fallback"])


def test_a_wrong_forward_beside_a_right_state() -> None:
    """That forward does not follow the state is found when outputs are looked at, and not when they are not."""
    with pytest.raises(Broken, match="output"):
        check_adapter_system(ForwardIsStale, settings=FEW, seed=0)
    with pytest.raises(Broken, match="output"):
        check_adapter_system(ForwardIsStale, settings=DEFAULT_SETTINGS, seed=0, output_rate=0.2)


def test_rules_of_ones_own() -> None:
    """A subclass adds rules and is run as the original is; one that hides a rule is refused where it is written."""
    seen = []

    class Machine(AdapterStateMachine):
        @rule()
        def look(self) -> None:
            seen.append(self.trial.system.observe())

    check_adapter_system(Toy, settings=FEW, machine=Machine)
    assert seen
    with pytest.raises(TypeError, match="overrides set_adapter without @rule"):

        class Hidden(AdapterStateMachine):
            def set_adapter(self, data: Any) -> None:
                pass


def test_what_a_system_lacks() -> None:
    """A wrong name in `unsupported`, or a missing event that every system must have, is said at once; inherited events count as missing."""

    class Wrong(Toy):
        unsupported = ("forward",)

    class Empty(AdapterSystem):
        recipes = Toy.recipes

    class Less(Toy):
        unmerge_adapter = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="unsupported names"):
        check_adapter_system(Wrong)
    with pytest.raises(ValueError, match="must have"):
        check_adapter_system(Empty)
    assert {"merge_adapter", "unmerge_adapter"} <= Trial(Less()).lacking


def test_torch_is_left_alone() -> None:
    """Random numbers and threads are those from before, after a failure too."""
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    for system in (StateSystem, Fallback):
        with contextlib.suppress(Broken):
            check_adapter_system(system, settings=hypothesis.settings(FEW, max_examples=3), seed=0)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_num_threads() == threads


def test_a_seed_repeats_a_run() -> None:
    """The same seed makes the same events."""
    first, second = (check_adapter_system(Toy, settings=FEW, seed=3).events for _ in range(2))
    assert first == second


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_that_differ_are_told_apart(dtype: torch.dtype) -> None:
    """However little two numbers differ, what is printed of them differs."""
    one = torch.tensor([0.0, -1.168453], dtype=dtype)
    found = output_difference(one, torch.nextafter(one, torch.zeros(2, dtype=dtype)))
    assert found is not None
    assert found.expected.endswith(" at its position 1")
    assert found.expected.split()[0] != found.observed.split(";")[0]
