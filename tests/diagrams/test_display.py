"""What notebooks are given."""

from __future__ import annotations

import json

from torch import nn

import adapterstate
from adapterstate import LoraConfig
from adapterstate.diagrams import chart_bundle, charts_bundle, status_bundle
from adapterstate.machine.charts import ACTIVATION, CHARTS

from .charts import DEMANDING
from .reading import from_markdown, from_mermaid, table_rows, ways


def test_a_chart_is_drawn() -> None:
    """A chart comes as Mermaid; its Markdown holds the same diagram and the table; there is no HTML, which JupyterLab would prefer."""
    bundle = DEMANDING._repr_mimebundle_()  # type: ignore[attr-defined]
    assert set(bundle) == {"text/vnd.mermaid", "text/markdown", "text/plain"}
    assert from_mermaid(bundle["text/vnd.mermaid"]).ways == ways(DEMANDING)
    fenced = bundle["text/markdown"].removeprefix("```mermaid\n").partition("```\n\n")
    assert fenced[0] == bundle["text/vnd.mermaid"]
    assert [row[:5] for row in from_markdown(fenced[2])] == list(table_rows(DEMANDING))
    assert bundle["text/plain"] == repr(DEMANDING)


def test_charts_are_drawn() -> None:
    """The charts of a model come in one diagram."""
    bundle = CHARTS._repr_mimebundle_()  # type: ignore[attr-defined]
    assert bundle == charts_bundle(CHARTS)
    assert from_mermaid(bundle["text/vnd.mermaid"]).ways == sorted(way for chart in CHARTS for way in ways(chart))


def test_only_what_is_asked_for() -> None:
    """Front ends may ask for some types, or for all but some."""
    assert set(chart_bundle(ACTIVATION, include=["text/plain", "image/png"])) == {"text/plain"}
    assert set(chart_bundle(ACTIVATION, exclude=["text/plain"])) == {"text/vnd.mermaid", "text/markdown"}


def test_a_status_is_a_table() -> None:
    """A state comes as an HTML table, as Markdown and as text, all of which JSON can hold."""
    state = adapterstate.attach(nn.Sequential(nn.Linear(2, 2)))
    state.add_adapter("poet", LoraConfig(r=1, target_modules=["0"]))
    bundle = status_bundle(state.status())
    assert list(json.loads(json.dumps(bundle))) == ["text/html", "text/markdown", "text/plain"]
    assert all("active" in text and "poet (trainable)" in text.replace("\\", "") for text in bundle.values())
