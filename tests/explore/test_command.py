"""`python -m adapterstate explore` prints the report, and scripts can use its exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from adapterstate import explore as package
from adapterstate.__main__ import main
from adapterstate.explore import World, exploring, tuner
from adapterstate.explore import printing as printing
from adapterstate.machine import plan as planner
from adapterstate.machine.records import Event, Facts

SMALL = (World("tiny", {"a": {"x": tuner()}, "b": {"x": tuner()}}),)


@pytest.fixture(params=["rich", "plain"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Worlds that take no time, with rich and without."""
    monkeypatch.setattr(package, "STANDARD", SMALL)
    monkeypatch.setattr(package, "QUICK", SMALL)
    if request.param == "rich":
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich", None)
    return str(request.param)


@pytest.mark.parametrize("arguments", [[], ["--quick"]])
def test_it_prints_the_report(small: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, rows, refusals, reductions and the outcome; 0 when all rules hold."""
    assert main(["explore", *arguments]) == 0
    printed = capsys.readouterr().out
    for word in ("tiny", "states", "no_overlap", "MISSING", "presence order", "Every rule holds."):
        assert word in printed


def test_a_counterexample_is_printed(small: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule, the path, expected and observed; 1 when a rule breaks."""
    right = planner._EFFECTS["add_adapter"]

    def wrong(facts: Facts, event: Event) -> Facts:
        after = right(facts, event)
        return after if not facts.adapters else type(after)(after.adapters, tuple(after.adapters), modules=after.modules)

    monkeypatch.setattr(planner, "_EFFECTS", {**planner._EFFECTS, "add_adapter": wrong})
    assert main(["explore"]) == 1
    printed = capsys.readouterr().out
    for word in ("first_adapter_only is broken", "trial.add_adapter('b', on_overlap='error')", "expected: active ['a']", "observed:"):
        assert word in printed


def test_json(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as data for scripts."""
    file = tmp_path / "found.json"
    assert main(["explore", "--json", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["holds"] is True
    assert found["counterexample"] is None
    assert found["walks"][0]["world"] == "tiny"
    assert found["walks"][0]["states"] == exploring.explore(SMALL).states


def test_a_file_that_cannot_be_written(small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is a wrong use, said before anything is walked."""
    assert main(["explore", "--json", str(tmp_path / "no" / "found.json")]) == 2
    printed = capsys.readouterr()
    assert "No such file" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [["explore", "--fast"], ["explore", "--json"]])
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown options are errors of use, said with the usage of the command."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: python -m adapterstate explore" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Help says what it does, what it prints and what the exit codes mean."""
    with pytest.raises(SystemExit) as left:
        main(["explore", "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for word in ("--quick", "--json", "Exit code", "shortest sequence"):
        assert word in printed
