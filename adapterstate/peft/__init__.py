"""The same machine over PEFT's layers: PEFT builds and computes them, adapterstate owns their state."""

from adapterstate.peft.audit import audit

__all__ = ["audit"]
