"""``python -m adapterstate inspect``."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterstate.__main__ import main

MODELS = """
import adapterstate
from torch import nn

class Shelf:
    @staticmethod
    def state():
        return model_with_adapter()

def plain():
    return nn.Sequential(nn.Linear(2, 2))

def model_with_adapter():
    state = adapterstate.attach(plain())
    state.add_adapter("poet", adapterstate.LoraConfig(r=1, target_modules=["0"]))
    return state

def attached():
    return model_with_adapter().model

def number():
    return 3

def broken():
    raise KeyError("weights")

value = 3
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models_to_inspect.py").write_text(MODELS, encoding="utf-8")
    (tmp_path / "breaks_on_import.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_example(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments the page is about a small example and is written where one stands."""
    assert main(["inspect"]) == 0
    assert capsys.readouterr().out == "wrote adapterstate.html\n"
    assert "poet" in (models / "adapterstate.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("factory", "adapter"), [("plain", False), ("attached", True), ("model_with_adapter", True), ("Shelf.state", True)]
)
def test_a_factory(models: Path, factory: str, adapter: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A factory returns a model, attached or not, or a state; a colon or a dot stands before its name."""
    assert main(["inspect", f"models_to_inspect.{factory}", "--output", "page.html"]) == 0
    (models / "page.html").unlink()
    assert main(["inspect", f"models_to_inspect:{factory}", "--output", "page.html"]) == 0
    text = (models / "page.html").read_text(encoding="utf-8")
    assert "Adapters of <code>Sequential</code>" in text
    assert ("add_adapter('poet', its config)" in text) is adapter


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("models_to_inspect:number", "models_to_inspect:number returned an int; an nn.Module or an AdapterState is expected"),
        ("models_to_inspect:broken", "models_to_inspect:broken raised KeyError: 'weights'"),
        ("models_to_inspect:value", "is of type int; a function without arguments is expected"),
        ("models_to_inspect:nothing", "has no 'nothing'"),
        ("no_such_module_anywhere:model", "names nothing: there is no module 'no_such_module_anywhere'; MODULE:NAME"),
        ("models_to_inspect", "'models_to_inspect' names nothing in a module; MODULE:NAME"),
        (":", "names nothing"),
        ("breaks_on_import:model", "breaks_on_import:model cannot be imported: ZeroDivisionError"),
    ],
)
def test_mistakes(name: str, said: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is said in one line on the error stream; nothing is written."""
    assert main(["inspect", name]) == 2
    heard = capsys.readouterr()
    assert said in heard.err
    assert "Traceback" not in heard.err
    assert heard.out == ""
    assert not (models / "adapterstate.html").exists()


def test_a_file_that_cannot_be_written(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file and the reason are named."""
    assert main(["inspect", "--output", str(models / "nowhere" / "page.html")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
