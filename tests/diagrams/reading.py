"""Reads renderings back, with as little knowledge of how they were made as possible."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from xml.etree import ElementTree

import attrs
from markdown_it import MarkdownIt

from adapterstate.machine.charts import SAME, Chart


@attrs.frozen(order=True)
class Way:
    """A row from one state, as a reader of a picture sees it."""

    event: str
    source: str
    target: str
    case: str
    demands: tuple[str, ...]


def one_line(text: str) -> str:
    return " ".join(text.split())


def ways(chart: Chart, events: Sequence[str] | None = None) -> list[Way]:
    """What a picture of the chart has to say, straight from the records."""
    return sorted(
        Way(
            one_line(row.event),
            one_line(source),
            one_line(source if row.target == SAME else row.target),
            one_line(f"{row.choice.label} {row.value}") if row.choice else "",
            tuple(one_line(f"{guard.label}, else {guard.error.__name__}") for guard in row.guards),
        )
        for row in chart.rows
        for source in row.sources
        if events is None or row.event in events
    )


ONLY_IF = "only if "


def _way(parts: Sequence[str], source: str, target: str) -> Way:
    event, *rest = parts
    demands = tuple(part.removeprefix(ONLY_IF) for part in rest if part.startswith(ONLY_IF))
    cases = [part for part in rest if not part.startswith(ONLY_IF)]
    assert len(cases) <= 1, cases
    return Way(event, source, target, "".join(cases), demands)


# ------------------------------------------------------------------------------------------------------------------- Mermaid

# As in Mermaid's own lexer: the text of an arrow or a box holds no line end and no semicolon, and no colon after the first.
TEXT = r"(?P<text>[^:;\n]+)"
ARROW = re.compile(rf"(?P<source>\w+|\[\*\]) --> (?P<target>\w+|\[\*\])(?: : {TEXT})?")
NOTE = re.compile(rf"(?P<name>\w+) : {TEXT}")
BOX = re.compile(r'state "(?P<title>[^"\n]*)" as (?P<name>\w+)(?P<opens> \{)?')
PAINT = re.compile(r"classDef \w+ [\w#:,. -]+|class [\w,]+ \w+|accTitle: [^\n]+")


@attrs.define
class Read:
    """What was found in a picture."""

    ways: list[Way]
    initial: list[str]
    final: list[str]
    titles: list[str]
    frames: list[str]
    notes: list[tuple[str, str]]


def encoded(line: str) -> str:
    """What Mermaid does first: entities are hidden from the grammar."""
    return re.sub(r"#(\d+);", "\N{OVERLINE}\\1\N{DOUBLE LOW LINE}", line)


def decoded(text: str) -> str:
    """What Mermaid does last."""
    return re.sub("\N{OVERLINE}(\\d+)\N{DOUBLE LOW LINE}", lambda found: chr(int(found[1])), text)


def from_mermaid(text: str) -> Read:
    """Read a ``stateDiagram-v2``; a line that its grammar would not read is an error."""
    head, _, body = text.removeprefix("---\n").partition("\n---\nstateDiagram-v2\n")
    assert head.startswith("title: "), text
    names: dict[str, str] = {}
    read = Read([], [], [], [], [], [])
    for line in (encoded(line.strip()) for line in body.splitlines()):
        if PAINT.fullmatch(line) or line == "}":
            continue
        if found := BOX.fullmatch(line):
            title = decoded(found["title"])
            (read.frames if found["opens"] else read.titles).append(title)
            assert found["name"] not in names
            names[found["name"]] = title
        elif found := ARROW.fullmatch(line):
            if found["source"] == "[*]":
                read.initial.append(names[found["target"]])
            elif found["target"] == "[*]":
                read.final.append(names[found["source"]])
            else:
                read.ways.append(_way(_mermaid_parts(found["text"]), names[found["source"]], names[found["target"]]))
        else:
            found = NOTE.fullmatch(line)
            assert found, f"not legal: {line}"
            parts, here = _mermaid_parts(found["text"]), names[found["name"]]
            if parts[0].startswith("stays on "):
                read.ways.append(_way([parts[0].removeprefix("stays on "), *parts[1:]], here, here))
            else:
                read.notes.append((here, " ".join(parts)))
    read.ways.sort()
    return read


def _mermaid_parts(text: str) -> list[str]:
    return [one_line(decoded(part)) for part in text.split("<br/>")]


# ----------------------------------------------------------------------------------------------------------------------- DOT

NAME = r'"(?P<{0}>(?:[^"\\]|\\.)*)"'
DOT_ARROW = re.compile(NAME.format("source") + " -> " + NAME.format("target") + r"(?: \[(?P<said>.*)\])?;")
DOT_BOX = re.compile(NAME.format("name") + r" \[(?P<said>.*)\];")


def from_dot(text: str) -> Read:
    """Read a ``digraph``; labels are XML."""
    boxes: dict[str, str] = {}
    read = Read([], [], [], [], [], [])
    for line in (line.strip() for line in text.splitlines()):
        if found := DOT_ARROW.fullmatch(line):
            source, target = found["source"], found["target"]
            if source not in boxes:
                read.initial.append(boxes[target])
            elif target not in boxes:
                read.final.append(boxes[source])
            else:
                read.ways.append(_way(_dot_parts(next(_label(found["said"]).iter("td"))), boxes[source], boxes[target]))
        elif (found := DOT_BOX.fullmatch(line)) and "label=<" in found["said"]:
            table = _label(found["said"])
            cells = [_dot_parts(cell) for cell in table.iter("td")]
            title = cells[0][0]
            boxes[found["name"]] = title
            read.titles.append(title)
            stays = cells.index(["stays on"]) if ["stays on"] in cells else len(cells)
            read.notes += [(title, " ".join(cell)) for cell in cells[1:stays]]
            read.ways += [_way(cell, title, title) for cell in cells[stays + 1 :]]
        elif found := re.search(r"graph \[label=<(<b>.*?</b>)>.*margin", line):
            read.frames.append("".join(ElementTree.fromstring(found[1]).itertext()))
    read.ways.sort()
    return read


def _label(attributes: str) -> ElementTree.Element:
    """The label, without the brackets around it."""
    return ElementTree.fromstring(attributes[attributes.index("label=<") + len("label=<") :].removesuffix(">"))


def _dot_parts(cell: ElementTree.Element) -> list[str]:
    """The parts of a cell: bold is the event or a title, plain the case or a note, and each italic a guard."""
    parts: list[str] = []
    bare = [cell.text or ""]
    for child in cell:
        assert child.tag in ("b", "i", "br"), child.tag
        if child.tag != "br":
            parts.append(one_line(" ".join(child.itertext())))
        bare.append(child.tail or "")
    said = one_line(" ".join(bare))
    return [*parts[:1], *([said] if said else []), *parts[1:]]


# -------------------------------------------------------------------------------------------------------------------- tables

Cells = tuple[tuple[str, ...], ...]


def from_markdown(text: str) -> list[Cells]:
    """Read tables as GitHub would: rows of cells, each a tuple of lines."""
    return from_html(MarkdownIt("commonmark").enable("table").render(text))


def from_html(text: str) -> list[Cells]:
    """Read the rows of tables, without their heads."""
    reader = _Tables()
    reader.feed(text)
    return reader.rows


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[Cells] = []
        self._row: list[tuple[str, ...]] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag == "tr":
            self._row = []
        elif tag == "td":
            self._cell = [""]
        elif tag == "br" and self._cell is not None:
            self._cell.append("")
        else:
            assert tag in {"table", "thead", "tbody", "th", "code", "p", "strong", "caption", "b"}, tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "td" and self._cell is not None:
            self._row.append(tuple(line for line in self._cell if line))
            self._cell = None
        elif tag == "tr" and self._row:
            self.rows.append(tuple(self._row))

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell[-1] += data


def table_rows(chart: Chart) -> Iterator[Cells]:
    """What a table of the chart has to say, straight from the records, without the effects."""
    for row in chart.rows:
        case = f"{one_line(f'{row.choice.label} {row.value}')} ({one_line(row.case)})" if row.choice else ""
        yield (
            (one_line(row.event),),
            (", ".join(one_line(source) for source in row.sources),),
            (case,) if case else (),
            ("stays the same" if row.target == SAME else one_line(row.target),),
            tuple(f"{one_line(g.name)}: {one_line(g.label)}, else {g.error.__name__}" for g in row.guards),
        )
