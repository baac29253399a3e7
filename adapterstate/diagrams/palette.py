"""Colours. Each state also differs in its border and is named in words, so that nothing is said by colour alone."""

from __future__ import annotations

import attrs


@attrs.frozen
class Look:
    """How a box looks. Fills are light and the text is dark, so both are readable on light and on dark pages."""

    fill: str
    stroke: str
    dashed: bool = False
    width: int = 1


TEXT = "#1f2328"
"""The colour of text in boxes."""

PLAIN = Look("#ffffff", "#57606a")
"""What is neither a known state nor asked for."""

LOOKS = {
    "unwrapped": Look("#ffffff", "#57606a", dashed=True),
    "absent": Look("#ffffff", "#57606a", dashed=True),
    "inactive": Look("#eaeef2", "#57606a"),
    "active": Look("#c6f6d5", "#1a7f37", width=2),
    "merged": Look("#ddd6fe", "#6d28d9", width=3),
    "trainable": Look("#fed7aa", "#c2410c", width=2),
    "frozen": Look("#bae6fd", "#0369a1", dashed=True, width=2),
    "enabled": Look("#c6f6d5", "#1a7f37", width=2),
    "disabled": Look("#eaeef2", "#57606a", dashed=True),
}
"""The states of the charts. States of charts of one's own look plain."""


def look(kind: str, border: str = "", *, lit: bool = False) -> Look:
    """The look of a box; a lit one has a thick border."""
    found = LOOKS.get(kind, PLAIN)
    if border:
        edge = LOOKS.get(border, PLAIN)
        found = attrs.evolve(found, stroke=edge.stroke, dashed=edge.dashed, width=edge.width)
    return attrs.evolve(found, width=5, dashed=False) if lit else found
