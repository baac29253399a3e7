"""Systems with one realistic fault each, by the name of their class. The harness must find all of them."""

from __future__ import annotations

from types import ModuleType

from adapterstate.testing import AdapterSystem

from . import adding, combining, deleting, enabling, merging, shipped, switching, training


def _systems(module: ModuleType) -> dict[str, type[AdapterSystem]]:
    return {name: value for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__}


FAULTS = {
    name: system
    for module in (adding, switching, combining, merging, enabling, deleting, training, shipped)
    for name, system in _systems(module).items()
}
"""Name -> a system with that fault; its docstring says which."""
