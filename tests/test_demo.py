"""The demo runs to its end, and says what it lacks."""

import sys

import pytest

from adapterstate.__main__ import main


def test_it_ends_with_the_model_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    """However little is trained, every claim about the state holds, and the model at the end is the base model again."""
    pytest.importorskip("rich")
    pytest.importorskip("sklearn")
    assert main(["demo", "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "The model is unchanged: True" in printed
    assert "False" not in printed.replace("set_requires_grad(state.adapters, False)", "")
    assert "AdapterOverlapError" in printed
    assert "on_overlap='sum'" in printed


@pytest.mark.parametrize(("module", "package"), [("rich", "rich"), ("sklearn", "scikit-learn")])
def test_a_missing_package_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without what the demo needs, the message names the package and the extra that brings it."""
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 2
    printed = capsys.readouterr().err
    assert package in printed
    assert "adapterstate[demo]" in printed


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_says_what_the_demo_does(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Asking for help succeeds and names the demo."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize("steps", ["0", "-1", "two"])
def test_wrong_steps_are_refused(steps: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A number of steps that means nothing is an error of use, which shows what was given."""
    with pytest.raises(SystemExit) as left:
        main(["demo", f"--steps={steps}"])
    assert left.value.code == 2
    assert repr(steps) in capsys.readouterr().err
