"""What many places of a page show, written down once: groups of modules, and views of a state.

A model with 1,000 wrapped modules is in few situations, so a page names its modules once and refers to groups of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from adapterstate.inspection import Status, status_of
from adapterstate.machine.records import Facts

Data = dict[str, Any]
"""What JSON can hold."""


class Book:
    """Paths of modules, groups of them, and views of states, each kept once. Whoever writes one down gets its place."""

    def __init__(self) -> None:
        self._paths: dict[str, int] = {}
        self._groups: dict[tuple[int, ...], int] = {}
        self._views: dict[str, int] = {}
        self._kept: list[Data] = []

    def group(self, paths: Iterable[str]) -> int:
        """Write down a group of modules, as runs of neighbours: ``first, last, first, last, ...``."""
        places = sorted({self._paths.setdefault(path, len(self._paths)) for path in paths})
        runs: list[int] = []
        for place in places:
            if runs and runs[-1] == place - 1:
                runs[-1] = place
            else:
                runs += [place, place]
        return self._groups.setdefault(tuple(runs), len(self._groups))

    def view(self, status: Status, states: Mapping[str, str], held: str = "", alike: Mapping[str, Sequence[str]] | None = None) -> int:
        """Write down what a state looks like.

        Args:
            status: the modules and adapters.
            states: path of a module in `status` -> its state in the activation chart.
            held: what keeps adapters disabled.
            alike: path of a module in `status` -> all modules for which it stands; None where each stands for itself.
        """
        members: dict[tuple[Any, ...], list[str]] = {}
        for path, cells in status.modules.items():
            here = tuple((cells[name], status.kinds[path].get(name, "")) for name in status.adapters)
            members.setdefault((states[path], here), []).extend((path,) if alike is None else alike[path])
        view = {
            "summary": status.summary,
            "held": held,
            "enablement": "enabled" if status.enabled else "disabled",
            "adapters": [[name, state, _said(status, name)] for name, state in status.adapters.items()],
            "rows": [[state, self.group(paths), [list(cell) for cell in here]] for (state, here), paths in members.items()],
        }
        place = self._views.setdefault(repr(view), len(self._kept))
        if place == len(self._kept):
            self._kept.append(view)
        return place

    def facts(self, facts: Facts) -> int:
        """Write down what these facts look like. Modules that share a context are looked at once."""
        first: dict[int, str] = {}
        alike: dict[str, list[str]] = {}
        for path, record in facts.modules.items():
            alike.setdefault(first.setdefault(id(record.context), path), []).append(path)
        few = attrs.evolve(facts, modules={path: facts.modules[path] for path in alike})
        held = ["disable_adapters()"] if facts.disabled_by_call else []
        held += [f"{facts.disabled_by_contexts} disable_adapter() context(s)"] if facts.disabled_by_contexts else []
        states = {path: record.activation for path, record in few.modules.items()}
        return self.view(status_of(few), states, " and ".join(held), alike)

    def data(self) -> Data:
        """All that was written down."""
        return {"paths": list(self._paths), "groups": [list(runs) for runs in self._groups], "views": self._kept}


def _said(status: Status, name: str) -> str:
    """How the model uses an adapter, in words."""
    if name not in status.active:
        return "inactive"
    weight = status.weights[name]
    return "active" if weight == 1 else f"active, weight {weight:g}"
