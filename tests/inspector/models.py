"""Small models to inspect."""

from __future__ import annotations

import json
import re
from typing import Any

from torch import nn

import adapterstate
from adapterstate import AdapterState, LoraConfig


def small(layers: int = 6, **options: Any) -> AdapterState:
    """Layers and a head, with two adapters that both replace the head."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)), nn.Linear(4, 2))
    state = adapterstate.attach(model, **options)
    targets = [str(at) for at in range(layers)]
    state.add_adapter("poet", LoraConfig(r=1, target_modules=targets, modules_to_save=[str(layers)]))
    state.add_adapter("chemist", LoraConfig(r=1, target_modules=targets[:2], modules_to_save=[str(layers)]))
    return state


HOSTILE = "</script><b id=hacked>\"'&{{data}}"
"""A name of an adapter that would end a script, begin an element, or be filled in."""


def hostile() -> AdapterState:
    """A model whose class, module and adapter have such names."""
    model = type("<i id=hacked>", (nn.Sequential,), {})()
    path = "<img src=x onerror='hacked=1'>{{title}}"
    model.add_module(path, nn.Linear(4, 4))
    model.add_module("plain", nn.Linear(4, 4))
    state = adapterstate.attach(model)
    for name in (HOSTILE, "other"):
        state.add_adapter(name, LoraConfig(r=1, target_modules=["plain"], modules_to_save=[path]))
    return state


def data_of(text: str) -> dict[str, Any]:
    """The data in a page, as its script reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def paths_of(book: dict[str, Any], group: int) -> list[str]:
    """The paths of a group."""
    runs = book["groups"][group]
    return [path for first, last in zip(runs[::2], runs[1::2], strict=True) for path in book["paths"][first : last + 1]]
