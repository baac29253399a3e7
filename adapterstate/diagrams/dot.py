"""Pictures in Graphviz' language."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator

from adapterstate.diagrams.palette import TEXT, look
from adapterstate.diagrams.picture import Group, Node, Picture, Words, plain, refuse_no_picture

WIDTH = 26
"""Letters in a line of a label."""

FONT = "Helvetica,Arial,sans-serif"


def dot(picture: Picture) -> str:
    """Print a picture as a ``digraph``. The same picture gives the same text.

    Raises:
        ArgumentError: it is no `Picture`.
    """
    refuse_no_picture(picture)
    lines = [
        f"digraph {_quoted(picture.title)} {{",
        f"  graph [label=<<b>{_escaped(picture.title)}</b>>, labelloc=t, fontname={_quoted(FONT)}, fontsize=16,"
        ' bgcolor="white", pad=0.2, nodesep=0.3, ranksep=0.5];',
        f"  node [fontname={_quoted(FONT)}, fontsize=12];",
        f"  edge [fontname={_quoted(FONT)}, fontsize=11, color={_quoted('#57606a')}, fontcolor={_quoted(TEXT)}];",
    ]
    for number, group in enumerate(picture.groups):
        lines += [f"  {line}" for line in _group(group, number)]
    return "\n".join([*lines, "}"]) + "\n"


def anchor(*parts: object) -> str:
    """An identifier for an element of an SVG, from what the element is."""
    return "_".join("".join(c if c.isalnum() else "_" for c in str(part)) for part in parts)


def _quoted(text: str) -> str:
    """A string of the language. A backslash would begin one of its escapes, so it is doubled."""
    return '"' + plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """Text inside a label."""
    return html.escape(plain(text), quote=True).replace("&#x27;", "&#39;")


def _group(group: Group, number: int) -> Iterator[str]:
    if not group.title:
        yield from _inside(group)
        return
    yield f"subgraph cluster_{number} {{"
    yield f'  graph [label=<<b>{_escaped(group.title)}</b>>, fontsize=13, style=rounded, color="#8c959f", margin=16];'
    yield from (f"  {line}" for line in _inside(group))
    yield "}"


def _inside(group: Group) -> Iterator[str]:
    for node in group.nodes:
        yield f"{_id(group, node.name)} [{_box(group, node)}];"
    for node in group.nodes:
        end = _quoted(f"{group.name}.{node.name}.initial")
        if node.initial:
            yield f'{end} [shape=circle, style=filled, fillcolor="{TEXT}", label="", width=0.18, tooltip="start"];'
            yield f"{end} -> {_id(group, node.name)};"
    for number, arrow in enumerate(group.arrows):
        name = _quoted(anchor(group.name, "arrow", number))
        yield f"{_id(group, arrow.source)} -> {_id(group, arrow.target)} [id={name}, label=<{_beside(arrow.words)}>];"
    for node in group.nodes:
        end = _quoted(f"{group.name}.{node.name}.final")
        if node.final:
            yield f'{end} [shape=doublecircle, style=filled, fillcolor="{TEXT}", label="", width=0.12, tooltip="end"];'
            yield f"{_id(group, node.name)} -> {end}{' [constraint=false]' if node.initial else ''};"
        if node.final and node.initial:  # side by side above the box: an end far away makes a picture wide
            yield f"{{ rank=same; {_quoted(f'{group.name}.{node.name}.initial')}; {end}; }}"


def _id(group: Group, name: str) -> str:
    return _quoted(f"{group.name}.{name}")


def _box(group: Group, node: Node) -> str:
    """The attributes of a box: a rounded table with the title, the notes, and what leaves it as it is."""
    found = look(node.kind, node.border, lit=node.lit)
    style = "rounded,filled" + (",dashed" if found.dashed else "")
    cells = [f"<tr><td><b><font point-size='15'>{_escaped(node.title)}</font></b></td></tr>".replace("'", '"')]
    cells += [f"<tr><td>{_lines(note)}</td></tr>" for note in node.notes]
    if node.stays:
        cells.append('<tr><td align="left" balign="left"><i>stays on</i></td></tr>')
        cells += [f'<tr><td align="left" balign="left">{_words(words)}</td></tr>' for words in node.stays]
    table = f'<table border="0" cellborder="0" cellspacing="2" cellpadding="1">{"".join(cells)}</table>'
    return (
        f'shape=box, style="{style}", fillcolor="{found.fill}", color="{found.stroke}", penwidth={found.width}, fontcolor="{TEXT}",'
        f" id={_quoted(anchor(group.name, node.name))}, label=<{table}>"
    )


def _beside(words: Words) -> str:
    """What stands at an arrow, a little away from its line."""
    return f'<table border="0" cellborder="0" cellpadding="3"><tr><td align="left" balign="left">{_words(words)}</td></tr></table>'


def _words(words: Words) -> str:
    """The event in bold, its case, and its guards in italics; each begins a line."""
    parts = [f"<b>{_lines(words.event)}</b>"]
    parts += [_lines(words.case)] if words.case else []
    parts += [f"<i>{_lines(f'only if {demand}')}</i>" for demand in words.demands]
    return _BREAK.join(parts) + _BREAK


def _lines(text: str) -> str:
    """Text broken into lines of at most `WIDTH` letters."""
    return _BREAK.join(_escaped(line) for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False) or [""])


_BREAK = '<br align="left"/>'
