"""Pictures as Mermaid ``stateDiagram-v2``, for GitHub, JupyterLab and whoever else draws it.

What may stand in a label was tried with Mermaid 10.9 and 11.17.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from adapterstate.diagrams.palette import TEXT, look
from adapterstate.diagrams.picture import Group, Node, Picture, Words, plain, refuse_no_picture

Ids = Mapping[tuple[str, str], str]

# Mermaid takes a state of these names for a word of its own, or for the root of the diagram.
RESERVED = re.compile(r"(state|class|classdef|style|click|note|end|as|direction|hide|scale|default|root|acctitle|accdescr|href).*", re.I)

# Underscores at the edge of a word would be emphasis, and a number or a dash that begins a line would be a list.
ODD = re.compile(r"[^\w .,?'()=/-]|(?<!\w)_|_(?!\w)|(?<=\d)\.(?= )|^-")


def mermaid(picture: Picture) -> str:
    """Print a picture as Mermaid. The same picture gives the same text.

    Raises:
        ArgumentError: it is no `Picture`.
    """
    refuse_no_picture(picture)
    ids = _ids(picture)
    # A title is no label: entities are not read there, and angle brackets are taken for HTML. YAML reads what JSON writes.
    title = json.dumps(picture.title.translate({ord("<"): "\u2039", ord(">"): "\u203a"}))
    lines = ["---", f"title: {title}", "---", "stateDiagram-v2"]
    lines += [f"    accTitle: {escaped(picture.title)}"]
    for group in picture.groups:
        lines += [f"    {line}" for line in _group(group, ids)]
    lines += [f"    {line}" for line in _classes(picture, ids)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as Mermaid can hold it: what could mean something to its grammar, to HTML or to Markdown becomes an entity."""
    return ODD.sub(lambda found: "".join(f"#{ord(letter)};" for letter in found[0]), plain(text))


def _ids(picture: Picture) -> dict[tuple[str, str], str]:
    """A short name for each box: its own where Mermaid can read it, a number otherwise."""
    several = len(picture.groups) > 1
    found: dict[tuple[str, str], str] = {}
    for number, (group, node) in enumerate(picture.places):
        wished = f"{group.name}_{node.name}" if several else node.name
        usable = re.fullmatch(r"[A-Za-z]\w*", wished, re.ASCII) and not RESERVED.fullmatch(wished) and wished not in found.values()
        found[group.name, node.name] = wished if usable and not re.fullmatch(r"box\d+", wished) else f"box{number}"
    return found


def _group(group: Group, ids: Ids) -> Iterator[str]:
    if not group.title:
        yield from _inside(group, ids)
        return
    frame = "frame_" + ids[group.name, group.nodes[0].name] if group.nodes else "frame"
    yield f'state "{escaped(group.title)}" as {frame} {{'
    yield from (f"    {line}" for line in _inside(group, ids))
    yield "}"


def _inside(group: Group, ids: Ids) -> Iterator[str]:
    for node in group.nodes:
        name = ids[group.name, node.name]
        yield f'state "{escaped(node.title)}" as {name}'
        yield from (f"{name} : {escaped(note)}" for note in node.notes)
        yield from (f"{name} : {_words(words, 'stays on ')}" for words in node.stays)
    yield from (f"[*] --> {ids[group.name, node.name]}" for node in group.nodes if node.initial)
    for arrow in group.arrows:
        yield f"{ids[group.name, arrow.source]} --> {ids[group.name, arrow.target]} : {_words(arrow.words)}"
    yield from (f"{ids[group.name, node.name]} --> [*]" for node in group.nodes if node.final)


def _words(words: Words, before: str = "") -> str:
    """Event, case and guards, each on a line of its own."""
    parts = [before + words.event, *([words.case] if words.case else []), *(f"only if {demand}" for demand in words.demands)]
    indent = "#8195;" if before else ""  # what belongs to an event stands below it, a little to the right
    return f"<br/>{indent}".join(escaped(part) for part in parts)


def _classes(picture: Picture, ids: Ids) -> Iterator[str]:
    """The colours."""
    members: dict[str, list[str]] = {}
    styles: dict[str, str] = {}
    for group, node in picture.places:
        name, styles_of_node = _class(node)
        styles[name] = styles_of_node
        members.setdefault(name, []).append(ids[group.name, node.name])
    for name, style in styles.items():
        yield f"classDef {name} {style}"
    for name, boxes in members.items():
        yield f"class {','.join(boxes)} {name}"


def _class(node: Node) -> tuple[str, str]:
    """The name of a colour class, and what it says. Boxes that look the same share one."""
    found = look(node.kind, node.border, lit=node.lit)
    style = f"fill:{found.fill},stroke:{found.stroke},color:{TEXT},stroke-width:{found.width}px"
    style += ",stroke-dasharray:5 3" if found.dashed else ""
    return "look" + re.sub(r"\W", "", f"{found.fill}{found.stroke}{found.width}{'d' if found.dashed else ''}"), style
