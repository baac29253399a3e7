"""Colours, and what Mermaid would misread although its grammar allows it."""

from __future__ import annotations

import re

import pytest

from adapterstate.diagrams import chart_picture, charts_picture, dot, mermaid
from adapterstate.diagrams.mermaid import escaped
from adapterstate.machine.charts import ACTIVATION, CHARTS

from .charts import ODD_NAMES


def fills(text: str) -> dict[str, str]:
    """Box -> colour, in Mermaid."""
    looks = dict(re.findall(r"classDef (\w+) fill:(#\w+)", text))
    return {box: looks[look] for boxes, look in re.findall(r"class ([\w,]+) (\w+)", text) for box in boxes.split(",")}


def test_what_matters_has_its_own_colour() -> None:
    """Active, merged, trainable and frozen are told apart by colour, and the same in both formats."""
    found = fills(mermaid(charts_picture(CHARTS)))
    matters = ("activation_active", "activation_merged", "trainability_trainable", "trainability_frozen", "activation_inactive")
    assert len({found[box] for box in matters}) == len(matters)
    drawn = dict(re.findall(r'^ *"([\w.]+)" \[shape=box.*?fillcolor="(#\w+)"', dot(charts_picture(CHARTS)), re.MULTILINE))
    assert {box.replace(".", "_"): colour for box, colour in drawn.items()} == found


def test_what_is_the_case_has_a_thick_border() -> None:
    """A lit state differs by more than its colour."""
    lit = charts_picture([ACTIVATION], lit={"activation": {"merged": "1 module"}})
    thick = re.findall(r"classDef (\w+) .*stroke-width:5px", mermaid(lit))
    assert re.findall(r"class (\w+) " + "".join(thick), mermaid(lit)) == ["merged"]
    assert re.findall(r'"activation\.(\w+)" \[shape=box.*penwidth=5', dot(lit)) == ["merged"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a; b: c", "the end of a statement, a separator"),
        ('say "x"', "the end of a title"),
        ("<b>", "HTML"),
        ("_emphasis_", "Markdown"),
        ("*emphasis*", "Markdown"),
        ("`code`", "Markdown"),
        ("1. a list", "Markdown"),
        ("- a list", "Markdown"),
        ("#35;", "an entity"),
    ],
)
def test_nothing_in_a_label_means_anything(text: str, meaning: str) -> None:
    """What would mean something is hidden in entities, and comes back as it was."""
    hidden = escaped(text)
    bare = re.sub(r"#\d+;", "", hidden)
    assert not re.search(r'[;:"<>*`#]|(?<!\w)_|_(?!\w)|^\d+\. |^- ', bare), meaning
    assert re.sub(r"#(\d+);", lambda found: chr(int(found[1])), hidden) == text


def test_names_that_mermaid_keeps_for_itself() -> None:
    """A state is never called by a word of Mermaid's, nor by a name that another one has."""
    names = re.findall(r'state "[^"]*" as (\w+)', mermaid(chart_picture(ODD_NAMES)))
    assert len(set(names)) == len(names) == len(ODD_NAMES.states)
    assert not {"end", "state", "root"} & set(names)
    assert all(name.isascii() for name in names)


def test_a_title_is_no_html() -> None:
    """Angle brackets in a title would be taken for HTML."""
    title = mermaid(chart_picture(ODD_NAMES)).splitlines()[1]
    assert title.startswith("title: ")
    assert not set("<>") & set(title)
