"""Pictures as SVG, drawn by Graphviz."""

from __future__ import annotations

import html
import re
import shutil
import subprocess

from adapterstate.diagrams.dot import dot
from adapterstate.diagrams.picture import Picture, refuse_no_picture
from adapterstate.errors import AdapterStateError


class GraphvizError(AdapterStateError, RuntimeError):
    """Graphviz is not installed, or could not draw. Nothing was written."""


def has_graphviz() -> bool:
    """Whether the program ``dot`` is found."""
    return shutil.which("dot") is not None


def svg(picture: Picture, *, description: str = "") -> str:
    """Draw a picture as one ``<svg>`` element that can stand in a page.

    Boxes have the identifiers ``<chart>_<state>`` and arrows ``<chart>_arrow_<number>``.

    Args:
        picture: what is drawn.
        description: what a screen reader says beside the title.

    Raises:
        ArgumentError: it is no `Picture`.
        GraphvizError: ``dot`` is not installed, or failed.
    """
    refuse_no_picture(picture)
    if not has_graphviz():
        raise GraphvizError("SVG is drawn by Graphviz, whose program 'dot' is not found. Install it (Debian: apt install graphviz).")
    done = subprocess.run(["dot", "-Tsvg"], input=dot(picture), capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise GraphvizError(f"dot failed: {done.stderr.strip()}")
    said = html.escape(f"{picture.title}. {description}" if description else picture.title, quote=True)
    drawn = re.sub(r"<!--.*?-->\n?", "", done.stdout[done.stdout.index("<svg") :])  # they name Graphviz' version
    return drawn.replace("<svg", f'<svg role="img" aria-label="{said}" style="max-width:100%;height:auto"', 1)
