"""The Sphinx directives, in a project that is not ours, built with ``-n -W``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapterstate.diagrams import guards_table
from adapterstate.machine.charts import CHARTS

from . import charts
from .charts import DEMANDING, ODD_NAMES
from .reading import from_mermaid, one_line, ways

pytest.importorskip("sphinx", reason="the extra 'docs' brings it")

NOTE = "Graphviz was not installed where this page was built; the table takes the place of the diagram."


def build(folder: Path, page: str, *, builder: str = "html", graphviz: bool = True) -> tuple[int, str, str]:
    """Build one page; return the exit code, what was printed, and the page."""
    source, out = folder / "source", folder / "out"
    source.mkdir()
    (source / "conf.py").write_text('extensions = ["adapterstate.sphinx"]\nhtml_theme = "basic"\n', encoding="utf-8")
    (source / "index.rst").write_text(f"A page\n======\n\n{page}\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)} | ({} if graphviz else {"PATH": ""})
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-b", builder, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    made = out / ("index.html" if builder == "html" else "index.txt")
    return done.returncode, done.stderr, made.read_text(encoding="utf-8") if made.exists() else ""


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_svg(tmp_path: Path) -> None:
    """A chart of any import path is drawn into the page, with its words and a label for screen readers."""
    code, printed, page = build(tmp_path, f".. adapterstate-chart:: {charts.__name__}.DEMANDING\n   :events: set_adapter")
    assert (code, printed) == (0, "")
    assert page.count("<svg") == 1
    assert 'aria-label="activation, one for each wrapped module: set_adapter. The table of the chart says the same in text."' in page
    assert 'id="activation_merged"' in page
    assert "it is the only" in page
    assert "delete_adapter" not in page
    assert "<!DOCTYPE svg" not in page


def test_without_graphviz(tmp_path: Path) -> None:
    """Without Graphviz the table takes its place and a note says so, without a warning."""
    code, printed, page = build(tmp_path, f".. adapterstate-chart:: {charts.__name__}.DEMANDING", graphviz=False)
    assert (code, printed) == (0, "")
    assert NOTE in page
    assert "<svg" not in page
    assert page.count("<tr") == len(DEMANDING.rows) + 1
    assert "it is the only one" in page


def test_pages_that_are_not_html(tmp_path: Path) -> None:
    """In other formats there is the table, and no note: nothing is missing."""
    code, printed, page = build(tmp_path, ".. adapterstate-chart:: enablement", builder="text")
    assert (code, printed) == (0, "")
    assert "| effect on torch" in page
    assert NOTE not in one_line(page)


def test_mermaid(tmp_path: Path) -> None:
    """As Mermaid the page holds the text, letter for letter."""
    code, printed, page = build(tmp_path, f".. adapterstate-chart:: {charts.__name__}.ODD_NAMES\n   :format: mermaid", builder="text")
    assert (code, printed) == (0, "")
    text = "\n".join(line.removeprefix("   ") for line in page[page.index("   ---") :].splitlines())
    assert from_mermaid(text).ways == ways(ODD_NAMES)


def test_tables_with_odd_names(tmp_path: Path) -> None:
    """Tables are made of nodes, so no letter means anything to the page; all charts at once have one each."""
    page = f".. adapterstate-chart:: {charts.__name__}.ODD_NAMES\n   :format: table\n\n"
    page += ".. adapterstate-chart:: adapterstate.CHARTS\n   :format: table"
    code, printed, made = build(tmp_path, page)
    assert (code, printed) == (0, "")
    assert made.count("<table") == 4
    assert made.count("<tr") == sum(len(chart.rows) + 1 for chart in (ODD_NAMES, *CHARTS))


def test_the_guards(tmp_path: Path) -> None:
    """The model's guards have a table of their own."""
    code, printed, page = build(tmp_path, ".. adapterstate-guards:: adapterstate.CHARTS")
    assert (code, printed) == (0, "")
    assert page.count("<tr") == len(guards_table(CHARTS).rows) + 1


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (".. adapterstate-chart:: nowhere.CHART", "'nowhere.CHART' names nothing"),
        (f".. adapterstate-chart:: {charts.__name__}.AWKWARD", "a Chart or Charts is expected"),
        (".. adapterstate-chart:: enablement\n   :events: add_adapter", "no rows for 'add_adapter'"),
        (".. adapterstate-chart:: enablement\n   :format: png", '"png" unknown'),
        (f".. adapterstate-guards:: {charts.__name__}.AWKWARD", "a dict of guards, is expected"),
    ],
)
def test_mistakes(tmp_path: Path, page: str, said: str) -> None:
    """A mistake in a page is reported with its place."""
    code, printed, _ = build(tmp_path, page)
    assert code == 1
    assert said in printed
    assert "index.rst:4" in printed
