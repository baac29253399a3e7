"""The command line: what is printed, where it is written, and the exit codes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from adapterstate.diagrams import has_graphviz
from adapterstate.diagrams.command import add_arguments, diagram
from adapterstate.machine.charts import CHARTS, ENABLEMENT

from . import charts
from .charts import DEMANDING
from .reading import from_dot, from_markdown, from_mermaid, table_rows, ways


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return diagram(parser.parse_args(arguments))


def test_all_charts_as_mermaid(capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments all charts are printed as one Mermaid diagram."""
    assert run() == 0
    assert from_mermaid(capsys.readouterr().out).ways == sorted(way for chart in CHARTS for way in ways(chart))


def test_one_chart_as_dot(capsys: pytest.CaptureFixture[str]) -> None:
    """A chart of this package has a short name."""
    assert run("enablement", "--format", "dot") == 0
    assert from_dot(capsys.readouterr().out).ways == ways(ENABLEMENT)


def test_a_chart_of_ones_own_into_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any chart can be named by its import path; with a file, nothing is printed."""
    file = tmp_path / "chart.md"
    assert run(f"{charts.__name__}.DEMANDING", "--format", "markdown", "--output", str(file)) == 0
    assert [row[:5] for row in from_markdown(file.read_text(encoding="utf-8"))] == list(table_rows(DEMANDING))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", [f"{charts.__name__}.DEMANDING", f"{charts.__name__}:DEMANDING"])
def test_both_forms_of_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A colon, as the other commands take it, or a dot stands before the name."""
    assert run(name, "--format", "dot") == 0
    assert from_dot(capsys.readouterr().out).ways == ways(DEMANDING)


@pytest.mark.parametrize(
    ("file", "begins"),
    [
        ("a.mmd", "---\ntitle"),
        ("a.dot", "digraph"),
        ("a.GV", "digraph"),
        ("a.md", "**The enablement"),
        ("a.svg", "<svg"),
        ("a.txt", "---\ntitle"),
        ("a", "---\ntitle"),
    ],
)
def test_the_ending_says_the_format(file: str, begins: str, tmp_path: Path) -> None:
    """Without a format, the file gets what its ending says, and Mermaid where it says nothing; a format that is named counts."""
    if file.endswith("svg") and not has_graphviz():
        pytest.skip("Graphviz draws it")
    assert run("enablement", "--output", str(tmp_path / file)) == 0
    assert (tmp_path / file).read_text(encoding="utf-8").startswith(begins)
    assert run("enablement", "--format", "dot", "--output", str(tmp_path / file)) == 0
    assert (tmp_path / file).read_text(encoding="utf-8").startswith("digraph")


def test_all_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """The tables of all charts come with that of the model's guards."""
    assert run("all", "--format", "markdown") == 0
    text = capsys.readouterr().out
    assert all(f"**The {chart.name} chart" in text for chart in CHARTS)
    assert "| `outermost_class_is_ours` |" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("activaton", "there is no chart 'activaton'; there are activation, enablement, trainability, all"),
        ("nowhere.CHART", "'nowhere.CHART' names nothing: there is no module 'nowhere'; MODULE:NAME, such as"),
        ("nowhere:CHART", "'nowhere:CHART' names nothing: there is no module 'nowhere'; MODULE:NAME, such as"),
        ("adapterstate.nowhere:CHART", "there is no module 'adapterstate.nowhere'"),
        (f"{charts.__name__}:NONE", f"{charts.__name__} has no 'NONE'"),
        ("a:b:c", "'a:b:c' names nothing in a module; MODULE:NAME, such as"),
        (":CHART", "':CHART' names nothing in a module"),
        (f"{charts.__name__}.NONE", f"{charts.__name__} has no 'NONE'"),
        (f"{charts.__name__}.AWKWARD", "is of type str; a Chart or Charts is expected"),
    ],
)
def test_a_name_of_nothing(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that means no chart is an error that says what there is."""
    assert run(name) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""


def test_a_module_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A module that lacks something itself is not reported as missing."""
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert run("needs_more.CHART") == 2
    assert "needs_more cannot be imported: No module named 'surely_not_installed'" in capsys.readouterr().err


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be written is an error, and not a traceback."""
    assert run("activation", "--output", str(tmp_path)) == 2
    assert f"--output {tmp_path}: Is a directory" in capsys.readouterr().err


def test_svg_without_graphviz(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without Graphviz, SVG is refused with what to install; the other formats need nothing."""
    monkeypatch.setenv("PATH", "")
    assert run("activation", "--format", "svg") == 2
    assert "apt install graphviz" in capsys.readouterr().err
    assert run("activation", "--format", "dot") == 0


def test_an_unknown_format(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is argparse's to report, with the same exit code."""
    with pytest.raises(SystemExit) as exit_:
        run("--format", "pdf")
    assert exit_.value.code == 2
    assert "mermaid" in capsys.readouterr().err
