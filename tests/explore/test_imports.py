"""Exploring needs no torch, and its rules know nothing of what they judge."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from adapterstate import explore

FOLDER = Path(explore.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))

MAY_IMPORT = {
    "calls": set[str](),
    "tables": set[str](),
    "worlds": set[str](),
    "standard": {"worlds"},
    "menu": {"calls", "worlds"},
    "walk": {"menu", "worlds"},
    "asked": {"worlds"},
    "rules_of_states": {"asked", "worlds"},
    "rules_of_events": {"asked"},
    "reasons": {"asked", "worlds"},
    "rules": {"asked", "reasons", "rules_of_events", "rules_of_states", "worlds"},
    "trial": {"worlds"},
    "coverage": {"tables"},
    "graph": {"calls", "walk", "worlds"},
    "report": {"calls", "coverage", "graph", "rules", "tables", "worlds"},
    "exploring": {"asked", "coverage", "menu", "report", "rules", "standard", "walk", "worlds"},
    "replay": {"report", "walk", "worlds"},
    "printing": {"exploring", "report"},
}
JUDGE = ("rules", "rules_of_states", "rules_of_events", "reasons", "asked", "worlds")
"""What knows the rules, and what those are asked about."""


def imports(path: Path) -> set[str]:
    """Whole names of what a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            whole = node.module != "adapterstate.explore"
            found |= {str(node.module)} if whole else {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_run_one_way(name: str) -> None:
    """Each file imports only those before it, the machine and the errors."""
    own = {one for one in imports(FOLDER / f"{name}.py") if one.startswith("adapterstate.")}
    beside = {one.removeprefix("adapterstate.explore.") for one in own if one.startswith("adapterstate.explore.")}
    assert beside <= MAY_IMPORT[name]
    assert all(one == "adapterstate.errors" or one.startswith(("adapterstate.explore.", "adapterstate.machine.")) for one in own)


def test_every_file_has_its_place() -> None:
    """A new file must be given its place in the order."""
    assert {path.stem for path in FILES} == {"__init__", *MAY_IMPORT}


@pytest.mark.parametrize("name", JUDGE)
def test_rules_share_no_code_with_the_machine(name: str) -> None:
    """Rules, and the worlds they are asked about, read the records and nothing else of the machine."""
    machine = {one for one in imports(FOLDER / f"{name}.py") if one.startswith("adapterstate.machine")}
    assert machine == {"adapterstate.machine.records"}


def test_it_runs_without_torch() -> None:
    """A walk imports neither torch nor numpy nor PEFT, whatever the package's public face imports."""
    code = f"""
import sys, types
face = types.ModuleType("adapterstate")
face.__path__ = [{str(FOLDER.parent)!r}]
sys.modules["adapterstate"] = face
from adapterstate.explore import SIMULATOR, explore
from adapterstate.explore import printing
found = explore(SIMULATOR)
found.check()
found.graph()
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "numpy", "peft", "rich", "networkx")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
