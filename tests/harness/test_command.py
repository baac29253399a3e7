"""The harness from the command line."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from adapterstate.__main__ import main
from adapterstate.testing.ours import StateSystem


class Silent(StateSystem):
    """A system that enables adapters when it switches."""

    def set_adapter(self, names: list[str], /, **options: Any) -> None:
        super().set_adapter(names, **options)
        self.state.enable_adapters()


def test_a_correct_system_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and a report of what was tried and what could not be."""
    assert main(["check", "adapterstate.testing.ours:StateSystem", "--examples", "5"]) == 0
    assert "no rule is broken" in capsys.readouterr().out
    assert main(["check", "adapterstate.testing.ours.StateSystem", "--examples", "1"]) == 0


def test_a_broken_one_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, the rule and the sequence; a known deviation is tolerated."""
    assert main(["check", f"{__name__}:Silent"]) == 1
    printed = capsys.readouterr().out
    assert "independent_axes" in printed
    assert "system = make_system()" in printed


@pytest.mark.parametrize("name", ["nothing.there:make", ":", "adapterstate.testing:RULES", f"{__name__}:missing"])
def test_what_is_no_factory(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the name that was given."""
    assert main(["check", name]) == 2
    heard = capsys.readouterr().err
    assert name in heard
    assert "ArgumentError" not in heard


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_how_many_sequences(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At least one is tried; anything else is wrong use of the command, said with its own usage."""
    with pytest.raises(SystemExit) as left:
        main(["check", "adapterstate.testing.ours:StateSystem", f"--examples={count}"])
    assert left.value.code == 2
    heard = capsys.readouterr().err
    assert "is not a whole number above 0" in heard
    assert "usage: python -m adapterstate check" in heard


def test_without_hypothesis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and what is missing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["check", "adapterstate.testing.ours:StateSystem"]) == 2
    assert "adapterstate[testing]" in capsys.readouterr().err
