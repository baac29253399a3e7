"""The page as a file: what is in it, what it may not hold, and that nothing a user named is read as HTML."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from torch import nn

import adapterstate
from adapterstate import CHARTS, EventRefusedError, Refusal, guard
from adapterstate.inspector import page
from adapterstate.inspector.book import Book
from adapterstate.inspector.drawing import NO_GRAPHVIZ, charts_data
from adapterstate.inspector.example import example

from .models import HOSTILE, data_of, hostile, paths_of, small

GRAPHVIZ = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")


class Tags(HTMLParser):
    """Which elements a page has, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


def test_it_asks_for_nothing() -> None:
    """No address, no import and no request: the page works from a file, offline."""
    text = page(example())
    for forbidden in ("http:", "https:", "//cdn", "@import", "url(", "fetch(", "XMLHttpRequest", "import(", "innerHTML", "{{"):
        assert forbidden not in text, forbidden
    for tag, attributes in Tags(text).tags:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "#").startswith(("#", "data:,")), tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert "default-src 'none'" in text


def test_equal_states_give_equal_pages() -> None:
    """Nothing of time, memory or chance is in the text."""
    assert page(small()) == page(small())


def test_writing_changes_nothing() -> None:
    """A page is read off the state."""
    state = small()
    facts, journal = state.facts, state.journal
    page(state)
    assert state.facts is facts
    assert state.journal == journal
    assert not state.check()


def test_an_observer_can_write_a_page() -> None:
    """The lock of the state is re-entrant, and the entry is in the journal when observers are told."""
    state, pages = small(), []
    state.subscribe(lambda entry: pages.append(data_of(page(state))))
    state.set_adapter("chemist")
    assert [data["history"]["entries"][-1]["events"] for data in pages] == [["set_adapter(['chemist'])"]]


def test_hostile_names() -> None:
    """Names of classes, modules and adapters are text everywhere: no element comes from them, and the data can be read."""
    text, harmless = page(hostile()), Tags(page(small())).tags
    found = Tags(text)
    assert not [tag for tag, attributes in found.tags if attributes.get("id") == "hacked"]
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in harmless}
    assert [tag for tag, _ in found.tags].count("script") == 2
    inside = text.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&") & set(inside)
    data = data_of(text)
    assert [name for name, *_ in data["views"][data["now"]]["adapters"]] == [HOSTILE, "other"]
    assert any("onerror" in path for path in data["paths"])


def test_the_present_state() -> None:
    """Modules in the same situation are one row, with the state of the chart and what each adapter is there."""
    state = small()
    state.set_adapter(["chemist"], weights=[0.5])
    state.set_requires_grad("poet", False)
    state.merge_adapter("chemist")
    data = data_of(page(state))
    view = data["views"][data["now"]]
    assert view["adapters"] == [["poet", "frozen", "inactive"], ["chemist", "trainable", "active, weight 0.5"]]
    assert [(state, paths_of(data, group), cells) for state, group, cells in view["rows"]] == [
        ("merged", ["0", "1"], [["inactive", "lora"], ["merged", "lora"]]),
        ("inactive", ["2", "3", "4", "5"], [["inactive", "lora"], ["", ""]]),
        ("merged", ["6"], [["inactive", "modules_to_save"], ["merged", "modules_to_save"]]),
    ]


def test_groups_are_runs_of_neighbours() -> None:
    """A group is written as its first and last place, run by run, whatever the order it is given in; equal groups are one."""
    book = Book()
    assert [book.group(paths) for paths in ("abcde", "ca", "bcb", "ac")] == [0, 1, 2, 1]
    assert book.data()["groups"] == [[0, 4], [0, 0, 2, 2], [1, 2]]
    assert paths_of(book.data(), 1) == ["a", "c"]


def test_modules_in_one_situation_are_one_row_however_they_share_contexts() -> None:
    """Rows are made by what is seen; that modules share an object only saves work."""
    state = small()
    facts = state.facts
    apart = {path: attrs.evolve(record, context=attrs.evolve(record.context)) for path, record in facts.modules.items()}
    state._facts = attrs.evolve(facts, modules=apart)
    assert page(state) == page(small())


def test_a_model_without_adapters() -> None:
    """It has a page too."""
    data = data_of(page(adapterstate.attach(nn.Linear(2, 2))))
    assert data["views"][data["now"]]["rows"] == []
    assert data["history"]["entries"] == []
    assert data["history"]["notice"] == "No event is in the journal."


def test_findings() -> None:
    """Where torch differs from the state, the page says so."""
    state = small()
    next(state.model.parameters()).requires_grad_(True)
    assert data_of(page(state))["findings"] == [str(finding) for finding in state.check()]
    assert len(state.check()) == 1


@GRAPHVIZ
@pytest.mark.parametrize("prefix", ["sim", "past"])
def test_charts_are_drawn_with_what_is_the_case(prefix: str) -> None:
    """Each chart is drawn as it is now, for the time line and for the simulator; identifiers are there once, arrows where the data say."""
    text = page(small())
    ids = [str(attributes["id"]) for _, attributes in Tags(text).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert text.count("<svg") == 9
    assert "now: 7 modules" in text
    for chart, data in zip(CHARTS, charts_data(CHARTS), strict=True):
        assert {f"{prefix}-{name}" for name in data["states"].values()} <= set(ids)
        for row, words in zip(chart.rows, data["rows"], strict=True):
            for source, arrow in words["arrows"].items():
                drawn = text[text.index(f'id="{prefix}-{arrow}"') :]
                title = drawn[drawn.index("<title>") + 7 : drawn.index("</title>")]
                assert title.replace("&#45;&gt;", "->") == f"{chart.name}.{source}->{chart.name}.{row.leads_to(source)}"
    arrows = {arrow for data in charts_data(CHARTS) for row in data["rows"] for arrow in row["arrows"].values()}
    assert {name.removeprefix(f"{prefix}-") for name in ids if name.startswith(f"{prefix}-") and "_arrow_" in name} == arrows


def test_without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    """The charts are tables then, opened, with what is the case now in words; the page says why."""
    monkeypatch.setenv("PATH", "")
    text = page(small())
    assert NO_GRAPHVIZ in text
    assert "<svg" not in text
    assert text.count("<details open>") == len(tuple(CHARTS))
    assert "Now active: 7 modules" in text


def test_derived_charts() -> None:
    """Charts of the model's own are drawn, asked, and what the simulator runs by."""

    @guard("it is never disabled", EventRefusedError)
    def never(situation, event):  # type: ignore[no-untyped-def]
        """No."""
        return [Refusal("never", "", "no")]

    data = data_of(page(small(charts=CHARTS.with_guard("disable_adapters", never))))
    assert "no  [never]" in [reason for reasons in data["simulator"]["refusals"] for reason in reasons]
    assert not [text for text, _ in data["simulator"]["events"] if text.startswith("enable") and data["simulator"]["notice"]]
    assert "disable_adapters()" in [one["text"] for one in data["asked"]["refused"]]


def test_charts_that_cannot_run_on_the_small_model() -> None:
    """A guard that fails there must not cost the reader the page: the library's own charts are simulated, and the page says so."""

    @guard("the first module is mine", EventRefusedError)
    def mine(situation, event):  # type: ignore[no-untyped-def]
        """Reads what only this model has."""
        assert "0" in situation.facts.modules or not situation.facts.modules
        return []

    data = data_of(page(small(charts=CHARTS.with_guard("set_adapter", mine))))
    assert "cannot run on the small model (AssertionError" in data["simulator"]["notice"]
    assert len(data["simulator"]["states"]) == 368


def test_package_data() -> None:
    """What the page is made of is installed with the package."""
    folder = Path(adapterstate.__file__).parent / "inspector"
    beside = {path.suffix for path in folder.iterdir() if path.is_file()} - {".py"}
    declared = (folder.parent.parent / "setup.cfg").read_text(encoding="utf-8")
    assert beside == {".html", ".css", ".js"}
    assert "adapterstate.inspector = *.html, *.css, *.js" in declared


def test_to_html(tmp_path: Path) -> None:
    """The method writes the page, and changes nothing."""
    state = small()
    facts = state.facts
    state.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page(state)
    assert state.facts is facts
