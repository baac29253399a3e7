"""The inspector: what is known about a state, as one self-contained HTML page with a simulator in it."""

from adapterstate.inspector.page import page

__all__ = ["page"]
