"""Where a config's targets are in a model, and everything that is wrong with them. Nothing in here writes to a module."""

from __future__ import annotations

from adapterstate.targets.placing import place

__all__ = ["place"]
