"""Every row of every chart is in every rendering, and nothing else is: the renderings are read back and compared with the records."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any
from xml.etree import ElementTree

import pytest

from adapterstate.diagrams import chart_picture, chart_table, charts_picture, dot, html_table, markdown, mermaid, svg
from adapterstate.errors import ArgumentError
from adapterstate.machine.charts import ACTIVATION, CHARTS, Chart

from .charts import DEMANDING, DRAWN
from .reading import from_dot, from_html, from_markdown, from_mermaid, one_line, table_rows, ways

PICTURES = {"mermaid": (mermaid, from_mermaid), "dot": (dot, from_dot)}
SVG = "{http://www.w3.org/2000/svg}"
TABLES = {"markdown": (markdown, from_markdown), "html": (html_table, from_html)}

every_chart = pytest.mark.parametrize("chart", DRAWN.values(), ids=list(DRAWN))
every_picture = pytest.mark.parametrize("form", PICTURES)


@every_chart
@every_picture
def test_pictures(chart: Chart, form: str) -> None:
    """A picture shows each state once, each row from each of its states once, where a life begins and ends, and no more."""
    render, read = PICTURES[form]
    found = read(render(chart_picture(chart)))
    assert found.ways == ways(chart)
    assert found.titles == [one_line(state) for state in chart.states]
    assert found.initial == [one_line(chart.initial)]
    assert found.final == [one_line(state) for state in chart.states if state in chart.final]
    assert found.notes == found.frames == []


@every_picture
def test_all_charts_in_one_picture(form: str) -> None:
    """Several charts stand side by side, each with all of its rows, in a frame that names it."""
    render, read = PICTURES[form]
    found = read(render(charts_picture(CHARTS)))
    assert found.ways == sorted(way for chart in CHARTS for way in ways(chart))
    assert found.frames == [f"{chart.name}, one for each {chart.subject}" for chart in CHARTS]
    assert found.initial == [chart.initial for chart in CHARTS]


@every_picture
def test_some_events(form: str) -> None:
    """A picture of some events shows their rows, and still every state."""
    render, read = PICTURES[form]
    found = read(render(chart_picture(ACTIVATION, events=["delete_adapter"])))
    assert found.ways == ways(ACTIVATION, ["delete_adapter"])
    assert found.titles == list(ACTIVATION.states)


@pytest.mark.parametrize("render", [mermaid, dot, svg])
@pytest.mark.parametrize(("given", "said"), [(3, "an int"), (ACTIVATION, "a Chart")])
def test_only_pictures_are_rendered(render: Any, given: object, said: str) -> None:
    """What is no picture is an error, which says what makes one."""
    with pytest.raises(ArgumentError, match=f"^{said} was given; a Picture is expected, such as chart_picture"):
        render(given)


@pytest.mark.parametrize("draw", [chart_picture, charts_picture, chart_table, lambda given: charts_picture([given])])
def test_only_charts_are_drawn(draw: Any) -> None:
    """What is no chart is an error."""
    with pytest.raises(ArgumentError, match=r"^an int was given"):
        draw(3)


def test_an_event_that_the_chart_has_not() -> None:
    """A name that no row has is an error, which says what there is."""
    with pytest.raises(ArgumentError, match="no rows for 'enable_adapters'; it has"):
        chart_picture(ACTIVATION, events=["enable_adapters"])


@every_chart
@pytest.mark.parametrize("form", TABLES)
def test_tables(chart: Chart, form: str) -> None:
    """A table has a line for each row, in order, with every word of it."""
    render, read = TABLES[form]
    found = read(render(chart_table(chart)))
    assert [row[:5] for row in found] == list(table_rows(chart))
    assert {len(row) for row in found} == {6}


@every_picture
def test_the_guard_of_a_derived_chart_is_shown(form: str) -> None:
    """What a derived chart demands stands at the rows that demand it, and at no others."""
    render, read = PICTURES[form]
    found = read(render(chart_picture(DEMANDING))).ways
    demanding = [way for way in found if "it is the only one, else EventRefusedError" in way.demands]
    assert {(way.event, way.source) for way in demanding} == {("set_adapter", "merged")}
    assert len(demanding) == 2


@every_chart
def test_the_text_is_the_same_each_time(chart: Chart) -> None:
    """Equal charts give equal text."""
    again = Chart(chart.name, chart.subject, chart.states, chart.initial, chart.final, chart.rows, chart.impossible)
    assert mermaid(chart_picture(chart)) == mermaid(chart_picture(again))
    assert dot(chart_picture(chart)) == dot(chart_picture(again))
    assert markdown(chart_table(chart)) == markdown(chart_table(again))


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
@every_chart
def test_graphviz_reads_it(chart: Chart) -> None:
    """Graphviz reads what we print without a complaint, and draws every word of it and no other, with an arrow for each that is due."""
    picture = chart_picture(chart)
    done = subprocess.run(["dot", "-Tcanon"], input=dot(picture), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    drawn = ElementTree.fromstring(svg(picture))
    due = ways(chart)
    said = [picture.title, *(one_line(state) for state in chart.states)]
    said += ["stays on" for state in chart.states if any(way.source == way.target == one_line(state) for way in due)]
    for way in due:
        said += [way.event, way.case, *(f"only if {demand}" for demand in way.demands)]
    texts = [text.text or "" for text in drawn.iter(f"{SVG}text")]
    assert sorted(" ".join(texts).split()) == sorted(" ".join(said).split())
    arrows = [group for group in drawn.iter(f"{SVG}g") if group.get("class") == "edge"]
    assert len(arrows) == sum(way.source != way.target for way in due) + 1 + len(chart.final)
