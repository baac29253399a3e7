"""Saving and loading do not depend on the state, and are no event of the adapters that are there: of every one of PEFT's methods."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version

from adapterstate import AdapterState, NotMergeableError, attach

from .test_methods import METHODS, PROMPTING, answer, build, prompting, quiet, run


def files(model: Any, folder: Path) -> dict[str, bytes]:
    """What PEFT saves of a model, by adapter."""
    with quiet():
        model.save_pretrained(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


STATES: dict[str, Callable[[AdapterState], Any]] = {
    "none active": lambda state: state.set_adapter([]),
    "disabled": lambda state: state.disable_adapters(),
    "merged": lambda state: state.merge_adapter(),
}


def check_saving(make: Callable[[], Any], compute: Callable[[Any], torch.Tensor], folder: Path) -> None:
    """Save in every state, and load what was saved last: neither depends on the state, and neither is an event of the others."""
    wanted = files(make(), folder / "plain")
    for number, put in enumerate(STATES.values()):
        model = make()
        state = attach(model)
        with contextlib.suppress(NotMergeableError):
            put(state)
        facts, here = state.facts, folder / str(number)
        assert files(model, here) == wanted
        assert state.facts is facts
        assert state.check() == ()
        last = state.adapters[-1]
        with quiet():
            model.load_adapter(str(here / last), "loaded")
        assert state.facts.active == facts.active
        assert state.check() == ()
        state.enable_adapters()
        state.unmerge_adapter()
        found = []
        for name in ("loaded", last):
            state.set_adapter(name)
            with quiet():
                found.append(compute(model))
        torch.testing.assert_close(*found)


NOT_SAVED = {"adalora"} if Version(peft.__version__) >= Version("0.20") else {"adalora", "adamss"}
"""Of AdaLoRA, PEFT saves no ranks, and `shake` has moved them; before 0.20 it saved the names of one AdaMSS with another."""


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_SAVED and not METHODS[name].only_one])
def test_saving_and_loading(name: str, tmp_path: Path) -> None:
    """What is saved is what plain PEFT saves, and a loaded adapter computes as the one that was saved, in every state."""
    method = METHODS[name]
    check_saving(lambda: build(method), lambda model: run(model, method), tmp_path)


@pytest.mark.parametrize("name", PROMPTING)
def test_saving_and_loading_prompts(name: str, tmp_path: Path) -> None:
    """The same of what PEFT runs one of at a time."""
    made = prompting(name)
    check_saving(lambda: copy.deepcopy(made), answer, tmp_path)
