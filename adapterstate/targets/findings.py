"""Collecting what is found: sites, problems by path, and warnings."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from adapterstate.modules.method import Placement, Site


@attrs.frozen(eq=False)
class Problems:
    """Path (``""`` for the model) -> what is wrong there, each thing once."""

    found: dict[str, list[str]] = attrs.field(factory=dict)

    def say(self, path: str, text: str) -> None:
        """Add a problem."""
        texts = self.found.setdefault(path, [])
        if text not in texts:
            texts.append(text)

    def texts(self) -> dict[str, str]:
        """Return path -> one text."""
        return {path: "; ".join(texts) for path, texts in self.found.items()}


def combined(parts: Iterable[Placement]) -> Placement:
    """Put placements together, in their order."""
    sites: list[Site] = []
    warnings: list[str] = []
    problems, uncalled = Problems(), Problems()
    for part in parts:
        sites += part.sites
        warnings += part.warnings
        for path, text in part.target_problems.items():
            problems.say(path, text)
        for path, text in part.uncalled.items():
            uncalled.say(path, text)
    return Placement(tuple(sites), problems.texts(), uncalled.texts(), tuple(warnings))
